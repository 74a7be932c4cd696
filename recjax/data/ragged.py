"""Rows of unequal length in two flat arrays, gathered into padded batches without a loop."""

from __future__ import annotations

import dataclasses

import numpy as np

from recjax.types import PAD


@dataclasses.dataclass(frozen=True, eq=False)
class Ragged:
  """Row i is `values[start[i]:stop[i]]`. Rows may overlap: all prefixes of a history share it."""

  values: np.ndarray  # [N]
  start: np.ndarray  # [R] int64
  stop: np.ndarray  # [R] int64

  @classmethod
  def from_lengths(cls, values: np.ndarray, lengths: np.ndarray) -> Ragged:
    stop = np.cumsum(lengths, dtype=np.int64)
    if len(values) != (stop[-1] if len(stop) else 0):
      raise ValueError(f"{len(values)} values do not fill rows of {lengths.sum()} in all")
    return cls(values, stop - lengths, stop)

  @classmethod
  def from_rows(cls, rows, dtype=np.int32) -> Ragged:
    lengths = np.fromiter((len(r) for r in rows), np.int64)
    parts = [np.asarray(r, dtype) for r in rows]
    return cls.from_lengths(np.concatenate(parts) if parts else np.zeros(0, dtype), lengths)

  def __len__(self) -> int:
    return len(self.start)

  def __getitem__(self, i: int) -> np.ndarray:
    return self.values[self.start[i] : self.stop[i]]

  @property
  def lengths(self) -> np.ndarray:
    return self.stop - self.start

  def take(self, rows: np.ndarray) -> Ragged:
    return Ragged(self.values, self.start[rows], self.stop[rows])

  def flat(self, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Which of the rows (all, if None) each of their values is of, and these values, in order."""
    start, count = self.start, self.lengths
    if rows is not None:
      start, count = start[rows], count[rows]
    of = np.repeat(np.arange(len(count)), count)
    within = np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)
    return of, self.values[start[of] + within]

  def left_padded(self, rows: np.ndarray, width: int, fill=PAD) -> np.ndarray:
    """[len(rows), width]: the last `width` values of each row, at the right edge."""
    stop = self.stop[rows]
    at = stop[:, None] + np.arange(-width, 0)  # [B, width]
    return self._gather(at, at >= self.start[rows][:, None], fill)

  def right_padded(self, rows: np.ndarray, width: int, fill=PAD) -> np.ndarray:
    """[len(rows), width]: the first `width` values of each row, at the left edge."""
    at = self.start[rows][:, None] + np.arange(width)
    return self._gather(at, at < self.stop[rows][:, None], fill)

  def _gather(self, at: np.ndarray, where: np.ndarray, fill) -> np.ndarray:
    if not len(self.values):
      return np.full(at.shape, fill, self.values.dtype)
    out = self.values.take(at, mode="clip")
    out[~where] = fill
    return out
