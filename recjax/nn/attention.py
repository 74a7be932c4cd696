"""Dot-product attention, heads in front: [B, H, T, D] batched products, softmax in float32.

Bias and mask come ready to broadcast against [B, H, T, S]; masks are True = may be seen.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from recjax.nn import linear
from recjax.types import Array

NEVER = -1e30  # finite, so that a row that sees nothing is no NaN
_SHORT = 16  # lengths below are not worth filling up


def split_heads(x: Array, heads: int) -> Array:
  """[B, T, H * D] -> [B, H, T, D]."""
  return x.reshape(*x.shape[:-1], heads, -1).swapaxes(-3, -2)


def merge_heads(x: Array) -> Array:
  """[B, H, T, D] -> [B, T, H * D]."""
  x = x.swapaxes(-3, -2)
  return x.reshape(*x.shape[:-2], -1)


def attend(
  query: Array,  # [B, H, T, D]
  key: Array,  # [B, H, S, D]
  value: Array,  # [B, H, S, D]
  *,
  scale: float = 1.0,
  bias: Array | None = None,  # [1 or B, H, T, S]
  where: Array | None = None,  # [B, 1 or H, 1 or T, S]
  dropout: Callable[[Array], Array] | None = None,  # on the weights
) -> Array:
  """[B, H, T, D]: the mean of the values each query sees; zero where it sees none."""
  if scale != 1.0:
    query = query * scale
  length = query.shape[-2]
  query, key, value, bias, where = _evened(query, key, value, bias, where)
  logits = linear.matmul(query, key.swapaxes(-1, -2))
  if bias is not None:
    logits = add_shared(logits, bias) if len(bias) == 1 else logits + bias
  weights = softmax(logits, where)
  if dropout is not None:
    weights = dropout(weights)
  return linear.matmul(weights.astype(value.dtype), value).astype(value.dtype)[..., :length, :]


def softmax(logits: Array, where: Array | None = None) -> Array:
  """Over the last axis, in float32; exactly zero outside `where`, all zero where it is empty."""
  if where is None:
    return jax.nn.softmax(logits.astype(jnp.float32))
  return jnp.where(where, jax.nn.softmax(jnp.where(where, logits.astype(jnp.float32), NEVER)), 0)


def add_shared(x: Array, shared: Array) -> Array:
  """x [B, ...] + shared [1, ...]; the gradient's sum over B is a product with ones.

  On a CPU that takes a thirtieth of the time of the plain sum, of [256, 6, 81, 81].
  """
  return _add(*linear.alike(x, shared))


@jax.custom_vjp
def _add(x, shared):
  return x + shared


def _add_forward(x, shared):
  return x + shared, shared.shape


def _add_backward(shape, gradient):
  ones = jnp.ones(len(gradient), gradient.dtype)
  total = jnp.tensordot(ones, gradient, axes=1, precision=jax.lax.Precision.HIGHEST)[None]
  broadcast = tuple(i for i, n in enumerate(shape) if n == 1)
  return gradient, total.sum(broadcast, keepdims=True)


_add.defvjp(_add_forward, _add_backward)


def as_mask(where: Array) -> Array:
  """A mask of keys [B, S] or of pairs [B, 1 or H, T, S], as the latter."""
  if where.ndim == 2:
    return where[:, None, None, :].astype(bool)
  if where.ndim == 4:
    return where.astype(bool)
  raise ValueError(f"a mask is [B, S] or [B, 1, T, S], not {where.shape}")


def _evened(query: Array, key: Array, value: Array, bias: Array | None, where: Array | None):
  """The same with odd lengths filled up to a multiple of 8, unseen, in bfloat16 on a CPU.

  A sum of products over an odd number of places is made there in float32, and of copies in it.
  """
  lengths = query.shape[-2], key.shape[-2]
  half = query.dtype == key.dtype == value.dtype == jnp.bfloat16
  rows, columns = (-n % 8 if half and n % 2 and n >= _SHORT else 0 for n in lengths)
  if not (rows or columns) or jax.default_backend() != "cpu":
    return query, key, value, bias, where

  def filled(x, rows, columns):
    return jnp.pad(x, [*[(0, 0)] * (x.ndim - 2), (0, rows), (0, columns)])

  def of_pairs(x):  # what is broadcast over the queries is so over further ones
    return filled(x, 0 if x.shape[-2] == 1 else rows, columns)

  if where is None:
    where = jnp.ones((1, 1, 1, lengths[1]), bool)
  bias = None if bias is None else of_pairs(bias)
  key, value = filled(key, columns, 0), filled(value, columns, 0)
  return filled(query, rows, 0), key, value, bias, of_pairs(where)


def by_query(x: Array, heads: int, length: int) -> Array:
  """A mask or bias [B, 1 or H, 1 or T, S] for H * T queries of one head: [B, 1, H * T, S]."""
  whole = jnp.broadcast_to(x, (len(x), heads, length, x.shape[-1]))
  return whole.reshape(len(x), 1, heads * length, -1)


def causal(length: int) -> Array:
  """[1, 1, T, T]: each place sees itself and what is before it."""
  return jnp.tril(jnp.ones((length, length), bool))[None, None]


def same_segment(query: Array, key: Array) -> Array:
  """[B, 1, T, S] from segment ids [B, T] and [B, S] of packed rows; 0 marks padding."""
  return ((query[:, :, None] == key[:, None, :]) & (key != 0)[:, None, :])[:, None]
