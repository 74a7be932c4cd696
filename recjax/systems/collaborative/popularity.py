"""Popularity: what most users meet, for everyone. The least that a recommender must beat.

Unlike most: events are counted, not users, so that an item met twice by one user counts twice.

B batch, I items (PAD included), K results, N denied.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from recjax.types import PAD, Ranked, System


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I


def make(cfg: Config) -> System:
  def fit(assets, interactions):
    return {"count": np.bincount(interactions.item, minlength=cfg.num_items).astype(np.float32)}

  def score(params, assets, batch):
    count = jnp.broadcast_to(params["count"][None], (len(batch["user"]), cfg.num_items))
    if "candidates" in batch:
      return jnp.take_along_axis(count, batch["candidates"], axis=1)
    return count.at[:, PAD].set(-jnp.inf)

  def recommend(params, assets, batch, *, k, key=None):
    scores = score(params, assets, {"user": batch["user"]})
    if "deny" in batch:
      rows = jnp.arange(len(scores))[:, None]
      scores = scores.at[rows, batch["deny"]].set(-jnp.inf)
    scores, ids = jax.lax.top_k(scores, k)
    return Ranked(jnp.where(scores > -jnp.inf, ids, PAD), scores)

  return System(fit=fit, score=score, recommend=recommend)
