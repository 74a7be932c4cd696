"""Every real data set is what its description states, and is ranked as its tables were."""

import numpy as np
import pytest

from recjax.data import examples, interactions, loader, readers, splits
from recjax.data.interactions import align, missing
from recjax.data.readers import (
  edges,
  instructions,
  mind,
  movielens,
  recbole,
  semantic_ids,
  sequences,
  share_ids,
  tables,
)
from recjax.systems.collaborative import popularity
from recjax.train import evaluate

UI = {"user": "user", "item": "item"}
UIR = UI | {"rating": "rating"}

COUNTS = [  # read, path, users, items, events
  (sequences.grouped, "amazon14_p5/Beauty/sequences.txt.gz", 22_363, 12_101, 198_502),
  (sequences.grouped, "amazon14_p5/Toys_and_Games/sequences.txt.gz", 19_412, 11_924, 167_597),
  (sequences.grouped, "amazon14_p5/Sports_and_Outdoors/sequences.txt.gz", 35_598, 18_357, 296_337),
  (sequences.grouped, "ml-1m/sasrec_sequences.txt.gz", 6_040, 3_416, 999_611),
  (sequences.grouped, "s3rec_lastfm/sequences.txt.gz", 1_090, 3_646, 52_551),
  (
    sequences.grouped,
    "sasrec_bert4rec/bert4rec_beauty.sequences.txt.gz",
    *(40_226, 54_542, 353_962),
  ),
  (sequences.grouped, "sasrec_bert4rec/sasrec_video.sequences.txt.gz", 31_013, 23_715, 287_107),
  (recbole.interactions, "ml-100k/ml-100k.inter.gz", 943, 1_682, 100_000),
  (lambda p: tables.interactions(p, UIR), "ml-1m/ratings.csv.gz", 6_040, 3_706, 1_000_209),
  (lambda p: tables.interactions(p, UIR), "social/ciao.ratings.csv.xz", 7_375, 105_114, 284_086),
  (
    lambda p: tables.interactions(p, UIR),
    "social/epinions.ratings.csv.xz",
    *(22_164, 296_277, 922_267),
  ),
  (
    lambda p: tables.interactions(p, UI),
    "explanation_xrec/google.total_trn.csv.gz",
    *(22_582, 16_557, 329_472),
  ),
  (
    lambda p: tables.interactions(p, UI),
    "explanation_xrec/yelp.total_trn.csv.gz",
    *(15_962, 14_085, 314_944),
  ),
  (readers.amazon.reviews, "reviews/Musical_Instruments_5.json.xz", 1_429, 900, 10_261),
]


@pytest.mark.parametrize(
  "read, path, users, items, events", COUNTS, ids=[path for _, path, *_ in COUNTS]
)
def test_interactions_are_as_many_as_published(real_data, read, path, users, items, events):
  x = read(real_data / path)
  assert (x.num_users - 1, x.num_items - 1, len(x)) == (users, items, events)
  assert x.skipped.count == 0


