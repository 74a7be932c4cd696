"""Readers, source by source: small files written by hand in every form that is published."""

import gzip
import json
import math

import numpy as np
import pytest
from reading import dated, events, rows

from recjax.data import readers
from recjax.data.errors import DataError
from recjax.data.readers import values

AT = {"user": "user", "item": "item", "rating": "rating", "timestamp": "timestamp"}


def test_amazon_reviews_of_2014_and_2023(write):
  old = write(
    "reviews_Toys.json.gz",
    '{"reviewerID": "U", "asin": "A", "reviewText": "Great fun", "overall": 5.0, '
    '"summary": "Five", "unixReviewTime": 1363392000}\n'
    '{"reviewerID": "U", "asin": "B", "overall": 4.0, "unixReviewTime": 5}',
  )
  x = readers.amazon.reviews(old)
  assert events(x) == [("U", "A", 5.0, 1363392000), ("U", "B", 4.0, 5)]
  assert x.text.tolist() == ["Great fun", ""] and x.fields["summary"].tolist() == ["Five", ""]
  new = write(
    "All_Beauty.jsonl.gz",
    '{"rating": 5.0, "title": "Wow", "text": "Nice", "asin": "A1", "parent_asin": "A", '
    '"user_id": "U", "timestamp": 1588687728923}',
  )
  y = readers.amazon.reviews(new)
  assert events(y) == [("U", "A", 5.0, 1588687728)]
  assert y.text.tolist() == ["Nice"] and y.fields["summary"].tolist() == ["Wow"]
  assert readers.amazon.reviews(new, text=False).text is None


def test_amazon_ratings_of_each_edition(write):
  assert events(readers.amazon.ratings(write("a.csv", "U,A,5.0,1\n"), 2014)) == [("U", "A", 5.0, 1)]
  assert events(readers.amazon.ratings(write("b.csv", "A,U,5.0,1\n"), 2018)) == [("U", "A", 5.0, 1)]
  text = "user_id,parent_asin,rating,timestamp\nU,A,5.0,1588687728923\n"
  x = readers.amazon.ratings(write("c.csv.gz", text), 2023)
  assert events(x) == [("U", "A", 5.0, 1588687728)]
  with pytest.raises(ValueError, match="edition must be one of 2014, 2018, 2023"):
    readers.amazon.ratings("a.csv", 2015)


def test_amazon_metadata_of_each_edition(write):
  path = write(
    "meta.json.gz",
    "{'asin': 'A', 'title': 'Salt &amp; \"Pepper\"', 'price': 12.99, 'brand': \"O'Neil\", "
    "'categories': [['Home', 'Kitchen &amp; Dining'], ['Gifts']], 'description': 'd'}\n"
    '{"asin": "B", "title": "T", "price": "$1,012.50", "category": ["Home", "Kitchen"], '
    '"description": ["one", "", "two"], "feature": ["f"], "main_cat": "Home"}\n'
    '{"parent_asin": "C", "title": "T", "price": null, "store": "S", "categories": [], '
    '"description": [], "features": ["f", "g"], "main_category": "All Beauty"}\n'
    '{"asin": "D", "price": "$5.99 - $12.99"}\n',
  )
  c = readers.amazon.metadata(path)
  assert c.ids.tolist() == ["", "A", "B", "C", "D"]
  assert c["title"].tolist() == ["", 'Salt & "Pepper"', "T", "T", ""]
  assert c["categories"].tolist() == [
    (),
    ("Home", "Kitchen & Dining"),
    ("Home", "Kitchen"),
    (),
    (),
  ]
  assert c["brand"].tolist() == ["", "O'Neil", "", "S", ""]
  assert c["description"].tolist() == ["", "d", "one two", "", ""]
  assert c["features"].tolist() == ["", "", "f", "f g", ""]
  assert c["main_category"].tolist() == ["", "", "Home", "All Beauty", ""]
  expected = np.array([np.nan, 12.99, 1012.5, np.nan, np.nan], np.float32)
  np.testing.assert_array_equal(c["price"], expected)


