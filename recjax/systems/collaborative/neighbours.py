"""Neighbourhoods: a weighted user-item matrix, its most similar rows, and what to fall back on.

Rows are compared by their users (item-kNN) or by their items (user-kNN). Of N rows and F columns:

  cosine  the counts, at length one
  tfidf   sqrt(count) idf, at length one (Salton & Buckley, 1988)
  bm25    idf count (k1 + 1) / (count + k1 (1 - b + b length / mean length)) (Robertson, 1995)

with idf = log(N) - log(1 + rows that have the column). Rows without any event are not counted.

B batch, I items (PAD included), U users (PAD included), M neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.sparse

from recjax.data.interactions import Interactions
from recjax.types import Array

# The most entries of a similarity matrix that are held at once.
_ENTRIES = 1 << 22


class Weighting(NamedTuple):
  """How a row of counts becomes a vector that is compared by products."""

  damp: Callable  # (count, length of the row over the mean length) -> weight, of NumPy or of JAX
  rare: bool  # whether weights are times idf
  unit: bool  # whether rows are compared at length one


def weighting(name: str, *, k1: float = 1.2, b: float = 0.75) -> Weighting:
  """The weighting of that name; `k1` and `b` are of bm25."""
  known = {
    "cosine": Weighting(lambda count, length: count, rare=False, unit=True),
    "tfidf": Weighting(lambda count, length: count**0.5, rare=True, unit=True),
    "bm25": Weighting(
      lambda count, length: count * (k1 + 1) / (count + k1 * (1 - b + b * length)),
      rare=True,
      unit=False,
    ),
  }
  if name not in known:
    raise ValueError(f"no weighting {name!r}; there is {', '.join(known)}")
  return known[name]


class Weighted(NamedTuple):
  """A weighted matrix, and what a further row is weighted by."""

  matrix: scipy.sparse.csr_array  # [N, F] float64
  idf: np.ndarray  # [F]; ones where the weighting has none
  mean_length: float


def counts(x: Interactions, num_items: int) -> scipy.sparse.csr_array:
  """[U, I] how often each user met each item."""
  if x.num_items > num_items:
    raise ValueError(f"the events know {x.num_items} items, the config num_items={num_items}")
  found = scipy.sparse.csr_array(
    (np.ones(len(x)), (x.user, x.item)), shape=(x.num_users, num_items)
  )
  found.sum_duplicates()
  return found


def weigh(met: scipy.sparse.csr_array, how: Weighting) -> Weighted:
  """The rows of `met` [N, F], counts, as vectors to compare."""
  length = np.asarray(met.sum(axis=1)).ravel()  # [N]
  rows = max(np.count_nonzero(length), 1)
  mean = max(length.sum(), 1) / rows
  idf = np.ones(met.shape[1])
  if how.rare:
    idf = np.log(rows) - np.log1p(np.bincount(met.indices, minlength=met.shape[1]))
  row = np.repeat(np.arange(len(length)), np.diff(met.indptr))
  weights = how.damp(met.data, length[row] / mean) * idf[met.indices]
  matrix = scipy.sparse.csr_array((weights, met.indices, met.indptr), shape=met.shape)
  return Weighted(matrix, idf, mean)


def lengths(matrix: scipy.sparse.csr_array) -> np.ndarray:
  """[N] the Euclidean length of each row."""
  return np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())


def most_similar(
  matrix: scipy.sparse.csr_array, k: int, *, unit: bool, shrink: float
) -> tuple[np.ndarray, np.ndarray]:
  """The k rows most similar to each, not itself: ids and similarities [N, k], 0 where none is left.

  A similarity is the product of two rows, over their lengths if `unit`, times n / (n + shrink)
  where n columns are common to both (Bell & Koren, ICDM 2007). Exact: every pair with a common
  column is looked at, some rows at a time. Ties go to the lower row.
  """
  size = matrix.shape[0]
  ids, sims = np.zeros((size, k), np.int32), np.zeros((size, k), np.float32)
  norm = np.maximum(lengths(matrix), 1e-12) if unit else np.ones(size)
  there = matrix.copy()
  there.data = np.ones_like(there.data)
  across, shared = matrix.T.tocsr(), there.T.tocsr()
  for rows in _blocks(np.minimum(there @ np.diff(shared.indptr), size)):
    dot = matrix[rows] @ across
    row, column = _places(dot, rows.start)
    sim = dot.data / (norm[row] * norm[column])
    if shrink:
      both = there[rows] @ shared  # holds every place that `dot` holds
      key, every = (r * size + c for r, c in ((row, column), _places(both, rows.start)))
      common = both.data[np.searchsorted(every, key)]
      sim *= common / (common + shrink)
    good = (row != column) & (sim > 0)
    row, column, sim = row[good], column[good], sim[good].astype(np.float32)
    best = np.lexsort((-sim, row))  # stable: columns ascend within a tie
    row, column, sim = row[best], column[best], sim[best]
    nth = np.arange(len(row)) - np.searchsorted(row, row)
    top = nth < k
    ids[row[top], nth[top]], sims[row[top], nth[top]] = column[top], sim[top]
  return ids, sims


def fallback(met: scipy.sparse.csr_array) -> np.ndarray:
  """[I] in [-1, 0), more popular items higher: scores where no neighbour has a say."""
  return (-1 / (1 + np.asarray(met.sum(axis=0)).ravel())).astype(np.float32)


def back_off(every: Array, fallback: Array) -> Array:
  """Scores [B, I], those that are 0 replaced: popular items first, behind all others."""
  return jnp.where(every > 0, every, fallback[None])


def _places(found: scipy.sparse.csr_array, start: int) -> tuple[np.ndarray, np.ndarray]:
  """The row and column of each entry, rows counted from `start`; sorts the entries by them."""
  found.sort_indices()
  row = np.repeat(np.arange(found.shape[0], dtype=np.int64), np.diff(found.indptr))
  return row + start, found.indices.astype(np.int64)


def _blocks(entries: np.ndarray) -> Iterator[slice]:
  """Runs of rows that have at most some `_ENTRIES` entries together, one row at least."""
  block = np.cumsum(entries) // _ENTRIES
  first = np.flatnonzero(np.diff(block, prepend=-1))
  for start, stop in zip(first, np.append(first[1:], len(entries)), strict=True):
    yield slice(int(start), int(stop))
