"""Matrix factorisation: BPR (Rendle et al., UAI 2009), https://arxiv.org/abs/1205.2618; with
ratings, biased MF (Koren et al., IEEE Computer 2009), https://doi.org/10.1109/MC.2009.263.

A score is the inner product of a user's and an item's vector, with their biases and the mean
rating. Learned by gradient descent from events: what the batch brings decides. With `ratings`, the
squared error of the rating; without, BPR over a drawn item that the target must beat, or, where
`unobserved` is given, the squared error towards 1 for the target and, so much weighted, towards 0
for the drawn one. L2 falls on the rows of the batch, as in both papers' SGD.

Unlike Rendle et al.: events come in shuffled epochs, not drawn with replacement; a negative may be
an item that the user met, unless the batch brings exact ones as `candidates`.

PAD, the unknown user, has the zero vector and no bias, and keeps them: items are ranked by their
biases (and rated by them, from the mean). A user without training events keeps the vector drawn at
the start, which tells nothing: ask for one as PAD.

B batch, D width, U users, I items (both with PAD), K results, N negatives or candidates.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from recjax import losses
from recjax.data import negatives
from recjax.data.interactions import Interactions
from recjax.decode import topk
from recjax.types import PAD, Array, Loss, System, known


@dataclasses.dataclass(frozen=True)
class Config:
  num_users: int  # U
  num_items: int  # I
  dim: int = 64  # D
  penalty: float = 0.0  # of the squared norms of a row's vectors and biases
  unobserved: float | None = None  # weight of a drawn item's squared error; None: BPR
  init: float = 0.1  # standard deviation of the vectors at the start


def assets(cfg: Config, interactions: Interactions) -> dict[str, Array]:
  """The mean rating, which the biases are counted from. Without ratings, MF needs no assets."""
  rating = interactions.rating
  if rating is None or not len(rating):
    raise ValueError("there are no ratings to take the mean of; learning by BPR needs no assets")
  if not np.isfinite(rating).all():
    raise ValueError(f"{np.count_nonzero(~np.isfinite(rating))} ratings are not finite numbers")
  return {"mean": jnp.float32(rating.mean(dtype=np.float64))}


def make(cfg: Config) -> System:
  def init(key, assets, batch):
    users, items = jax.random.split(key)
    return {
      "users": (cfg.init * jax.random.normal(users, (cfg.num_users, cfg.dim))).at[PAD].set(0),
      "items": cfg.init * jax.random.normal(items, (cfg.num_items, cfg.dim)),
      "user_bias": jnp.zeros(cfg.num_users),
      "item_bias": jnp.zeros(cfg.num_items),
    }

  def of(params, assets, user, items):
    """Scores [B, N] of the users [B] and items [B, N]."""
    inner = jnp.einsum("bd,bnd->bn", params["users"][user], params["items"][items])
    mean = assets["mean"] if assets else 0.0
    return inner + params["item_bias"][items] + params["user_bias"][user][:, None] + mean

  def loss(params, assets, batch, key):
    user, target = batch["user"], batch["target"]
    where = (target != PAD) & (batch["weight"] > 0)
    positive = losses.possible(
      of(params, assets, user, target[:, None])[:, 0], target, cfg.num_items
    )
    positive = losses.possible(positive, user, cfg.num_users)
    rows = target[:, None]  # [B, N] the items that the penalty falls on
    if "ratings" in batch:
      if not assets:
        raise ValueError("ratings are learned from their mean: give `mf.assets(cfg, interactions)`")
      total, weight = losses.squared(positive, batch["ratings"], where)
    else:
      drawn = batch.get("candidates")
      if drawn is None:
        drawn = negatives.other(key, target, 1, cfg.num_items)
      rows, there = jnp.concatenate([rows, drawn], axis=1), drawn != PAD
      negative = of(params, assets, user, drawn)  # [B, N]
      if cfg.unobserved is None:
        total, weight = losses.bpr(positive, negative, where, negatives_where=there)
      else:
        total, weight = losses.squared(positive, jnp.ones_like(positive), where)
        absent, _ = losses.squared(negative, jnp.zeros_like(negative), where[:, None] & there)
        total += cfg.unobserved * absent
    squares = jnp.square(params["users"][user]).sum(-1) + jnp.square(params["user_bias"][user])
    own = jnp.square(params["items"][rows]).sum(-1) + jnp.square(params["item_bias"][rows])
    squares += jnp.where(rows != PAD, own, 0).sum(-1)
    norm, _ = losses.total(squares, where)
    return Loss(total + cfg.penalty * norm, weight, {"fit": (total, weight)})

  def every(params, assets, batch):
    mean = assets["mean"] if assets else 0.0
    user = known(batch["user"], cfg.num_users)
    offset = params["user_bias"][user][:, None] + params["item_bias"][None] + mean
    return params["users"][user] @ params["items"].T + offset  # [B, I]

  def score(params, assets, batch):
    if "candidates" in batch:
      return of(params, assets, known(batch["user"], cfg.num_users), batch["candidates"])
    return topk.scores(every(params, assets, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, assets, batch), batch, k=k)

  def embed(params, assets, batch):
    return params["users"][known(batch["user"], cfg.num_users)]

  return System(init, loss, recommend=recommend, score=score, embed=embed)
