"""What a batch draws anew each time, on the host: `transforms` of `loader.Batches`.

B events, or histories of T items; n negatives of each.
"""

from __future__ import annotations

import numpy as np

from recjax.data import negatives
from recjax.data.examples import Examples
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


def same_target(found: Examples) -> Transform:
  """Batches of these histories get `alike` [B, T], another user's before the same target.

  Where nobody else has the target it is the row's own. It is as wide as the batch, so in a bucket
  of short histories the newest items alone are left of a long one.
  """
  target, user = (found.dense[name].astype(np.int64) for name in ("target", "user"))
  users = user.max() + 1
  order = np.lexsort((user, target))
  pairs = (target * users + user)[order]  # ascending

  def add(batch: HostBatch, rng: np.random.Generator) -> HostBatch:
    wanted, history = batch["target"].astype(np.int64) * users, batch["history"]
    first, last = np.searchsorted(pairs, wanted), np.searchsorted(pairs, wanted + users)
    own, end = (np.searchsorted(pairs, wanted + batch["user"], side) for side in ("left", "right"))
    others = (last - first) - (end - own)
    at = first + rng.integers(0, np.maximum(others, 1))
    at = np.where(at < own, at, at + end - own)  # the user's own are stepped over
    rows = order[np.minimum(at, len(order) - 1)]
    alike = found.left["history"].left_padded(rows, history.shape[1])
    return {**batch, "alike": np.where((others > 0)[:, None], alike, history)}

  return add


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
