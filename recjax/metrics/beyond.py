"""Beyond accuracy: what the lists cover, how evenly, how new, how varied, how popular.

`exposure` is a statistic that adds up (catalogue coverage, Gini); the others give one value a
list [B], 0 for an empty list. PAD places do not count anywhere.

B lists, K places, I items (PAD included), D width.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax.numpy as jnp

from recjax.metrics.additive import keep, namespace, ratio
from recjax.types import PAD, Array


class Exposure(NamedTuple):
  """How often each item was recommended."""

  count: Array  # [I] int32, PAD's is 0

  def finish(self) -> dict[str, Array]:
    """`coverage`: the share of items ever shown. `gini`: 0 all equally often, towards 1 few."""
    xp = namespace(self.count)
    shown = xp.sort(self.count[1:])  # ascending, PAD left out
    n = len(shown)
    # Weights of the sorted counts lie in (-1, 1), so float32 is enough for the sum.
    weights = (2 * xp.arange(1, n + 1) - n - 1) / max(n, 1)
    gini = ratio((weights * shown).sum(), shown.sum())
    return {"coverage": (shown > 0).sum() / max(n, 1), "gini": gini}


def exposure(ids: Array, *, num_items: int, where: Array | None = None) -> Exposure:
  """Counts the items of the lists `ids` [B, K] that `where` [B] keeps."""
  chex.assert_rank(ids, 2)
  kept = _filled(ids)
  if where is not None:
    kept &= where[:, None]
  counts = jnp.zeros(num_items, jnp.int32).at[ids].add(kept.astype(jnp.int32), mode="drop")
  return Exposure(counts)


def novelty(ids: Array, popularity: Array, *, num_users: int, where: Array | None = None) -> Array:
  """Mean self-information of a list, in bits: -log2 of the share of users who know each item.

  `popularity` [I] counts those users. An item that nobody knows is taken as known to one.
  """
  known = jnp.maximum(jnp.asarray(popularity, jnp.float32), 1.0) / num_users
  return keep(_mean(-jnp.log2(known)[ids], _filled(ids)), where)


def recommended_popularity(ids: Array, popularity: Array, where: Array | None = None) -> Array:
  """ARP: the mean of `popularity` [I] over a list's items."""
  return keep(_mean(jnp.asarray(popularity, jnp.float32)[ids], _filled(ids)), where)


def head_share(ids: Array, head: Array, where: Array | None = None) -> Array:
  """The share of a list's items that are in the `head` [I] bool."""
  return keep(_mean(jnp.asarray(head, jnp.float32)[ids], _filled(ids)), where)


def head_items(popularity: Array, share: float = 0.2) -> Array:
  """bool [I]: the most popular `share` of the items, ties by lower id; PAD is never one."""
  popularity = jnp.asarray(popularity, jnp.float32).at[PAD].set(-jnp.inf)
  order = jnp.argsort(-popularity, stable=True)
  size = round(share * (len(popularity) - 1))
  return jnp.zeros(len(popularity), bool).at[order[:size]].set(True)


def diversity(ids: Array, vectors: Array, where: Array | None = None) -> Array:
  """Intra-list diversity: mean of 1 - cosine over a list's pairs; 0 with fewer than two items.

  `vectors` is [I, D]; a zero vector is orthogonal to everything.
  """
  chex.assert_rank([ids, vectors], 2)
  rows = jnp.asarray(vectors, jnp.float32)[ids]  # [B, K, D]
  norms = jnp.sqrt(jnp.sum(rows**2, axis=-1, keepdims=True))
  rows = rows / jnp.where(norms > 0, norms, 1.0)
  cosines = jnp.einsum("bkd,bjd->bkj", rows, rows)
  filled = _filled(ids)
  pair = filled[:, :, None] & filled[:, None, :] & ~jnp.eye(ids.shape[1], dtype=bool)[None]
  apart = jnp.sum(1 - cosines, axis=(1, 2), where=pair)
  return keep(ratio(apart, jnp.sum(pair, axis=(1, 2))), where)


def entropy(ids: Array, group: Array, where: Array | None = None) -> Array:
  """The entropy, in nats, of the groups [I] (such as categories) of a list's items."""
  chex.assert_rank([ids, group], [2, 1])
  groups, filled = jnp.asarray(group)[ids], _filled(ids)
  same = (groups[:, :, None] == groups[:, None, :]) & filled[:, None, :]
  share = ratio(jnp.sum(same, axis=2), jnp.sum(filled, axis=1)[:, None])  # [B, K] of each's group
  return keep(_mean(-jnp.log(jnp.where(filled, share, 1.0)), filled), where)


def _filled(ids: Array) -> Array:
  return jnp.asarray(ids) != PAD  # [B, K]


def _mean(values: Array, filled: Array) -> Array:
  return ratio(jnp.sum(values, axis=1, where=filled), jnp.sum(filled, axis=1))
