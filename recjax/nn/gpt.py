"""Decoder-only language models: GPT-2 (Radford et al., 2019) and the LLaMA family.

Pre-norm causal Transformer. GPT-2 has learned positions, LayerNorms, a GELU and biases, and reads
tokens back with the embedding table; LLaMA (Touvron et al., 2023, https://arxiv.org/abs/2302.13971)
rotates queries and keys by their place, has RMS norms and a gated SiLU, no biases, and may share
keys and values among heads (grouped queries). Qwen2 adds biases to queries, keys and values.

All are functions of (params, cfg, ...); dropout is on where they are given a `key`. Places are
counted over a row's real tokens, so padding on either side, or packing, changes nothing. Unlike
elsewhere token 0 is a token like any other (GPT-2's "!"): what is real is what `mask` says.

A prefix is read once for all beams that continue it; `t5.reorder` takes these caches too.

B batch, T tokens, S prefix, N steps, K beams, D width, H heads, G heads of keys and values, W head
width, F feed-forward, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from recjax.nn import attention, linear
from recjax.nn.dropout import Dropout
from recjax.types import Array, Key, Params

_normal = nn.initializers.normal


@dataclasses.dataclass(frozen=True)
class Config:
  """GPT-2 of the smallest size; `LLAMA` and `QWEN2` are others to `dataclasses.replace`."""

  vocab: int = 50257  # V
  dim: int = 768  # D
  heads: int = 12  # H
  kv_heads: int = 0  # G; 0: as many as heads
  head_dim: int = 0  # W; 0: dim / heads
  ff: int = 3072  # F
  layers: int = 12
  max_len: int = 1024  # places there are, where they are learned; rotary ones have no end
  theta: float | None = None  # base of the rotary wave lengths; None: learned positions
  scaling: tuple[float, ...] = ()  # LLaMA 3.1's longer waves: factor, low, high, first length
  rms: bool = False  # RMS norms, not LayerNorms
  gated: bool = False  # SiLU(x W0) * (x W1), not GELU(x W)
  qkv_bias: bool = True
  out_bias: bool = True  # of attention
  ff_bias: bool = True
  tied: bool = True  # the head is the embedding table
  dropout: float = 0.1  # of embeddings and of what each layer adds
  attention_dropout: float = 0.1
  eps: float = 1e-5
  dtype: str = "float32"  # of activations; softmax and logits are float32 always
  remat: bool = False  # recompute each layer in the backward pass: less memory, more time

  def __post_init__(self):
    if not self.head_dim and self.dim % self.heads:
      raise ValueError(f"a width of {self.dim} does not divide into {self.heads} heads")
    if self.heads % self.groups:
      raise ValueError(f"{self.heads} heads do not share {self.groups} heads of keys evenly")
    if self.theta is not None and self.width % 2:
      raise ValueError(f"rotary positions turn pairs, and a head has {self.width} numbers")
    if self.scaling and (self.theta is None or len(self.scaling) != 4):
      raise ValueError(f"scaling {self.scaling} is (factor, low, high, length) of rotary positions")

  @property
  def groups(self) -> int:  # G
    return self.kv_heads or self.heads

  @property
  def width(self) -> int:  # W
    return self.head_dim or self.dim // self.heads


# LLaMA-7B's sizes.
LLAMA = Config(
  vocab=32000, dim=4096, heads=32, ff=11008, layers=32, max_len=2048, theta=1e4, rms=True,
  gated=True, qkv_bias=False, out_bias=False, ff_bias=False, tied=False, dropout=0.0,
  attention_dropout=0.0, eps=1e-6,
)  # fmt: skip
# Qwen2-0.5B's.
QWEN2 = dataclasses.replace(
  LLAMA, vocab=151936, dim=896, heads=14, kv_heads=2, ff=4864, layers=24, max_len=32768, theta=1e6,
  qkv_bias=True, tied=True,
)  # fmt: skip


class Cache(NamedTuple):
  """What `step` knows of what came before: keys and values of each layer, keys turned already."""

  beams: tuple[tuple[Array, Array], ...]  # [B, K, G, N, W], of the steps so far
  prefix: tuple[tuple[Array, Array], ...]  # [B, G, S, W], one copy for all K
  seen: Array  # [B, S] which of the prefix are real
  at: Array  # [] int32, steps so far


class Attention(nn.Module):
  cfg: Config

  def setup(self):
    cfg = self.cfg
    self.query = _dense(cfg, cfg.heads * cfg.width, cfg.qkv_bias)
    self.key = _dense(cfg, cfg.groups * cfg.width, cfg.qkv_bias)
    self.value = _dense(cfg, cfg.groups * cfg.width, cfg.qkv_bias)
    self.out = _dense(cfg, cfg.dim, cfg.out_bias, last=True)
    self.drop = Dropout(cfg.attention_dropout)

  def asked(self, x: Array, turn) -> Array:
    return _turned(attention.split_heads(self.query(x), self.cfg.heads), turn)

  def memory(self, x: Array, turn) -> tuple[Array, Array]:
    """Keys and values of x [B, T, D], each [B, G, T, W]."""
    key, value = (attention.split_heads(y, self.cfg.groups) for y in (self.key(x), self.value(x)))
    return _turned(key, turn), value

  def __call__(self, x: Array, memory: tuple[Array, Array], where: Array, turn) -> Array:
    cfg, train = self.cfg, self.has_rng("dropout")
    y = attention.attend(
      self.asked(x, turn),
      *(jnp.repeat(m, cfg.heads // cfg.groups, axis=1) for m in memory),
      scale=cfg.width**-0.5,
      where=where,
      dropout=lambda w: self.drop(w, train=train),
    )
    return self.out(attention.merge_heads(y))

  def step(self, x: Array, prefix, past, where: Array, at: Array, turn):
    """x [B, K, D] after a prefix that all beams share and each beam's own past."""
    cfg, (rows, beams) = self.cfg, x.shape[:2]
    new = (m.swapaxes(1, 2)[..., None, :] for m in self.memory(x, turn))  # [B, K, G, 1, W]
    past = tuple(
      jax.lax.dynamic_update_slice_in_dim(p, n.astype(p.dtype), at, axis=3)
      for p, n in zip(past, new, strict=True)
    )
    query = self.asked(x, turn) * cfg.width**-0.5  # [B, H, K, W]
    query = query.reshape(rows, cfg.groups, -1, beams, cfg.width)  # [B, G, H / G, K, W]
    wide = {"preferred_element_type": jnp.float32}
    logits = jnp.concatenate(
      [
        jnp.einsum("bgrkw,bgsw->bgrks", query, prefix[0], **wide),
        jnp.einsum("bgrkw,bkgnw->bgrkn", query, past[0], **wide),
      ],
      axis=-1,
    )
    weights = attention.softmax(logits, where).astype(x.dtype)  # [B, G, H / G, K, S + N]
    shared, own = jnp.split(weights, [prefix[0].shape[2]], axis=-1)
    y = jnp.einsum("bgrks,bgsw->bkgrw", shared, prefix[1])
    y += jnp.einsum("bgrkn,bkgnw->bkgrw", own, past[1])
    return self.out(y.reshape(rows, beams, -1)), past


