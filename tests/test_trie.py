import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.decode import trie as tries
from recjax.types import PAD

# Jitted, so that equal shapes compile once.
PATHS, BELOW, ALLOWED, DENIED = map(
  jax.jit, (tries.paths, tries.below, tries.allowed, tries.denied)
)


@jax.jit
def everything(trie):
  """(first child, stop, code, parent, item) of every node, in use or not."""
  nodes = jnp.arange(len(trie["code"]))
  asked = (tries.code, tries.parent, tries.leaves)
  return *tries.children(trie, nodes), *(ask(trie, nodes) for ask in asked)


def catalogue(seed: int, items: int, levels: int, vocab: int) -> np.ndarray:
  """[items + 1, levels] distinct random codes in random order, or fewer."""
  rng = np.random.default_rng(seed)
  codes = np.unique(rng.integers(0, vocab, (items, levels)), axis=0)
  return np.concatenate([np.zeros((1, levels), int), rng.permutation(codes)])


def edges_of(trie) -> dict[int, list[int]]:
  """Every inner node and its children."""
  first, stop, *_ = (np.array(x).tolist() for x in everything(trie))
  return {node: list(range(first[node], stop[node])) for node in range(int(trie["start"][-2]))}


def walk(trie) -> dict[tuple[int, ...], int]:
  """The trie read from its root: codes -> item."""
  _, _, code, parent, item = (np.array(x).tolist() for x in everything(trie))
  edges, found, ahead = edges_of(trie), {}, [(0, ())]
  while ahead:
    node, prefix = ahead.pop()
    if len(prefix) == tries.levels(trie):
      found[prefix] = item[node]
      continue
    assert all(parent[child] == node for child in edges[node])
    ahead += [(child, (*prefix, code[child])) for child in edges[node]]
  return found


CATALOGUES = [(1, 1, 3), (20, 1, 40), (12, 3, 4), (10, 8, 2), (9, 20, 3)]  # items, levels, vocab


@pytest.mark.parametrize(("items", "levels", "vocab"), CATALOGUES)
def test_a_walk_from_the_root_meets_every_item_once(items, levels, vocab):
  codes = catalogue(0, items, levels, vocab)
  expected = {tuple(row): item for item, row in enumerate(codes.tolist()) if item}
  assert walk(tries.build(codes, vocab)) == expected


@given(st.integers(0, 10**6), st.sampled_from([(40, 3, 5), (40, 6, 3), (1, 3, 5)]))
def test_paths_are_the_nodes_of_an_items_codes(seed, layout):
  items, levels, vocab = layout
  codes = catalogue(seed, items, levels, vocab)
  trie = tries.build(codes, vocab, capacity=64)
  nodes = np.array(PATHS(trie, jnp.arange(-2, 70)))  # [L, ids]
  known = slice(3, 2 + len(codes))
  np.testing.assert_array_equal(tries.code(trie, nodes[:, known]).T, codes[1:])
  assert (np.delete(nodes, np.arange(69)[known], axis=1) == tries.NONE).all()
  for depth in range(levels):
    prefixes = [tuple(row[: depth + 1]) for row in codes[1:].tolist()]
    assert len(set(zip(prefixes, nodes[depth, known].tolist(), strict=True))) == len(set(prefixes))
    sizes = [prefixes.count(prefix) for prefix in prefixes]
    first, stop = (x[known] for x in BELOW(trie, nodes[depth], depth + 1))
    np.testing.assert_array_equal(stop - first, sizes)
    ranks = tries.rank(trie, jnp.arange(1, len(codes)))
    assert ((first <= ranks) & (ranks < stop)).all()


def test_identifiers_of_unequal_length_end_where_their_end_code_stands():
  # "7 8", "7 8 9" and "4", closed by 1; what stands behind the 1 is ignored.
  codes = np.array([[0] * 4, [7, 8, 1, 0], [7, 8, 9, 1], [4, 1, 5, 5]])
  trie = tries.build(codes, 10, end=1)
  assert walk(trie) == {(7, 8, 1, 1): 1, (7, 8, 9, 1): 2, (4, 1, 1, 1): 3}
  node = tries.paths(trie, jnp.array([1, 2, 3]))
  expected = [[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1]]
  np.testing.assert_array_equal(tries.ended(trie, node), expected)


def test_items_without_codes_are_not_there():
  codes = np.array([[0, 0], [1, 2], [-1, -1], [1, 3]])
  trie = tries.build(codes, 4)
  assert walk(trie) == {(1, 2): 1, (1, 3): 3}
  assert tries.rank(trie, jnp.array([0, 1, 2, 3])).tolist() == [-1, 0, -1, 1]


def shapes(trie):
  return {name: (array.shape, array.dtype) for name, array in trie.items()}


def test_any_catalogue_within_the_capacity_keeps_every_shape():
  trie = tries.build(catalogue(0, 30, 3, 6), 6, capacity=100)
  for seed, items in ((1, 1), (2, 60), (3, 130)):  # 130 draws of 216 give less than 100
    codes = catalogue(seed, items, 3, 6)
    assert shapes(tries.rebuild(trie, codes)) == shapes(trie)
    assert len(walk(tries.rebuild(trie, codes))) == len(codes) - 1
  # The most nodes that 100 items can have: each of its own first, second and third code.
  spread = np.array([[0] * 3] + [[i, i, i] for i in range(100)])
  wide = tries.build(spread[:2], 100, capacity=100)
  assert shapes(tries.rebuild(wide, spread)) == shapes(wide)
  # And the widest node: all 100 below one.
  narrow = np.array([[0] * 3] + [[5, 5, i] for i in range(100)])
  assert shapes(tries.rebuild(wide, narrow)) == shapes(wide)
  assert len(walk(tries.rebuild(wide, narrow))) == 100


