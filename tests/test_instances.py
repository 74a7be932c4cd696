"""Instances: prompts of real events, made only when asked for, mixed as the weights say."""

import dataclasses
import re

import hypothesis.strategies as st
import numpy as np
import pytest
import shop
from hypothesis import given

from recjax.data import examples, interactions, loader
from recjax.data.errors import DataError
from recjax.text import arithmetic, asked, indexing, instances, prompts, questions, whole_words
from recjax.text.prompts import Prompt

SPLIT, SHOP, WORDS = shop.world()
TRAIN = SPLIT.train
ASKED = shop.asked_of(SPLIT)
OURS = prompts.collection()
NEXT = Prompt("sequential", "after {history} ?", "{target}", "next")
ITEM = {written: row for row, written in enumerate(SHOP.items)}
MET = [set(TRAIN.item[TRAIN.user == u].tolist()) for u in range(TRAIN.num_users)]


def made(**options):
  return shop.mixture(SPLIT, SHOP, WORDS, **options)


def items_of(text):
  return [ITEM[word] for word in text.split()]


# --- The mixture ---


def test_shares_are_rounded_by_the_largest_remainders():
  weights = {"sequential": 3, "rating": 1, "explanation": 1, "summary": 1, "direct": 1}
  mixture = made(weights=weights, size=100)  # 42.86, 14.29 x 4: one of the 58 goes to each ...
  assert mixture.counts.tolist() == [43, 15, 14, 14, 14] and len(mixture) == 100
  tasks = [mixture[i].prompt.task for i in range(100)]
  assert {t: tasks.count(t) for t in weights} == dict(zip(weights, mixture.counts, strict=True))


@given(st.lists(st.floats(0.01, 100), min_size=5, max_size=5), st.integers(1, 5000))
def test_the_mixture_follows_its_weights(weights, size):
  mixture = made(weights=dict(zip(prompts.TASKS, weights, strict=True)), size=size)
  shares = np.array(weights) / sum(weights) * size
  assert mixture.counts.sum() == len(mixture) == size
  assert (np.abs(mixture.counts - shares) < 1 + 1e-6).all() and (mixture.counts >= 0).all()


def test_without_weights_every_example_comes_once_and_in_order():
  mixture = instances.Instances(ASKED[:1], [NEXT], SHOP, WORDS)
  assert len(mixture) == len(ASKED[0])
  for i in (0, 7, len(mixture) - 1):
    q, found = ASKED[0], mixture[i].values
    assert items_of(found["history"]) == q.history[i].tolist()
    assert ITEM[found["target"]] == q.item[i]


def test_a_small_share_takes_no_example_twice_and_a_large_one_goes_round():
  n = len(ASKED[0])
  one = dict.fromkeys(prompts.TASKS, 1e-9)
  few = made(weights=one | {"sequential": 1.0}, size=n - 5)
  order = few._drawn[0]
  assert len(set(order.tolist())) == len(order) == few.counts[0] < n
  assert few._drawn[0].tolist() != sorted(few._drawn[0])  # drawn, not the first
  many = made(weights=one | {"sequential": 1.0}, size=2 * n)
  again = [many[i].values["user"] for i in range(n)], [many[n + i].values["user"] for i in range(n)]
  assert many.counts[0] == 2 * n and again[0] == again[1]
  assert [many[i].prompt for i in range(n)] != [many[n + i].prompt for i in range(n)]


