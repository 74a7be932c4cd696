"""Batches: a deterministic plan for each epoch, read through Grain, resumed at the exact batch.

Batch i of a run is a function of (examples, sizes, seed, i) alone. So its position is one
integer, threads may prefetch in any order, and each process gathers its own rows of the same
global batch. Gathering is vectorised; there is no loop over examples.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import grain
import numpy as np

HostBatch = dict[str, np.ndarray]
# Runs on the whole global batch, so that a draw does not depend on the number of processes.
Transform = Callable[[HostBatch, np.random.Generator], HostBatch]


class Source(Protocol):
  """What can be gathered by row: `examples.Examples` in memory, `records.Records` on disk."""

  lengths: np.ndarray  # [E], what bucketing goes by

  def __len__(self) -> int: ...

  def widths(self, max_len: int) -> dict[str, int]: ...

  def gather(self, rows: np.ndarray, widths: Mapping[str, int]) -> HostBatch: ...


class Batches:
  """All batches of a run by index, a `grain.RandomAccessDataSource`.

  Every array leads with `batch_size` rows; of `even` batches those of the widest bucket do, others
  with a multiple. A loss that is a mean over places then weighs them about alike: in batches of as
  many rows each, a place of a short history, among fewer, counts for more. `weight` is 1 for an
  example and 0 for a row that only fills the last batch of a bucket (a copy of the batch's first).
  """

  def __init__(
    self,
    source: Source,
    batch_size: int,
    *,
    max_len: int | Sequence[int],  # the width of histories, or the widths of length buckets
    seed: int | None = None,  # None: in order, as evaluation wants it
    epochs: int | None = 1,  # None: for ever
    even: bool = False,  # narrower batches have more rows, about as many places in all
    shard: tuple[int, int] = (0, 1),  # (this process, processes)
    transforms: Sequence[Transform] = (),
  ):
    buckets = [max_len] if isinstance(max_len, int) else list(max_len)
    index, count = shard
    if not len(source):
      raise ValueError("there are no examples to batch")
    if batch_size < 1 or batch_size % count or not 0 <= index < count:
      raise ValueError(f"a batch of {batch_size} does not split over process {index} of {count}")
    if buckets != sorted(set(buckets)) or buckets[0] < 1:
      raise ValueError(f"the bucket widths must be positive and ascending, they are {buckets}")
    self.batch_size, self.seed, self.epochs = batch_size, seed, epochs
    self._source, self._transforms = source, tuple(transforms)
    self.shard = index, count
    self._sizes = [batch_size * (buckets[-1] // width if even else 1) for width in buckets]
    self._widths = [source.widths(width) for width in buckets]
    # A row goes to the narrowest bucket that holds it; the widest cuts what is longer still.
    place = np.zeros(len(source), np.int64)
    if len(buckets) > 1:
      place = np.minimum(np.searchsorted(buckets, source.lengths), len(buckets) - 1)
    self._members = [np.flatnonzero(place == b) for b in range(len(buckets))]
    numbers = [-(-len(m) // size) for m, size in zip(self._members, self._sizes, strict=True)]
    self.per_epoch = sum(numbers)
    rows = sum(n * size for n, size in zip(numbers, self._sizes, strict=True))
    self.mean_size = rows / self.per_epoch  # rows of a batch, on average
    self._plan = functools.lru_cache(maxsize=2)(self._make_plan)

  def __len__(self) -> int:
    # Grain wants a length: for ever is more batches than any run counts.
    return self.per_epoch * self.epochs if self.epochs is not None else 2**62

  def __getitem__(self, at: int) -> HostBatch:
    epoch, nth = divmod(int(at), self.per_epoch)
    rows, bucket = self._plan(epoch)
    rows, widths = rows[nth], self._widths[bucket[nth]]
    index, count = self.shard
    begin, end = (n * len(rows) // count for n in (index, index + 1))
    if not self._transforms:
      rows = rows[begin:end]
    # Row 0 of a planned batch is always real, but this process's share may be all filling.
    batch = self._source.gather(np.where(rows < 0, self._first(epoch, nth), rows), widths)
    batch["weight"] = (rows >= 0).astype(np.float32)
    if self._transforms:
      rng = np.random.default_rng([self.seed or 0, int(at)])
      for transform in self._transforms:
        batch = transform(batch, rng)
      batch = {name: column[begin:end] for name, column in batch.items()}
    return batch

  def bucket(self, index: int) -> int:
    """The length bucket of batch `index`: batches of one bucket have one shape."""
    epoch, nth = divmod(int(index), self.per_epoch)
    return int(self._plan(epoch)[1][nth])

  def _first(self, epoch: int, nth: int) -> int:
    return self._plan(epoch)[0][nth][0]

  def _make_plan(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The epoch's M batches, rows [B] each, -1 where there is none, and their buckets [M]."""
    rng = None if self.seed is None else np.random.default_rng([self.seed, epoch])
    plan, bucket = [], []
    for nth, (rows, size) in enumerate(zip(self._members, self._sizes, strict=True)):
      rows = rows if rng is None else rng.permutation(rows)
      filling = np.full(-len(rows) % size, -1)
      plan += list(np.concatenate([rows, filling]).reshape(-1, size))
      bucket += [nth] * (len(plan) - len(bucket))
    if rng is not None and len(self._members) > 1:
      mixed = rng.permutation(len(plan))
      plan, bucket = [plan[i] for i in mixed], [bucket[i] for i in mixed]
    return plan, np.array(bucket)


def load(batches: Batches, *, threads: int = 1, prefetch: int = 4) -> grain.DatasetIterator:
  """Iterates with `threads` gathering up to `prefetch` batches ahead.

  `get_state()` gives the position, a small dict that saves as JSON; `set_state(position)` makes
  the next batch the one that would have come.
  """
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
  return iter(grain.MapDataset.source(batches).to_iter_dataset(options))
