"""Metrics of candidate lists that were shown and judged, one value an impression [B] (MIND's way).

`scores` and `labels` are [B, C]; `where` [B, C] keeps the real candidates. Equal scores count as
the mean over the orders they could take (AUC: half a win), as in scikit-learn, so neither a
constant scorer nor the position of the clicked candidate gains anything. A NaN score is the worst
possible one: last for a candidate that was taken, first for one that was not. Infinities compare.

AUC needs both classes and the others a positive; where they lack it the value is 0, and
`has_both_classes` / `has_positive` [B] are the masks to average under.

B impressions, C candidates.
"""

from __future__ import annotations

import chex
import jax.numpy as jnp

from recjax.metrics.additive import everywhere, ratio
from recjax.types import Array


def has_both_classes(labels: Array, where: Array | None = None) -> Array:
  """Impressions [B] with a positive and a negative candidate."""
  return has_positive(labels, where) & has_positive(labels <= 0, where)


def has_positive(labels: Array, where: Array | None = None) -> Array:
  """Impressions [B] with a candidate that was taken."""
  where = everywhere(labels) if where is None else where
  return jnp.any((labels > 0) & where, axis=1)


def auc(scores: Array, labels: Array, where: Array | None = None) -> Array:
  """The share of (positive, negative) pairs in the right order, ties half."""
  scores, labels, where = _checked(scores, labels, where)
  positive, negative = (labels > 0) & where, (labels <= 0) & where
  mine, theirs = scores[:, :, None], scores[:, None, :]
  pair = positive[:, :, None] & negative[:, None, :]  # [B, C, C]
  # Twice the wins, so that halves are counted in integers.
  wins = jnp.sum((mine > theirs).astype(jnp.int32) + (mine >= theirs), axis=(1, 2), where=pair)
  pairs = jnp.sum(positive, axis=1) * jnp.sum(negative, axis=1)
  return ratio(wins, 2 * pairs).astype(jnp.float32)


def mrr(scores: Array, labels: Array, where: Array | None = None) -> Array:
  """1 / (1 + rank), averaged over the impression's positives, as MIND defines it."""
  scores, labels, where = _checked(scores, labels, where)
  reciprocal = 1 / jnp.arange(1, scores.shape[1] + 1, dtype=jnp.float32)
  positive = (labels > 0) & where
  found = jnp.sum(_worth(scores, where, reciprocal), axis=1, where=positive)
  return ratio(found, jnp.sum(positive, axis=1))


def ndcg(scores: Array, labels: Array, k: int, where: Array | None = None) -> Array:
  """NDCG@k; `labels` are the gains, taken as they are (2**r - 1 is the caller's to pass)."""
  scores, labels, where = _checked(scores, labels, where)
  gains = jnp.where(where, labels, 0.0).astype(jnp.float32)
  places = jnp.arange(scores.shape[1], dtype=jnp.float32)
  discounts = jnp.where(places < k, 1 / jnp.log2(places + 2), 0.0)  # [C]
  gained = jnp.sum(gains * _worth(scores, where, discounts), axis=1)
  best = jnp.sum(-jnp.sort(-gains, axis=1) * discounts[None], axis=1)
  return ratio(gained, best)


def _worth(scores: Array, where: Array, values: Array) -> Array:
  """What each candidate's place is worth [B, C], where place i is worth `values[i]` [C].

  Candidates that tie share the places of their run equally.
  """
  mine, theirs = scores[:, :, None], scores[:, None, :]
  above = jnp.sum((theirs > mine) & where[:, None, :], axis=2)  # [B, C]
  tied = jnp.sum((theirs == mine) & where[:, None, :], axis=2)  # with itself; 0 if masked
  total = jnp.concatenate([jnp.zeros(1), jnp.cumsum(values)])
  alone = values[jnp.minimum(above, len(values) - 1)]  # exact, without the difference of sums
  return jnp.where(tied > 1, ratio(total[above + tied] - total[above], tied), alone)


def _checked(scores: Array, labels: Array, where: Array | None) -> tuple[Array, Array, Array]:
  chex.assert_rank(scores, 2)
  where = everywhere(scores) if where is None else jnp.asarray(where, bool)
  chex.assert_equal_shape([scores, labels, where])
  return worst_if_nan(scores, labels), jnp.asarray(labels), where


def worst_if_nan(scores: Array, labels: Array) -> Array:
  """Scores as float32, each NaN replaced by the infinity that costs most."""
  scores = jnp.asarray(scores, jnp.float32)
  worst = jnp.where(jnp.asarray(labels) > 0, -jnp.inf, jnp.inf)
  return jnp.where(jnp.isnan(scores), worst, scores)
