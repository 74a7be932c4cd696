"""Targets that TIGER learns a second, packed against one prefix an example, at equal sizes.

Histories of 20 items as long as they go: packed, a batch of 64 of them has 20 targets each; one
prefix an example, a batch of 256 has one each, padded to 20 items or to the next of three widths
(`buckets`), as `tiger_beauty` does. The same item-causal model either way, so the same loss.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from experiments.benchmarks import timing
from recjax.data import examples, interactions, loader
from recjax.systems.generative import tiger, tiger_lm
from recjax.train import loop, mesh, optim, process, step
from recjax.types import System

_ITEMS, _LENGTH, _USERS, _STEPS = 12_000, 20, 2_000, 8
_SIZES = {"heads": 4, "head_dim": 32, "ff": 512, "dropout": 0.15, "user_buckets": 0}
_WAYS = {"width 20": (20,), "buckets 5, 10, 20": (5, 10, 20)}  # of one prefix an example


def figures() -> Iterator[timing.Figure]:
  rng = np.random.default_rng(0)
  codes = np.unravel_index(rng.permutation(256**3)[:_ITEMS], (256,) * 3)
  codes = np.concatenate([np.full((1, 3), -1), np.stack(codes, 1)])
  user = np.repeat(np.arange(_USERS), _LENGTH + 1)
  x = interactions.from_columns(
    user,
    rng.permutation(_ITEMS)[rng.integers(0, _ITEMS, len(user))],
    timestamp=np.arange(len(user)),
  )
  made = {
    "tiger": (tiger, tiger.Config((256,) * 3, layers=3, item_causal=True, recency=20, **_SIZES)),
    "tiger_lm": (tiger_lm, tiger_lm.Config((256,) * 3, layers=6, **_SIZES)),
  }
  whole = loader.Batches(examples.sequences(x, _LENGTH), 64, max_len=_LENGTH, seed=0, epochs=None)
  prefixes = examples.prefixes(x)
  for name, (module, cfg) in made.items():
    system, assets = module.make(cfg), module.assets(cfg, codes)
    ours, targets = _trained(system, assets, whole)
    for way, widths in _WAYS.items():
      apart = loader.Batches(prefixes, 256, max_len=widths, seed=0, epochs=None)
      theirs, fewer = _trained(system, assets, apart)
      packed, single = timing.seconds(ours, theirs, rounds=5)
      # A rate of each, as they do unequal work in a run.
      single = [s * targets / fewer for s in single]
      yield timing.rate(
        f"{name}/{way}", "targets/s", targets, packed, "one prefix an example", single
      )


def _trained(system: System, assets, batches: loader.Batches):
  """A function that trains some steps on batches that are there, and how many targets they have."""
  grid = mesh.make_mesh()
  cfg = loop.Config(steps=1, optimizer=optim.Config(rate=1e-3))
  optimizer = optim.make(cfg.optimizer, 1, system)
  assets = mesh.put(assets, grid)
  host = [batches[i] for i in range(_STEPS)]
  given = [mesh.put_batch(batch, grid) for batch in host]
  one = jax.jit(
    step.make_step(system, optimizer),
    donate_argnums=0,
    compiler_options=dict(process.train_options()),
  )
  held = [loop.fresh(system, optimizer, assets, given[0], cfg, grid, ())]

  def run() -> None:
    for batch in given:
      held[0], _ = one(held[0], assets, batch)
    jax.block_until_ready(held[0])

  learned = [b["next"] if "next" in b else b["target"] for b in host]
  return run, int(sum((items != 0).sum() for items in learned))
