"""T5 (Raffel et al., JMLR 2020), https://arxiv.org/abs/1910.10683: an encoder-decoder of text.

Pre-norm Transformer with RMS norms, no bias terms, unscaled attention, and relative positions: a
learned number a head for each bucket of distances, shared by the layers of a stack. v1.0 has a
ReLU and scores tokens with the embedding table; v1.1 and Flan gate a GELU and have an own head.

`encode`, `decode` and `decode_step` are functions of (params, cfg, ...); dropout is on where they
are given a `key`. Distances are all that is known of places, so packed rows need a mask only.

B batch, S source, T target, K beams, D width, H heads, F feed-forward, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from recjax.nn import attention, linear
from recjax.nn.dropout import Dropout
from recjax.types import PAD, Array, Key, Params

_normal = nn.initializers.normal


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of t5-small. v1.1 and Flan: `gated=True, tied=False, scaled=False`."""

  vocab: int = 32128  # V
  dim: int = 512  # D
  heads: int = 8  # H
  head_dim: int = 64
  ff: int = 2048  # F
  layers: int = 6
  decoder_layers: int = 6  # 0: an encoder alone
  buckets: int = 32
  max_distance: int = 128
  dropout: float = 0.1
  gated: bool = False  # GELU(x W0) * (x W1) instead of ReLU(x W)
  tied: bool = True  # the head is the embedding table
  scaled: bool = True  # the head reads states / sqrt(D)
  eps: float = 1e-6
  dtype: str = "float32"  # of activations; softmax and logits are float32 always
  remat: bool = False  # recompute each layer in the backward pass: less memory, more time
  scan: bool = False  # one compiled layer in a loop: compiles faster, runs no faster


class Drop(Dropout):
  """Dropout where there is a key for it."""

  def __call__(self, x: Array) -> Array:
    return super().__call__(x, train=self.has_rng("dropout"))


class Attention(nn.Module):
  cfg: Config

  def setup(self):
    cfg, inner = self.cfg, self.cfg.heads * self.cfg.head_dim
    self.query = _dense(cfg, inner, std=(cfg.dim * cfg.head_dim) ** -0.5)
    self.key = _dense(cfg, inner, std=cfg.dim**-0.5)
    self.value = _dense(cfg, inner, std=cfg.dim**-0.5)
    self.out = _dense(cfg, cfg.dim, std=inner**-0.5)
    self.drop = Drop(cfg.dropout)

  def memory(self, x: Array) -> tuple[Array, Array]:
    """Keys and values of what is attended to, each [B, H, S, head_dim]."""
    return tuple(attention.split_heads(y, self.cfg.heads) for y in (self.key(x), self.value(x)))

  def __call__(self, x: Array, memory: tuple[Array, Array], bias, where) -> Array:
    query = attention.split_heads(self.query(x), self.cfg.heads)
    return self.out(attention.merge_heads(self._attend(query, memory, bias, where)))

  def to(self, x: Array, states: Array, where, bias) -> Array:
    """Attention of x [B, T, D] to states [B, S, D], in the order of products that costs less."""
    cfg, (_, length, dim), sources = self.cfg, x.shape, states.shape[1]
    inner = cfg.heads * cfg.head_dim
    each = sources * inner * (dim + length)  # a key and a value for each state
    none = length * dim * (inner + cfg.heads * sources)  # queries and means as wide as the states
    if each <= none or self.is_initializing():
      return self(x, self.memory(states), bias, where)
    # With few queries: q . (W s) = (W^T q) . s, and the mean of W s is W times the mean of s.
    key, value = (
      m.variables["params"]["kernel"].reshape(dim, cfg.heads, -1).astype(cfg.dtype)
      for m in (self.key, self.value)
    )
    query = attention.split_heads(self.query(x), cfg.heads)  # [B, H, T, head_dim]
    wide = jnp.einsum("bhtk,dhk->bhtd", query, key).reshape(len(x), 1, -1, dim)  # [B, 1, H * T, D]
    if where.shape[1:3] != (1, 1):
      where = attention.by_query(where, cfg.heads, length)
    bias = None if bias is None else attention.by_query(bias, cfg.heads, length)
    mean = self._attend(wide, (states[:, None], states[:, None]), bias, where)
    mean = mean.reshape(len(x), cfg.heads, length, dim)
    return self.out(attention.merge_heads(jnp.einsum("bhtd,dhk->bhtk", mean, value)))

  def step(self, x: Array, past, at: Array, bias: Array):
    """One place of self-attention: x [B, K, D], past keys and values [B, K, H, T, head_dim]."""
    x = x[..., None, :]  # [B, K, 1, D]
    past = tuple(
      jax.lax.dynamic_update_slice_in_dim(p, n, at, axis=3)
      for p, n in zip(past, self.memory(x), strict=True)
    )
    seen = (jnp.arange(past[0].shape[3]) <= at)[None, None, None, None, :]
    query = attention.split_heads(self.query(x), self.cfg.heads)  # [B, K, H, 1, head_dim]
    out = attention.merge_heads(self._attend(query, past, bias[None], seen))
    return self.out(out)[..., 0, :], past

  def _attend(self, query, memory, bias, where):
    return attention.attend(query, *memory, bias=bias, where=where, dropout=self.drop)


