"""Per-impression AUC, MRR and NDCG; AUC of sets and of users; the histogram's bound."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from recjax.metrics import impressions, merge, roc

SEEDS = st.integers(0, 2**20)
B, C, N, USERS = 4, 10, 50, 8  # fixed, so that each metric is compiled once; masks vary the sizes

auc, mrr = jax.jit(impressions.auc), jax.jit(impressions.mrr)
ndcg = jax.jit(impressions.ndcg, static_argnums=2)
set_auc = jax.jit(roc.auc)
user_auc = jax.jit(functools.partial(roc.user_auc, num_users=USERS))
weighted_user_auc = jax.jit(functools.partial(roc.weighted_user_auc, num_users=USERS))
histogram = jax.jit(roc.histogram, static_argnames="bits")


def _impressions(seed: int):
  """Scores with ties, labels of both classes, and a mask that hides some candidates."""
  rng = np.random.default_rng(seed)
  scores = rng.integers(0, 5, (B, C)).astype(np.float32) / 4
  labels = rng.integers(0, 2, (B, C))
  labels[:, 0], labels[:, 1] = 1, 0
  where = rng.random((B, C)) < rng.random((B, 1))
  where[:, :2] = True
  return scores, labels, where


@given(SEEDS)
def test_impression_auc_equals_scikit_learn(seed):
  scores, labels, where = _impressions(seed)
  want = [
    sklearn.metrics.roc_auc_score(y[w], s[w]) for s, y, w in zip(scores, labels, where, strict=True)
  ]
  np.testing.assert_allclose(auc(scores, labels, where), want, rtol=1e-6)


@given(SEEDS, st.sampled_from([1, 3, 5, 50]))
def test_impression_ndcg_equals_scikit_learn_ties_included(seed, k):
  scores, labels, where = _impressions(seed)
  grades = labels * np.random.default_rng(seed).integers(1, 4, labels.shape)
  want = [
    sklearn.metrics.ndcg_score(y[w][None], s[w][None], k=k)
    for s, y, w in zip(scores, grades, where, strict=True)
  ]
  got = ndcg(scores, grades, k, where)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@given(SEEDS)
def test_impression_mrr_averages_over_positives_as_mind_does(seed):
  _, labels, where = _impressions(seed)
  rng = np.random.default_rng(seed)
  scores = rng.permuted(np.arange(labels.size)).reshape(labels.shape).astype(np.float32)
  want = []
  for s, y, w in zip(scores, labels, where, strict=True):
    ordered = y[w][np.argsort(-s[w])]
    want.append(np.sum(ordered / np.arange(1, len(ordered) + 1)) / ordered.sum())
  np.testing.assert_allclose(mrr(scores, labels, where), want, rtol=1e-5)


def test_a_constant_scorer_gets_chance_wherever_the_click_stands():
  scores = jnp.zeros((2, 4))
  labels = jnp.array([[1, 0, 0, 0], [0, 0, 0, 1]])
  np.testing.assert_allclose(auc(scores, labels), [0.5, 0.5])
  mean_reciprocal = (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4
  np.testing.assert_allclose(mrr(scores, labels), [mean_reciprocal] * 2, rtol=1e-6)
  np.testing.assert_allclose(ndcg(scores, labels, 1), [1 / 4, 1 / 4])


def test_nan_scores_cost_as_much_as_they_can():
  labels = jnp.array([[1, 0, 0]])
  for scores in ([jnp.nan, 0.0, -jnp.inf], [1.0, jnp.nan, jnp.nan]):
    # -inf against the positive's NaN is a tie: half of one of the two pairs.
    want = 0.25 if jnp.isnan(scores[0]) else 0.0
    assert auc(jnp.array([scores]), labels).tolist() == [want]
    assert ndcg(jnp.array([scores]), labels, 1).tolist() == [0.0]


def test_one_class_and_empty_impressions_are_zero_and_named_by_the_masks():
  scores = jnp.ones((3, 2))
  labels = jnp.array([[1, 1], [0, 0], [1, 0]])
  where = jnp.array([[True, True], [True, True], [False, False]])
  assert impressions.has_both_classes(labels, where).tolist() == [False] * 3
  assert impressions.has_positive(labels, where).tolist() == [True, False, False]
  assert auc(scores, labels, where).tolist() == [0, 0, 0]
  assert mrr(scores, labels, where).tolist() == [0.75, 0, 0]
  assert ndcg(scores, labels, 2, where).tolist() == [1, 0, 0]


@given(SEEDS)
def test_set_auc_equals_scikit_learn(seed):
  rng = np.random.default_rng(seed)
  scores = rng.integers(-5, 5, N).astype(np.float32)
  labels = rng.integers(0, 2, N)
  labels[:2] = 0, 1
  where = rng.random(N) < rng.random()
  where[:2] = True
  want = sklearn.metrics.roc_auc_score(labels[where], scores[where])
  np.testing.assert_allclose(set_auc(scores, labels, where), want, rtol=1e-5)


@given(SEEDS)
def test_user_auc_averages_over_users_with_both_classes(seed):
  rng = np.random.default_rng(seed)
  scores = rng.integers(0, 6, N).astype(np.float32)
  labels, users = rng.integers(0, 2, N), rng.integers(0, USERS, N)
  where = rng.random(N) < 0.9
  values, sizes = [], []
  for user in range(USERS):
    mine = (users == user) & where
    if len(set(labels[mine])) == 2:
      values.append(sklearn.metrics.roc_auc_score(labels[mine], scores[mine]))
      sizes.append(mine.sum())
  got = user_auc(scores, labels, users, where=where)
  assert got.count == len(values)
  np.testing.assert_allclose(got.finish(), np.mean(values), rtol=1e-5)
  weighted = weighted_user_auc(scores, labels, users, where=where).finish()
  np.testing.assert_allclose(weighted, np.average(values, weights=sizes), rtol=1e-5)


def test_auc_of_one_class_or_of_nothing_is_zero():
  assert set_auc(jnp.ones(3), jnp.ones(3)) == 0
  assert set_auc(jnp.ones(3), jnp.zeros(3)) == 0
  assert set_auc(jnp.ones(2), jnp.array([0, 1]), jnp.zeros(2, bool)) == 0
  assert set_auc(jnp.ones(0), jnp.ones(0)) == 0


def test_auc_is_exact_where_pairs_exceed_float32_and_int32():
  # 60 000 x 60 000 pairs; every positive is above all negatives but one.
  n = 60_000
  scores = np.concatenate([np.arange(n), np.full(n, n - 1.5)]).astype(np.float32)
  labels = np.concatenate([np.zeros(n), np.ones(n)])
  np.testing.assert_allclose(set_auc(scores, labels), 1 - 1 / n, rtol=1e-6)


@given(SEEDS, st.sampled_from([8, 12, 18]))
def test_the_histogram_is_within_its_own_bound_of_the_exact_auc(seed, bits):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 2, 80)
  labels[:2] = 0, 1
  scores = (rng.normal(size=80) + labels).astype(np.float32)
  parts = [histogram(s, y, bits=bits) for s, y in zip(*_halves(scores, labels), strict=True)]
  got = merge(*parts).finish()
  exact = sklearn.metrics.roc_auc_score(labels, scores)
  assert abs(got["auc"] - exact) <= got["auc_error"] + 1e-9
  if bits == 18:
    assert got["auc_error"] < 0.01


def test_the_histogram_orders_signs_zeros_infinities_and_nan():
  scores = jnp.array([-jnp.inf, -2.0, -1.0, -0.0, 0.0, 1.0, jnp.inf])
  labels = jnp.array([0, 0, 0, 0, 1, 1, 1])
  got = histogram(scores, labels).finish()
  # Twelve pairs; only -0 against 0 is a tie.
  np.testing.assert_allclose(got["auc"], 11.5 / 12, rtol=1e-6)
  lost = histogram(jnp.array([jnp.nan, 0.0]), jnp.array([1, 0])).finish()
  assert lost["auc"] == 0 and set_auc(jnp.array([jnp.nan, 0.0]), jnp.array([1, 0])) == 0


def _halves(*arrays):
  return [np.array_split(a, 2) for a in arrays]


def test_labels_of_another_shape_are_refused():
  with pytest.raises(AssertionError, match="shape"):
    auc(jnp.ones((2, 3)), jnp.ones((2, 4)))
