"""Item indexing: every method tells all items of any catalogue apart, and reads no future."""

import re

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from recjax.data import interactions, prepare, splits
from recjax.data.errors import DataError
from recjax.data.interactions import Interactions
from recjax.decode import trie
from recjax.text import indexing
from recjax.types import PAD


def log(histories, num_items):
  """Users with these histories of items; the timestamps count over all events, in turns."""
  lengths = np.array([len(h) for h in histories], int)
  user = np.repeat(np.arange(1, len(histories) + 1), lengths)
  place = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
  users, items = (
    interactions.with_pad(np.array([f"{kind}{i}" for i in range(1, n)], object))
    for kind, n in (("u", len(histories) + 1), ("i", num_items))
  )
  return Interactions(
    user.astype(np.int32),
    np.array([i for h in histories for i in h], np.int32),
    users,
    items,
    timestamp=(place * len(histories) + user).astype(np.int64),
  )


@st.composite
def catalogues(draw):
  """(train, titles, categories, codes) with few words, so that much is alike and some is empty."""
  count = draw(st.integers(1, 12))
  item = st.integers(1, draw(st.integers(1, count)))  # the others nobody meets
  histories = draw(st.lists(st.lists(item, min_size=1, max_size=5), max_size=5))
  word = st.sampled_from(["red", "blue", "<copy_1>", "red red", "", "a  b", "\x00", "é"])
  titles = draw(st.lists(st.lists(word, max_size=2).map(" ".join), min_size=count, max_size=count))
  paths = draw(st.lists(st.lists(word, max_size=3), min_size=count, max_size=count))
  rows = st.lists(st.integers(0, 2), min_size=2, max_size=2)
  codes = draw(st.lists(rows, min_size=count, max_size=count))
  padded = np.array([[-1, -1], *codes])
  return log(histories, count + 1), ["", *titles], [(), *map(tuple, paths)], padded


def check(index, num_items):
  """A bijection, well formed, and what a trie of it gives back."""
  tokens = index.tokens
  assert tokens.dtype == np.int32 and len(tokens) == num_items
  assert (tokens[PAD] == PAD).all() and (tokens[:, -1] == PAD).all()
  assert (tokens[1:, 0] != PAD).all() and 0 <= tokens.min() <= tokens.max() < len(index.vocab)
  ended = tokens == PAD
  assert (ended == np.logical_or.accumulate(ended, axis=1)).all()  # padding at the right only
  assert len(set(map(tuple, tokens[1:].tolist()))) == num_items - 1
  assert len(set(index.vocab)) == len(index.vocab)
  tree = trie.build(tokens, len(index.vocab), end=PAD)
  leaves = trie.leaves(tree, trie.paths(tree, np.arange(1, num_items))[-1])
  np.testing.assert_array_equal(leaves, np.arange(1, num_items))


NUMBERS = {
  "random": lambda x, span: indexing.randomly(x.items, seed=1, span=span),
  "popularity": lambda x, span: indexing.by_popularity(x, span=span),
  "time": lambda x, span: indexing.by_time(x, span=span),
  "sequential": lambda x, span: indexing.sequentially(x, seed=1, span=span),
}


@pytest.mark.parametrize("span", [None, 1])
@pytest.mark.parametrize("name", sorted(NUMBERS))
@given(made=catalogues())
def test_numbers_tell_all_items_apart(name, span, made):
  check(NUMBERS[name](made[0], span), made[0].num_items)


@pytest.mark.parametrize("finish", [indexing.counted, indexing.independent])
@given(made=catalogues())
def test_titles_categories_and_codes_tell_all_items_apart(finish, made):
  train, titles, categories, codes = made
  check(indexing.titles(titles, train.items), train.num_items)
  check(finish(indexing.category_tree(categories, train.items)), train.num_items)
  check(finish(indexing.codes(codes, train.items)), train.num_items)


@pytest.mark.parametrize("finish", [indexing.counted, indexing.independent])
@settings(max_examples=8)
@given(made=catalogues())
def test_clusters_tell_all_items_apart(finish, made):
  check(finish(indexing.clusters(made[0], count=3, leaf=2)), made[0].num_items)


