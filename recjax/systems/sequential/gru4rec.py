"""GRU4Rec (Hidasi et al., ICLR 2016; Hidasi & Karatzoglou, CIKM 2018),
https://arxiv.org/abs/1511.06939, https://arxiv.org/abs/1706.03847.

A GRU reads the history; its state after each item scores the item that comes next. The ranking
losses compare the target with negatives that the batch shares: the last targets of the other
rows, and `samples` further items, uniform or in proportion to count^alpha.

Unlike the paper: histories stand side by side, left-padded, and are learned whole instead of
in session-parallel mini-batches of one step; scores have no final activation; with no
`samples`, cross-entropy is over the whole catalogue (the default: it ranks better here).
The shared negatives couple the rows of a batch: each micro-batch has its own.

B batch, T history (left-padded with PAD), D width, I items (PAD included), N negatives.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from recjax import losses
from recjax.decode import topk
from recjax.nn import recurrent
from recjax.nn.dropout import Dropout
from recjax.types import PAD, Array, Loss, System, unpacked

LOSSES = ("cross_entropy", "bpr_max", "top1_max")


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  dim: int = 100  # D, of items and states
  layers: int = 1
  dropout: float = 0.5  # of embedded items
  state_dropout: float = 0.0  # of the states that score
  tied: bool = True  # one table for reading and for scoring (the "constrained embedding")
  loss: str = "cross_entropy"  # bpr_max, top1_max
  samples: int = 0  # further negatives; cross_entropy without any is over all items
  alpha: float = 0.0  # drawn in proportion to count^alpha, which needs `assets`; 0: uniform
  regularization: float = 1.0  # of bpr_max, on the negatives' scores

  def __post_init__(self):
    if self.loss not in LOSSES:
      raise ValueError(f"no loss {self.loss!r}; there is {', '.join(LOSSES)}")
    if self.alpha and not self.samples:
      raise ValueError(f"alpha={self.alpha} says how samples are drawn: set `samples` too")


def assets(cfg: Config, counts: np.ndarray) -> Mapping[str, Array]:
  """What the sampler reads, from how often each item [I] was met: the cumulative shares [I]."""
  counts = np.asarray(counts, np.float64)
  if counts.shape != (cfg.num_items,):
    raise ValueError(f"counts has shape {counts.shape}, there are {cfg.num_items} items")
  if not (np.isfinite(counts) & (counts >= 0)).all() or not counts[1:].any():
    raise ValueError("counts must be finite, not negative and not all 0")
  weights = np.where(np.arange(cfg.num_items) == PAD, 0.0, counts**cfg.alpha)
  return {"until": jnp.asarray(np.cumsum(weights) / weights.sum(), jnp.float32)}


class GRU4Rec(nn.Module):
  cfg: Config

  @nn.compact
  def __call__(self, history: Array, *, train: bool) -> Array:
    """[B, T, D]: the state after each item."""
    cfg, there = self.cfg, history != PAD
    init = nn.initializers.xavier_uniform()
    x = self.param("items", init, (cfg.num_items, cfg.dim))[history]  # [B, T, D]
    # Made here though the caller reads them, so that all parameters come from one place.
    if not cfg.tied:
      self.param("output", init, (cfg.num_items, cfg.dim))
    self.param("bias", nn.initializers.zeros, (cfg.num_items,))
    x = Dropout(cfg.dropout)(x, train=train)
    for layer in range(cfg.layers):
      x = recurrent.GRU(cfg.dim, name=f"gru_{layer}")(x, there)
    return Dropout(cfg.state_dropout)(x, train=train)


def make(cfg: Config) -> System:
  model = GRU4Rec(cfg)

  def states(params, batch, key=None):
    rngs = None if key is None else {"dropout": key}
    return model.apply({"params": params}, batch["history"], train=key is not None, rngs=rngs)

  def table(params):
    return params["items" if cfg.tied else "output"]

  def init(key, assets, batch):
    if cfg.alpha and cfg.samples and not assets:
      raise ValueError(f"alpha {cfg.alpha} samples by popularity: give `assets(cfg, counts)`")
    return model.init(key, batch["history"], train=False)["params"]

  def loss(params, assets, batch, key):
    unpacked(batch)
    dropout_key, key = jax.random.split(key)
    target = batch["next"]
    where = (target != PAD) & (batch["weight"] > 0)[:, None]
    x, items, bias = states(params, batch, dropout_key), table(params), params["bias"]
    if cfg.loss == "cross_entropy" and not cfg.samples:
      return Loss(*losses.linear_softmax_xent(x, items[1:], target - 1, where, bias=bias[1:]))
    others = jnp.where(where[:, -1], target[:, -1], PAD)  # [B], a row's last place is real
    others = jnp.concatenate([others, _sample(cfg, assets, key)])  # [N]
    positive = (x * items[target]).sum(-1) + bias[target]  # [B, T]
    positive = losses.possible(positive, target, cfg.num_items)
    negatives = x @ items[others].T + bias[others][None, None]  # [B, T, N]
    keep = (others != PAD)[None, None] & (others[None, None] != target[..., None])
    # A row's own last target, at an earlier place an item yet to come, is no negative of the row.
    keep &= ~jnp.eye(len(target), len(others), dtype=bool)[:, None]  # [B, T, N]
    compare = {
      "cross_entropy": losses.sampled_softmax_xent,
      "bpr_max": functools.partial(losses.bpr_max, regularization=cfg.regularization),
      "top1_max": losses.top1_max,
    }[cfg.loss]
    return Loss(*compare(positive, negatives, where, negatives_where=keep))

  def every(params, batch):
    return states(params, batch)[:, -1] @ table(params).T + params["bias"][None]  # [B, I]

  def score(params, assets, batch):
    return topk.scores(every(params, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, batch), batch, k=k)

  def embed(params, assets, batch):
    return states(params, batch)[:, -1]

  return System(init, loss, recommend=recommend, score=score, embed=embed)


def _sample(cfg: Config, assets, key) -> Array:
  """[samples] items, by the cumulative shares where there are some."""
  if not (cfg.alpha and assets):
    return jax.random.randint(key, (cfg.samples,), PAD + 1, cfg.num_items)
  u = jax.random.uniform(key, (cfg.samples,))
  return jnp.searchsorted(assets["until"], u, side="right").clip(PAD + 1, cfg.num_items - 1)
