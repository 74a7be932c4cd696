"""FISM (Kabbur, Ning & Karypis, KDD 2013), https://doi.org/10.1145/2487575.2487589.

An item is scored by how near it lies to what the user met: b_i + n^-alpha * sum_j p_j . q_i over
the n other items of the user's set, with two vectors an item. The item itself is left out of the
set that predicts it. Learned as FISMauc: met items should score 1 above drawn ones, in squares.

Batches of `next` (`examples.sequences`) teach every item of a user's set in one pass; batches of
`target` (`examples.prefixes`) teach one item from what came before it. A set is what the batch's
window holds, each item once. Unlike the paper: L2 falls on the vectors of the batch, a set's items
once a row, a target's negatives as one; a negative that lies in the row's own set counts for
nothing; an item that was repeated counts once.

B batch, D width, I items (PAD included), K results, N negatives, R targets of a row, T history.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from recjax import losses
from recjax.data import negatives
from recjax.decode import topk
from recjax.types import PAD, Array, Loss, System, unpacked


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  dim: int = 64  # D
  alpha: float = 0.5  # 0: the sum over the set, 1: the mean
  negatives: int = 3  # drawn a target (rho)
  penalty: float = 1e-4  # beta, of the vectors
  bias_penalty: float = 1e-4  # gamma, of the biases
  init: float = 0.05  # standard deviation of the vectors at the start

  def __post_init__(self):
    if self.negatives < 1:
      raise ValueError(
        f"negatives is {self.negatives}: a target is compared with drawn items; draw 1 or more"
      )


def distinct(items: Array) -> Array:
  """[B, T] each item of a row once, PAD in place of repeats; a set has no order."""
  ordered = jnp.sort(items, axis=1)
  repeats = jnp.pad(ordered[:, 1:] == ordered[:, :-1], ((0, 0), (1, 0)))
  return jnp.where(repeats, PAD, ordered)


def make(cfg: Config) -> System:
  def init(key, assets, batch):
    met, of = jax.random.split(key)
    return {
      "p": cfg.init * jax.random.normal(met, (cfg.num_items, cfg.dim)),
      "q": cfg.init * jax.random.normal(of, (cfg.num_items, cfg.dim)),
      "bias": jnp.zeros(cfg.num_items),
    }

  def summed(params, met):
    """Sum [B, D] and number [B] of the vectors p of a set [B, T]."""
    there = met != PAD
    return jnp.where(there[..., None], params["p"][met], 0).sum(1), there.sum(1)

  def scaled(total, count):
    return total * jnp.maximum(count, 1).astype(jnp.float32)[..., None] ** -cfg.alpha

  def loss(params, assets, batch, key):
    unpacked(batch)
    if "next" in batch:
      # A window is its history and the item after it: what the last place must predict.
      met = distinct(jnp.concatenate([batch["history"], batch["next"][:, -1:]], axis=1))
      target = met  # [B, R]
    else:
      met, target = distinct(batch["history"]), batch["target"][:, None]
    total, count = summed(params, met)
    own = (target[..., None] == met[:, None]).any(-1)  # [B, R] is it in the set?
    without = total[:, None] - jnp.where(own[..., None], params["p"][target], 0)
    user = scaled(without, count[:, None] - own)  # [B, R, D]
    if "candidates" in batch:
      shape = (*target.shape, batch["candidates"].shape[1])
      drawn = jnp.broadcast_to(batch["candidates"][:, None], shape)  # [B, R, N]
    else:
      drawn = negatives.other(key, target, cfg.negatives, cfg.num_items)
    rows = jnp.arange(len(met))[:, None]
    inside = jnp.zeros((len(met), cfg.num_items), bool).at[rows, met].set(True).at[:, PAD].set(True)
    free = ~jnp.take_along_axis(inside[:, None], drawn, axis=2)  # [B, R, N]
    positive = params["bias"][target] + (user * params["q"][target]).sum(-1)
    positive = losses.possible(positive, target, cfg.num_items)
    negative = params["bias"][drawn] + jnp.einsum("brd,brnd->brn", user, params["q"][drawn])
    # Nothing is learned of an item that is alone in its set.
    where = (target != PAD) & (count[:, None] > own) & (batch["weight"] > 0)[:, None]
    count_free = jnp.maximum(free.sum(-1), 1)
    margin = jnp.where(free, positive[..., None] - negative, 0).sum(-1) / count_free
    gap = jnp.where(free, jnp.square(positive[..., None] - negative - 1), 0).sum(-1) / count_free
    fit, weight = losses.total(gap, where)
    ranked, _ = losses.total(margin > 0, where)

    def squares(name, items, where):
      square = jnp.square(params[name][items])
      square = square.sum(-1) if square.ndim > items.ndim else square
      return losses.total(square, where)[0]

    known = (met != PAD) & (batch["weight"] > 0)[:, None]
    drawn_where = (where[..., None] & free) / count_free[..., None]
    vectors = squares("p", met, known) + squares("q", target, where)
    vectors += squares("q", drawn, drawn_where)
    biases = squares("bias", target, where) + squares("bias", drawn, drawn_where)
    penalty = cfg.penalty * vectors + cfg.bias_penalty * biases
    return Loss(fit + penalty, weight, {"fit": (fit, weight), "above": (ranked, weight)})

  def towards(params, total, count, met, items):
    """Scores [B, C] of `items`; one that is in the set does not speak for itself."""
    own = (items[..., None] == met[:, None]).any(-1)
    without = total[:, None] - jnp.where(own[..., None], params["p"][items], 0)
    user = scaled(without, count[:, None] - own)
    return params["bias"][items] + (user * params["q"][items]).sum(-1)

  def every(params, batch):
    met = distinct(batch["history"])
    total, count = summed(params, met)
    scores = scaled(total, count) @ params["q"].T + params["bias"][None]  # [B, I]
    # Items outside the set are done; those inside are scored again, without themselves.
    inside = towards(params, total, count, met, met)
    return scores.at[jnp.arange(len(met))[:, None], met].set(inside)

  def score(params, assets, batch):
    met = distinct(batch["history"])
    total, count = summed(params, met)
    if "candidates" in batch:
      return towards(params, total, count, met, batch["candidates"])
    return topk.scores(every(params, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, batch), batch, k=k)

  def embed(params, assets, batch):
    return scaled(*summed(params, distinct(batch["history"])))

  return System(init, loss, recommend=recommend, score=score, embed=embed)