class FeedForward(nn.Module):
  cfg: Config

  @nn.compact
  def __call__(self, x: Array) -> Array:
    cfg = self.cfg
    wide = _dense(cfg, cfg.ff, cfg.ff_bias, name="wide")(x)  # [B, T, F]
    if cfg.gated:
      wide = nn.silu(_dense(cfg, cfg.ff, cfg.ff_bias, name="gate")(x)) * wide
    else:
      wide = nn.gelu(wide, approximate=True)
    return _dense(cfg, cfg.dim, cfg.ff_bias, last=True, name="narrow")(wide)


class Block(nn.Module):
  cfg: Config

  def setup(self):
    cfg = self.cfg
    self.attention_norm, self.attention = _norm(cfg), Attention(cfg)
    self.ff_norm, self.ff = _norm(cfg), FeedForward(cfg)
    self.drop = Dropout(cfg.dropout)

  def __call__(self, x: Array, where: Array, turn) -> tuple[Array, tuple[Array, Array]]:
    """x [B, T, D] a layer further, and the keys and values of it."""
    train = self.has_rng("dropout")
    y = self.attention_norm(x)
    memory = self.attention.memory(y, turn)
    x = x + self.drop(self.attention(y, memory, where, turn), train=train)
    return x + self.drop(self.ff(self.ff_norm(x)), train=train), memory

  def step(self, x: Array, prefix, past, where: Array, at: Array, turn):
    y, past = self.attention.step(self.attention_norm(x), prefix, past, where, at, turn)
    x = x + y
    return x + self.ff(self.ff_norm(x)), past


