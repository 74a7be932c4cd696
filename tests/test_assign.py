"""Policies: no two items with the same codes, old items unchanged, overflow says by how much."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.data.errors import DataError
from recjax.decode import trie
from recjax.semid import assign, rqkmeans
from recjax.semid.quantizer import Quantizer

POLICIES = {
  "count_up": assign.count_up(16),
  "next_free": assign.next_free,
  "optimal": assign.optimal,
}


def grid():
  """Two levels over the plane: three places 100 apart along x, four codes 1 apart along y."""
  first = np.float32([[0, 0], [100, 0], [200, 0]])
  second = np.float32([[0, 0], [0, 1], [0, 2], [0, 3]])
  return Quantizer((first, second), np.zeros(2, np.float32), np.float32(1))


def coded(points, policy, quantizer=None):
  vectors = np.concatenate([np.zeros((1, 2)), np.float32(points)])
  return assign.catalogue(quantizer or grid(), vectors, policy)[1:].tolist()


def test_the_further_level_counts_up_within_a_collision():
  points = [[0, 0], [100, 3], [0, 0.1], [0, 1], [0, 0]]
  assert coded(points, assign.count_up(3)) == [
    [0, 0, 0],
    [1, 3, 0],
    [0, 0, 1],
    [0, 1, 0],
    [0, 0, 2],
  ]


def test_an_overflow_of_the_further_level_says_by_how_much():
  with pytest.raises(assign.Overflow, match=r"5 items share the codes \(0, 0\).* 2 too many"):
    coded([[0, 0]] * 5, assign.count_up(3))
  coded([[0, 0]] * 5, assign.count_up(5))


@pytest.mark.parametrize("policy", [assign.next_free, assign.optimal])
def test_more_items_than_a_prefix_has_codes_overflow(policy):
  with pytest.raises(assign.Overflow, match=r"6 items share the codes \(1,\).* 2 too many \(1 "):
    coded([[100, 0]] * 6, policy)
  # As many as there are codes just fit.
  assert sorted(coded([[100, 0]] * 4, policy)) == [[1, 0], [1, 1], [1, 2], [1, 3]]
  # A full prefix in which nothing collides is left as it is.
  assert coded([[0, 3], [0, 2], [0, 1], [0, 0]], policy) == [[0, 3], [0, 2], [0, 1], [0, 0]]


def test_the_nearest_item_keeps_its_code_and_the_others_take_the_next_nearest():
  # All three are nearest to code 1; 1.0 is nearest of them. 1.4 goes to 2; 0.6 to 0.
  assert coded([[0, 1.4], [0, 1.0], [0, 0.6]], assign.next_free) == [[0, 2], [0, 1], [0, 0]]
  # Code 2 is held by an item that does not collide: 1.4 must go to 0, for 3 is farther.
  assert coded([[0, 1.4], [0, 1.0], [0, 2]], assign.next_free) == [[0, 0], [0, 1], [0, 2]]


def test_the_last_codes_are_dealt_out_at_least_cost():
  rng = np.random.default_rng(0)
  for _ in range(10):
    y = rng.uniform(0, 3, 4)
    codes = np.array(coded(np.stack([np.zeros(4), y], 1), assign.optimal))[:, 1]
    if len(set(np.round(y))) < 4:  # a collision: in one dimension the order is optimal
      np.testing.assert_array_equal(codes, y.argsort().argsort())


def test_keep_keeps_collisions():
  assert coded([[0, 0], [0, 0]], assign.keep) == [[0, 0], [0, 0]]


@pytest.mark.parametrize("name", POLICIES)
@given(seed=st.integers(0, 10**6))
def test_codes_are_a_bijection_whatever_collides_now_or_later(name, seed):
  rng = np.random.default_rng(seed)
  policy = POLICIES[name]
  points = rng.integers(0, 3, (9, 1)) * [[100, 0]] + rng.choice([0, 0.4, 1, 2.2], (9, 1)) * [[0, 1]]
  points = np.concatenate([np.zeros((1, 2)), points]).astype(np.float32)
  try:
    old = assign.catalogue(grid(), points[:6], policy)
    new = assign.extend(grid(), old, points[6:], policy)
  except assign.Overflow:
    place = np.unique(np.round(points[1:, 0] / 100), return_counts=True)[1]
    assert place.max() > 4  # only then do the four codes of a place not do
    return
  np.testing.assert_array_equal(new[:6], old)
  assert (new[0] == -1).all() and len(np.unique(new[1:], axis=0)) == 9
  np.testing.assert_array_equal(new[1:, 0], grid().encode(points[1:])[:, 0])
  trie.build(new, vocab=256)  # takes them as they are


def test_numbers_go_on_after_those_given():
  old = assign.catalogue(grid(), np.zeros((4, 2)), assign.count_up(5))
  old = np.delete(old, 2, axis=0)  # the second of three items was taken out
  new = assign.extend(grid(), old, np.zeros((2, 2)), assign.count_up(5))
  assert new[1:, 2].tolist() == [0, 2, 3, 4]
  with pytest.raises(assign.Overflow, match="6 items.* 1 too many"):
    assign.extend(grid(), new, np.zeros((1, 2)), assign.count_up(5))


@pytest.mark.parametrize("name", POLICIES)
def test_a_catalogue_of_many_twins_is_told_apart(name):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(401, 6)).astype(np.float32)
  x[200:230] = x[100:130]
  made = rqkmeans.residual(x[1:], (8, 64), jax.random.key(0), iterations=5)
  try:
    codes = assign.catalogue(made, x, POLICIES[name])
  except assign.Overflow:
    assert np.bincount(made.encode(x[1:])[:, 0]).max() > 64
    return
  assert len(np.unique(codes[1:], axis=0)) == 400
  free = np.unique(made.encode(x[1:]), axis=0, return_counts=True)[1]
  changed = (codes[1:, :2] != made.encode(x[1:])).any(1).sum()
  assert changed == {"count_up": 0, "next_free": 400 - len(free)}.get(name, changed)


@pytest.mark.parametrize("policy", POLICIES.values())
def test_one_level_is_enough(policy):
  line = Quantizer((np.float32([[0, 0], [1, 0], [2, 0]]),), np.zeros(2), np.float32(1))
  codes = coded([[0, 0], [0, 0], [2, 0]], policy, line)
  assert len({tuple(c) for c in codes}) == 3


def test_codes_of_another_shape_are_refused():
  with pytest.raises(DataError, match=r"codes \[items, 3\] with -1 in row 0"):
    assign.extend(grid(), np.full((1, 2), -1), np.zeros((1, 2)), assign.count_up(4))
  with pytest.raises(DataError, match="row 0"):
    assign.extend(grid(), np.zeros((1, 2), int), np.zeros((1, 2)), assign.keep)