def test_what_a_share_takes_beside_whole_rounds_is_drawn():
  """Not the first of the file, whose users would count for more in every epoch."""
  n = len(ASKED[0])
  one = dict.fromkeys(prompts.TASKS, 1e-9)
  more = made(weights=one | {"sequential": 1.0}, size=n + n // 2)
  times = np.bincount(more._drawn[0], minlength=n)
  assert set(times.tolist()) == {1, 2} and times.sum() == more.counts[0]
  assert 0.3 < (times[: n // 2] == 2).mean() < 0.7


def test_what_is_liked_goes_by_the_scale():
  opinion = [p for p in prompts.collection() if "opinion" in p.fields]
  assert {p.task for p in opinion} == {"rating"}
  said = [
    {i.text.target for i in instances.Instances(
      [ASKED[1]], opinion, SHOP, WORDS, instances.Config(target_len=8, liked=liked))}
    for liked in (2.0, 5.0)
  ]  # fmt: skip
  assert said == [{"like", "dislike"}] * 2
  for liked in (1.0, 5.5):
    with pytest.raises(DataError, match=r"lie in 1 .. 5, liked are .*all or none"):
      cfg = instances.Config(target_len=8, liked=liked)
      instances.Instances([ASKED[1]], opinion, SHOP, WORDS, cfg)


def test_an_item_or_user_of_another_shop_is_no_word_of_this_vocabulary():
  for part in ("items", "users"):
    own = list(getattr(SHOP, part))
    other = dataclasses.replace(SHOP, **{part: [*own[:-1], "<shelf_3>"]})
    with pytest.raises(DataError, match="'<shelf_3>'.*no token of this vocabulary"):
      instances.Instances(ASKED[:1], prompts.collection(), other, WORDS)


def test_an_instance_follows_from_seed_and_index_alone():
  weights = dict.fromkeys(prompts.TASKS, 1.0)
  one, two = made(weights=weights, size=300), made(weights=weights, size=300)
  widths = one.widths(200)
  rows = np.array([5, 250, 77, 130])
  batch, alone = one.gather(rows, widths), two.gather(rows[2:3], widths)
  for name, column in batch.items():
    np.testing.assert_array_equal(column[2:3], alone[name])
  other = made(weights=weights, size=300, seed=1)
  assert [one[i].text for i in range(300)] != [other[i].text for i in range(300)]
  drawn = [
    {i.prompt.name for i in map(one.__getitem__, range(60 * t, 60 * t + 60))} for t in (0, 1)
  ]
  assert [len(names) for names in drawn] == [7, 9]  # every prompt of the task comes


def test_batches_are_the_same_for_any_number_of_processes():
  mixture = made(weights=dict.fromkeys(prompts.TASKS, 1.0), size=64)
  whole = loader.Batches(mixture, 16, max_len=160, seed=0)[1]
  parts = [loader.Batches(mixture, 16, max_len=160, seed=0, shard=(i, 2))[1] for i in (0, 1)]
  for name, column in whole.items():
    np.testing.assert_array_equal(column, np.concatenate([p[name] for p in parts]))


# --- Only what is asked for is ever text ---


class Column:
  """A column of texts that notes which of them are read."""

  def __init__(self, values):
    self.values, self.read, self.dtype = values, [], values.dtype

  def __getitem__(self, row):
    self.read.append(int(row))
    return self.values[row]


def test_a_batch_puts_its_own_rows_into_words_and_no_others(monkeypatch):
  reviews = questions.summary(TRAIN)
  column = Column(reviews.columns["review"])
  lazy = dataclasses.replace(reviews, columns={**reviews.columns, "review": column})
  mixture = instances.Instances([lazy], OURS, SHOP, WORDS, instances.Config(target_len=16))
  batches = loader.Batches(mixture, 8, max_len=64, seed=0)
  spent, real = [], whole_words.encode
  monkeypatch.setattr(
    whole_words, "encode", lambda v, texts, **o: spent.append(len(texts)) or real(v, texts, **o)
  )
  assert column.read == [] and len(mixture) == len(TRAIN)
  batches[3]
  rows = batches._plan(0)[0][3]
  assert sorted(column.read) == sorted(reviews.row[rows].tolist()) and spent == [8, 8]


def test_lengths_for_buckets_are_those_of_the_sources():
  mixture = made(weights=dict.fromkeys(prompts.TASKS, 1.0), size=40)
  wanted = [len(WORDS.encode([mixture[i].text.source])[0]) for i in range(40)]
  assert mixture.lengths.tolist() == wanted
  batches = loader.Batches(mixture, 4, max_len=[40, 160], seed=0)
  assert {batches[i]["source"].shape[1] for i in range(len(batches))} == {40, 160}


# --- From data to text and back ---


@given(st.integers(0, 499))
def test_instances_are_read_back_from_their_tokens(i):
  mixture = made(weights=dict.fromkeys(prompts.TASKS, 1.0), size=500)
  batch, found = mixture.gather(np.array([i]), mixture.widths(200)), mixture[i]
  tokens, words = (batch[name] for name in ("source", "words"))
  assert (tokens == WORDS.eos).sum() == 1 and (words[tokens == WORDS.eos] == 0).all()
  source = whole_words.decode(WORDS, list(tokens), list(words))[0]
  assert source == found.text.source
  again = found.prompt.parse(found.text._replace(source=source))
  assert again == found.values


def test_what_an_instance_says_is_true_of_the_data():
  mixture = made(weights=dict.fromkeys(prompts.TASKS, 1.0), size=1000)
  stars = dict(zip(zip(TRAIN.user.tolist(), TRAIN.item.tolist(), strict=True), TRAIN.rating,
                   strict=True))  # fmt: skip
  answers = []
  for i in range(len(mixture)):
    prompt, v, _ = mixture[i]
    user = SHOP.users.index(v["user"])
    if "item" in v:
      given = stars[user, ITEM[v["item"]]]
      assert float(v.get("rating", given)) == given
      assert v.get("opinion") in (None, "like" if given >= 4 else "dislike")
      if "guess" in v:
        assert (float(v["guess"]) == given) == (v["answer"] == "yes")
    if "candidates" in v:
      shown = items_of(v["candidates"])
      assert len(set(shown)) == len(shown) == 4 and ITEM[v["target"]] in shown
      assert not (set(shown) - {ITEM[v["target"]]}) & MET[user]
    if "candidate" in v:
      answers.append(v["answer"])
      assert (ITEM[v["candidate"]] in MET[user]) == (v["answer"] == "yes")
    if "title" in v:
      assert SHOP.items[SHOP.titles.index(v["title"])] == v["item"]
    if "review" in v:
      assert v["review"].startswith("This one is ") and v["review"].endswith("We kept it.")
    if prompt.task == "explanation":
      assert v["explanation"] == f"This one is {shop.OPINIONS[int(given)]}."
  assert 0.35 < answers.count("yes") / len(answers) < 0.65 and len(answers) > 60


def test_ids_share_no_token_but_where_their_digits_agree():
  """Items are written in tokens of their own, users too: no piece of text is among them."""
  tokens, _ = whole_words.encode(WORDS, SHOP.items)
  pieces = len(shop.PIECES)
  assert all((row[:-1] >= pieces).all() and len(row) == 3 for row in list(tokens)[1:])
  numbers = {written: re.findall(r"_(\d)>", written) for written in SHOP.items[1:]}
  for one in numbers:
    for other in numbers:
      shared = set(tokens[ITEM[one]][:-1]) & set(tokens[ITEM[other]][:-1])
      same = sum(a == b for a, b in zip(numbers[one], numbers[other], strict=True))
      assert len(shared) == same


def test_the_vocabulary_grows_by_what_is_new():
  assert len(WORDS) == len(shop.PIECES) + (TRAIN.num_users - 1) + 2 + 10
  index = indexing.randomly(TRAIN.num_items, seed=0, span=1)
  assert instances.vocabulary(WORDS, index, TRAIN.num_users).added == WORDS.added


def test_titles_in_pieces_of_the_vocabulary_can_be_identifiers():
  def pieces(text):
    return WORDS._processor.encode(text, out_type=str)

  titled = ["", "Red lamp", "Red", "Red lamp", "A lamp"]
  few = TRAIN.take(TRAIN.item < 5)
  few = dataclasses.replace(few, items=few.items[:5])
  index = indexing.titles(titled, few.items, split=pieces)
  words = instances.vocabulary(WORDS, index, few.num_users)
  tokens, whole = whole_words.encode(words, instances.domain(few, index).items)
  wanted = [words.encode([title], eos=False)[0].tolist() for title in titled[1:]]
  copies = [row[-2] for row in (tokens[1], tokens[3])]  # of the two that have the same title
  assert sorted(copies) == [words.id("<copy_0>"), words.id("<copy_1>")]
  for at, copy in ((0, copies[:1]), (1, []), (2, copies[1:]), (3, [])):
    assert tokens[at + 1].tolist() == [*wanted[at], *copy, words.eos]
    assert set(whole[at + 1].tolist()) == {1, 0}  # one word, however many pieces
  with pytest.raises(KeyError, match="no token '(Red|lamp|A)'"):
    instances.vocabulary(WORDS, indexing.titles(titled, few.items), few.num_users)


# --- What evaluation asks ---


def test_evaluation_brings_the_item_or_the_rating_and_no_text():
  q = questions.sequential(examples.next_events(TRAIN, SPLIT.valid))
  source = asked.ranked(instances.Instances([q], [NEXT], SHOP, WORDS), deny_seen=True)
  batch = loader.Batches(source, 16, max_len=64)[0]
  assert set(batch) == {"source", "words", "target", "deny", "weight"}
  assert batch["target"].tolist() == q.item[:16].tolist()
  assert set(batch["deny"][0]) - {0} == set(q.history[0].tolist())
  stars = [p for p in OURS if p.name in ("stars", "called") and p.task == "rating"]
  source = asked.rated(instances.Instances([ASKED[1]], stars, SHOP, WORDS))
  batch = loader.Batches(source, 16, max_len=64)[0]
  assert set(batch) == {"source", "words", "ratings", "weight"}
  assert batch["ratings"].tolist() == TRAIN.rating[:16].tolist()


def test_what_cannot_be_evaluated_is_named():
  with pytest.raises(DataError, match="asks one task"):
    asked.ranked(made(weights=dict.fromkeys(prompts.TASKS, 1.0)))
  with pytest.raises(DataError, match="rating/exactly is not answered by {rating}"):
    asked.rated(instances.Instances([ASKED[1]], OURS, SHOP, WORDS))
  direct = [p for p in OURS if p.task == "direct" and p.target == "{target}"]
  with pytest.raises(DataError, match="no history to deny"):
    asked.ranked(instances.Instances([ASKED[4]], direct, SHOP, WORDS), deny_seen=True)


@pytest.mark.parametrize(
  "change, said",
  [
    ({"questions": []}, "of another task"),
    ({"questions": [ASKED[0], ASKED[0]]}, "of another task"),
    ({"prompts": [NEXT]}, "no prompt for the task 'rating'"),
    ({"cfg": instances.Config(size=10)}, "`size` is that of a mixture"),
    ({"cfg": instances.Config(weights={"rating": 1.0})}, "the weights are .*'rating'"),
    (
      {"cfg": instances.Config(weights=dict.fromkeys(prompts.TASKS, 0.0))},
      "a positive weight",
    ),
    (
      {"questions": ASKED[:1], "prompts": [NEXT], "cfg": instances.Config(target_len=2)},
      "an answer {target} takes 3 tokens with its end, a target holds 2.*0: as many as are needed",
    ),
    ({"cfg": instances.Config(candidates=1)}, "at least 2 candidates"),
    (
      {"prompts": [*OURS, Prompt("explanation", "{feature} ?", "{explanation}", "f")]},
      "explanation/f needs feature",
    ),
  ],
)
def test_mixtures_that_do_not_work_are_named(change, said):
  whole = {"questions": ASKED, "prompts": OURS, "domain": SHOP, "words": WORDS}
  with pytest.raises(DataError, match=said):
    instances.Instances(**{**whole, **change})


def test_domains_that_do_not_fit_the_events_are_named():
  with pytest.raises(DataError, match="the index has 4 items, the events 12"):
    instances.domain(TRAIN, indexing.randomly(5, seed=0))
  index = indexing.randomly(TRAIN.num_items, seed=0)
  with pytest.raises(DataError, match="titles of 1 items"):
    instances.domain(TRAIN, index, ["", "x"])


def test_a_user_who_met_everything_and_equal_ratings_are_named_before_any_work():
  x = interactions.from_columns([1] * 3, [1, 2, 3], timestamp=[0, 1, 2], rating=[2, 2, np.nan])
  found, words = shop.of(x)
  whether = [p for p in OURS if p.name == "whether" and p.task == "direct"]
  with pytest.raises(DataError, match="user 1 has met 3 of 3 items"):
    instances.Instances([questions.direct(x)], whether, found, words)
  guess = [p for p in OURS if p.name == "exactly"]
  with pytest.raises(DataError, match="none can be guessed wrongly"):
    instances.Instances([questions.rating(x)], guess, found, words)


# --- Sums ---


def test_sums_are_right_and_parts_share_none():
  parts = [arithmetic.Sums(WORDS, 30, first, highest=9) for first in (0, 30)]
  seen = [part[i] for part in parts for i in range(30)]
  assert len({text.source for text in seen}) == 60
  for text in seen:
    one, other = (int(w) for w in text.source.split() if w.isdigit())
    assert int(text.target) == one + other and 0 <= min(one, other) <= max(one, other) <= 9
  batch = loader.Batches(parts[0], 8, max_len=24, seed=0)[0]
  assert set(batch) == {"source", "words", "target", "weight"}
  said = WORDS.decode(batch["source"][:1])[0]
  assert said in {t.source for t in seen} and WORDS.decode(batch["target"])[0].isdigit()
  with pytest.raises(DataError, match="there are 100 sums"):
    arithmetic.Sums(WORDS, 90, 20, highest=9)
  with pytest.raises(DataError, match="Raise its max_len"):
    loader.Batches(parts[0], 8, max_len=4)[0]
