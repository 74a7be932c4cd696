"""Predicted probabilities and classes: log-loss, accuracy, F1, calibration.

Log-loss and accuracy are per example [B]. F1 and the calibration error divide sums by sums, so
they are statistics that add up. Pass probabilities: `jax.nn.sigmoid` or `softmax` of the logits.

B examples, C classes, N bins.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

from recjax.metrics.additive import everywhere, keep, namespace, ratio
from recjax.types import Array

_EPS = float(np.finfo(np.float32).eps)  # the nearest that a probability comes to 0 and 1


def binary_log_loss(probabilities: Array, labels: Array, where: Array | None = None) -> Array:
  """-log of the probability of the label (0 or 1), clipped as in scikit-learn; NaN costs most."""
  chex.assert_equal_shape([probabilities, labels])
  probability = jnp.where(jnp.asarray(labels) > 0, probabilities, 1 - probabilities)
  return keep(_cost(probability), where)


def log_loss(probabilities: Array, labels: Array, where: Array | None = None) -> Array:
  """-log of the probability of class `labels` [B] in `probabilities` [B, C]."""
  chex.assert_rank([probabilities, labels], [2, 1])
  of_label = jnp.take_along_axis(jnp.asarray(probabilities), labels[:, None], axis=1)
  return keep(_cost(of_label[:, 0]), where)


def _cost(probability: Array) -> Array:
  probability = jnp.nan_to_num(jnp.asarray(probability, jnp.float32), nan=0.0)
  return -jnp.log(jnp.clip(probability, _EPS, 1 - _EPS))


def accuracy(predicted: Array, labels: Array, where: Array | None = None) -> Array:
  """1 where the predicted class [B] is the label."""
  chex.assert_equal_shape([predicted, labels])
  return keep(jnp.asarray(predicted) == jnp.asarray(labels), where)


class Confusion(NamedTuple):
  """Counts by class [C] int32. F1 is harmonic: it can only be taken at the end."""

  hit: Array  # predicted and true
  predicted: Array
  true: Array

  def finish(self) -> dict[str, Array]:
    """F1 of each class, macro over the classes that occur, micro, and of class 1 (`binary`)."""
    xp = namespace(self.hit)
    occurring = self.predicted + self.true
    f1 = ratio(2 * self.hit, occurring)  # [C], 0 for a class that does not occur
    return {
      "f1": f1,
      "macro_f1": ratio(f1.sum(), xp.sum(occurring > 0)),
      "micro_f1": ratio(2 * self.hit.sum(), occurring.sum()),
      "binary_f1": f1[1],
    }


def confusion(
  predicted: Array, labels: Array, *, num_classes: int = 2, where: Array | None = None
) -> Confusion:
  """Counts of the classes `predicted` [B] and `labels` [B], both 0 .. C - 1."""
  where = everywhere(labels) if where is None else jnp.asarray(where, bool)
  chex.assert_equal_shape([predicted, labels, where])

  def counts(classes, mask):
    hot = classes[:, None] == jnp.arange(num_classes)[None]
    return jnp.sum(hot & mask[:, None], axis=0, dtype=jnp.int32)

  predicted, labels = jnp.asarray(predicted), jnp.asarray(labels)
  right = (predicted == labels) & where
  return Confusion(counts(labels, right), counts(predicted, where), counts(labels, where))


class Calibration(NamedTuple):
  """Reliability of probabilities in N bins of equal width."""

  confidence: Array  # [N] float32, probabilities summed
  right: Array  # [N] float32, labels summed
  count: Array  # [N] int32

  def finish(self) -> Array:
    """ECE: |mean probability - mean label| of each bin, weighted by its share of examples."""
    return ratio(abs(self.confidence - self.right).sum(), self.count.sum())


def calibration(
  probabilities: Array, labels: Array, where: Array | None = None, *, bins: int = 15
) -> Calibration:
  """Bins `probabilities` [B] of a positive label, or of the predicted class being right.

  A NaN probability is one that is wholly wrong: 1 for a negative label, 0 for a positive.
  """
  where = everywhere(labels) if where is None else jnp.asarray(where, bool)
  chex.assert_equal_shape([probabilities, labels, where])
  labels = jnp.asarray(labels, jnp.float32)
  probabilities = jnp.asarray(probabilities, jnp.float32)
  probabilities = jnp.where(jnp.isnan(probabilities), 1 - labels, jnp.clip(probabilities, 0, 1))
  at = jnp.clip((probabilities * bins).astype(jnp.int32), 0, bins - 1)
  hot = (at[:, None] == jnp.arange(bins)[None]) & where[:, None]  # [B, N]

  def total(values):
    return jnp.sum(jnp.where(hot, values[:, None], 0.0), axis=0)

  return Calibration(total(probabilities), total(labels), jnp.sum(hot, axis=0, dtype=jnp.int32))
