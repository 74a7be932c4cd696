"""Two systems mixed by their scores (a weighted hybrid: Burke, UMUAI 2002), weighed on validation.

Scores of different kinds are made alike first: each user's scores over the catalogue get mean 0
and spread 1. What either cannot score is not recommended. The mixed system has the parameters and
assets of both, and the weight of the second.

B batch, I items (PAD included).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from recjax.data import loader
from recjax.decode import topk
from recjax.metrics import ranking
from recjax.types import PAD, Array, Assets, Params, System

_PARTS = ("first", "second")


def mix(first: System, second: System) -> System:
  """Answers from params {"first", "second", "weight"} and assets {"first", "second"}."""
  systems = dict(zip(_PARTS, (first, second), strict=True))

  def index(params, assets):
    return {
      name: assets[name] if s.index is None else s.index(params[name], assets[name])
      for name, s in systems.items()
    }

  def every(params, assets, batch):
    whole = {name: column for name, column in batch.items() if name != "candidates"}
    a, b = (_alike(s.score(params[n], assets[n], whole)) for n, s in systems.items())
    width = max(a.shape[1], b.shape[1])  # some have room for items to come
    a, b = (_widened(x, width) for x in (a, b))
    there = jnp.isfinite(a) & jnp.isfinite(b)
    return jnp.where(there, (1 - params["weight"]) * a + params["weight"] * b, -jnp.inf)

  def score(params, assets, batch):
    return topk.scores(every(params, assets, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, assets, batch), batch, k=k)

  return System(score=score, recommend=recommend, index=index)


def fit_weight(
  system: System,  # of `mix`
  params: Params,  # {"first", "second"}
  assets: Assets,
  valid: loader.Batches,  # with `target` [B]
  *,
  k: int = 10,
  weights: Sequence[float] = tuple(np.linspace(0, 1, 11)),
) -> float:
  """The weight of the second system that has the greatest NDCG@k; the least of equals."""
  assets = jax.jit(system.index)(params, assets)

  @jax.jit
  def gains(batch):  # [W]
    question = {n: c for n, c in batch.items() if n not in ("target", "next", "weight")}

    def one(weight):
      scores = system.score(params | {"weight": weight}, assets, question)
      ranks = ranking.ranks(scores, batch["target"], deny=batch.get("deny"))
      return jnp.where(batch["weight"] > 0, ranking.ndcg_at(ranks, k), 0).sum()

    return jax.lax.map(one, jnp.asarray(weights, jnp.float32))

  total = sum(np.asarray(gains(batch), np.float64) for batch in loader.load(valid))
  return float(weights[int(np.argmax(total))])


def _alike(scores: Array) -> Array:
  """[B, I] with mean 0 and spread 1 over each row's finite scores; PAD stays out."""
  items = scores[:, PAD + 1 :]
  there = jnp.isfinite(items)
  count = jnp.maximum(there.sum(1, keepdims=True), 1)
  items = items - jnp.where(there, items, 0).sum(1, keepdims=True) / count
  spread = jnp.sqrt(jnp.where(there, jnp.square(items), 0).sum(1, keepdims=True) / count)
  return jnp.pad(items / jnp.maximum(spread, 1e-6), ((0, 0), (1, 0)))


def _widened(scores: Array, width: int) -> Array:
  return jnp.pad(scores, ((0, 0), (0, width - scores.shape[1])), constant_values=-jnp.inf)
