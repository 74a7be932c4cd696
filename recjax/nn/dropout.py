"""Dropout by hashing each element's place: cheap, and the same on any number of devices.

Whether an element survives is a hash of its index in the whole batch and of the key, a few
integer operations that XLA fuses into whatever reads the result; no array of random bits is made
(on a CPU the default generator costs more than the matrix products of a small Transformer).
A device that holds rows 64..127 of a batch drops what one device would drop in those rows.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from recjax.types import Array, Key


def dropout(x: Array, rate: float, key: Key, *, first_row: Array | int | None = None) -> Array:
  """`x` [B, ...] with a share `rate` of its elements zero and the others scaled to keep the mean.

  `first_row` is the place of x[0] in the whole batch. By default it is 0, or, inside
  `jax.shard_map`, what it is when the batch is split over all the manual axes.
  """
  where = keep(x.shape, rate, key, first_row=first_row)
  return jnp.where(where, x * (1 / (1 - rate)), 0)


def keep(
  shape: tuple[int, ...], rate: float, key: Key, *, first_row: Array | int | None = None
) -> Array:
  """Which elements survive, bool of `shape`; independent for each key and each element."""
  if not 0 <= rate < 1:
    raise ValueError(f"the dropout rate must lie in [0, 1), not {rate}")
  if not shape:
    raise ValueError("dropout needs a leading batch axis; give the scalar one: x[None]")
  index = _index(shape, _first_row(shape[0]) if first_row is None else first_row)
  return _hash(index, key) >= jnp.uint32(round(rate * 2**32))


class Dropout(nn.Module):
  """`dropout` with the key of the "dropout" stream, distinct for each module and call."""

  rate: float

  @nn.compact
  def __call__(self, x: Array, *, train: bool) -> Array:
    if not train or self.rate == 0:
      return x
    return dropout(x, self.rate, self.make_rng("dropout"))


def _index(shape: tuple[int, ...], first_row: Array | int) -> Array:
  """Each element's index in the flattened batch; it wraps after 2^32 elements, and so repeats."""
  index = jnp.zeros(shape, jnp.uint32)
  for axis in range(len(shape)):
    place = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    if axis == 0:
      place += jnp.asarray(first_row, jnp.uint32)
    index += place * jnp.uint32(math.prod(shape[axis + 1 :]) % 2**32)
  return index


def _first_row(rows: int) -> Array | int:
  axes = tuple(jax.sharding.get_abstract_mesh().manual_axes)
  return jax.lax.axis_index(axes) * rows if axes else 0


def _hash(index: Array, key: Key) -> Array:
  """Uniform uint32, by the integer mix "lowbias32" (Wellons) with the key's words put in."""
  first, second = _words(key)
  x = index ^ first
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  # A second word inside: xor at the front alone would give two keys one mask, permuted.
  x = (x ^ (x >> 15) ^ second) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)


def _words(key: Key) -> tuple[Array, Array]:
  """Two words from a key of any generator (a key's own words may be a small seed, unmixed)."""
  words = jax.random.key_data(key).astype(jnp.uint32).reshape(-1)
  first, second = jnp.uint32(0x9E3779B9), jnp.uint32(0x85EBCA6B)
  for word in words:
    first = _mix(first ^ word)
    second = _mix(second + word) ^ first
  return first, second


def _mix(x: Array) -> Array:
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)
