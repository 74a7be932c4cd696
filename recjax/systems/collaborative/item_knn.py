"""Item-kNN (Sarwar et al., WWW 2001), https://doi.org/10.1145/371920.372071.

An item's neighbours are those whose users are most alike: by cosine, or by TF-IDF or BM25 of the
user-item matrix, shrunk where few users tell (`neighbours`). An item's score is the sum of its
similarities to the items of the history whose neighbour it is; an item met twice speaks twice.

Unlike the paper: sums instead of means weighted by ratings, so that a ranking can be made of
events. Where no neighbour speaks for an item (an empty history, a cold item), popularity orders
what is left, behind all the others.

Fitting holds a part of the item-item matrix at a time; the parameters are [I, M].

B batch, T history, I items (PAD included), M neighbours, K results.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from recjax.decode import topk
from recjax.systems.collaborative import neighbours
from recjax.types import PAD, System


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  neighbours: int = 100  # M
  weighting: str = "cosine"  # cosine, tfidf, bm25
  shrink: float = 0.0  # common users at which a similarity counts half
  k1: float = 1.2  # of bm25
  b: float = 0.75  # of bm25


def make(cfg: Config) -> System:
  how = neighbours.weighting(cfg.weighting, k1=cfg.k1, b=cfg.b)

  def fit(assets, interactions):
    """The neighbours of each item, [I, M] ids and similarities, PAD and 0 where there are fewer."""
    met = neighbours.counts(interactions, cfg.num_items)
    weighted = neighbours.weigh(met.T.tocsr(), how)  # [I, U]
    ids, sims = neighbours.most_similar(
      weighted.matrix, cfg.neighbours, unit=how.unit, shrink=cfg.shrink
    )
    return {"ids": ids, "sims": sims, "fallback": neighbours.fallback(met)}

  def every(params, batch):
    params = jax.tree.map(jnp.asarray, params)  # as fitted they are NumPy's
    history = batch["history"]
    near = params["ids"][history].reshape(len(history), -1)  # [B, T * M]
    sims = jnp.where((history != PAD)[..., None], params["sims"][history], 0)
    rows = jnp.arange(len(history))[:, None]
    found = jnp.zeros((len(history), cfg.num_items)).at[rows, near].add(sims.reshape(near.shape))
    return neighbours.back_off(found, params["fallback"])

  def score(params, assets, batch):
    return topk.scores(every(params, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, batch), batch, k=k)

  return System(fit=fit, score=score, recommend=recommend)