class FeedForward(nn.Module):
  cfg: Config

  @nn.compact
  def __call__(self, x: Array) -> Array:
    cfg = self.cfg
    if cfg.gated:
      gate = _dense(cfg, cfg.ff, std=cfg.dim**-0.5, name="gate")(x)
      x = nn.gelu(gate, approximate=True) * _dense(cfg, cfg.ff, std=cfg.dim**-0.5, name="wide")(x)
    else:
      x = nn.relu(_dense(cfg, cfg.ff, std=cfg.dim**-0.5, name="wide")(x))
    x = Drop(cfg.dropout)(x)  # [B, T, F]
    return _dense(cfg, cfg.dim, std=cfg.ff**-0.5, name="narrow")(x)


class Block(nn.Module):
  cfg: Config
  decoder: bool

  def setup(self):
    cfg = self.cfg
    self.attention_norm, self.attention = _norm(cfg), Attention(cfg)
    if self.decoder:
      self.cross_norm, self.cross = _norm(cfg), Attention(cfg)
    self.ff_norm, self.ff = _norm(cfg), FeedForward(cfg)
    self.drop = Drop(cfg.dropout)

  def __call__(self, x: Array, bias, where, encoded=None, sight=None) -> Array:
    y = self.attention_norm(x)
    x = x + self.drop(self.attention(y, self.attention.memory(y), bias, where))
    if self.decoder:
      x = x + self.drop(self.cross.to(self.cross_norm(x), encoded, *sight))
    return x + self.drop(self.ff(self.ff_norm(x)))

  def step(self, x: Array, past, source, at, bias, sight):
    """x [B, K, D]: the beams stand where time stood, so all K read one copy of the source."""
    y, past = self.attention.step(self.attention_norm(x), past, at, bias)
    x = x + y
    x = x + self.cross(self.cross_norm(x), source, *sight[::-1])
    return x + self.ff(self.ff_norm(x)), past


class Stack(nn.Module):
  cfg: Config
  decoder: bool

  def setup(self):
    cfg = self.cfg
    block = nn.remat(Block) if cfg.remat else Block
    make = functools.partial(block, cfg, self.decoder)
    self.layer = make() if cfg.scan else [make() for _ in range(self.count)]
    self.distances = nn.Embed(cfg.buckets, cfg.heads, embedding_init=_normal(cfg.dim**-0.5))
    self.norm = _norm(cfg)
    self.drop = Drop(cfg.dropout)

  @property
  def count(self) -> int:
    return self.cfg.decoder_layers if self.decoder else self.cfg.layers

  def __call__(self, x: Array, where, encoded=None, sight=None, places=None) -> Array:
    places = np.arange(x.shape[1]) if places is None else places
    bias = self.bias(places[None, :] - places[:, None])
    x = self.drop(x.astype(self.cfg.dtype))
    if self.cfg.scan:

      def body(layer, y, _):
        return layer(y, bias, where, encoded, sight), None

      over = {"variable_axes": {"params": 0}, "split_rngs": {"params": True, "dropout": True}}
      x, _ = nn.scan(body, **over, length=self.count)(self.layer, x, None)
    else:
      for layer in self.layer:
        x = layer(x, bias, where, encoded, sight)
    return self.drop(self.norm(x))

  def bias(self, distance) -> Array:
    """What the heads add to the logits at distances (key - query) [T, S]: [1, H, T, S]."""
    most = self.cfg.max_distance
    table = jnp.asarray(_buckets(self.cfg.buckets, most, both_ways=not self.decoder))
    return self.distances(table[jnp.clip(distance, -most, most) + most]).transpose(2, 0, 1)[None]