@pytest.mark.parametrize(
  "written, price",
  [(12.99, 12.99), ("12.99", 12.99), ("$12.99", 12.99), (".99", 0.99), ("$1,012", 1012.0)]
  + [(v, None) for v in ("$1 - $2", "from 3", "", None, "—", -1, math.nan, math.inf, "nan", [3])],
)
def test_a_price_is_a_number_or_unknown(written, price):
  assert values.price(written) == price


def test_movielens_100k_folder(tmp_path):
  (tmp_path / "u.data").write_text("196\t242\t3\t881250949\n")
  flags = "|".join("1" if i in (3, 5) else "0" for i in range(19))
  movie = f"1|Misérables, Les (1995)|01-Jan-1995||http://x|{flags}\n"
  (tmp_path / "u.item").write_bytes(movie.encode("latin-1"))
  (tmp_path / "u.user").write_text("1|24|M|technician|85711\n")
  assert events(readers.movielens.ratings(tmp_path)) == [("196", "242", 3.0, 881250949)]
  movies = readers.movielens.movies(tmp_path)
  assert movies["title"][1] == "Misérables, Les (1995)" and movies["year"][1] == 1995
  assert movies["categories"][1] == ("Animation", "Comedy")
  users = readers.movielens.users(tmp_path)
  assert (users["age"][1], users["gender"][1], users["occupation"][1]) == (24, "M", "technician")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_movielens_1m_folder(tmp_path, encoding):
  (tmp_path / "ratings.dat.gz").write_bytes(gzip.compress(b"1::1193::5::978300760\n"))
  movies = "1::Toy Story (1995)::Animation|Children's\n73::Misérables: 2, Les (1995)::Drama\n"
  (tmp_path / "movies.dat").write_bytes(movies.encode(encoding))
  (tmp_path / "users.dat").write_text("1::F::1::10::48067\n")
  assert events(readers.movielens.ratings(tmp_path)) == [("1", "1193", 5.0, 978300760)]
  c = readers.movielens.movies(tmp_path)
  assert c["title"].tolist() == ["", "Toy Story (1995)", "Misérables: 2, Les (1995)"]
  assert c["categories"].tolist() == [(), ("Animation", "Children's"), ("Drama",)]
  users = readers.movielens.users(tmp_path)
  assert (users["gender"][1], users["age"][1], users["zip"][1]) == ("F", 1, "48067")


