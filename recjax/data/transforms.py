"""Sequence augmentations: pure functions of (key, left-padded histories [B, T]), for use under jit.

The five of CL4SRec (Xie et al., ICDE 2022) and CoSeRec (Liu et al., 2021). A row's draw depends on
the key and on its number in `rows` alone (by default its place in the batch): give the numbers of
the examples, and neither the composition of a batch nor its sharding changes what happens to one.
PAD stays at the left; empty histories stay empty.

The index arithmetic at the end is NumPy, for `Ragged`, before training.

B batch, T history, I items (PAD included), M similar items of an item, R rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from recjax.data.ragged import Ragged
from recjax.types import PAD, Array, Key


def crop(key: Key, history: Array, *, keep: float, rows: Array | None = None) -> Array:
  """A contiguous part: the fraction `keep` of the items, rounded down, but one at least."""
  lengths = _parts(history, keep, least=1)

  def one(key, items):  # [T]
    length, count = items.shape[0], jnp.sum(items != PAD)
    size = lengths[count]
    skipped = jax.random.randint(key, (), 0, count - size + 1)  # newest items left out
    at = jnp.arange(length)
    return jnp.where(at >= length - size, jnp.roll(items, skipped), PAD)

  return _by_row(one, key, history, rows)


def mask(
  key: Key, history: Array, *, rate: float, mask_id: int, rows: Array | None = None
) -> tuple[Array, Array]:
  """(history, where): each item turns into `mask_id` with probability `rate`; `where` it did."""
  _check_fraction("rate", rate)

  def one(key, items):
    where = jax.random.bernoulli(key, rate, items.shape) & (items != PAD)
    return jnp.where(where, mask_id, items), where

  return _by_row(one, key, history, rows)


def reorder(key: Key, history: Array, *, ratio: float, rows: Array | None = None) -> Array:
  """Shuffles a contiguous span: the fraction `ratio` of the items, rounded down."""
  lengths = _parts(history, ratio, least=0)

  def one(key, items):
    where_key, order_key = jax.random.split(key)
    length, count = items.shape[0], jnp.sum(items != PAD)
    size = lengths[count]
    start = length - count + jax.random.randint(where_key, (), 0, count - size + 1)
    at = jnp.arange(length)
    inside = (at >= start) & (at < start + size)
    group = jnp.where(inside, start, at)  # the span ties, and noise decides
    return jax.lax.sort((group, jax.random.bits(order_key, (length,)), items), num_keys=2)[-1]

  return _by_row(one, key, history, rows)


def substitute(
  key: Key, history: Array, *, rate: float, similar: Array, rows: Array | None = None
) -> Array:
  """Each item gives way, with probability `rate`, to one of `similar` [I] or [I, M].

  Several similar ones are equally likely; PAD in the table is none, and who has none stays.
  """
  _check_fraction("rate", rate)

  def one(key, items):
    where_key, which_key = jax.random.split(key)
    other = _alike(which_key, items, similar)
    where = jax.random.bernoulli(where_key, rate, items.shape)
    return jnp.where(where & (other != PAD), other, items)

  return _by_row(one, key, history, rows)


def insert(
  key: Key, history: Array, *, rate: float, similar: Array, rows: Array | None = None
) -> Array:
  """Before each item comes, with probability `rate`, one of `similar`; the last T remain."""
  _check_fraction("rate", rate)

  def one(key, items):
    where_key, which_key = jax.random.split(key)
    where = jax.random.bernoulli(where_key, rate, items.shape)
    new = jnp.where(where, _alike(which_key, items, similar), PAD)
    both = jnp.stack([new, items], axis=1).reshape(-1)  # [2T]
    return both[jnp.argsort(both != PAD, stable=True)][-items.shape[0] :]

  return _by_row(one, key, history, rows)


def _by_row(one: Callable, key: Key, history: Array, rows: Array | None):
  rows = jnp.arange(history.shape[0]) if rows is None else rows
  return jax.vmap(lambda row, items: one(jax.random.fold_in(key, row), items))(rows, history)


def _alike(key: Key, items: Array, similar: Array) -> Array:
  """[T] an item similar to each, PAD where there is none."""
  if similar.ndim == 1:
    return similar[items] * (items != PAD)
  options = jnp.where((items != PAD)[:, None], similar[items], PAD)  # [T, M]
  noise = jnp.where(options != PAD, jax.random.uniform(key, options.shape), -1.0)
  return jnp.take_along_axis(options, jnp.argmax(noise, axis=1)[:, None], axis=1)[:, 0]


def _parts(history: Array, fraction: float, *, least: int) -> Array:
  """[T + 1] the whole number of items that a fraction of 0..T items is."""
  _check_fraction("keep" if least else "ratio", fraction)
  # In float64 and nudged, so that 0.7 of 10 is 7.
  sizes = [max(min(n, least), math.floor(n * fraction + 1e-9)) for n in range(history.shape[1] + 1)]
  return jnp.array(sizes, jnp.int32)


def _check_fraction(name: str, value: float) -> None:
  if not 0.0 <= value <= 1.0:
    raise ValueError(f"{name} must lie in [0, 1], it is {value}")


def left_pad(rows: Sequence[Sequence[int]], width: int) -> np.ndarray:
  """[R, width] int32: the last `width` of each row at the right edge, PAD before them."""
  return Ragged.from_rows(rows).left_padded(np.arange(len(rows)), width)


def sliding_windows(
  lengths: np.ndarray, window: int, stride: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(row, start, stop): every window of each row, oldest first, counted from the row's beginning.

  The last window ends with the row, the others `stride` earlier each time until all is covered
  (the oldest begins with the row); a shorter row is one window, an empty one none.
  """
  if window < 1 or stride < 1:
    raise ValueError(f"window and stride must be at least 1, they are {window} and {stride}")
  lengths = np.asarray(lengths, np.int64)
  number = (lengths > 0) * (
    1 - -np.maximum(lengths - window, 0) // stride
  )  # 1 + ceil(rest / stride)
  row, nth = _enumerate(number)
  back = (number[row] - 1 - nth) * stride
  stop = np.maximum(lengths[row] - back, np.minimum(lengths[row], window))
  return row, np.maximum(stop - window, 0), stop


def all_prefixes(lengths: np.ndarray, min_len: int = 1) -> tuple[np.ndarray, np.ndarray]:
  """(row, stop): each row's prefixes of at least `min_len` values, as where they stop."""
  if min_len < 0:
    raise ValueError(f"min_len must not be negative, it is {min_len}")
  row, nth = _enumerate(np.maximum(np.asarray(lengths, np.int64) - min_len + 1, 0))
  return row, min_len + nth


def _enumerate(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(row, nth): each row as often as `number` says, and the how-manieth time it is."""
  row = np.repeat(np.arange(len(number)), number)
  return row, np.arange(len(row)) - np.repeat(np.cumsum(number) - number, number)