IDS = [str(i) for i in range(1, 10)]  # of a shop; what is told of it has much that is alike
TITLES = {i: ["red", "", "red lamp"][int(i) % 3] for i in IDS}
PATHS = {i: (["Beauty", "Nails"], ["Beauty"])[int(i) % 2] for i in IDS}
CODES = {i: [int(i) % 2, 0] for i in IDS}


def trained_on(histories):
  """The training part of users with these histories of raw ids, read as a source is read."""
  users = [f"u{u}" for u, history in enumerate(histories) for _ in history]
  place = [
    n * len(histories) + u for u, history in enumerate(histories) for n in range(len(history))
  ]
  x = interactions.from_columns(users, sum(histories, []), timestamp=np.array(place) + 1)
  x = prepare.order(prepare.reindex(x), ties=prepare.file_order)
  unmet = [i for i in IDS if i not in x.items.tolist()]
  whole = np.concatenate([x.items, interactions.strings(unmet)])
  return splits.leave_one_out(interactions.replace(x, items=whole)).train


def every_index(x):
  """name -> index, of events of the shop."""
  ids = x.items.tolist()
  titles, paths = ["", *(TITLES[i] for i in ids[1:])], [(), *(PATHS[i] for i in ids[1:])]
  prefixes = {
    "clusters": indexing.clusters(x, count=2, leaf=2),
    "categories": indexing.category_tree(paths, x.items),
    "codes": indexing.codes(np.array([[-1, -1], *(CODES[i] for i in ids[1:])]), x.items),
  }
  found = {name: make(x, 1) for name, make in NUMBERS.items()}
  found["titles"] = indexing.titles(titles, x.items)
  found["spelled"] = indexing.spelled(indexing.by_popularity(x), list)
  for name, made in prefixes.items():
    found |= {name: indexing.counted(made), f"{name}+item": indexing.independent(made)}
  return {n: {i: index.text(row) for row, i in enumerate(ids) if i} for n, index in found.items()}


HISTORIES = st.lists(st.lists(st.sampled_from(IDS), min_size=3, max_size=6), min_size=1, max_size=5)
ITEM = st.sampled_from(IDS)


@settings(max_examples=10)
@given(HISTORIES, ITEM, ITEM)
def test_no_index_reads_held_out_items(histories, valid, test):
  """Held-out items decide who is met first of all, and so rows; no identifier of any raw id."""
  changed = [[*h[:-2], valid, test] for h in histories]
  one, two = (every_index(trained_on(h)) for h in (histories, changed))
  for name, identifiers in one.items():
    assert identifiers == two[name], name


def test_numbers_that_nothing_else_decides_do_not_count_up_with_raw_ids():
  """Raw ids may be numbers of first meetings too, as those of many published files are."""
  x = log([[1, 2, 3]], 41)
  x = interactions.replace(
    x, items=interactions.with_pad(np.array([f"{i:02}" for i in range(1, 41)]))
  )
  leaves = indexing.counted(indexing.codes(np.zeros((41, 1), int), x.items)).tokens[1:, 1]
  for order in (indexing.by_popularity(x).tokens[4:, 0], leaves):
    assert 5 < (np.diff(order) > 0).sum() < len(order) - 6


def test_popularity_counts_and_time_takes_the_first_meeting():
  x = log([[4, 2], [2, 3], [2, 4]], 6)  # met in turns: 4, 2, 2, 2, 3, 4; never 1 and 5
  popular, first = (f(x).tokens[:, 0] for f in (indexing.by_popularity, indexing.by_time))
  assert popular[[2, 4, 3]].tolist() == [1, 2, 3] and set(popular[[1, 5]]) == {4, 5}
  assert first[[4, 2, 3]].tolist() == [1, 2, 3] and set(first[[1, 5]]) == {4, 5}


