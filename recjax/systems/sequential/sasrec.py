"""SASRec (Kang & McAuley, ICDM 2018), https://arxiv.org/abs/1808.09781.

A causal Transformer reads the history; its state at each place scores the item that comes next
by a product with the tied item table. All places of a history are learned at once.

The loss is a choice of `negatives` and `t`:
  none (default)         softmax over the whole catalogue
  n                      softmax over n uniform negatives with the logQ correction
  n and t                gBCE of gSASRec (Petrov & Macdonald, RecSys 2023): 256 and 0.75 there
  1 and t = 0            binary cross-entropy with one negative, this paper's
Negatives are drawn among all items but the target, as in most published code; a batch that brings
`candidates` [B, N] (taken as uniform draws) gives exact ones, shared by the places of a row.

Unlike the paper: LayerNorm comes before queries, keys and values alike, not queries alone; the
network is GELU of four times the width (a released re-tuning's size), not ReLU of the width.
As in the authors' left-padded windows the newest item always has the same position; places are
counted from there, so that a batch may be narrower than `max_len`.

B batch, T history (left-padded with PAD), D width, I items (PAD included), N negatives.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from recjax import losses
from recjax.data import negatives
from recjax.decode import topk
from recjax.losses import Total
from recjax.nn import attention, transformer
from recjax.nn.dropout import Dropout
from recjax.types import PAD, Array, Batch, Key, Loss, Params, System

SEGMENTS = True  # a row of a batch may hold several histories


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  max_len: int = 50  # the longest history
  dim: int = 50  # D
  heads: int = 1
  layers: int = 2
  ff: int = 200
  dropout: float = 0.5
  negatives: int = 0  # N; 0: the softmax over all items
  t: float | None = None  # of gBCE; None: the sampled softmax
  shared: bool = False  # one draw of N serves all places of a row: N D numbers, not T N D

  def __post_init__(self):
    if self.t is not None and not self.negatives:
      raise ValueError(f"t={self.t} is of gBCE, which needs negatives: set `negatives` too")
    if self.t is not None and not 0 <= self.t <= 1:
      raise ValueError(f"t={self.t} is of gBCE: from 0, plain BCE, to 1, calibrated")
    if self.shared and not self.negatives:
      raise ValueError("shared=True shares out a draw, and none is made: set `negatives` too")


class SASRec(nn.Module):
  cfg: Config

  def setup(self):
    cfg = self.cfg
    normal = nn.initializers.normal(0.02)
    self.items = self.param("items", normal, (cfg.num_items, cfg.dim))
    self.positions = self.param("positions", normal, (cfg.max_len, cfg.dim))
    self.encoder = transformer.Encoder(cfg.layers, cfg.heads, cfg.ff, cfg.dropout)
    self.dropout = Dropout(cfg.dropout)

  def __call__(
    self, history: Array, segment: Array | None = None, *, train: bool, last: bool = False
  ) -> Array:
    """[B, T, D]: the state at each place, which has seen the items up to there; or the last.

    With `segment` [B, T] a row holds several histories, and no place sees another's items.
    """
    length = history.shape[1]
    if length > self.cfg.max_len:
      raise ValueError(
        f"a history of {length} is longer than max_len {self.cfg.max_len}: cut it in the loader,"
        " or raise max_len"
      )
    there = history != PAD
    if segment is None:
      own, positions = attention.as_mask(there), self.positions[:length][::-1][None]
    else:
      own = attention.same_segment(segment, segment)
      later = (own & ~attention.causal(length)).sum(-1)[:, 0]  # [B, T] items of the same history
      positions = self.positions[later]
    x = self.items[history] * math.sqrt(self.cfg.dim) + positions
    x = self.dropout(jnp.where(there[..., None], x, 0), train=train)
    return self.encoder(x, attention.causal(length) & own, train=train, last=last)


def answering(model: SASRec, num_items: int) -> System:
  """What a system that reads histories by `model` starts from and answers, without its loss.

  The table may have more rows than there are items: those are never recommended.
  """

  def init(key, assets, batch):
    return model.init(key, batch["history"], train=False)["params"]

  def embed(params, assets, batch):
    return model.apply({"params": params}, batch["history"], train=False, last=True)[:, 0]

  def every(params, batch):
    return embed(params, (), batch) @ params["items"][:num_items].T  # [B, I]

  def score(params, assets, batch):
    return topk.scores(every(params, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, batch), batch, k=k)

  return System(init, recommend=recommend, score=score, embed=embed)


def states(model: SASRec, params: Params, batch: Batch, key: Key) -> tuple[Array, Array]:
  """(states [B, T, D] under dropout, which of them count: an item follows)."""
  where = (batch["next"] != PAD) & (batch["weight"] > 0)[:, None]
  histories = batch["history"], batch.get("segment")
  return model.apply({"params": params}, *histories, train=True, rngs={"dropout": key}), where


def next_items(model: SASRec, params: Params, batch: Batch, key: Key, num_items: int) -> Total:
  """The softmax over all items at each place of the histories."""
  x, where = states(model, params, batch, key)
  return losses.linear_softmax_xent(x, params["items"][1:num_items], batch["next"] - 1, where)


def make(cfg: Config) -> System:
  model = SASRec(cfg)

  def loss(params, assets, batch, key):
    dropout_key, key = jax.random.split(key)
    if not cfg.negatives and "candidates" not in batch:
      return Loss(*next_items(model, params, batch, dropout_key, cfg.num_items))
    target, table = batch["next"], params["items"]
    x, where = states(model, params, batch, dropout_key)
    others = _negatives(cfg, batch, key)  # [B, T or 1, N]
    positive = jnp.einsum("btd,btd->bt", x, table[target])
    positive = losses.possible(positive, target, cfg.num_items)
    if others.shape[1] == 1:
      logits = jnp.einsum("btd,bnd->btn", x, table[others[:, 0]])
    else:
      logits = jnp.einsum("btd,btnd->btn", x, table[others])
    drop = (others == target[..., None]) | (others == PAD)
    logits = jnp.where(drop, attention.NEVER, logits)
    if cfg.t is not None:
      rest = cfg.num_items - 2  # all but PAD and the target
      return Loss(*losses.gbce(positive, logits, where, num_items=rest, t=cfg.t))
    # A negative's expected count in the sample; the target's is 1, so it needs no correction.
    log_q = jnp.full(logits.shape, math.log(others.shape[-1] / (cfg.num_items - 2)))
    return Loss(*losses.sampled_softmax_xent(positive, logits, where, log_q_negatives=log_q))

  return answering(model, cfg.num_items)._replace(loss=loss)


def _negatives(cfg: Config, batch, key) -> Array:
  """[B, T or 1, N] items; a shared draw may hold a place's own target."""
  target = batch["next"]
  if "candidates" in batch:
    return batch["candidates"][:, None]
  if not cfg.shared:
    return negatives.other(key, target, cfg.negatives, cfg.num_items)
  return jax.random.randint(key, (len(target), 1, cfg.negatives), PAD + 1, cfg.num_items)
