"""Scores of every item -> answers: the best k, or those of given candidates.

B batch, I items (PAD included), K results, C candidates, N denied or allowed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from recjax.types import PAD, Array, Batch, Ranked


def scores(every: Array, batch: Batch) -> Array:
  """What `System.score` answers from [B, I]: of `candidates` [B, C] where asked, else of all."""
  if "candidates" in batch:
    return jnp.take_along_axis(every, batch["candidates"], axis=1)
  return every.at[:, PAD].set(-jnp.inf)


def rank(every: Array, batch: Batch, *, k: int) -> Ranked:
  """What `System.recommend` answers from [B, I]: the best k that `allow` and `deny` leave.

  An item whose score is NaN is never among them; of equal scores, 0 and -0 too, the first item is.
  """
  if k >= every.shape[1]:
    raise ValueError(f"k is {k}, but there are {every.shape[1] - 1} items")
  every = jnp.where(every == 0, 0, every).at[:, PAD].set(-jnp.inf)
  rows = jnp.arange(len(every))[:, None]
  if "allow" in batch:
    allowed = jnp.zeros(every.shape, bool).at[rows, batch["allow"]].set(True)
    every = jnp.where(allowed, every, -jnp.inf)
  if "deny" in batch:
    every = every.at[rows, batch["deny"]].set(-jnp.inf)
  best, ids = jax.lax.top_k(jnp.where(jnp.isnan(every), -jnp.inf, every), k)
  return Ranked(jnp.where(best > -jnp.inf, ids, PAD), best)


def mixed(one: Ranked, other: Ranked, count: int) -> Ranked:
  """K results, `count` of them the best of `other`, the rest the best of `one`; by their scores.

  Where one has fewer than its part, more of the other stay.
  """
  k = one.ids.shape[1]
  if not 0 <= count <= k or other.ids.shape[1] < count:
    raise ValueError(f"{count} of {k} results cannot come from {other.ids.shape[1]}")
  have, offered = ((x.ids != PAD).sum(1, keepdims=True) for x in (one, other))
  taken = jnp.minimum(offered, jnp.maximum(count, k - have))
  ids = jnp.concatenate([one.ids, other.ids], axis=1)
  scores = jnp.concatenate([one.scores, other.scores], axis=1)
  place = jnp.arange(ids.shape[1])[None]
  keep = (ids != PAD) & jnp.where(place < k, place < k - taken, place < k + taken)
  ids, scores = jnp.where(keep, ids, PAD), jnp.where(keep, scores, -jnp.inf)
  best, at = jax.lax.top_k(scores, k)
  return Ranked(jnp.take_along_axis(ids, at, axis=1), best)