class T5(nn.Module):
  cfg: Config

  def setup(self):
    cfg = self.cfg
    self.embed = nn.Embed(cfg.vocab, cfg.dim, embedding_init=_normal(1.0))
    self.encoder = Stack(cfg, decoder=False)
    if cfg.decoder_layers:
      self.decoder = Stack(cfg, decoder=True)
      if not cfg.tied:
        self.head = nn.Dense(cfg.vocab, use_bias=False, kernel_init=_normal(cfg.dim**-0.5))

  def __call__(self, tokens):  # visits every parameter, for init
    where = jnp.ones((1, 1, 1, 1), bool)
    states = self.encode(tokens, None, where)
    return (
      self.decode(tokens, None, states, where, (where, None)) if self.cfg.decoder_layers else states
    )

  def encode(self, tokens, embeds, where, places=None) -> Array:
    x = self.embed(tokens) if embeds is None else embeds
    return self.encoder(x, where, places=places)

  def decode(self, tokens, embeds, encoded, where, sight, states=False) -> Array:
    x = self.embed(tokens) if embeds is None else embeds
    x = self.decoder(x, where, encoded, sight)
    return self.read(x) if states else self.logits(x)

  def source(self, encoded: Array):
    return tuple(layer.cross.memory(encoded) for layer in self.decoder.layer)

  def step(self, tokens, cache: Cache, among=None):
    x = self.embed(tokens).astype(self.cfg.dtype)  # [B, K, D]
    length = cache.beams[0][0].shape[3]
    bias = self.decoder.bias((jnp.arange(length) - cache.at)[None, :])  # [1, H, 1, T]
    beams = []
    for layer, past, source in zip(self.decoder.layer, cache.beams, cache.source, strict=True):
      x, past = layer.step(x, past, source, cache.at, bias, cache.sight)
      beams.append(past)
    logits = self.logits(self.decoder.norm(x), among)
    return logits, cache._replace(beams=tuple(beams), at=cache.at + 1)

  def read(self, x: Array) -> Array:
    return x.astype(jnp.float32) * (self.cfg.dim**-0.5 if self.cfg.scaled else 1.0)

  def logits(self, x: Array, among=None) -> Array:
    x = self.read(x)
    if among is None:
      return self.embed.attend(x) if self.cfg.tied else self.head(x)
    if self.cfg.tied:
      return x @ self.embed.embedding[among].T
    return x @ self.head.variables["params"]["kernel"][:, among]


class Cache(NamedTuple):
  """All that `decode_step` knows of what came before; keys and values of each decoder layer."""

  beams: tuple[tuple[Array, Array], ...]  # [B, K, H, T, head_dim], of the tokens so far
  source: tuple[tuple[Array, Array], ...]  # [B, H, S, head_dim], one copy for all K
  sight: tuple[Array, Array | None]  # of the source: mask [B, 1, 1, S] and bias [1, H, 1, S]
  at: Array  # [] int32, the place of the next token


def init(key: Key, cfg: Config) -> Params:
  return T5(cfg).init(key, jnp.zeros((1, 1), jnp.int32))["params"]


def encode(
  params: Params,
  cfg: Config,
  tokens: Array | None = None,  # [B, S]
  *,
  embeds: Array | None = None,  # [B, S, D], in place of tokens
  mask: Array | None = None,  # [B, S] or [B, 1, S, S]
  places: np.ndarray | None = None,  # [S], where not 0, 1, 2 ...; distances are between them
  key: Key | None = None,
) -> Array:
  """[B, S, D]. Without a mask every token but PAD is seen (of `embeds`, everything)."""
  if (tokens is None) == (embeds is None):
    raise ValueError("encode takes either tokens or embeds")
  if mask is None:
    mask = jnp.ones(embeds.shape[:2], bool) if tokens is None else tokens != PAD
  return _apply(params, cfg, T5.encode, tokens, embeds, attention.as_mask(mask), places, key=key)


def decode(
  params: Params,
  cfg: Config,
  tokens: Array,  # [B, T], the target shifted right
  encoded: Array,  # [B, S, D]
  *,
  source_mask: Array,  # [B, S] or [B, 1, T, S]
  source_bias: Array | None = None,  # [1, H, T, S], added to the logits of attention to it
  mask: Array | None = None,  # [B, T] or [B, 1, T, T], beside causality
  embeds: Array | None = None,  # [B, T, D], in place of tokens
  states: bool = False,  # what `head` reads [B, T, D], instead of logits
  key: Key | None = None,
) -> Array:
  """Logits [B, T, V] float32 of the token after each place."""
  where = attention.causal((tokens if embeds is None else embeds).shape[1])
  if mask is not None:
    where = where & attention.as_mask(mask)
  source = attention.as_mask(source_mask), source_bias
  return _apply(params, cfg, T5.decode, tokens, embeds, encoded, where, source, states, key=key)


def head(params: Params, cfg: Config) -> Array:
  """[V, D]: `decode(..., states=True) @ head.T` are the logits, where all at once are too many."""
  return params["embed"]["embedding"] if cfg.tied else params["head"]["kernel"].T


