"""BERT (Devlin et al., NAACL 2019), https://arxiv.org/abs/1810.04805: an encoder of text.

A bidirectional Transformer whose LayerNorms follow the residual sums; embeddings of words,
positions and types are added and normalised at the bottom. MiniLM is the same, small. Padding is
masked wherever tokens meet, so the states of real tokens never depend on it.

`encode` is a function of (params, cfg, ...); dropout is on where it is given a `key`.

B batch, T time, D width, H heads, F feed-forward, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from recjax.nn import attention
from recjax.nn.dropout import Dropout
from recjax.nn.linear import dot_general
from recjax.types import PAD, Array, Key, Params


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of MiniLM-L6-H384."""

  vocab: int = 30522  # V
  dim: int = 384  # D
  heads: int = 12  # H
  ff: int = 1536  # F
  layers: int = 6
  max_len: int = 512  # positions there are
  types: int = 2
  pooler: bool = True  # a projection of the first token beside the states
  dropout: float = 0.1
  attention_dropout: float = 0.1
  eps: float = 1e-12
  dtype: str = "float32"  # of activations; softmax and the norms' statistics are float32 always

  def __post_init__(self):
    if self.dim % self.heads:
      raise ValueError(f"a width of {self.dim} does not divide into {self.heads} heads")


class Encoded(NamedTuple):
  states: Array  # [B, T, D]; of padding they mean nothing
  pooled: Array | None  # [B, D], tanh(projected first state); None without a pooler


class Layer(nn.Module):
  cfg: Config

  @nn.compact
  def __call__(self, x: Array, where: Array) -> Array:
    cfg, train = self.cfg, self.has_rng("dropout")
    query, key, value = (
      attention.split_heads(_dense(cfg, cfg.dim, name)(x), cfg.heads)  # [B, H, T, D / H]
      for name in ("query", "key", "value")
    )
    y = attention.attend(
      query,
      key,
      value,
      scale=(cfg.dim // cfg.heads) ** -0.5,
      where=where,
      dropout=lambda w: Dropout(cfg.attention_dropout)(w, train=train),
    )
    y = _dense(cfg, cfg.dim, "out")(attention.merge_heads(y))
    x = _norm(cfg, "attention_norm")(x + Dropout(cfg.dropout)(y, train=train))
    y = nn.gelu(_dense(cfg, cfg.ff, "wide")(x), approximate=False)  # [B, T, F]
    y = _dense(cfg, cfg.dim, "narrow")(y)
    return _norm(cfg, "ff_norm")(x + Dropout(cfg.dropout)(y, train=train))


class Bert(nn.Module):
  cfg: Config

  @nn.compact
  def __call__(self, tokens: Array, types: Array, where: Array) -> Encoded:
    cfg = self.cfg
    places = jnp.arange(tokens.shape[1])[None]  # [1, T]
    x = _embed(cfg, cfg.vocab, "words")(tokens) + _embed(cfg, cfg.types, "types")(types)
    x = _norm(cfg, "norm")(x + _embed(cfg, cfg.max_len, "positions")(places))  # [B, T, D]
    x = Dropout(cfg.dropout)(x, train=self.has_rng("dropout"))
    for i in range(cfg.layers):
      x = Layer(cfg, name=f"layer_{i}")(x, where)
    return Encoded(x, jnp.tanh(_dense(cfg, cfg.dim, "pooler")(x[:, 0])) if cfg.pooler else None)


def init(key: Key, cfg: Config) -> Params:
  tokens = jnp.zeros((1, 1), jnp.int32)
  return Bert(cfg).init(key, tokens, tokens, jnp.ones((1, 1, 1, 1), bool))["params"]


def encode(
  params: Params,
  cfg: Config,
  tokens: Array,  # [B, T]
  *,
  types: Array | None = None,  # [B, T], 0 for the first text of a pair, 1 for the second
  mask: Array | None = None,  # [B, T] or [B, 1, T, T]
  key: Key | None = None,
) -> Encoded:
  """The states of the tokens. Without a mask every token but PAD is seen."""
  if tokens.shape[1] > cfg.max_len:
    raise ValueError(f"{tokens.shape[1]} tokens, but {cfg.max_len} positions: cut the texts first")
  where = attention.as_mask(tokens != PAD if mask is None else mask)
  types = jnp.zeros_like(tokens) if types is None else types
  rngs = {} if key is None else {"dropout": key}
  return Bert(cfg).apply({"params": params}, tokens, types, where, rngs=rngs)


def _dense(cfg: Config, features: int, name: str) -> nn.Dense:
  init = nn.initializers.truncated_normal(0.02)
  return nn.Dense(features, dtype=cfg.dtype, kernel_init=init, dot_general=dot_general, name=name)


def _embed(cfg: Config, rows: int, name: str) -> nn.Embed:
  init = nn.initializers.truncated_normal(0.02)
  return nn.Embed(rows, cfg.dim, dtype=cfg.dtype, embedding_init=init, name=name)


def _norm(cfg: Config, name: str) -> nn.LayerNorm:
  return nn.LayerNorm(cfg.eps, dtype=cfg.dtype, name=name)
