"""BERT4Rec (Sun et al., CIKM 2019), https://arxiv.org/abs/1904.06690.

A bidirectional Transformer learns to fill masked places of a history from both sides; to answer,
a mask is put behind the history and what fills it is the recommendation. A share of the examples
has its last item masked alone, which is the question as it will be asked.

The masks are drawn inside the loss: of each history a share of its real places, at least one.
Unlike the paper: masked places always hold the mask (as in its code), and the softmax leaves out
PAD; places are counted from the right end, so that padding changes no answer.

B batch, T history (left-padded with PAD), S = T + 1 places, D width, I items (PAD included).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from recjax import losses
from recjax.decode import topk
from recjax.nn import attention, transformer
from recjax.nn.dropout import Dropout
from recjax.types import PAD, Array, Key, Loss, System, unpacked


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I; the mask is row I of the table
  max_len: int = 50  # the longest history; the item or mask behind it is one place more
  dim: int = 64  # D
  heads: int = 2
  layers: int = 2
  ff: int = 256
  dropout: float = 0.1
  mask_share: float = 0.2  # of a history's places
  last_share: float = 0.1  # of the examples, masked at the last place alone

  def __post_init__(self):
    for name in ("mask_share", "last_share"):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(f"{name} is a share in [0, 1], not {getattr(self, name)}")


class Bert4Rec(nn.Module):
  cfg: Config

  def setup(self):
    cfg = self.cfg
    normal = nn.initializers.truncated_normal(0.02)
    self.items = self.param("items", normal, (cfg.num_items + 1, cfg.dim))
    self.positions = self.param("positions", normal, (cfg.max_len + 1, cfg.dim))
    self.bias = self.param("bias", nn.initializers.zeros, (cfg.num_items,))
    self.norm, self.dropout = nn.LayerNorm(), Dropout(cfg.dropout)
    self.encoder = transformer.Encoder(
      cfg.layers, cfg.heads, cfg.ff, cfg.dropout, norm_first=False, std=0.02
    )
    self.head = nn.Dense(cfg.dim, kernel_init=normal)
    self.head_norm = nn.LayerNorm()

  def __call__(self, tokens: Array, *, train: bool) -> Array:
    """tokens [B, S] -> [B, S, D], ready to meet the item table."""
    length = tokens.shape[1]
    if length > self.cfg.max_len + 1:
      raise ValueError(
        f"a history of {length - 1} is longer than max_len {self.cfg.max_len}: cut it in the"
        " loader, or raise max_len"
      )
    x = self.items[tokens] + self.positions[:length][::-1][None]
    x = self.dropout(self.norm(x), train=train)
    x = self.encoder(x, attention.as_mask(tokens != PAD), train=train)
    return self.head_norm(jax.nn.gelu(self.head(x)))


def cloze(cfg: Config, tokens: Array, key: Key) -> tuple[Array, Array]:
  """tokens [B, S] -> the same with masks, and where they are: at least one a history."""
  places_key, rows_key = jax.random.split(key)
  there = tokens != PAD
  drawn = jnp.where(there, jax.random.uniform(places_key, tokens.shape), 2.0)
  rank = (drawn[:, None, :] < drawn[:, :, None]).sum(-1)  # [B, S], in a random order
  count = jnp.maximum(jnp.round(there.sum(1) * cfg.mask_share), 1)
  masked = rank < count[:, None]
  last = jax.random.uniform(rows_key, (len(tokens),)) < cfg.last_share
  is_last = jnp.arange(tokens.shape[1]) == tokens.shape[1] - 1
  masked = jnp.where(last[:, None], is_last[None], masked) & there
  return jnp.where(masked, cfg.num_items, tokens), masked


def make(cfg: Config) -> System:
  model = Bert4Rec(cfg)

  def states(params, tokens, key=None):
    rngs = None if key is None else {"dropout": key}
    return model.apply({"params": params}, tokens, train=key is not None, rngs=rngs)

  def init(key, assets, batch):
    return model.init(key, batch["history"], train=False)["params"]

  def loss(params, assets, batch, key):
    unpacked(batch)
    dropout_key, key = jax.random.split(key)
    whole = jnp.concatenate([batch["history"], batch["next"][:, -1:]], axis=1)  # [B, S]
    tokens, masked = cloze(cfg, whole, key)
    where = masked & (batch["weight"] > 0)[:, None]
    x, table = states(params, tokens, dropout_key), params["items"][1 : cfg.num_items]
    return Loss(*losses.linear_softmax_xent(x, table, whole - 1, where, bias=params["bias"][1:]))

  def last(params, batch):
    """[B, D]: what fills a mask behind the history."""
    tokens = jnp.pad(batch["history"], ((0, 0), (0, 1)), constant_values=cfg.num_items)
    return states(params, tokens)[:, -1]

  def every(params, batch):
    return last(params, batch) @ params["items"][: cfg.num_items].T + params["bias"][None]

  def score(params, assets, batch):
    return topk.scores(every(params, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, batch), batch, k=k)

  def embed(params, assets, batch):
    return last(params, batch)

  return System(init, loss, recommend=recommend, score=score, embed=embed)
