"""Ranks equal top_k's order; list metrics equal ranx and hand arithmetic."""

import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from recjax.metrics import ranking
from recjax.metrics.ranking import UNRANKED

ranks_jitted = jax.jit(ranking.ranks)
ranks_of_many_jitted = jax.jit(ranking.ranks_of_many)
dot_ranks_jitted = jax.jit(ranking.dot_ranks, static_argnames="block")


def _place_in_top_k(scores: np.ndarray, target: int, deny=()) -> int:
  """By sorting: PAD and denied items out, then the order of jax.lax.top_k."""
  scores = np.where(np.isnan(scores), -np.inf, scores).astype(np.float32)
  scores[[0, *deny]] = -np.inf
  values, order = jax.lax.top_k(jnp.asarray(scores), len(scores))
  place = int(np.flatnonzero(np.asarray(order) == target)[0])
  return place if values[place] > -np.inf else UNRANKED


@given(st.data())
def test_ranks_are_the_places_that_top_k_gives(data):
  items, users = 8, 4
  score = st.sampled_from([0.0, -0.0, 0.5, 1.0, -2.0, np.inf, -np.inf, np.nan])
  rows = st.lists(score, min_size=items, max_size=items)
  scores = np.array([data.draw(rows) for _ in range(users)], np.float32)
  item = st.integers(0, items - 1)
  target = np.array([data.draw(item) for _ in range(users)])
  deny = np.array([[data.draw(item) for _ in range(3)] for _ in range(users)])
  scores[scores == 0] = 0.0  # top_k puts 0 above -0, the comparison of floats does not
  want = [
    _place_in_top_k(s, t, d) if t else UNRANKED
    for s, t, d in zip(scores, target, deny, strict=True)
  ]
  np.testing.assert_array_equal(ranks_jitted(scores, target, deny=deny), want)


def test_a_constant_scorer_ranks_by_id():
  scores = jnp.zeros((3, 5))
  assert ranks_jitted(scores, jnp.array([1, 2, 4])).tolist() == [0, 1, 3]


def test_nan_scores_never_win():
  nan = jnp.nan
  scores = jnp.array([[nan, nan, 1.0, nan], [9.0, 2.0, nan, 1.0], [nan] * 4])
  # A number beats NaN; a NaN target is recommended by nobody, even if everything is NaN.
  ranks = ranks_jitted(scores, jnp.array([2, 2, 1]))
  assert ranks.tolist() == [0, UNRANKED, UNRANKED]
  assert ranking.recall_at(ranks, 10**6).tolist() == [1.0, 0.0, 0.0]


def test_an_infinite_score_wins_and_minus_infinity_is_not_recommended():
  scores = jnp.array([[0.0, jnp.inf, jnp.inf, 1.0], [0.0, 1.0, -jnp.inf, 1.0]])
  assert ranks_jitted(scores, jnp.array([2, 2])).tolist() == [1, UNRANKED]


def test_pad_denied_masked_and_foreign_targets_are_worth_nothing_at_any_k():
  scores = jnp.ones((4, 6))
  ranks = ranks_jitted(
    scores,
    jnp.array([0, 3, 2, 6]),
    deny=jnp.array([[0], [3], [1], [1]]),
    where=jnp.array([True, True, False, True]),
  )
  assert ranks.tolist() == [UNRANKED] * 4
  for metric in (ranking.recall_at, ranking.ndcg_at, ranking.mrr_at):
    assert metric(ranks, UNRANKED).tolist() == [0.0] * 4


def test_pad_with_the_best_score_is_no_competitor():
  assert ranks_jitted(jnp.array([[9.0, 1.0, 2.0]]), jnp.array([2])).tolist() == [0]


def test_metrics_of_a_rank_are_hand_arithmetic():
  ranks = jnp.array([0, 1, 9, 10])
  np.testing.assert_array_equal(ranking.recall_at(ranks, 10), [1, 1, 1, 0])
  np.testing.assert_allclose(
    ranking.ndcg_at(ranks, 10), [1, 1 / math.log2(3), 1 / math.log2(11), 0], rtol=1e-6
  )
  np.testing.assert_allclose(ranking.mrr_at(ranks, 10), [1, 0.5, 0.1, 0], rtol=1e-6)
  np.testing.assert_allclose(ranking.mrr_at(ranks), [1, 0.5, 0.1, 1 / 11], rtol=1e-6)
  masked = ranking.recall_at(ranks, 10, jnp.array([True, False, True, True]))
  np.testing.assert_array_equal(masked, [1, 0, 1, 0])


def test_k_beyond_the_catalogue_finds_every_candidate():
  ranks = ranks_jitted(jnp.zeros((1, 3)), jnp.array([2]))
  assert ranking.recall_at(ranks, 100).tolist() == [1.0]
  assert ranking.hits_at(ranks[:, None], 100).sum() == 1


