"""A decoder-only stack of T5's layers: every token sees itself and those before it.

Distances are T5's; as all of them point backwards, half of the buckets serve. A prefix is read
once for all beams that continue it; `t5.reorder` takes these caches too.

B batch, T tokens, K beams, H heads, W head width, S prefix, N steps, D width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from recjax.nn import attention, t5
from recjax.types import Array, Key, Params


class Cache(NamedTuple):
  """What `step` knows of what came before, keys and values of each layer."""

  beams: tuple[tuple[Array, Array], ...]  # [B, K, H, N, W], of the steps so far
  prefix: tuple[tuple[Array, Array], ...]  # [B, H, S, W], one copy for all K
  seen: Array  # [B, S] which of the prefix are real
  at: Array  # [] int32, steps so far


class Causal(nn.Module):
  cfg: t5.Config

  def setup(self):
    self.embed = nn.Embed(self.cfg.vocab, self.cfg.dim, embedding_init=nn.initializers.normal(1.0))
    self.stack = t5.Stack(self.cfg, decoder=False)

  def __call__(self, tokens: Array, where: Array) -> Array:
    return self.logits(self.stack(self.embed(tokens), where))

  def logits(self, x: Array) -> Array:
    return self.embed.attend(x.astype(jnp.float32) * self.cfg.dim**-0.5)

  def read(self, tokens: Array, where: Array) -> tuple[tuple[Array, Array], ...]:
    """Keys and values of every layer."""
    stack, places = self.stack, jnp.arange(tokens.shape[1])
    bias = stack.bias(places[None, :] - places[:, None])
    x, memories = self.embed(tokens).astype(self.cfg.dtype), []
    for layer in stack.layer:
      memories.append(layer.attention.memory(layer.attention_norm(x)))
      x = layer(x, bias, where)
    return tuple(memories)

  def step(self, tokens: Array, cache: Cache) -> tuple[Array, Cache]:
    stack, x = self.stack, self.embed(tokens).astype(self.cfg.dtype)  # [B, K, D]
    before, steps = cache.seen.shape[1], cache.beams[0][0].shape[3]
    distance = jnp.arange(before + steps) - before - cache.at
    bias = stack.bias(distance[None, :])[:, None, :, 0]  # [1, 1, H, S + N]
    own = jnp.broadcast_to(jnp.arange(steps) <= cache.at, (len(x), steps))
    where = jnp.concatenate([cache.seen, own], axis=1)[:, None, None]  # [B, 1, 1, S + N]
    beams = []
    for layer, past, prefix in zip(stack.layer, cache.beams, cache.prefix, strict=True):
      y = layer.attention_norm(x)
      new = layer.attention.memory(y[..., None, :])  # [B, K, H, 1, W]
      past = tuple(
        jax.lax.dynamic_update_slice_in_dim(p, n, cache.at, axis=3)
        for p, n in zip(past, new, strict=True)
      )
      beams.append(past)
      x = x + _continued(layer.attention, y, prefix, past, bias, where)
      x = x + layer.ff(layer.ff_norm(x))
    return self.logits(stack.norm(x)), cache._replace(beams=tuple(beams), at=cache.at + 1)


def _continued(block: t5.Attention, x: Array, prefix, past, bias: Array, where: Array) -> Array:
  """Attention of x [B, K, D] to a prefix that all beams share and to each beam's own past."""
  query = attention.split_heads(block.query(x[..., None, :]), block.cfg.heads)[..., 0, :]
  logits = jnp.concatenate(
    [
      jnp.einsum("bkhw,bhsw->bkhs", query, prefix[0]),
      jnp.einsum("bkhw,bkhnw->bkhn", query, past[0]),
    ],
    axis=-1,
  ).astype(jnp.float32)
  weights = attention.softmax(logits + bias, where).astype(x.dtype)
  shared, own = jnp.split(weights, [prefix[0].shape[2]], axis=-1)
  mixed = jnp.einsum("bkhs,bhsw->bkhw", shared, prefix[1])
  mixed += jnp.einsum("bkhn,bkhnw->bkhw", own, past[1])
  return block.out(mixed.reshape(*x.shape[:2], -1))


def init(key: Key, cfg: t5.Config) -> Params:
  return Causal(cfg).init(key, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1, 1, 1), bool))["params"]


def logits(
  params: Params,
  cfg: t5.Config,
  tokens: Array,  # [B, T]
  *,
  mask: Array,  # [B, T], which are real
  key: Key | None = None,  # of dropout
) -> Array:
  """[B, T, V] float32, of the token after each place."""
  rngs = {} if key is None else {"dropout": key}
  where = attention.causal(tokens.shape[1]) & attention.as_mask(mask)
  return Causal(cfg).apply({"params": params}, tokens, where, rngs=rngs)


def start_cache(
  params: Params, cfg: t5.Config, tokens: Array, *, mask: Array, length: int
) -> Cache:
  """After a prefix [B, S], with room for `length` steps of one beam."""
  where = attention.causal(tokens.shape[1]) & attention.as_mask(mask)
  prefix = Causal(cfg).apply({"params": params}, tokens, where, method=Causal.read)
  empty = jnp.zeros((len(tokens), 1, cfg.heads, length, cfg.head_dim), cfg.dtype)
  return Cache(((empty, empty),) * cfg.layers, prefix, mask, jnp.int32(0))


def step(params: Params, cfg: t5.Config, tokens: Array, cache: Cache) -> tuple[Array, Cache]:
  """The last token of each beam [B, K] -> logits of the next [B, K, V], and the longer cache."""
  return Causal(cfg).apply({"params": params}, tokens, cache, method=Causal.step)