def test_movielens_25m_folder(tmp_path):
  (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,296,5.0,1147880044\n")
  (tmp_path / "movies.csv").write_text(
    'movieId,title,genres\n1,"American President, The (1995)",Comedy|Drama\n'
    "2,Untitled,(no genres listed)\n"
  )
  assert events(readers.movielens.ratings(tmp_path)) == [("1", "296", 5.0, 1147880044)]
  c = readers.movielens.movies(tmp_path)
  assert c["title"][1] == "American President, The (1995)"
  assert c["categories"].tolist() == [(), ("Comedy", "Drama"), ()]
  np.testing.assert_array_equal(c["year"], [np.nan, 1995, np.nan])
  with pytest.raises(DataError, match="none of u.user, users.dat"):
    readers.movielens.users(tmp_path)


def test_yelp(write):
  line = '{"user_id": "u", "business_id": "b", "stars": 3.0, "text": "ok", "date": "%s"}'
  x = readers.yelp.reviews(write("r.json", line % "2018-07-07 22:09:11"))
  assert events(x) == [("u", "b", 3.0, dated("2018-07-07T22:09:11"))] and x.text[0] == "ok"
  c = readers.yelp.businesses(
    write(
      "b.json",
      '{"business_id": "b", "name": "X", "categories": "Food, Bars", "city": "Y", "stars": 4.5}\n'
      '{"business_id": "c", "name": "Z", "categories": ["Food"]}\n'
      '{"business_id": "d", "name": "", "categories": null}',
    )
  )
  assert c["categories"].tolist() == [(), ("Food", "Bars"), ("Food",), ()]
  assert c["title"].tolist() == ["", "X", "Z", ""] and c["stars"][1] == 4.5


def test_steam_version_2(write):
  x = readers.steam.reviews(
    write(
      "steam_reviews.json.gz",
      "{u'username': u'Jo', u'hours': 0.5, u'product_id': u'10', u'date': u'2017-12-17', "
      "u'text': u'caf\\xe9', u'early_access': False}\n"
      "{u'username': u'Al', u'product_id': u'10', u'date': u'2017-12-18', u'text': u''}\n",
    )
  )
  assert events(x) == [
    ("Jo", "10", dated("2017-12-17T00:00")),
    ("Al", "10", dated("2017-12-18T00:00")),
  ]
  assert x.rating is None and x.text.tolist() == ["café", ""]
  np.testing.assert_array_equal(x.fields["hours"], np.array([0.5, np.nan], np.float32))
  c = readers.steam.games(
    write(
      "steam_games.json.gz",
      "{u'id': u'1', u'app_name': u'A &amp; B', u'genres': [u'Action'], u'price': 4.99}\n"
      "{u'id': u'2', u'title': u'C', u'price': u'Free To Play', u'developer': u'D'}\n",
    )
  )
  assert c["title"].tolist() == ["", "A & B", "C"] and c["brand"].tolist() == ["", "", "D"]
  assert c["categories"].tolist() == [(), ("Action",), ()]
  np.testing.assert_array_equal(c["price"], np.array([np.nan, 4.99, 0], np.float32))


def test_steam_version_1_nests_what_a_user_did(write):
  line = (
    "{'user_id': 'u', 'reviews': ["
    "{'item_id': '1', 'posted': 'Posted November 5, 2011.', 'recommend': True, 'review': 'x'}, "
    "{'item_id': '2', 'posted': 'Posted March 3.', 'recommend': False, 'review': ''}]}\n"
  )
  path = write("australian_user_reviews.json.gz", line)
  with pytest.raises(DataError, match="has no year.*crawl_year"):
    readers.steam.australian_reviews(path)
  x = readers.steam.australian_reviews(path, crawl_year=2016)
  assert events(x) == [
    ("u", "1", 1.0, dated("2011-11-05T00:00")),
    ("u", "2", 0.0, dated("2016-03-03T00:00")),
  ]
  owned = "{'user_id': 'u', 'items': [{'item_id': '1', 'playtime_forever': 6}]}\n"
  y = readers.steam.australian_items(write("i.json", owned))
  assert events(y) == [("u", "1")] and y.fields["playtime"].tolist() == [6]


def test_mind(write):
  x = readers.mind.behaviors(
    write(
      "behaviors.tsv",
      "1\tU1\t11/15/2019 12:05:12 AM\tN1 N2\tN3-0 N1-1\n2\tU2\t11/15/2019 12:05:12 PM\t\tN3-1\n",
    )
  )
  assert x.users[x.user].tolist() == ["U1", "U2"]
  assert rows(x.history, x.items) == [["N1", "N2"], []]
  assert rows(x.candidates, x.items) == [["N3", "N1"], ["N3"]]
  assert rows(x.labels) == [[0, 1], [1]]
  assert x.timestamp.tolist() == [dated("2019-11-15T00:05:12"), dated("2019-11-15T12:05:12")]
  entity = '[{"Label": "P", "Type": "P", "WikidataId": "Q80976", "Confidence": 1.0}]'
  c = readers.mind.news(write("news.tsv", f'N1\tlife\tfun\tA "b"\t\thttp\t{entity}\t[]\n'))
  assert (c["title"][1], c["category"][1], c["subcategory"][1]) == ('A "b"', "life", "fun")
  assert c["title_entities"][1] == ("Q80976",) and c["abstract_entities"][1] == ()


def test_mind_as_json_names_news_without_an_id_by_its_title(write):
  record = {
    "impression_id": 1,
    "history": [["N1", "a"], [None, "b"]],
    "candidates": [["N2", "c"], [None, "b"]],
    "clicked": [1],
  }
  x = readers.mind.sampled_behaviors(write("i.jsonl", json.dumps(record)))
  assert x.user.tolist() == [0] and x.num_users == 1
  assert rows(x.history, x.items) == [["N1", "b"]]
  assert rows(x.candidates, x.items) == [["N2", "b"]] and rows(x.labels) == [[0, 1]]


def test_dkn_histories_are_the_clicks_without_the_candidate(write):
  text = "0\talpha\t1\t5:X;6:Y\r\n0\tbeta\t0\t\r\n0\tgamma\t1\t5:x\r\n1\talpha\t0\t5:X\r\n"
  train = write("raw_train.txt", text)
  x = readers.mind.dkn(train, clicks=train)
  assert rows(x.candidates, x.items) == [["alpha"], ["beta"], ["gamma"], ["alpha"]]
  assert rows(x.labels) == [[1], [0], [1], [0]]
  assert rows(x.history, x.items) == [["gamma"], ["alpha", "gamma"], ["alpha"], []]
  assert readers.mind.dkn(train).history.lengths.sum() == 0
  c = readers.mind.dkn_news(train)
  assert c["title"].tolist() == ["", "alpha", "beta", "gamma"]
  assert c["entities"].tolist() == [(), ("5", "6"), (), ("5",)]


def test_adjacency_lists_keep_users_without_items_and_share_ids(write):
  train = readers.edges.lists(write("train.txt", "0 10 11\n1\n2 11\n"))
  test = readers.edges.lists(write("test.txt", "2 12 10\n0 13\n"))
  assert train.users.tolist() == ["", "0", "1", "2"]
  a, b = readers.share_ids(train, test)
  assert a.users is b.users and a.items is b.items
  assert a.items.tolist() == ["", "10", "11", "12", "13"]
  assert events(a) == events(train) and events(b) == events(test)


def test_links_and_ratings_share_the_users(write):
  x = readers.edges.weighted(write("w.txt", "u\ta\t3\nv\ta\t1\n"))
  social = readers.edges.links(
    write("t.csv", "user,trusts\nw,u\nu,w\n"), ("user", "trusts"), delimiter=",", header=True
  )
  x, social = readers.share_ids(x, social)
  assert x.users.tolist() == social.users.tolist() == ["", "u", "v", "w"]
  assert social.user.tolist() == [3, 1] and social.friend.tolist() == [1, 3]
  assert events(x) == [("u", "a", 3.0), ("v", "a", 1.0)]


def test_impressions_share_ids_too(write):
  line = '{"user": "%s", "history": %s, "item": %d}'
  one = readers.instructions.minionerec(write("1.jsonl", line % ("u", "[1, 2]", 3)))
  two = readers.instructions.minionerec(write("2.jsonl", line % ("v", "[3]", 4)))
  one, two = readers.share_ids(one, two)
  assert one.items.tolist() == two.items.tolist() == ["", "1", "2", "3", "4"]
  assert rows(two.history) == [[3]] and rows(two.candidates) == [[4]] and two.user.tolist() == [2]


def test_graphrec(write):
  lists = {
    "train_u": [0, 1],
    "train_v": [5, 6],
    "train_r": [2.0, 3.5],
    "test_u": [1],
    "test_v": [5],
    "test_r": [1.0],
    "history_u_lists": {"0": [5], "1": [6]},
    "social_adj_lists": {"0": [1, 2], "1": []},
  }
  train, test, social = readers.edges.graphrec(write("g.json.gz", json.dumps(lists)))
  assert events(train) == [("0", "5", 2.0), ("1", "6", 3.5)] and events(test) == [("1", "5", 1.0)]
  assert train.users.tolist() == social.users.tolist() == ["", "0", "1", "2"]
  assert social.user.tolist() == [1, 1] and social.friend.tolist() == [2, 3]
  for broken in ({"train_r": [1.0]}, {"history_u_lists": {}}, {"social_adj_lists": {"0": 3}}):
    with pytest.raises(DataError, match="g.json"):
      readers.edges.graphrec(write("g.json", json.dumps(lists | broken)))


def test_grouped_sequences_keep_their_order_as_time(write):
  path = write("s.txt", "2 7 5 7\n1 5\n")
  x = readers.sequences.grouped(path)
  assert events(x) == [("2", "7", 0), ("2", "5", 1), ("2", "7", 2), ("1", "5", 0)]
  y = readers.sequences.grouped(path, deltas=write("d.txt", "0 60 0\n0\n"))
  assert y.timestamp.tolist() == [0, 60, 60, 0]


@pytest.mark.parametrize(
  "deltas, line", [("0 1\n0\n", 1), ("0 1 1\n0 1\n", 2), ("0 -1 1\n0\n", 1), ("0 1 1\n0\n3\n", 3)]
)
def test_time_deltas_must_fit_the_sequences(write, deltas, line):
  path = write("d.txt", deltas)
  with pytest.raises(DataError) as caught:
    readers.sequences.grouped(write("s.txt", "2 7 5 7\n1 5\n"), deltas=path)
  assert (caught.value.path, caught.value.line) == (path, line)


def test_too_few_time_deltas_are_noticed(write):
  with pytest.raises(DataError, match="1 lines for 2 users"):
    readers.sequences.grouped(write("s.txt", "2 7\n1 5\n"), deltas=write("d.txt", "0\n"))


def test_pairs_are_in_time_order_within_each_user(write):
  x = readers.sequences.pairs(write("ml.txt", "1 5\n2 6\n1 4\n1 5\n2 4\n"))
  assert events(x) == [("1", "5", 0), ("2", "6", 0), ("1", "4", 1), ("1", "5", 2), ("2", "4", 1)]


def test_p5_maps_give_the_raw_ids_back(write):
  maps = {"user2id": {"AU": "1"}, "item2id": {"B1": "7", "B2": "5"}, "id2user": {"1": "AU"}}
  users, items = readers.sequences.p5_maps(write("datamaps.json", json.dumps(maps)))
  x = readers.sequences.grouped(write("sequential.txt", "1 7 5\n"))
  assert events(readers.sequences.renamed(x, users, items)) == [("AU", "B1", 0), ("AU", "B2", 1)]
  with pytest.raises(DataError, match="1 items, '5' first, are not in the map"):
    readers.sequences.renamed(x, users, {"7": "B1"})
  with pytest.raises(DataError, match="two items one id"):
    readers.sequences.renamed(x, users, {"7": "B1", "5": "B1"})
  broken = json.dumps({"user2id": {"A": 1, "B": 1}, "item2id": {}})
  with pytest.raises(DataError, match="one number twice"):
    readers.sequences.p5_maps(write("d.json", broken))


def test_names_and_id_maps_by_line(write):
  assert readers.sequences.names(write("u.txt", "A\nB\n")).tolist() == ["", "A", "B"]
  with pytest.raises(DataError, match="user id is empty") as caught:
    readers.sequences.names(write("u.txt", "A\n\nB\n"))
  assert caught.value.line == 2
  assert readers.sequences.id_map(write("m.txt", "1 1193\n2 661\n")) == {"1": "1193", "2": "661"}
  with pytest.raises(DataError, match="first of them new") as caught:
    readers.sequences.id_map(write("m.txt", "1 1193\n1 661\n"))
  assert caught.value.line == 2


def test_items_and_attributes_beside_sequences(write):
  line = '{"id": 4, "asin": "B1", "title": "Tom &amp; Co", "categories": [["A", "B"], ["C"]]}'
  c = readers.sequences.items(write("items.jsonl", line))
  assert list(c.fields) == ["asin", "title", "categories"]
  assert (c["asin"][1], c["title"][1], c["categories"][1]) == ("B1", "Tom & Co", ("A", "B"))
  path = write("item2attributes.json", '{"4": [1, 2], "9": []}')
  assert readers.sequences.attributes(path)["attributes"].tolist() == [(), ("1", "2"), ()]
  named = readers.sequences.attributes(path, names=write("n.json", '{"1": "Makeup"}'))
  assert named["attributes"].tolist() == [(), ("Makeup", "2"), ()]
  with pytest.raises(DataError, match="key '4' appears twice"):
    readers.sequences.attributes(write("i.json", '{"4": [1], "4": [2]}'))
  with pytest.raises(DataError, match="not JSON") as caught:
    readers.sequences.attributes(write("i.json", '{"4": [1],\n"5": [2}'))
  assert caught.value.line == 2


def test_ncf_puts_the_positive_first(write):
  x = readers.sequences.ncf_negatives(write("n.txt", "(0,25)\t7\t8\n(3,7)\t25\t9\n"))
  assert x.users[x.user].tolist() == ["0", "3"]
  assert rows(x.candidates, x.items) == [["25", "7", "8"], ["7", "25", "9"]]
  assert rows(x.labels) == [[1, 0, 0]] * 2
  y = readers.sequences.ncf_ratings(write("ml-1m.test.rating", "0\t25\t5\t978824351\n"))
  assert events(y) == [("0", "25", 5.0, 978824351)]


def test_semantic_ids_and_vectors(write, tmp_path):
  codes = readers.semantic_ids.semantic_ids(write("s.json.gz", "[[1, 0], [3, 255]]"))
  assert codes.tolist() == [[1, 0], [3, 255]] and codes.dtype == np.int32
  for broken in ("[[1, 0], [3]]", "[[1, 0], [3, -1]]", "[[1, 0], [3, true]]", "[]", "{}", "[[]]"):
    with pytest.raises(DataError, match="s.json"):
      readers.semantic_ids.semantic_ids(write("s.json", broken))
  np.save(tmp_path / "v.npy", np.eye(3, dtype=np.float16))
  assert readers.semantic_ids.vectors(tmp_path / "v.npy").tolist() == np.eye(3).tolist()
  np.save(tmp_path / "nan.npy", np.full((2, 2), np.nan))
  np.save(tmp_path / "object.npy", np.array([[{}]], object), allow_pickle=True)
  for name in ("nan.npy", "object.npy"):
    with pytest.raises(DataError, match=name):
      readers.semantic_ids.vectors(tmp_path / name)


def test_recbole_columns_follow_their_types(write):
  text = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\ttags:token_seq\tv:float_seq\n"
    "1\t007\t3\t881250949\ta b\t0.5 1\n1\t8\t2.5\t881250950.0\t\t\n"
  )
  x = readers.recbole.interactions(write("x.inter.gz", text))
  assert events(x) == [("1", "007", 3.0, 881250949), ("1", "8", 2.5, 881250950)]
  assert x.fields["tags"].tolist() == [("a", "b"), ()]
  assert x.fields["v"].tolist() == [(0.5, 1.0), ()]
  text = "item_id:token\tmovie_title:token_seq\tclass:token_seq\tprice:float\n1\tToy Story\tA B\t\n"
  path = write("x.item", text)
  c = readers.recbole.catalog(path, title="movie_title", categories="class")
  assert c["title"][1] == "Toy Story" and c["categories"][1] == ("A", "B")
  assert np.isnan(c["price"]).all()
  with pytest.raises(DataError, match="no column 'user_id'.*item_id, movie_title"):
    readers.recbole.catalog(path, id="user_id")
  with pytest.raises(DataError, match="'price:number' of the header is not a new name:type"):
    readers.recbole.catalog(write("y.item", "item_id:token\tprice:number\n1\t2\n"))
  net = write("x.net", "source_id:token\ttarget_id:token\n1\t2\n")
  assert readers.recbole.links(net).users.tolist() == ["", "1", "2"]