class GPT(nn.Module):
  cfg: Config

  def setup(self):
    cfg = self.cfg
    self.embed = nn.Embed(cfg.vocab, cfg.dim, embedding_init=_normal(0.02))
    if cfg.theta is None:
      self.positions = nn.Embed(cfg.max_len, cfg.dim, embedding_init=_normal(0.02))
    block = nn.remat(Block) if cfg.remat else Block
    self.layer = [block(cfg) for _ in range(cfg.layers)]
    self.norm = _norm(cfg)
    self.drop = Dropout(cfg.dropout)
    if not cfg.tied:
      self.head = nn.Dense(cfg.vocab, use_bias=False, kernel_init=_normal(0.02))

  def __call__(self, tokens: Array) -> Array:  # visits every parameter, for init
    return self.logits(self.read(tokens, None, jnp.ones((1, 1, 1, 1), bool))[0])

  def read(self, tokens: Array, vectors, where: Array):
    """The last states [B, T, D], float32, and each layer's keys and values."""
    x = self.embed(tokens)
    if vectors is not None:
      at, given = vectors
      x = jnp.where(at[..., None], given.astype(x.dtype), x)
    places = jnp.maximum(where.sum(-1)[:, 0] - 1, 0)  # [B or 1, T], of those that are seen
    x, turn = self.placed(x, places)
    x = self.drop(x, train=self.has_rng("dropout"))
    memories = []
    for layer in self.layer:
      x, memory = layer(x, where, turn)
      memories.append(memory)
    return self.norm(x).astype(jnp.float32), tuple(memories)

  def placed(self, x: Array, places: Array):
    """What the layers read of x [B, T, D] and its places [B or 1, T], and how these turn."""
    if self.cfg.theta is None:
      return (x + self.positions(places)).astype(self.cfg.dtype), None
    angle = places[:, None, :, None] * jnp.asarray(_frequencies(self.cfg))[None, None, None]
    return x.astype(self.cfg.dtype), (jnp.cos(angle), jnp.sin(angle))  # [B or 1, 1, T, W / 2]

  def step(self, tokens: Array, cache: Cache, among: Array | None):
    count, steps = cache.seen.sum(-1), cache.beams[0][0].shape[3]
    x, turn = self.placed(self.embed(tokens), (count + cache.at)[:, None])  # [B, K, D]
    own = jnp.broadcast_to(jnp.arange(steps) <= cache.at, (len(x), steps))
    where = jnp.concatenate([cache.seen, own], axis=1)[:, None, None, None]  # [B, 1, 1, 1, S + N]
    beams = []
    for layer, prefix, past in zip(self.layer, cache.prefix, cache.beams, strict=True):
      x, past = layer.step(x, prefix, past, where, cache.at, turn)
      beams.append(past)
    logits = self.logits(self.norm(x).astype(jnp.float32), among)
    return logits, cache._replace(beams=tuple(beams), at=cache.at + 1)

  def logits(self, x: Array, among: Array | None = None) -> Array:
    if among is None:
      return self.embed.attend(x) if self.cfg.tied else self.head(x)
    if self.cfg.tied:
      return x @ self.embed.embedding[among].T
    return x @ self.head.variables["params"]["kernel"][:, among]


def init(key: Key, cfg: Config) -> Params:
  return GPT(cfg).init(key, jnp.zeros((1, 1), jnp.int32))["params"]


def states(
  params: Params,
  cfg: Config,
  tokens: Array,  # [B, T]
  *,
  mask: Array | None = None,  # [B, T], which are real; None: all
  segment: Array | None = None,  # [B, T], which of several texts of a row; 0: padding
  vectors: tuple[Array, Array] | None = None,  # where [B, T], and [B, T, D] in place of embeddings
  key: Key | None = None,
) -> Array:
  """[B, T, D] float32, what `head` reads: `losses.linear_softmax_xent` makes a loss of them."""
  where = _sight(cfg, tokens, mask, segment)
  return _apply(params, cfg, GPT.read, tokens, vectors, where, key=key)[0]


def logits(
  params: Params,
  cfg: Config,
  tokens: Array,
  *,
  mask: Array | None = None,
  segment: Array | None = None,
  vectors: tuple[Array, Array] | None = None,
  key: Key | None = None,
) -> Array:
  """[B, T, V] float32, of the token after each place; arguments as of `states`."""
  found = states(params, cfg, tokens, mask=mask, segment=segment, vectors=vectors, key=key)
  return _apply(params, cfg, GPT.logits, found)


def head(params: Params, cfg: Config) -> Array:
  """[V, D]: `states(...) @ head.T` are the logits, where all at once are too many."""
  return params["embed"]["embedding"] if cfg.tied else params["head"]["kernel"].T


def start_cache(
  params: Params,
  cfg: Config,
  tokens: Array,  # [B, S]
  *,
  mask: Array | None = None,  # [B, S]
  vectors: tuple[Array, Array] | None = None,  # [B, S] and [B, S, D]
  beams: int = 1,
  length: int,
) -> Cache:
  """After a prefix, with room for `length` tokens of each of K beams."""
  _check_length(cfg, tokens.shape[1] + length)
  return _cache(params, cfg, tokens, _all_if_none(mask, tokens), vectors, beams, length)


