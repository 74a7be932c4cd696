"""User-kNN (Resnick et al., CSCW 1994), https://doi.org/10.1145/192844.192905.

A user is the set of the items met. Its neighbours are the M training users of the most similar
sets (cosine, TF-IDF or BM25, shrunk where few items are common: `neighbours`), and an item's score
is the sum of the similarities of those neighbours that met it. It is answered from `history`
alone, so unseen users are users like any other; `user` only keeps a training user's own row from
being its own neighbour, so an unseen user must have an id that no training user has (PAD will do).

Unlike the paper: sums instead of deviations from mean ratings, so that a ranking can be made of
events. Where no neighbour speaks for an item (an empty history, a cold item), popularity orders
what is left, behind all the others.

How it scales: the training matrix is kept as compressed rows, and an answer is two products with
it on the device, E B multiply-adds each (three with shrinkage), and the best M of U users. On a CPU
it holds (U + I) B numbers at once; elsewhere JAX runs the products by gathering, and holds E B.
Exact, and good to some millions of events; beyond that use item-kNN, whose answers cost T M.

B batch, T history, I items (PAD included), U users (PAD included), E entries, M neighbours.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.experimental import sparse

from recjax.decode import topk
from recjax.systems.collaborative import neighbours
from recjax.types import PAD, Array, System


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  neighbours: int = 100  # M
  weighting: str = "cosine"  # cosine, tfidf, bm25
  shrink: float = 0.0  # common items at which a similarity counts half
  k1: float = 1.2  # of bm25
  b: float = 0.75  # of bm25


def make(cfg: Config) -> System:
  how = neighbours.weighting(cfg.weighting, k1=cfg.k1, b=cfg.b)

  def fit(assets, interactions):
    """The rows of users and of items, and the scales that a history is weighted by."""
    met = neighbours.counts(interactions, cfg.num_items)
    weighted = neighbours.weigh(met, how)
    return {
      "users": _compressed(weighted.matrix),  # [U, I]
      "items": _compressed(met.T.tocsr()) | {"weight": np.ones(met.nnz, np.float32)},  # [I, U]
      "norm": neighbours.lengths(weighted.matrix).astype(np.float32),  # [U]
      "idf": weighted.idf.astype(np.float32),  # [I]
      "mean_length": np.float32(weighted.mean_length),
      "fallback": neighbours.fallback(met),
    }

  def similarities(params, batch):
    """[B, U] of each history to each training user, the user's own row at 0."""
    history = batch["history"]
    rows = jnp.arange(len(history))[:, None]
    count = jnp.zeros((len(history), cfg.num_items)).at[rows, history].add(history != PAD)
    length = jnp.maximum(count.sum(1, keepdims=True), 1) / params["mean_length"]
    query = how.damp(jnp.maximum(count, 1), length) * params["idf"][None]  # [B, I]
    query = jnp.where(count > 0, query, 0)
    sims = _product(params["users"], query.T).T
    if how.unit:
      norm = jnp.sqrt(jnp.square(query).sum(1, keepdims=True)) * params["norm"][None]
      sims = jnp.where(norm > 0, sims / jnp.where(norm > 0, norm, 1), 0)
    if cfg.shrink:
      alike = params["users"] | {"weight": jnp.ones_like(params["users"]["weight"])}
      common = _product(alike, (count > 0).astype(jnp.float32).T).T
      sims *= common / (common + cfg.shrink)
    if "user" in batch:
      sims = sims.at[rows[:, 0], batch["user"]].set(0, mode="drop")
    return sims

  def every(params, batch):
    users = len(params["norm"])
    sims, near = jax.lax.top_k(similarities(params, batch), min(cfg.neighbours, users))  # [B, M]
    rows = jnp.arange(len(near))[:, None]
    chosen = jnp.zeros((users, len(near))).at[near, rows].set(sims)  # [U, B]
    found = _product(params["items"], chosen).T  # [B, I]
    return neighbours.back_off(found, params["fallback"])

  def score(params, assets, batch):
    return topk.scores(every(params, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, batch), batch, k=k)

  return System(fit=fit, score=score, recommend=recommend)


def _compressed(matrix: scipy.sparse.csr_array) -> dict[str, np.ndarray]:
  return {
    "start": matrix.indptr.astype(np.int32),
    "column": matrix.indices.astype(np.int32),
    "weight": matrix.data.astype(np.float32),
  }


def _product(rows: dict[str, Array], dense: Array) -> Array:
  """Compressed rows [N, F] times [F, B]."""
  shape = (len(rows["start"]) - 1, len(dense))
  return sparse.BCSR((rows["weight"], rows["column"], rows["start"]), shape=shape) @ dense