@pytest.mark.parametrize("kept", [1.0, 0.8])
def test_places_within_histories_are_no_times_to_index_by(kept):
  """As the source `sequences` gives them, also where a random part of the events is set aside."""
  lengths = np.random.default_rng(0).integers(3, 9, 50)
  x = log([list(range(1, n + 1)) for n in lengths], 10)
  place = np.concatenate([np.arange(n) for n in lengths])
  local = interactions.replace(x, timestamp=place)
  local = local.take(np.random.default_rng(1).random(len(x)) < kept)
  with pytest.raises(ValueError, match=r"index `time`.*places within.*Index by sequential"):
    indexing.by_time(local)
  real = interactions.replace(x, timestamp=place + 7 * x.user)  # everybody in a time of their own
  assert len(indexing.by_time(real).tokens) == 10
  alone = local.take(local.user == 3)  # of one user, places are in the order of time
  assert len(indexing.by_time(alone).tokens) == 10


def test_sequential_numbers_go_through_a_user_before_the_next():
  x = log([[5, 7, 6], [1, 2, 5, 3], [8, 9]], 11)
  found = set()
  for seed in range(20):
    index = indexing.sequentially(x, seed=seed, span=None)
    order = np.argsort(index.tokens[1:, 0]) + 1
    first = {5: [5, 7, 6], 1: [1, 2, 5, 3], 8: [8, 9]}[order[0]]
    assert order[: len(first)].tolist() == first
    assert set(order[-2:].tolist()) == {4, 10}  # nobody met these
    at = np.argsort(order)
    assert at[9 - 1] == at[8 - 1] + 1 and at[6 - 1] == at[7 - 1] + 1
    found.add(int(order[0]))
  assert found == {1, 5, 8}


def test_items_of_one_user_share_their_first_span():
  histories = np.arange(1, 101).reshape(10, 10)
  index = indexing.sequentially(log(histories.tolist(), 101), seed=0, span=1)
  assert index.tokens.shape == (101, 3)  # two digits and the end
  for items in histories:
    assert len(set(index.tokens[items, 0])) == 1 and len(set(index.tokens[items, 1])) == 10


def test_spans_are_digits_from_the_left_with_tokens_of_their_place():
  index = indexing.by_time(log([list(range(1, 1201))], 1201), span=2)
  assert index.text(1 + 1003) == "<s0_10> <s1_3>"
  assert index.text(1 + 310) == "<s0_3> <s1_10>"
  assert index.text(1) == "<s0_0> <s1_0>"
  whole = indexing.by_time(log([list(range(1, 1201))], 1201))
  assert whole.text(1004) == "<number_1003>"
  ten = indexing.by_time(log([list(range(1, 11))], 11), span=1)
  assert ten.tokens.shape == (11, 2)  # 0 to 9 is one digit


def test_titles_are_words_and_those_alike_are_numbered():
  ids = np.array(["", "a", "b", "c", "d", "e"])
  index = indexing.titles(["", "Red Nail Polish", "Red", "Red", "", "Red <i>"], ids)
  assert [index.text(i) for i in (1, 4, 5)] == ["Red Nail Polish", "<copy_0>", "Red i"]
  assert {index.text(2), index.text(3)} == {"Red <copy_0>", "Red <copy_1>"}
  split = indexing.titles(["", "ab", "b"], ids[:3], split=list)
  assert split.text(1) == "a b" and split.lengths.tolist() == [0, 2, 1]


def test_categories_are_a_path_and_a_count_at_its_end():
  paths = [(), ("Beauty", "Nail Care"), ("Beauty",), ("Beauty", "Nail Care"), (), ("Nail Care",)]
  tree = indexing.category_tree(np.array(paths, object), np.array(["", *"abcde"]))
  counted, independent = indexing.counted(tree), indexing.independent(tree)
  beauty = "<category0_Beauty>"
  nails = f"{beauty} <category1_Nail_Care>"
  assert {counted.text(1), counted.text(3)} == {f"{nails} <leaf_0>", f"{nails} <leaf_1>"}
  assert counted.text(2) == f"{beauty} <leaf_0>" and counted.text(4) == "<leaf_0>"
  assert counted.text(5) == "<category0_Nail_Care> <leaf_0>"  # by depth, not by name alone
  assert re.fullmatch(f"{nails} <item_[0-4]>", independent.text(3))
  assert all(re.fullmatch(r"<[^<>\s]+>", token) for token in counted.vocab)  # can be added to T5's