def test_beyond_the_capacity_the_arrays_double_and_say_so(caplog):
  trie = tries.build(catalogue(0, 30, 3, 6), 6, capacity=40)
  codes = catalogue(1, 70, 3, 6)
  with caplog.at_level(logging.INFO, logger="absl"):
    grown = tries.rebuild(trie, codes)
  assert len(grown["item"]) == 80
  assert [r.message for r in caplog.records] == [
    f"trie: {len(codes) - 1} items, capacity doubled to 80"
  ]
  assert len(walk(grown)) == len(codes) - 1


def test_a_node_wider_than_the_lanes_widens_them_and_says_so(caplog):
  few = np.array([[0, 0]] + [[i, i] for i in range(10)])
  trie = tries.build(few, 2000, capacity=1000)
  assert len(trie["lane"]) == 256
  many = np.array([[0, 0]] + [[7, i] for i in range(600)])
  with caplog.at_level(logging.INFO, logger="absl"):
    grown = tries.rebuild(trie, many)
  assert [r.message for r in caplog.records] == [
    "trie: a node has 600 children, lanes grow to 1000"
  ]
  assert len(walk(grown)) == 600


def test_memory_is_linear_in_the_catalogue():
  per_item = []
  for items in (20_000, 80_000):
    codes = catalogue(0, items, 4, 256)
    trie = tries.build(codes, 256, capacity=len(codes) - 1)
    per_item.append(sum(a.nbytes for a in trie.values()) / len(codes))
  assert per_item[1] <= per_item[0] < 13  # item and rank 8, a byte and two bits for each of 4 nodes


BAD = [
  (np.zeros((3, 2), np.float32), "integers"),
  (np.zeros(3, int), "integers"),
  (np.zeros((1, 2), int), "empty"),
  (np.full((3, 2), -1), "empty"),
  (np.array([[0, 0], [1, 1], [1, 5]]), "item 2 has code 5 at level 1, outside 0..4"),
  (np.array([[0, 0], [1, 1], [1, -1]]), "item 2 has code -1 at level 1"),
  (np.array([[0, 0], [-2, -2], [1, 1]]), "item 1 has code -2 at level 0"),
  (
    np.array([[0, 0], [1, 1], [2, 2], [1, 1]]),
    r"items (1 and 3|3 and 1) have the same codes \(1, 1\)",
  ),
]


@pytest.mark.parametrize(("codes", "message"), BAD)
def test_codes_that_make_no_tree_are_refused_by_name(codes, message):
  with pytest.raises(ValueError, match=message):
    tries.build(codes, 5)


def test_other_bad_input_is_refused_by_name():
  codes = np.array([[0, 0], [1, 1], [2, 1]])
  with pytest.raises(ValueError, match="capacity 1 is less than the 2 items"):
    tries.build(codes, 5, capacity=1)
  with pytest.raises(ValueError, match="item 2 does not end with 3"):
    tries.build(np.array([[0, 0], [1, 3], [2, 1]]), 5, end=3)
  with pytest.raises(ValueError, match="`end` 9 is not one of"):
    tries.build(codes, 5, end=9)
  with pytest.raises(ValueError, match="the trie has 2 levels"):
    tries.rebuild(tries.build(codes, 5), codes[:, :1])


def open_edges(trie, marks, deny):
  """The edges (parent, child) that a list leaves, by the marks."""
  named = {
    (int(p), int(c))
    for p, c in zip(np.ravel(marks.parent), np.ravel(marks.child), strict=True)
    if p >= 0
  }
  every = {(node, child) for node, children in edges_of(trie).items() for child in children}
  assert named <= every
  return every - named if deny else named


@pytest.mark.parametrize("share", [0.2, 0.8, 1.0])
@pytest.mark.parametrize(("items", "levels", "vocab"), [(12, 1, 40), (14, 3, 3), (12, 9, 2)])
def test_a_list_closes_exactly_what_leads_to_no_item_that_is_left(items, levels, vocab, share):
  codes = catalogue(3, items, levels, vocab)
  trie = tries.build(codes, vocab)
  rng = np.random.default_rng(levels)
  listed = np.flatnonzero(rng.random(len(codes)) < share)
  # With PAD, repeats, ids that no item has, in any order.

  def padded(ids):
    return jnp.array(rng.permutation([*ids, *[PAD] * (40 - len(ids))]))[None]

  ids = padded([*listed, *listed[:5], -3, 10**6])
  paths = np.array(PATHS(trie, jnp.arange(len(codes))))

  def edges(left):
    return {
      (0 if d == 0 else int(paths[d - 1, i]), int(paths[d, i])) for i in left for d in range(levels)
    }

  inside, outside = set(listed) - {PAD}, set(range(1, len(codes))) - set(listed)
  assert open_edges(trie, ALLOWED(trie, ids), False) == edges(inside)
  assert open_edges(trie, DENIED(trie, ids), True) == edges(outside)
  both = ALLOWED(trie, ids, padded(listed[::2]))
  assert open_edges(trie, both, False) == edges(inside - set(listed[::2].tolist()))


def test_a_trie_crosses_an_export_boundary():
  pytest.importorskip("flatbuffers", reason="jax.export needs flatbuffers")
  codes = catalogue(0, 30, 3, 6)
  trie = tries.build(codes, 6, capacity=64)
  exported = jax.export.export(jax.jit(tries.paths))(trie, jnp.arange(10))
  again = jax.export.deserialize(exported.serialize())
  other = tries.rebuild(trie, catalogue(1, 50, 3, 6))
  ids = jnp.arange(10)
  np.testing.assert_array_equal(again.call(other, ids), tries.paths(other, ids))