ROWS = [  # anything with a length; M impressions, items of a catalogue, links
  (movielens.movies, "ml-1m", 3_883),
  (movielens.users, "ml-1m", 6_040),
  (sequences.ncf_ratings, "ml-1m/ncf/ml-1m.test.rating.gz", 6_040),
  (sequences.ncf_negatives, "ml-1m/ncf/ml-1m.test.negative.xz", 6_040),
  (sequences.id_map, "ml-1m/ncf/ncf_item_to_movielens.txt.gz", 3_706),
  (lambda p: recbole.catalog(p, id="user_id"), "ml-100k/ml-100k.user.gz", 943),
  (
    lambda p: tables.catalog(p, {"id": "movie_id", "title": "movie_title"}),
    *("ml-100k/u_items_full.parquet", 1_682),
  ),
  (instructions.tallrec, "tallrec/movie.valid.json.gz", 1_000),
  (instructions.tallrec, "tallrec/movie.test.json.gz", 1_000),
  (instructions.tallrec, "tallrec/movie.train_regenerated.json.gz", 8_000),
  (instructions.tallrec, "tallrec/book.valid.json.gz", 2_427),
  (instructions.tallrec, "tallrec/book.test.json.gz", 2_427),
  (lambda p: instructions.tallrec_texts(p)["input"], "tallrec/book.test.json.gz", 2_427),
  (edges.links, "lightgcn/lastfm.trustnetwork.txt.gz", 25_434),
  (
    lambda p: edges.links(p, ("user", "trusts"), delimiter=",", header=True),
    *("social/ciao.trust.csv.xz", 111_781),
  ),
  (
    lambda p: edges.links(p, ("user", "trusts"), delimiter=",", header=True),
    *("social/epinions.trust.csv.xz", 355_754),
  ),
  *(
    (instructions.explanations, f"explanation_xrec/{name}.tst.jsonl.xz", 3_000)
    for name in ("amazon", "google", "yelp")
  ),
  *(
    (
      lambda p: tables.read(p, {"pred": "pred", "ref": "ref"}).columns["pred"],
      *(f"explanation_xrec/{name}.xrec_pred_ref.jsonl.xz", 3_000),
    )
    for name in ("amazon", "google", "yelp")
  ),
  (
    lambda p: tables.read(p, {"text": "Review Text", "age": "Age"}, numeric=("age",)).columns[
      "age"
    ],
    *("reviews/womens_clothing_reviews.parquet", 23_486),
  ),
  (mind.sampled_behaviors, "news_mind_sample/impressions.jsonl.xz", 2_817),
  (mind.sampled_news, "news_mind_sample/news.jsonl.xz", 6_068),
  *(
    (instructions.minionerec_items, f"minionerec/{name}.items.jsonl.xz", items)
    for name, items in (("Industrial_and_Scientific", 3_686), ("Office_Products", 3_459))
  ),
  (instructions.minionerec, "minionerec/Industrial_and_Scientific.valid.jsonl.gz", 4_532),
  (instructions.minionerec, "minionerec/Industrial_and_Scientific.test.jsonl.gz", 4_533),
  (instructions.minionerec, "minionerec/Office_Products.valid.jsonl.gz", 4_866),
  (instructions.minionerec, "minionerec/Office_Products.test.jsonl.gz", 4_866),
  (sequences.attributes, "s3rec_lastfm/item2attributes.json.gz", 3_646),
]


@pytest.mark.parametrize("read, path, rows", ROWS, ids=[path for _, path, _ in ROWS])
def test_tables_are_as_long_as_published(real_data, read, path, rows):
  assert len(read(real_data / path)) == rows


@pytest.mark.parametrize(
  "name, titled", [("Beauty", True), ("Toys_and_Games", True), ("Sports_and_Outdoors", False)]
)
def test_the_amazon_splits_fit_their_users_items_attributes_and_times(real_data, name, titled):
  folder = real_data / "amazon14_p5" / name
  x = sequences.grouped(folder / "sequences.txt.gz", deltas=folder / "time_deltas.txt.gz")
  assert len(sequences.names(folder / "users.txt.gz")) == x.num_users
  items = sequences.items(folder / "items.jsonl.gz")
  assert len(items) == x.num_items - 1 and missing(items, x.items) == 0
  assert ("title" in items.fields) == titled and (not titled or (items["title"][1:] != "").all())
  attributes = sequences.attributes(folder / "item2attributes.json.gz")
  assert missing(attributes, x.items) == 0
  # Same-day ties are in ascending order of ASIN, in every one of them.
  asin = align(items, x.items)["asin"][x.item]
  ties = (x.user[1:] == x.user[:-1]) & (x.timestamp[1:] == x.timestamp[:-1])
  published = {"Beauty": 77_402, "Toys_and_Games": 69_475, "Sports_and_Outdoors": 124_223}
  assert ties.sum() == published[name] == (asin[1:][ties] > asin[:-1][ties]).sum()


