"""What a batch draws anew each time, on the host: `transforms` of `loader.Batches`.

B events, n negatives of each.
"""

from __future__ import annotations

import numpy as np

from recjax.data import negatives
from recjax.data.interactions import Impressions
from recjax.data.loader import HostBatch, Transform


def beside(positives: negatives.Positives, n: int) -> Transform:
  """Batches of events get `candidates` [B, n], items that the user has not met."""
  sampler = negatives.uniform(positives)

  def add(batch: HostBatch, rng: np.random.Generator) -> HostBatch:
    return {**batch, "candidates": sampler.draw(rng, batch["user"], n)}

  return add


def by_user(positives: negatives.Positives) -> Transform:
  """Batches of events become draws in which users are alike: a user, then one of their items."""
  users = np.flatnonzero(positives.count)

  def redraw(batch: HostBatch, rng: np.random.Generator) -> HostBatch:
    others = batch.keys() - {"user", "target", "weight"}
    if others:
      raise ValueError(f"{', '.join(sorted(others))} would stay those of other events")
    user = rng.choice(users, len(batch["user"]))
    at = positives.start[user] + rng.integers(0, positives.count[user])
    found = {"user": user, "target": positives.items[at]}
    return {**batch, **{name: x.astype(batch[name].dtype) for name, x in found.items()}}

  return redraw


def shown(x: Impressions, n: int) -> Transform:
  """Batches of `examples.clicks(x)` get `candidates` and `labels` [B, 1 + n] in place of a target.

  The first was taken, the others were shown beside it and were not. Fewer than `n` go round again,
  PAD stands where there was none.
  """
  if n < 1:
    raise ValueError(f"{n} negatives beside a click teach nothing: draw at least one")

  def add(batch: HostBatch, rng: np.random.Generator) -> HostBatch:
    batch = dict(batch)
    taken, rows = batch.pop("target"), batch.pop("impression")
    candidates = np.column_stack([taken, negatives.impression(rng, x, rows, n)])
    labels = np.zeros(candidates.shape, np.float32)
    labels[:, 0] = 1
    return {**batch, "candidates": candidates.astype(np.int32), "labels": labels}

  return add
