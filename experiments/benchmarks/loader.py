"""The loader: histories of 20 items a second, from memory and from records on disk."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np

from experiments.benchmarks import timing
from recjax.data import examples, interactions, loader, prepare, records

_BATCH, _STEPS = 256, 500


def figures() -> Iterator[timing.Figure]:
  rng = np.random.default_rng(0)
  events, users, items = 2_000_000, 100_000, 12_000
  x = interactions.from_columns(
    rng.integers(0, users, events), rng.integers(0, items, events), timestamp=np.arange(events)
  )
  found = examples.prefixes(prepare.order(x, ties=prepare.file_order))
  work = _BATCH * _STEPS

  def drain(source, threads, **options):
    batches = loader.Batches(source, _BATCH, seed=0, epochs=None, **options)

    def run():
      flow = loader.load(batches, threads=threads)
      for _ in range(_STEPS):
        next(flow)

    return run

  one = drain(found, 1, max_len=20)
  bare = drain(found, 0, max_len=20)
  bucketed = drain(found, 1, max_len=[5, 10, 20])
  taken = timing.seconds(one, bare, bucketed)
  for name, times in zip(("thread", "in_line", "thread_bucketed"), taken, strict=True):
    # The floor: copying the batch's own bytes once at 10 GB/s.
    floor = 10e9 / (4 * 23)
    yield timing.rate(f"loader/memory/{name}", "histories/s", work, times, floor=floor)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "records"
    records.write([found.take(np.arange(200_000))], path)
    (times,) = timing.seconds(drain(records.Records(path), 1, max_len=20), rounds=3)
    yield timing.rate("loader/records", "histories/s", work, times)