def test_attribute_names_are_found_for_all_that_are_decoded(real_data):
  for name, decoded, of in (("Beauty", 637, 637), ("Sports_and_Outdoors", 2_264, 2_277)):
    folder = real_data / "amazon14_p5" / name
    path = folder / "item2attributes.json.gz"
    numbers = sequences.attributes(path)["attributes"]
    named = sequences.attributes(path, names=folder / "attribute_names.json.gz")["attributes"]
    changed = {a for a, b in zip(_flat(numbers), _flat(named), strict=True) if a != b}
    assert (len(set(_flat(numbers))), len(changed)) == (of, decoded)


def _flat(rows):
  return [value for row in rows for value in row]


@pytest.mark.parametrize(
  "name, levels, distinct",
  [
    ("letter", 4, 12_088),
    ("tiger_nonameuntitled_rqvae", 4, 12_101),
    ("tiger_nonameuntitled_rqkmeans", 4, 12_101),
    ("unigenrec_rqkmeans", 5, 12_101),
    ("unigenrec_rqvae_faiss", 4, 12_101),
  ],
)
def test_published_semantic_ids_have_their_levels(real_data, name, levels, distinct):
  codes = semantic_ids.semantic_ids(real_data / f"amazon14_p5/Beauty/sid_{name}.json.gz")
  assert codes.shape == (12_101, levels) and len(np.unique(codes, axis=0)) == distinct


@pytest.mark.parametrize("name, items", [("Beauty", 12_101), ("Toys_and_Games", 11_924)])
def test_published_item_vectors_have_a_row_an_item(real_data, name, items):
  x = semantic_ids.vectors(real_data / f"amazon14_p5/{name}/sasrec64_e4srec_f16.npy")
  assert x.shape == (items + 1, 64)


def test_ml_1m_sequences_are_ratings_once_their_ids_are_the_original_ones(real_data):
  folder = real_data / "ml-1m"
  ratings = tables.interactions(folder / "ratings.csv.gz", UIR)
  x = sequences.renamed(
    sequences.grouped(folder / "sasrec_sequences.txt.gz"),
    sequences.id_map(folder / "sas_to_original_users.txt.gz"),
    sequences.id_map(folder / "sas_to_original_items.txt.gz"),
  )
  assert missing(movielens.movies(folder), x.items) == 0
  x, ratings = share_ids(x, ratings)
  pairs, rated = (t.user.astype(np.int64) * x.num_items + t.item for t in (x, ratings))
  assert np.isin(pairs, rated).sum() == 999_611


def test_ncf_positives_are_the_rated_items_and_come_first(real_data):
  folder = real_data / "ml-1m/ncf"
  shown = sequences.ncf_negatives(folder / "ml-1m.test.negative.xz")
  rated = sequences.ncf_ratings(folder / "ml-1m.test.rating.gz")
  assert (shown.candidates.lengths == 100).all() and (shown.labels.lengths == 100).all()
  first = shown.items[shown.candidates.values[shown.candidates.start]]
  assert (first == rated.items[rated.item]).all()


def test_ml_100k_items_have_their_titles_and_genres(real_data):
  c = recbole.catalog(
    real_data / "ml-100k/ml-100k.item.gz", title="movie_title", categories="class"
  )
  assert len(c) == 1_682
  assert (c["title"][1], c["categories"][1]) == ("Toy Story", ("Animation", "Children's", "Comedy"))


def test_collm_splits_together_have_the_published_users_and_items(real_data):
  folder = real_data / "collm_ml1m"
  splits = [instructions.collm(folder / f"{s}.jsonl.gz") for s in ("train", "valid", "test")]
  assert [len(split) for split in splits] == [33_891, 10_401, 7_331]
  shared = share_ids(*splits)
  assert (shared[0].num_users - 1, shared[0].num_items - 1) == (838, 3_255)
  assert missing(instructions.titles(folder / "titles.json.gz"), shared[0].items) == 0