@given(seed=st.integers(0, 2**20), block=st.sampled_from([1, 3, 128]))
def test_dot_ranks_equal_the_ranks_of_the_whole_matrix(seed, block):
  rng = np.random.default_rng(seed)
  # Small integers: products are exact, so ties are ties in any order of summation.
  queries = rng.integers(-2, 3, (7, 4)).astype(np.float32)
  items = rng.integers(-2, 3, (11, 4)).astype(np.float32)
  target, deny = rng.integers(0, 11, 7), rng.integers(0, 11, (7, 2))
  where = rng.random(7) < 0.8
  np.testing.assert_array_equal(
    dot_ranks_jitted(queries, items, target, deny=deny, where=where, block=block),
    ranks_jitted(queries @ items.T, target, deny=deny, where=where),
  )


def test_dot_ranks_under_shard_map_rank_each_device_its_own_users():
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  rng = np.random.default_rng(0)
  queries, items = rng.normal(size=(16, 4)), rng.normal(size=(11, 4))
  queries, items = queries.astype(np.float32), items.astype(np.float32)
  target = rng.integers(1, 11, 16)
  sharded = jax.shard_map(
    ranking.dot_ranks, mesh=mesh, in_specs=(P("data"), P(), P("data")), out_specs=P("data")
  )
  np.testing.assert_array_equal(
    jax.jit(sharded)(queries, items, target), ranks_jitted(queries @ items.T, target)
  )


def test_bfloat16_vectors_are_scored_in_float32():
  # 256 + 1 is 256 in bfloat16: rounded scores would tie, and the lower id would win.
  queries = jnp.array([[256.0, 1.0]], jnp.bfloat16)
  items = jnp.array([[0, 0], [1, 0], [1, 1]], jnp.bfloat16)
  assert ranking.dot_ranks(queries, items, jnp.array([2])).tolist() == [0]


def test_dot_ranks_never_hold_the_whole_matrix():
  users, items = 4096, 512
  compiled = (
    jax.jit(ranking.dot_ranks)
    .lower(
      jax.ShapeDtypeStruct((users, 4), jnp.float32),
      jax.ShapeDtypeStruct((items, 4), jnp.float32),
      jax.ShapeDtypeStruct((users,), jnp.int32),
    )
    .compile()
  )
  assert compiled.memory_analysis().temp_size_in_bytes < users * items * 4 / 4


@given(seed=st.integers(0, 2**20))
def test_ranks_of_many_equal_sorted_places(seed):
  rng = np.random.default_rng(seed)
  scores = rng.integers(0, 4, (3, 10)).astype(np.float32)
  targets = np.stack([rng.permutation(10)[:4] for _ in range(3)])  # may hold PAD
  deny = rng.integers(0, 10, (3, 2))
  got = np.asarray(ranks_of_many_jitted(scores, targets, deny=deny))
  for b in range(3):
    want = [_place_in_top_k(scores[b], t, deny[b]) if t else UNRANKED for t in targets[b]]
    assert got[b].tolist() == want


def test_a_repeated_target_is_ranked_once():
  ranks = ranks_of_many_jitted(jnp.array([[0.0, 3.0, 2.0, 1.0]]), jnp.array([[2, 1, 2, 0]]))
  assert ranks.tolist() == [[1, 0, UNRANKED, UNRANKED]]


def test_lists_and_ranks_give_the_same_hits():
  rng = np.random.default_rng(0)
  scores, targets = rng.normal(size=(5, 20)), rng.integers(0, 20, (5, 4))
  scores[:, 0] = -np.inf
  ids = jax.lax.top_k(jnp.asarray(scores), 8)[1]
  by_rank = ranking.hits_at(ranks_of_many_jitted(scores, targets), 8)
  np.testing.assert_array_equal(ranking.hits(ids, jnp.asarray(targets)), by_rank)


def test_pad_and_repeated_places_do_not_hit():
  ids = jnp.array([[3, 3, 0, 5]])
  relevant = jnp.array([[3, 5, 0, 0]])
  assert ranking.hits(ids, relevant).tolist() == [[True, False, False, True]]
  assert ranking.count(jnp.array([[3, 5, 3, 0], [0, 0, 0, 0]])).tolist() == [2, 0]


def test_list_metrics_are_hand_arithmetic():
  hits = jnp.array([[False, True, False, True], [False] * 4])
  relevant = jnp.array([5, 2])
  assert ranking.recall(hits, relevant, 4).tolist() == pytest.approx([2 / 5, 0])
  assert ranking.precision(hits, 4).tolist() == [0.5, 0]
  assert ranking.hit_rate(hits, 1).tolist() == [0, 0]
  assert ranking.hit_rate(hits, 2).tolist() == [1, 0]
  assert ranking.mrr(hits, 4).tolist() == [0.5, 0]
  # Precisions at the hits: 1/2 and 2/4, over min(4, 5).
  assert ranking.average_precision(hits, relevant, 4).tolist() == pytest.approx([0.25, 0])
  dcg = 1 / math.log2(3) + 1 / math.log2(5)
  ideal = sum(1 / math.log2(i + 2) for i in range(4))
  assert ranking.ndcg(hits, relevant, 4).tolist() == pytest.approx([dcg / ideal, 0])
  assert ranking.recall(hits, relevant, 4, jnp.array([False, True])).tolist() == [0, 0]


