"""Two systems mixed by their scores (a weighted hybrid: Burke, UMUAI 2002), weighed on validation.

Scores of different kinds are made alike first: each user's scores over the catalogue get mean 0
and spread 1. The mixed system has the parameters and assets of both, and the weight of the second.

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
    return (1 - params["weight"]) * a + params["weight"] * b

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
  """[B, I] with mean 0 and spread 1 over each row's items; PAD stays out."""
  items = scores[:, PAD + 1 :]
  items = items - items.mean(1, keepdims=True)
  spread = jnp.sqrt(jnp.square(items).mean(1, keepdims=True))
  return jnp.pad(items / jnp.maximum(spread, 1e-6), ((0, 0), (1, 0)))