def test_codes_are_tokens_by_level_and_a_count_tells_collisions_apart():
  codes = np.array([[-1, -1], [2, 0], [0, 1], [2, 0]])
  index = indexing.counted(indexing.codes(codes, np.array(["", "a", "b", "c"])))
  assert index.text(2) == "<a_0> <b_1> <leaf_0>"
  assert {index.text(1), index.text(3)} == {"<a_2> <b_0> <leaf_0>", "<a_2> <b_0> <leaf_1>"}


def test_clusters_are_the_components_of_the_graph():
  """Three groups of items that are met together, and two items that nobody met."""
  rng = np.random.default_rng(0)
  groups = [np.arange(1, 9), np.arange(9, 17), np.arange(17, 25)]
  histories = [rng.permutation(g)[:5].tolist() for g in groups for _ in range(30)]
  train = log(histories, 27)
  tokens = indexing.clusters(train, count=4, leaf=8).tokens
  labels = [set(tokens[g, 0]) for g in groups]
  assert all(len(label) == 1 for label in labels) and len(set.union(*labels)) == 3
  assert tokens[25, 0] == tokens[26, 0] and tokens[25, 0] not in set.union(*labels)
  assert tokens.shape[1] == 1  # no cluster is too large
  deeper = indexing.clusters(train, count=4, leaf=3).tokens
  assert (deeper[:, 0] == tokens[:, 0]).all() and deeper.shape[1] > 1
  leaves = np.unique(deeper[1:], axis=0, return_counts=True)[1]
  assert leaves.max() <= 3


def test_a_large_graph_takes_the_sparse_solver_and_finds_the_same_groups():
  rng = np.random.default_rng(0)
  groups = np.arange(1, 601).reshape(3, 200)  # more nodes than the dense solver takes
  histories = [rng.choice(g, 12, replace=False).tolist() for g in groups for _ in range(80)]
  histories += [[1, 201, 401]]  # in one piece
  tokens = indexing.clusters(log(histories, 601), count=3, leaf=200).tokens
  for g in groups:
    assert np.bincount(tokens[g, 0]).max() >= 198


def test_clusters_are_the_same_each_time():
  rng = np.random.default_rng(1)
  train = log([rng.integers(1, 40, 6).tolist() for _ in range(60)], 40)
  one, two = (indexing.clusters(train, count=3, leaf=5, seed=3).tokens for _ in range(2))
  np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
  "make, said",
  [
    (lambda: indexing.randomly(1, seed=0), "no items to index"),
    (lambda: indexing.codes(np.array([[-1], [0], [-1]]), np.arange(3)), "item 2 has no code"),
    (lambda: indexing.codes(np.array([[-1.0], [0.5]]), np.arange(2)), "whole numbers"),
    (lambda: indexing.codes(np.array([[-1], [0]]), np.arange(3)), "2 raw ids for .* of 1 items"),
    (lambda: indexing.Index(np.array([[0, 0], [1, 0], [1, 0]]), ("<pad>", "<a_0>")),
     "items 1 and 2 have the same identifier"),
    (lambda: indexing.Index(np.array([[0, 0], [0, 0]]), ("<pad>",)), "item 1 has no token"),
    (lambda: indexing.by_time(interactions.from_columns(["u"], ["i"])), "no timestamps"),
  ],
)  # fmt: skip
def test_what_cannot_be_indexed_is_named(make, said):
  with pytest.raises(DataError, match=said):
    make()


def test_wrong_sizes_are_named():
  with pytest.raises(ValueError, match="a span has at least 1 digit, not 0"):
    indexing.randomly(5, seed=0, span=0)
  with pytest.raises(ValueError, match="at least 2 clusters"):
    indexing.clusters(log([[1, 2]], 3), count=1)