def begin(
  params: Params,
  cfg: Config,
  tokens: Array,  # [B, S], prompts
  *,
  mask: Array | None = None,  # [B, S], padding on either side
  vectors: tuple[Array, Array] | None = None,
  beams: int = 1,
  length: int,
) -> tuple[Array, Cache]:
  """The last token of each prompt [B], and the cache of all before it: how a search begins.

  The last of a prompt must be a token, not one of `vectors`.
  """
  _check_length(cfg, tokens.shape[1] - 1 + length)
  mask, places = _all_if_none(mask, tokens), jnp.arange(tokens.shape[1])
  last = jnp.where(mask, places[None], 0).max(1)  # [B]
  before = mask & (places[None] != last[:, None])
  cache = _cache(params, cfg, tokens, before, vectors, beams, length)
  return jnp.take_along_axis(tokens, last[:, None], axis=1)[:, 0], cache


def step(
  params: Params,
  cfg: Config,
  tokens: Array,  # [B, K], the last of each beam
  cache: Cache,
  among: Array | None = None,  # [N], the tokens that may follow; None: all V
) -> tuple[Array, Cache]:
  """Logits of the next token [B, K, V], or [B, K, N] of `among`, and the longer cache.

  The caller takes no more steps than the cache has room for.
  """
  return _apply(params, cfg, GPT.step, tokens, cache, among)


def _cache(params, cfg, tokens, seen, vectors, beams, length) -> Cache:
  where = _sight(cfg, tokens, seen, None)
  _, prefix = _apply(params, cfg, GPT.read, tokens, vectors, where)
  empty = jnp.zeros((len(tokens), beams, cfg.groups, length, cfg.width), cfg.dtype)
  return Cache(((empty, empty),) * cfg.layers, prefix, seen, jnp.int32(0))


def _all_if_none(mask: Array | None, tokens: Array) -> Array:
  return jnp.ones(tokens.shape, bool) if mask is None else mask.astype(bool)


def _sight(cfg: Config, tokens: Array, mask: Array | None, segment: Array | None) -> Array:
  """[B or 1, 1, T, T]: what each place sees."""
  _check_length(cfg, tokens.shape[1])
  where = attention.causal(tokens.shape[1])
  if mask is not None:
    where = where & attention.as_mask(mask)
  return where if segment is None else where & attention.same_segment(segment, segment)


def _check_length(cfg: Config, length: int) -> None:
  if cfg.theta is None and length > cfg.max_len:
    raise ValueError(
      f"{length} tokens, but {cfg.max_len} learned positions: cut the texts, or raise max_len"
    )


def _apply(params, cfg, method, *args, key=None):
  rngs = {} if key is None else {"dropout": key}
  return GPT(cfg).apply({"params": params}, *args, rngs=rngs, method=method)


def _turned(x: Array, turn) -> Array:
  """x [B, H, T, W], number i and number i + W / 2 turned as a pair by the angles of its place."""
  if turn is None:
    return x
  cos, sin = turn
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = first * cos - second * sin, second * cos + first * sin
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def _frequencies(cfg: Config) -> np.ndarray:
  """[W / 2] radians a place. LLaMA 3.1 slows the long waves down, and those between by degrees."""
  plain = 1.0 / cfg.theta ** (np.arange(0, cfg.width, 2) / cfg.width)
  if not cfg.scaling:
    return plain.astype(np.float32)
  factor, low, high, length = cfg.scaling
  turns = length * plain / (2 * math.pi)  # of a wave within the length that was learned first
  kept = np.clip((turns - low) / (high - low), 0, 1)
  return (plain * (kept + (1 - kept) / factor)).astype(np.float32)


def _dense(
  cfg: Config, features: int, bias: bool, *, last: bool = False, name: str | None = None
) -> nn.Dense:
  """A projection; the last of a branch starts smaller, as there are two sums a layer (GPT-2)."""
  init = _normal(0.02 / math.sqrt(2 * cfg.layers) if last else 0.02)
  dot = linear.dot_general
  return nn.Dense(
    features, use_bias=bias, dtype=cfg.dtype, kernel_init=init, dot_general=dot, name=name
  )


def _norm(cfg: Config) -> nn.Module:
  if cfg.rms:
    return nn.RMSNorm(epsilon=cfg.eps, dtype=cfg.dtype)
  # Trained models have a few huge numbers a state, where the fast variance loses its digits.
  return nn.LayerNorm(cfg.eps, dtype=cfg.dtype, use_fast_variance=False)
