"""Statistics that add up over batches, devices and hosts, and are divided once, at the end.

A statistic is a NamedTuple of arrays with `finish()`. Two of them add leaf by leaf, so any split
of the examples (batches, devices, slices) gives the same number. A batch is summed in float32,
its examples are counted in int32; `merge` adds batches on the host in float64 and int64, so a
count beyond 2^24, where float32 stops counting, stays exact.

B examples, G groups.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np

from recjax.types import Array

Statistic = TypeVar("Statistic")


class Mean(NamedTuple):
  """A sum and how much was summed; leading axes, if any, are groups."""

  sum: Array
  count: Array  # int32, or float32 where examples are weighted

  def finish(self) -> Array:
    return ratio(self.sum, self.count)


def mean(values: Array, where: Array | None = None, weights: Array | None = None) -> Mean:
  """The mean of `values` [B] over the examples that `where` [B] keeps."""
  values = jnp.asarray(values, jnp.float32)
  where = everywhere(values) if where is None else jnp.asarray(where, bool)
  chex.assert_equal_shape([values, where])
  if weights is None:
    return Mean(jnp.sum(values, where=where), jnp.sum(where))
  chex.assert_equal_shape([values, weights])
  weights = jnp.asarray(weights, jnp.float32)
  return Mean(jnp.sum(values * weights, where=where), jnp.sum(weights, where=where))


def mean_by(values: Array, groups: Array, *, num_groups: int, where: Array | None = None) -> Mean:
  """The mean of `values` [B] in each of a few `groups` [B] (0 .. G - 1): leaves [G]."""
  values = jnp.asarray(values, jnp.float32)
  where = everywhere(values) if where is None else jnp.asarray(where, bool)
  chex.assert_equal_shape([values, groups, where])
  # Not a scatter-add: that sums one by one, and loses a digit over some thousand values.
  inside = (jnp.arange(num_groups)[:, None] == groups[None]) & where[None]  # [G, B]
  total = jnp.sum(jnp.where(inside, values[None], 0.0), axis=1)
  return Mean(total, jnp.sum(inside, axis=1, dtype=jnp.int32))


def merge(first: Statistic, *others: Statistic) -> Statistic:
  """The sum of like statistics (or dicts of them) on the host, in float64 and int64 NumPy."""
  return jax.tree.map(lambda *leaves: sum(map(_wide, leaves)), first, *others)


def ratio(total: Any, count: Any) -> Any:
  """total / count, and 0 where nothing was counted. NumPy in, NumPy out."""
  xp = namespace(total, count)
  return xp.where(count > 0, total / xp.where(count > 0, count, 1), 0.0)


def namespace(*arrays: Any) -> ModuleType:
  """jax.numpy for device arrays and tracers, else numpy, which keeps 64 bits after `merge`."""
  return jnp if any(isinstance(a, jax.Array) for a in arrays) else np


def everywhere(values: Array) -> Array:
  """The mask that keeps everything."""
  return jnp.ones(jnp.shape(values), bool)


def keep(values: Array, where: Array | None) -> Array:
  """Per-example values as float32 [B], 0 where `where` [B] is False."""
  values = values.astype(jnp.float32)
  if where is None:
    return values
  chex.assert_equal_shape([values, where])
  return jnp.where(where, values, 0.0)


def _wide(leaf: Any) -> np.ndarray:
  leaf = np.asarray(leaf)
  return leaf.astype(np.float64 if np.issubdtype(leaf.dtype, np.floating) else np.int64)
