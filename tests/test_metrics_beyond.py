"""Coverage, Gini, novelty, diversity, popularity; fairness across sensitive values."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.metrics import Mean, beyond, fairness, mean_by


def test_coverage_counts_items_ever_shown_and_not_pad():
  ids = jnp.array([[1, 2, 0], [2, 0, 0], [4, 4, 4]])
  got = beyond.exposure(ids, num_items=5, where=jnp.array([True, True, False]))
  assert got.count.tolist() == [0, 1, 2, 0, 0]
  assert got.finish()["coverage"] == 0.5


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any))
def test_gini_equals_the_mean_absolute_difference(counts):
  # G = sum |x_i - x_j| / (2 n sum x).
  x = np.array(counts)
  want = np.abs(x[:, None] - x[None]).sum() / (2 * len(x) * x.sum())
  got = beyond.Exposure(np.array([0, *counts])).finish()["gini"]
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_novelty_is_self_information_in_bits():
  popularity = jnp.array([0, 8, 2, 0])
  ids = jnp.array([[1, 2], [2, 0], [3, 3], [0, 0]])
  # Of 8 users: all know 1 (0 bits), two know 2 (2 bits), 3 counts as known to one (3 bits).
  got = beyond.novelty(ids, popularity, num_users=8)
  np.testing.assert_allclose(got, [1, 2, 3, 0], atol=1e-6)


def test_popularity_and_head_share_of_a_list():
  popularity = jnp.array([99.0, 10, 4, 4, 2, 0])
  ids = jnp.array([[1, 2], [3, 0], [4, 5]])
  head = beyond.head_items(popularity, share=0.4)
  assert head.tolist() == [False, True, True, False, False, False]  # a tie goes to the lower id
  assert beyond.recommended_popularity(ids, popularity).tolist() == [7, 4, 1]
  assert beyond.head_share(ids, head).tolist() == [1, 0, 0]
  where = jnp.array([False, True, True])
  assert beyond.head_share(ids, head, where).tolist() == [0, 0, 0]


@given(st.integers(0, 2**20))
def test_diversity_equals_a_loop_over_pairs(seed):
  rng = np.random.default_rng(seed)
  vectors = rng.normal(size=(8, 3)).astype(np.float32)
  vectors[7] = 0
  ids = rng.integers(0, 8, (3, 4))
  want = []
  for row in ids:
    kept = vectors[row[row > 0]]
    unit = kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-9)
    pairs = [1 - a @ b for i, a in enumerate(unit) for j, b in enumerate(unit) if i < j]
    want.append(np.mean(pairs) if pairs else 0.0)
  np.testing.assert_allclose(beyond.diversity(ids, vectors), want, atol=1e-5)


def test_lists_of_one_item_or_none_have_no_diversity():
  assert beyond.diversity(jnp.array([[1, 0], [0, 0]]), jnp.ones((2, 3))).tolist() == [0, 0]


LISTS = st.permutations(range(1, 9)).map(lambda p: list(p[:4]))


@given(LISTS, LISTS, st.integers(0, 4), st.integers(0, 4))
def test_similarities_equal_their_formulas(neutral, sensitive, short, shorter):
  k = len(neutral)
  neutral[k - short :], sensitive[k - shorter :] = [0] * short, [0] * shorter
  rank = {v: i for i, v in enumerate(neutral) if v}
  own = {v: i for i, v in enumerate(sensitive) if v}
  both, either = own.keys() & rank.keys(), own.keys() | rank.keys()
  jaccard = len(both) / max(len(either), 1)
  serp = sum(k - own[v] for v in both) / (k * (k + 1) / 2)
  pairs = [
    (a, b)
    for a in own
    for b in own
    if a in rank and rank[a] < rank.get(b, np.inf) and own[a] < own[b]
  ]
  lists = jnp.array([neutral]), jnp.array([sensitive])
  np.testing.assert_allclose(fairness.jaccard(*lists), [jaccard], rtol=1e-6)
  np.testing.assert_allclose(fairness.serp(*lists), [serp], rtol=1e-6)
  np.testing.assert_allclose(fairness.prag(*lists), [len(pairs) / (k * (k - 1) / 2)], rtol=1e-6)


@pytest.mark.parametrize("similarity", [fairness.jaccard, fairness.serp, fairness.prag])
@pytest.mark.parametrize("k", [1, 2, 20])
def test_identical_lists_are_wholly_alike_and_disjoint_ones_not_at_all(similarity, k):
  one, other = jnp.arange(1, k + 1)[None], jnp.arange(101, k + 101)[None]
  assert similarity(one, one).tolist() == [1]
  assert similarity(one, other).tolist() == [0]


def test_prag_sees_the_order_that_jaccard_does_not():
  one, reversed_ = jnp.array([[1, 2, 3]]), jnp.array([[3, 2, 1]])
  assert fairness.jaccard(one, reversed_).tolist() == [1]
  assert fairness.prag(one, reversed_).tolist() == [0]


def test_a_repeated_title_counts_once():
  neutral, sensitive = jnp.array([[1, 2, 3]]), jnp.array([[1, 1, 1]])
  np.testing.assert_allclose(fairness.jaccard(neutral, sensitive), [1 / 3], rtol=1e-6)
  np.testing.assert_allclose(fairness.serp(neutral, sensitive), [3 / 6], rtol=1e-6)


def test_range_and_deviation_across_values_are_hand_arithmetic():
  similarity = jnp.array([0.2, 0.4, 0.9, 0.5, 0.7])
  values = jnp.array([0, 0, 1, 3, 3])
  # Means 0.3, 0.9, (no instruction for value 2), 0.6.
  got = fairness.disparity(mean_by(similarity, values, num_groups=4))
  assert got["snsr"] == pytest.approx(0.6, rel=1e-5)
  assert got["snsv"] == pytest.approx(np.sqrt((0.3**2 + 0.3**2 + 0) / 3), rel=1e-5)
  assert got["min"] == pytest.approx(0.3) and got["max"] == pytest.approx(0.9)


def test_disparity_of_no_instruction_is_zero():
  got = fairness.disparity(Mean(jnp.zeros(3), jnp.zeros(3, jnp.int32)))
  assert {k: float(v) for k, v in got.items()} == {"snsr": 0, "snsv": 0, "max": 0, "min": 0}
