"""Every jit-able metric gives the same numbers eager, jitted, on a device, and under vmap."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from recjax.metrics import (
  beyond,
  classification,
  fairness,
  impressions,
  mean,
  mean_by,
  ranking,
  regression,
  roc,
)

B, ITEMS, K, R = 6, 13, 5, 3


def _cases() -> list[tuple]:
  """(name, function, its arguments), each argument leading with B."""
  rng = np.random.default_rng(0)
  scores = rng.integers(0, 6, (B, ITEMS)).astype(np.float32)
  scores[0, 3], scores[1, 4] = np.nan, np.inf
  candidates = np.stack([rng.permutation(ITEMS)[:K] for _ in range(B)])
  target = candidates[:, 1]
  relevant = rng.integers(0, ITEMS, (B, R))
  where = np.arange(B) % 3 > 0
  hits = rng.integers(0, 2, (B, K)).astype(bool)
  count = hits.sum(1) + np.arange(B)
  gains = hits * rng.integers(1, 4, (B, K))
  labels, kept = rng.integers(0, 2, (B, K)), rng.random((B, K)) < 0.8
  shown = scores[:, :K]
  probabilities, clicks = rng.random(B).astype(np.float32), rng.integers(0, 2, B)
  classes = rng.dirichlet(np.ones(4), B).astype(np.float32)
  vectors = rng.normal(size=(ITEMS, 3)).astype(np.float32)
  popularity = rng.integers(0, 50, ITEMS)
  ranks = np.array([0, 1, 4, 9, ranking.UNRANKED, 3], np.int32)
  part = functools.partial
  return [
    ("ranks", lambda s, t, d, w: ranking.ranks(s, t, deny=d, where=w), scores, target, relevant,
     where),
    ("ranks_of_many", ranking.ranks_of_many, scores, relevant),
    ("dot_ranks", lambda q, t: ranking.dot_ranks(q, jnp.asarray(vectors), t, block=4),
     scores[:, 5:8], target),
    ("sampled_ranks", ranking.sampled_ranks, shown, candidates, target),
    ("recall_at", lambda r, w: ranking.recall_at(r, 3, w), ranks, where),
    ("ndcg_at", lambda r, w: ranking.ndcg_at(r, 3, w), ranks, where),
    ("mrr_at", lambda r, w: ranking.mrr_at(r, where=w), ranks, where),
    ("hits", ranking.hits, candidates, relevant),
    ("hits_at", part(ranking.hits_at, k=4), ranks[:, None]),
    ("count", ranking.count, relevant),
    ("recall", lambda h, n, w: ranking.recall(h, n, 3, w), hits, count, where),
    ("precision", lambda h, w: ranking.precision(h, 3, w), hits, where),
    ("hit_rate", lambda h, w: ranking.hit_rate(h, 3, w), hits, where),
    ("mrr", lambda h, w: ranking.mrr(h, 3, w), hits, where),
    ("average_precision", lambda h, n, w: ranking.average_precision(h, n, 3, w), hits, count,
     where),
    ("ndcg", lambda h, n, w: ranking.ndcg(h, n, 3, w), hits, count, where),
    ("graded_ndcg", lambda g, r, w: ranking.graded_ndcg(g, r, 3, w), gains, relevant, where),
    ("impression_auc", impressions.auc, shown, labels, kept),
    ("impression_mrr", impressions.mrr, shown, labels, kept),
    ("impression_ndcg", lambda s, y, w: impressions.ndcg(s, y, 3, w), shown, labels, kept),
    ("both_classes", impressions.has_both_classes, labels, kept),
    ("auc", roc.auc, probabilities, clicks, where),
    ("user_auc", lambda s, y, u, w: roc.user_auc(s, y, u, num_users=2, where=w), probabilities,
     clicks, np.arange(B) % 2, where),
    ("weighted_user_auc", lambda s, y, u: roc.weighted_user_auc(s, y, u, num_users=2),
     probabilities, clicks, np.arange(B) % 2),
    ("histogram", lambda s, y, w: roc.histogram(s, y, w, bits=8), probabilities, clicks, where),
    ("binary_log_loss", classification.binary_log_loss, probabilities, clicks, where),
    ("log_loss", classification.log_loss, classes, np.arange(B) % 4, where),
    ("accuracy", classification.accuracy, clicks, np.roll(clicks, 1), where),
    ("confusion", lambda p, y, w: classification.confusion(p, y, where=w), clicks,
     np.roll(clicks, 1), where),
    ("calibration", lambda p, y, w: classification.calibration(p, y, w, bins=3), probabilities,
     clicks, where),
    ("errors", regression.errors, probabilities, clicks, where),
    ("exposure", lambda i, w: beyond.exposure(i, num_items=ITEMS, where=w), candidates, where),
    ("novelty", lambda i, w: beyond.novelty(i, jnp.asarray(popularity), num_users=60, where=w),
     candidates, where),
    ("popularity", lambda i, w: beyond.recommended_popularity(i, jnp.asarray(popularity), w),
     candidates, where),
    ("head_share", lambda i, w: beyond.head_share(i, beyond.head_items(popularity), w),
     candidates, where),
    ("diversity", lambda i, w: beyond.diversity(i, jnp.asarray(vectors), w), candidates, where),
    ("jaccard", fairness.jaccard, candidates, np.roll(candidates, 1, 1), where),
    ("serp", fairness.serp, candidates, np.roll(candidates, 1, 0), where),
    ("prag", fairness.prag, candidates, np.roll(candidates, 1, 0), where),
    ("disparity", lambda v, g: fairness.disparity(mean_by(v, g, num_groups=3)), probabilities,
     np.arange(B) % 3),
    ("mean", mean, probabilities, where),
  ]  # fmt: skip


def _with_finish(metric):
  """The metric and, of a statistic, what it finishes to."""

  def both(*args):
    answer = metric(*args)
    return answer, answer.finish() if hasattr(answer, "finish") else ()

  return both


class VariantsTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True, with_device=True)
  @parameterized.named_parameters(*_cases())
  def test_variants_agree(self, metric, *args):
    want = _with_finish(metric)(*args)  # on NumPy arrays, as given
    got = self.variant(_with_finish(metric))(*map(jnp.asarray, args))
    chex.assert_trees_all_close(got, want, rtol=1e-6, atol=1e-6)
    chex.assert_tree_all_finite(got)
    for leaf in jax.tree.leaves(got):
      assert leaf.dtype in (jnp.float32, jnp.int32, jnp.bool_)

  @parameterized.named_parameters(*_cases())
  def test_vmap_equals_a_loop(self, metric, *args):
    """Two stacked batches, the second the first one reversed."""
    both = [jnp.stack([a, a[::-1]]) for a in map(jnp.asarray, args)]
    want = [jax.tree.map(np.asarray, metric(*(a[i] for a in both))) for i in range(2)]
    got = jax.jit(jax.vmap(metric))(*both)
    stacked = jax.tree.map(lambda *x: np.stack(x), *want)
    chex.assert_trees_all_close(got, stacked, rtol=1e-6, atol=1e-6)

  @parameterized.named_parameters(*_cases())
  def test_a_single_user_is_enough(self, metric, *args):
    answer = jax.jit(_with_finish(metric))(*(a[:1] for a in args))
    chex.assert_tree_all_finite(answer)