def start_cache(
  params: Params,
  cfg: Config,
  encoded: Array,  # [B, S, D]
  *,
  source_mask: Array,  # [B, S]
  source_bias: Array | None = None,  # [1, H, 1, S]
  beams: int = 1,
  length: int,
) -> Cache:
  """The cache before the first token, with room for `length` tokens of each of K beams."""
  params, cfg = unstack(params, cfg)
  shape = (len(encoded), beams, cfg.heads, length, cfg.head_dim)
  empty = jnp.zeros(shape, cfg.dtype)
  source = _apply(params, cfg, T5.source, encoded)
  sight = attention.as_mask(source_mask), source_bias
  return Cache(((empty, empty),) * cfg.decoder_layers, source, sight, jnp.int32(0))


def decode_step(
  params: Params,
  cfg: Config,
  tokens: Array,  # [B, K], the last of each beam
  cache: Cache,
  among: Array | None = None,  # [N], the tokens that may follow; None: all V
) -> tuple[Array, Cache]:
  """Logits of the next token [B, K, V], or [B, K, N] of `among`, and the longer cache.

  The caller takes no more steps than the cache has room for.
  """
  params, cfg = unstack(params, cfg)
  return _apply(params, cfg, T5.step, tokens, cache, among)


def reorder(cache: Cache, parents: Array) -> Cache:
  """The cache in which beam k continues what beam parents[b, k] began; the source stays."""

  def take(x):
    rows = x.reshape(*x.shape[:2], -1)  # whole rows: faster than an index for each axis
    taken = jnp.take_along_axis(rows, parents[..., None], axis=1)
    return taken.reshape(*parents.shape, *x.shape[2:])  # there may be more than before

  return cache._replace(beams=jax.tree.map(take, cache.beams))


def unstack(params: Params, cfg: Config) -> tuple[Params, Config]:
  """Params and config of the same model without `scan`: a subtree for each layer."""
  if not cfg.scan:
    return params, cfg
  cfg, params = dataclasses.replace(cfg, scan=False), dict(params)
  for name, count in _stacks(cfg):
    rest = dict(params[name])
    every = rest.pop("layer")
    each = {f"layer_{i}": jax.tree.map(lambda x, i=i: x[i], every) for i in range(count)}
    params[name] = rest | each
  return params, cfg


def stack(params: Params, cfg: Config) -> tuple[Params, Config]:
  """Params and config of the same model with `scan`: one subtree, the layers its first axis."""
  if cfg.scan:
    return params, cfg
  cfg, params = dataclasses.replace(cfg, scan=True), dict(params)
  for name, count in _stacks(cfg):
    rest = dict(params[name])
    each = [rest.pop(f"layer_{i}") for i in range(count)]
    params[name] = rest | {"layer": jax.tree.map(lambda *x: jnp.stack(x), *each)}
  return params, cfg


def _stacks(cfg: Config) -> list[tuple[str, int]]:
  return [("encoder", cfg.layers)] + [("decoder", cfg.decoder_layers)] * bool(cfg.decoder_layers)


def _apply(params, cfg, method, *args, key=None):
  rngs = {} if key is None else {"dropout": key}
  return T5(cfg).apply({"params": params}, *args, rngs=rngs, method=method)


def _buckets(buckets: int, max_distance: int, *, both_ways: bool) -> np.ndarray:
  """The bucket of each distance -max_distance..max_distance (key - query), [2 max_distance + 1].

  Half of a direction's buckets hold one distance each, the rest grow as its logarithm. Looking
  one way only, keys after the query share bucket 0.
  """
  distance = np.arange(-max_distance, max_distance + 1)
  if both_ways:
    buckets //= 2
  start = np.where(distance > 0, buckets if both_ways else 0, 0)
  far = np.abs(distance) if both_ways else np.maximum(-distance, 0)
  exact = buckets // 2
  if not 0 < exact < max_distance:
    raise ValueError(f"{buckets} buckets a direction do not reach a distance of {max_distance}")
  log = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact))
  large = exact + (log / np.float32(math.log(max_distance / exact)) * (buckets - exact)).astype(int)
  return start + np.where(far < exact, far, np.minimum(large, buckets - 1))


def _dense(cfg: Config, features: int, *, std: float, name: str | None = None) -> nn.Dense:
  init, dot = _normal(std), linear.dot_general
  return nn.Dense(
    features, use_bias=False, dtype=cfg.dtype, kernel_init=init, dot_general=dot, name=name
  )


def _norm(cfg: Config) -> nn.RMSNorm:
  return nn.RMSNorm(epsilon=cfg.eps, dtype=cfg.dtype)
