"""Negatives are never positives, and as likely as they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recjax.data import negatives
from recjax.data.interactions import Impressions, from_columns, strings
from recjax.data.negatives import Positives
from recjax.data.ragged import Ragged
from recjax.types import PAD


def positives_of(met, num_items):
  """From {user: items}, users 1, 2, ..."""
  pairs = np.array([(u, i) for u, items in enumerate(met, 1) for i in items]).reshape(-1, 2)
  start = np.append(0, np.cumsum([0, *map(len, met)]))
  order = np.lexsort((pairs[:, 1], pairs[:, 0]))
  return Positives(pairs[order, 1].astype(np.int64), start, num_items)


@st.composite
def worlds(draw):
  num_items = draw(st.integers(4, 12))
  some = st.sets(st.integers(1, num_items - 1), max_size=num_items - 3)
  return draw(st.lists(some, min_size=1, max_size=4)), num_items


def test_positives_are_sorted_and_each_once():
  x = from_columns(["a", "b", "a", "a"], ["p", "q", "q", "p"])
  p = Positives.of(x)
  assert p.items.tolist() == [1, 2, 2]  # a: p, q; b: q
  assert p.start.tolist() == [0, 0, 2, 3]
  assert p.count.tolist() == [0, 2, 1]
  assert p.num_items == 3


@given(worlds(), st.integers(0, 100))
def test_every_negative_is_drawn_and_no_positive(world, seed):
  met, num_items = world
  p = positives_of(met, num_items)
  user = np.arange(len(met) + 1)
  out = negatives.uniform(p).draw(np.random.default_rng(seed), user, 300)
  for items, row in zip([set(), *met], out, strict=True):
    assert set(row.tolist()) == set(range(1, num_items)) - items


@given(worlds())
def test_a_unit_is_the_rth_item_not_met(world):
  met, num_items = world
  sampler = negatives.uniform(positives_of(met, num_items))
  for user, items in enumerate(met, 1):
    rest = sorted(set(range(1, num_items)) - items)
    out = sampler._unit(np.array([user]), np.arange(len(rest))[None])
    assert out[0].tolist() == rest


def test_uniform_negatives_are_uniform():
  p = positives_of([{1, 2, 9}, {5}, set()], 11)
  out = negatives.uniform(p).draw(np.random.default_rng(0), np.repeat([1, 2, 3], 100), 300)
  for user, met in ((1, {1, 2, 9}), (2, {5}), (3, set())):
    drawn = np.bincount(out[(user - 1) * 100 : user * 100].reshape(-1), minlength=11)
    free = [i for i in range(1, 11) if i not in met]
    assert drawn.sum() == drawn[free].sum() == 30_000
    assert stats.chisquare(drawn[free]).pvalue > 1e-3


def test_popular_negatives_come_in_proportion_and_log_q_says_so():
  counts = np.array([50, 1, 4, 9, 0, 16, 25])  # of PAD counts nothing
  p = positives_of([{3, 6}, set()], 7)
  sampler = negatives.popularity(p, counts, alpha=0.5)
  rng = np.random.default_rng(1)
  for user, shares in (
    (1, {1: 1 / 7, 2: 2 / 7, 5: 4 / 7}),  # roots 1 2 4
    (2, {1: 1 / 15, 2: 2 / 15, 3: 3 / 15, 5: 4 / 15, 6: 5 / 15}),
  ):
    out = sampler.draw(rng, np.array([user]), 60_000)
    drawn = np.bincount(out[0], minlength=7)
    assert set(np.flatnonzero(drawn)) == set(shares)
    expected = np.array([60_000 * s for s in shares.values()])
    assert stats.chisquare(drawn[list(shares)], expected).pvalue > 1e-3
    q = sampler.log_q(np.array([user]), np.array([list(shares)]))
    np.testing.assert_allclose(np.exp(q[0]), list(shares.values()), rtol=1e-6)
    assert q.dtype == np.float32


@given(worlds(), st.lists(st.integers(0, 1_000), min_size=12, max_size=12), st.integers(0, 99))
def test_popular_negatives_are_never_positives(world, counts, seed):
  met, num_items = world
  counts = np.array(counts[:num_items]) + 1
  out = negatives.popularity(positives_of(met, num_items), counts, alpha=1.0).draw(
    np.random.default_rng(seed), np.arange(1, len(met) + 1), 50
  )
  for items, row in zip(met, out, strict=True):
    assert not items & set(row.tolist())
    assert row.min() > PAD and row.max() < num_items


def test_alpha_0_is_uniform_and_log_q_of_uniform_is_one_over_what_is_left():
  p = positives_of([{1, 2, 3}, {4}], 9)
  user, items = np.array([1, 2]), np.array([[5, 6], [1, 8]])
  for sampler in (negatives.uniform(p), negatives.popularity(p, np.zeros(9), alpha=0.0)):
    q = np.exp(sampler.log_q(user, items))
    np.testing.assert_allclose(q, [[1 / 5] * 2, [1 / 7] * 2], rtol=1e-6)


@given(worlds(), st.integers(0, 99))
def test_distinct_negatives_are_all_different(world, seed):
  met, num_items = world
  n = num_items - 1 - max(map(len, met))
  user = np.arange(1, len(met) + 1)
  out = negatives.distinct(np.random.default_rng(seed), positives_of(met, num_items), user, n)
  for items, row in zip(met, out, strict=True):
    assert len(set(row.tolist())) == n
    assert set(row.tolist()) <= set(range(1, num_items)) - items


def test_distinct_negatives_are_any_set_in_any_order():
  p = positives_of([{2}], 6)  # 1 3 4 5 are left: 12 ordered pairs
  out = negatives.distinct(np.random.default_rng(2), p, np.full(24_000, 1), 2)
  pairs, counts = np.unique(out, axis=0, return_counts=True)
  assert len(pairs) == 12
  assert stats.chisquare(counts).pvalue > 1e-3


def test_ninety_nine_candidates_of_many_users():
  rng = np.random.default_rng(0)
  met = [set(rng.integers(1, 1_000, 10).tolist()) for _ in range(200)]
  p = positives_of(met, 1_000)
  out = negatives.distinct(rng, p, np.arange(1, 201), 99)
  assert all(len({*row.tolist()} - items) == 99 for row, items in zip(out, met, strict=True))


def test_who_has_met_too_much_is_named():
  p = positives_of([{1}, {1, 2, 3}], 4)
  with pytest.raises(ValueError, match="user 2 has met 3 of 3 items"):
    negatives.uniform(p).draw(np.random.default_rng(0), np.array([1, 2]), 1)
  with pytest.raises(ValueError, match="user 1 has met 1 of 3 items.*draw fewer"):
    negatives.distinct(np.random.default_rng(0), p, np.array([1]), 3)
  few = negatives.popularity(positives_of([{1}], 4), np.array([0, 5, 0, 0]))
  with pytest.raises(ValueError, match="user 1 has met 1 of 3 items"):
    few.draw(np.random.default_rng(0), np.array([1]), 1)


def test_bad_counts_are_refused():
  p = positives_of([{1}], 4)
  with pytest.raises(ValueError, match="counts has shape"):
    negatives.popularity(p, np.ones(5))
  with pytest.raises(ValueError, match="finite and not negative"):
    negatives.popularity(p, np.array([0, 1, -1, 2]))
  with pytest.raises(ValueError, match="all counts are 0"):
    negatives.popularity(p, np.array([7, 0, 0, 0]))
  with pytest.raises(ValueError, match="not of PAD or of weight 0"):
    negatives.uniform(p).log_q(np.array([1]), np.array([[PAD]]))


def test_same_seed_same_negatives():
  p = positives_of([{1}, {2}], 50)
  for draw in (
    lambda rng: negatives.uniform(p).draw(rng, np.array([1, 2]), 20),
    lambda rng: negatives.distinct(rng, p, np.array([1, 2]), 20),
  ):
    one, same, other = (draw(np.random.default_rng(s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_in_batch_drops_collisions_and_padding():
  target = jnp.array([5, 7, 5, PAD])
  expected = [
    [True, True, False, False],  # 5 again in row 2: not a negative
    [True, True, True, False],
    [False, True, True, False],
    [True, True, True, True],  # a padded row keeps its own, so that its softmax is finite
  ]
  np.testing.assert_array_equal(jax.jit(negatives.in_batch)(target), expected)


def test_in_batch_of_all_devices_is_the_rows_of_the_whole():
  target = jnp.array([3, 4, 3, 6, 4, 1])
  whole = negatives.in_batch(target)
  own = jnp.array([4, 1, 2])
  np.testing.assert_array_equal(negatives.in_batch(target[own], target, own), whole[own])


def impressions(candidates, labels):
  rows = Ragged.from_rows(candidates)
  return Impressions(
    user=np.ones(len(candidates), np.int32),
    history=Ragged.from_rows([[]] * len(candidates)),
    candidates=rows,
    labels=Ragged.from_rows(labels, np.float32),
    users=strings(["", "u"]),
    items=strings(["", *"abcdefghi"]),
  )


def test_impression_negatives_were_shown_and_not_taken():
  x = impressions([[1, 2, 3, 4], [5], [6, 7, 8], []], [[0, 1, 0, 0], [1], [0, 0, 1], []])
  rng = np.random.default_rng(0)
  for _ in range(20):
    out = negatives.impression(rng, x, np.array([2, 0, 1, 0, 3]), 3)
    assert sorted(out[0].tolist()) in ([6, 6, 7], [6, 7, 7])  # too few: round again
    assert sorted(out[1].tolist()) == sorted(out[3].tolist()) == [1, 3, 4]
    assert out[2].tolist() == out[4].tolist() == [PAD] * 3


def test_impression_negatives_are_uniform_and_follow_the_rows():
  x = impressions([[9, 1, 2, 3], [4, 5]], [[1, 0, 0, 0], [0, 1]])
  out = negatives.impression(np.random.default_rng(1), x, np.repeat([0, 1], 6_000), 1)
  assert stats.chisquare(np.bincount(out[:6_000, 0])[1:4]).pvalue > 1e-3
  assert set(out[6_000:, 0]) == {4}


def test_impression_negatives_of_rows_that_were_taken_from_a_larger_table():
  x = impressions([[1, 2], [3, 4], [5, 6]], [[1, 0], [0, 1], [0, 1]])
  part = Impressions(
    x.user[1:], x.history, x.candidates.take([1, 2]), x.labels.take([1, 2]), x.users, x.items
  )
  out = negatives.impression(np.random.default_rng(1), part, np.array([0, 1]), 1)
  np.testing.assert_array_equal(out, [[3], [5]])


def test_of_one_item_nothing_is_left_to_draw():
  with pytest.raises(ValueError, match="of 1 items none is left"):
    negatives.other(jax.random.key(0), np.array([1]), 3, 2)