def test_a_user_without_relevant_items_scores_zero_not_nan():
  hits, none = jnp.zeros((2, 3), bool), jnp.zeros(2, jnp.int32)
  for metric in (ranking.recall, ranking.ndcg, ranking.average_precision):
    assert metric(hits, none, 3).tolist() == [0, 0]
  assert ranking.graded_ndcg(jnp.zeros((2, 3)), jnp.zeros((2, 1)), 3).tolist() == [0, 0]


def test_lists_shorter_than_k_are_refused():
  with pytest.raises(ValueError, match="k=5, but the lists hold 3 places"):
    ranking.precision(jnp.zeros((2, 3)), 5)


@pytest.fixture(scope="module")
def ranx():
  # Interpreted, some hundred users cost nothing; compiled, ranx costs half a minute.
  os.environ["NUMBA_DISABLE_JIT"] = "1"
  return pytest.importorskip("ranx", reason="ranx is the reference of the list metrics")


@given(seed=st.integers(0, 2**20), k=st.sampled_from([1, 3, 10]))
def test_list_metrics_equal_ranx(ranx, seed, k):
  rng = np.random.default_rng(seed)
  users, items, depth = 8, 40, 12
  ids = np.stack([rng.permutation(np.arange(1, items))[:depth] for _ in range(users)])
  relevant = np.zeros((users, 15), int)
  for row in relevant:
    n = rng.integers(1, 16)
    row[:n] = rng.permutation(np.arange(1, items))[:n]
  grades = rng.integers(1, 5, relevant.shape)
  qrels = ranx.Qrels(
    {
      f"u{u:02}": {str(i): int(g) for i, g in zip(r, gs, strict=True) if i}
      for u, (r, gs) in enumerate(zip(relevant, grades, strict=True))
    }
  )
  run = ranx.Run(
    {f"u{u:02}": {str(i): float(depth - n) for n, i in enumerate(row)} for u, row in enumerate(ids)}
  )
  names = ("recall", "precision", "hit_rate", "mrr", "map", "ndcg")
  want = ranx.evaluate(qrels, run, [f"{n}@{k}" for n in names], return_mean=False)
  ids, relevant = jnp.asarray(ids), jnp.asarray(relevant)
  hits, n = ranking.hits(ids, relevant), ranking.count(relevant)

  def close(got, name):
    np.testing.assert_allclose(got, want[f"{name}@{k}"], rtol=2e-6, atol=1e-7)

  close(ranking.recall(hits, n, k), "recall")
  close(ranking.precision(hits, k), "precision")
  close(ranking.hit_rate(hits, k), "hit_rate")
  close(ranking.mrr(hits, k), "mrr")
  # ranx divides by the number of relevant items, we by min(k, it).
  close(ranking.average_precision(hits, n, k) * np.minimum(n, k) / n, "map")
  found = ids[:, :, None] == relevant[:, None, :]
  gains = jnp.sum(found * jnp.asarray(grades)[:, None, :], axis=2)
  ours = ranking.graded_ndcg(gains, jnp.where(relevant > 0, jnp.asarray(grades), 0), k)
  close(ours, "ndcg")


@given(seed=st.integers(0, 2**20), k=st.sampled_from([1, 5, 12]))
def test_ndcg_equals_scikit_learn(seed, k):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 2, (4, 12))
  scores = np.stack([rng.permutation(12) for _ in range(4)]).astype(np.float32)
  order = np.argsort(-scores, axis=1)
  hits = np.take_along_axis(labels, order, axis=1)
  want = [sklearn.metrics.ndcg_score(labels[[b]], scores[[b]], k=k) for b in range(4)]
  np.testing.assert_allclose(ranking.ndcg(hits, labels.sum(1), k), want, rtol=1e-5, atol=1e-6)


@given(st.integers(0, 2**20))
def test_sampled_ranks_over_the_whole_catalogue_are_the_full_ranks(seed):
  rng = np.random.default_rng(seed)
  scores = rng.integers(0, 3, (4, 9)).astype(np.float32)
  scores[rng.random(scores.shape) < 0.1] = np.nan
  target = rng.integers(1, 9, 4)
  order = np.stack([rng.permutation(9) for _ in range(4)])  # where a candidate stands is no matter
  np.testing.assert_array_equal(
    ranking.sampled_ranks(np.take_along_axis(scores, order, axis=1), order, target),
    ranks_jitted(scores, target),
  )


def test_sampled_ranks_count_a_repeated_negative_once_and_need_the_target():
  scores = jnp.array([[1.0, 5.0, 5.0, 9.0], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
  candidates = jnp.array([[7, 3, 3, 0], [1, 2, 3, 4], [1, 2, 3, 4]])
  ranks = ranking.sampled_ranks(
    scores, candidates, jnp.array([7, 9, 2]), where=jnp.array([True, True, False])
  )
  assert ranks.tolist() == [1, UNRANKED, UNRANKED]
