"""Errors of predicted ratings. The root is taken once, of the mean over all examples."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax.numpy as jnp

from recjax.metrics.additive import everywhere, namespace, ratio
from recjax.types import Array


class Errors(NamedTuple):
  squared: Array  # [] float32, summed
  absolute: Array  # [] float32, summed
  count: Array  # [] int32

  def finish(self) -> dict[str, Array]:
    xp = namespace(self.squared)
    return {
      "rmse": xp.sqrt(ratio(self.squared, self.count)),
      "mae": ratio(self.absolute, self.count),
    }


def errors(predicted: Array, ratings: Array, where: Array | None = None) -> Errors:
  """RMSE and MAE of `predicted` [B] against `ratings` [B]. A NaN prediction is infinitely wrong."""
  where = everywhere(ratings) if where is None else jnp.asarray(where, bool)
  chex.assert_equal_shape([predicted, ratings, where])
  error = jnp.asarray(predicted, jnp.float32) - jnp.asarray(ratings, jnp.float32)
  error = jnp.where(jnp.isnan(error), jnp.inf, error)
  return Errors(jnp.sum(error**2, where=where), jnp.sum(abs(error), where=where), jnp.sum(where))
