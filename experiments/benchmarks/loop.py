"""What the loop adds to the bare jitted step of TIGER's size, and what a checkpoint costs."""

from __future__ import annotations

import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np

from experiments.benchmarks import timing
from recjax.data import examples, loader
from recjax.data.ragged import Ragged
from recjax.systems.generative import tiger
from recjax.train import loop, mesh, optim, process, step

_STEPS, _ROUNDS, _BATCH = 10, 3, 256


def figures() -> Iterator[timing.Figure]:
  cfg = tiger.Config()
  rng = np.random.default_rng(0)
  codes = np.concatenate([np.full((1, 4), -1), _distinct(rng, 12_000)])
  system, assets = tiger.make(cfg), tiger.assets(cfg, codes)
  rows = 4096
  history = Ragged.from_lengths(
    rng.integers(1, 12_001, rows * 20).astype(np.int32), np.full(rows, 20)
  )
  dense = {"user": rng.integers(1, 22_000, rows), "target": rng.integers(1, 12_001, rows)}
  found = examples.Examples({k: v.astype(np.int32) for k, v in dense.items()}, {"history": history})
  train = loader.Batches(found, _BATCH, max_len=20, seed=0, epochs=None)

  bare, looped, waits, saves = [], [], [], []
  run = _bare(system, assets, train)
  for _ in range(_ROUNDS):
    bare.append(run())
    with tempfile.TemporaryDirectory() as folder:
      told = _fit(system, assets, train, folder, save_every=10**9)
    looped.append(told["perf/step_ms"] / 1e3)
    waits.append(told["perf/input_wait"])
    with tempfile.TemporaryDirectory() as folder:
      saved = _fit(system, assets, train, folder, save_every=5)
    saves.append((saved["perf/step_ms"] - told["perf/step_ms"]) / 1e3 * 5)
  step_s, loop_s = statistics.median(bare), statistics.median(looped)
  yield timing.cost("loop/step", "s", loop_s, bare=step_s, spread=timing.spread(bare))
  added = statistics.median(b / a - 1 for a, b in zip(bare, looped, strict=True))
  yield timing.cost("loop/added", "share", added)
  yield timing.cost("loop/input_wait", "share", statistics.median(waits))
  save_s = statistics.median(saves)
  yield timing.cost("checkpoint/save", "s", save_s, share_at_one_a_minute=save_s / 60)


def _bare(system, assets, train):
  """The step alone, on a batch that is already there."""
  grid = mesh.make_mesh()
  cfg = loop.Config(steps=1, optimizer=_OPTIMIZER)
  optimizer = optim.make(cfg.optimizer, 1, system)
  assets, batch = mesh.put(assets, grid), mesh.put_batch(train[0], grid)
  state = loop.fresh(system, optimizer, assets, batch, cfg, grid, ())
  one = jax.jit(
    step.make_step(system, optimizer),
    donate_argnums=0,
    compiler_options=dict(process.train_options()),
  )
  held = [one(state, assets, batch)[0]]

  def run() -> float:
    start = time.perf_counter()
    for _ in range(_STEPS):
      held[0], metrics = one(held[0], assets, batch)
    jax.block_until_ready((held[0], metrics))
    return (time.perf_counter() - start) / _STEPS

  run()
  return run


_OPTIMIZER = optim.Config(rate=1e-3)


def _fit(system, assets, train, folder: str, save_every: int) -> dict[str, float]:
  """The second report of a run: the first holds the warm-up."""
  cfg = loop.Config(steps=2 * _STEPS, optimizer=_OPTIMIZER, log_every=_STEPS, save_every=save_every)
  loop.fit(system, assets, train, cfg, workdir=folder)
  lines = (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()
  return json.loads(lines[-1])


def _distinct(rng: np.random.Generator, count: int) -> np.ndarray:
  key = rng.choice(256**4, count, replace=False)
  return np.stack([(key >> (8 * i)) & 255 for i in range(4)], axis=1)
