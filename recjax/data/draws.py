"""What a batch of events draws anew each time, on the host: `transforms` of `loader.Batches`.

B events, n negatives of each.
"""

from __future__ import annotations

import numpy as np

from recjax.data import negatives
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