TALLREC = {
  "instruction": "Given ...",
  "input": 'User Preference: "A, The (1995)", "B (1990)"\nUser Unpreference: "C (1991)"\n'
  'Whether the user will like the target movie "D (1992)"?',
  "output": "Yes.",
}


def test_tallrec_prompts_are_taken_apart(write):
  book = {
    "instruction": "Given ...",
    "input": 'User Preference: \nUser Unpreference: "X" written by J. Doe, "Y, Z" written by K\n'
    'Whether the user will like the target book ""X" written by J. Doe"?',
    "output": "No.",
  }
  path = write("t.json.gz", json.dumps([TALLREC, book]))
  x = readers.instructions.tallrec(path)
  assert rows(x.history, x.items) == [
    ["A, The (1995)", "B (1990)", "C (1991)"],
    ['"X" written by J. Doe', '"Y, Z" written by K'],
  ]
  assert rows(x.history_labels) == [[1, 1, 0], [0, 0]]
  assert rows(x.candidates, x.items) == [["D (1992)"], ['"X" written by J. Doe']]
  assert rows(x.labels) == [[1], [0]]
  texts = readers.instructions.tallrec_texts(path)
  assert texts["input"].tolist() == [TALLREC["input"], book["input"]]


@pytest.mark.parametrize(
  "change, problem",
  [({"output": "Maybe."}, "neither 'Yes.' nor 'No.'"), ({"input": "?"}, "not TALLRec's prompt")],
)
def test_a_bad_tallrec_record_is_named(write, change, problem):
  path = write("t.json", json.dumps([TALLREC, TALLREC | change, 5]))
  with pytest.raises(DataError, match=f"record 2: .*{problem}"):
    readers.instructions.tallrec(path)
  x = readers.instructions.tallrec(path, on_error="skip")
  assert len(x) == 1 and x.skipped.count == 2


