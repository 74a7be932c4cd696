"""Item-kNN (Sarwar et al., WWW 2001), https://doi.org/10.1145/371920.372071.

An item's neighbours are those of the greatest cosine between columns of the user-item matrix,
shrunk towards zero where few users tell: sim = overlap / (|i| |j| + shrink). A user's score of an
item is the sum of its similarities to the history. Exact: every pair that any user met is counted.

B batch, T history, I items (PAD included), M neighbours, K results.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import scipy.sparse

from recjax.decode import topk
from recjax.types import PAD, System


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  neighbours: int = 100  # M
  shrink: float = 0.0


def make(cfg: Config) -> System:
  def fit(assets, interactions):
    """The neighbours of each item, [I, M] ids and similarities, PAD and 0 where there are fewer."""
    shape = (interactions.num_users, cfg.num_items)
    ones = np.ones(len(interactions), np.float32)
    met = scipy.sparse.csr_matrix((ones, (interactions.user, interactions.item)), shape)
    met.sum_duplicates()
    met.data[:] = 1
    norm = np.sqrt(np.asarray(met.sum(0)).ravel())
    ids = np.full((cfg.num_items, cfg.neighbours), PAD, np.int32)
    sims = np.zeros((cfg.num_items, cfg.neighbours), np.float32)
    both = (met.T @ met).tocsr()
    both.setdiag(0)
    both.eliminate_zeros()
    for item in range(cfg.num_items):
      at = slice(both.indptr[item], both.indptr[item + 1])
      other = both.indices[at]
      sim = both.data[at] / (norm[item] * norm[other] + cfg.shrink)
      best = np.lexsort([other, -sim])[: cfg.neighbours]  # ties to the lower id
      ids[item, : len(best)], sims[item, : len(best)] = other[best], sim[best]
    return {"ids": ids, "sims": sims}

  def every(params, batch):
    history = batch["history"]
    near = params["ids"][history].reshape(len(history), -1)  # [B, T * M]
    sims = jnp.where((history != PAD)[..., None], params["sims"][history], 0)
    rows = jnp.arange(len(history))[:, None]
    return jnp.zeros((len(history), cfg.num_items)).at[rows, near].add(sims.reshape(near.shape))

  def score(params, assets, batch):
    return topk.scores(every(params, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, batch), batch, k=k)

  return System(fit=fit, score=score, recommend=recommend)