def test_gowalla_splits_do_not_overlap(real_data):
  paths = [real_data / f"lightgcn/gowalla.{split}.txt.gz" for split in ("train", "test")]
  train, test = share_ids(*map(edges.lists, paths))
  assert (train.num_users - 1, train.num_items - 1) == (29_858, 40_981)
  assert (len(train), len(test)) == (810_128, 217_242)
  pairs = [x.user.astype(np.int64) * x.num_items + x.item for x in (train, test)]
  assert not np.isin(*pairs).any()


def test_lastfm_ratings_together_have_the_published_users_and_items(real_data):
  paths = [real_data / f"lightgcn/lastfm.{split}1.txt.gz" for split in ("data", "test")]
  train, test = share_ids(*map(edges.weighted, paths))
  assert (len(train), len(test)) == (42_135, 10_533)
  assert (train.num_users - 1, train.num_items - 1) == (1_880, 4_489)


def test_graphrec_toy(real_data):
  train, test, social = edges.graphrec(real_data / "social/graphrec_toy.json.gz")
  assert (len(train), len(test), len(social)) == (14_091, 3_733, 2_252)
  assert (train.num_users - 1, train.num_items - 1) == (705, 1_941)
  assert train.users.tolist() == social.users.tolist()
  assert (train.rating.min(), train.rating.max()) == (0.5, 4.0)


def test_ciao_holds_the_34_ratings_of_zero(real_data):
  x = tables.interactions(real_data / "social/ciao.ratings.csv.xz", UIR)
  assert (x.rating == 0).sum() == 34


def test_dkn_splits_together_have_the_published_users_and_titles(real_data):
  paths = [real_data / f"news_dkn/raw_{split}.txt.gz" for split in ("train", "test")]
  train, test = share_ids(*(mind.dkn(path, clicks=paths[0]) for path in paths))
  assert (len(train), len(test)) == (10_401, 462)
  assert (train.num_users - 1, train.num_items - 1) == (469, 9_075)
  assert {*mind.dkn_news(paths[0]).ids.tolist(), *mind.dkn_news(paths[1]).ids.tolist()} == {
    *train.items.tolist()
  }


def test_mind_samples_name_the_published_news(real_data):
  x = mind.sampled_behaviors(real_data / "news_mind_sample/impressions.jsonl.xz")
  news = mind.sampled_news(real_data / "news_mind_sample/news.jsonl.xz")
  assert (news["abstract"][1:] != "").sum() == 5_845
  # 1,879 impressions name all their news by id; ids are in the catalogue, titles are not.
  known = align(news, x.items)["title"] != ""
  whole = [known[x.history[i]].all() and known[x.candidates[i]].all() for i in range(len(x))]
  assert sum(whole) == 1_879


def test_the_published_popularity_on_beauty_is_that_of_counting_the_tested_events_too(real_data):
  """So the whole protocol is that of the published tables: order, full ranking, ties, metrics."""
  x = sequences.grouped(real_data / "amazon14_p5/Beauty/sequences.txt.gz")
  split = splits.leave_one_out(x)
  before = interactions.concat([split.train, split.valid])
  before = before.take(np.argsort(before.user, kind="stable"))
  asked = examples.deny_seen(examples.next_events(before, split.test))
  found = {}
  for name, counted in (("all", x), ("before", before)):
    system = popularity.make(popularity.Config(x.num_items))
    measure = evaluate.ranking_by_score(system, (5, 10))
    suite = evaluate.Suite("", loader.Batches(asked, 2048, max_len=50), measure)
    found[name] = evaluate.evaluate(system.fit((), counted), (), [suite])
  published = {"recall@5": 0.0080, "ndcg@5": 0.0044, "recall@10": 0.0152, "ndcg@10": 0.0068}
  assert {name: round(found["all"][name], 4) for name in published} == published
  assert found["before"]["recall@10"] < 0.0140