def test_collm_drops_the_pad_of_histories_and_titles(write):
  line = '{"uid": 4, "iid": 96, "label": 1, "ts": 99, "his": [0, 38, 39], "not_cold": 1}'
  x = readers.instructions.collm(write("c.jsonl", line))
  assert rows(x.history, x.items) == [["38", "39"]] and x.timestamp.tolist() == [99]
  assert rows(x.candidates, x.items) == [["96"]] and rows(x.labels) == [[1]]
  c = readers.instructions.titles(write("t.json", '{"0": "", "1": "Sting, The (1973)"}'))
  assert c.ids.tolist() == ["", "1"] and c["title"].tolist() == ["", "Sting, The (1973)"]


def test_minionerec(write):
  x = readers.instructions.minionerec(
    write("m.jsonl", '{"user": "A1", "history": [4, 0], "item": 9}')
  )
  assert rows(x.history, x.items) == [["4", "0"]] and rows(x.candidates, x.items) == [["9"]]
  item = {"id": 0, "sid": [2, 1], "title": "x", "description": "['a b', \"c's\"]", "brand": "B"}
  c = readers.instructions.minionerec_items(write("i.jsonl", json.dumps(item)))
  assert c.ids.tolist() == ["", "0"] and c["description"][1] == "a b c's"
  assert c["codes"].tolist() == [[0, 0], [2, 1]]


def test_xrec_explanations(write):
  record = {"uid": 1, "iid": 2, "title": "t", "user_summary": "u", "item_summary": "i"}
  path = write("x.jsonl.xz", json.dumps(record | {"explanation": "because"}))
  x = readers.instructions.explanations(path)
  assert events(x) == [("1", "2")] and x.text.tolist() == ["because"]
  assert {name: f[0] for name, f in x.fields.items()} == {
    "title": "t",
    "user_summary": "u",
    "item_summary": "i",
  }
