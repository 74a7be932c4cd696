"""Popularity: what most users meet, for everyone. The least that a recommender must beat.

Unlike most: events are counted, not users, so that an item met twice by one user counts twice.

B batch, I items (PAD included), K results, N denied.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from recjax.decode import topk
from recjax.systems.collaborative import neighbours
from recjax.types import System


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I


def make(cfg: Config) -> System:
  def fit(assets, interactions):
    met = neighbours.counts(interactions, cfg.num_items)
    return {"count": np.asarray(met.sum(axis=0), np.float32).ravel()}

  def every(params, batch):
    rows = len(next(iter(batch.values())))  # any column tells: nothing is read of them
    return jnp.broadcast_to(params["count"][None], (rows, cfg.num_items))

  def score(params, assets, batch):
    return topk.scores(every(params, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, batch), batch, k=k)

  return System(fit=fit, score=score, recommend=recommend)
