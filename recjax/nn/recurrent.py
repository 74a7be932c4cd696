"""Gated recurrent units (Cho et al., EMNLP 2014) over left-padded sequences, by one scan.

What the inputs add to the gates is one product over all steps, made before the scan; a step is
left with the product of the state. The reset gate multiplies the projected state, as in cuDNN
and torch, so their weights can be read. Padding passes the state on unchanged.

B batch, T time, D width of the inputs, H width of the state.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from recjax.nn.linear import dot_general
from recjax.types import Array


class GRU(nn.Module):
  """Inputs x [B, T, D] -> the state after each step [B, T, H]."""

  features: int  # H

  @nn.compact
  def __call__(self, x: Array, where: Array, start: Array | None = None) -> Array:
    """`where` [B, T]: True where a step is real; `start` [B, H], zero if not given."""
    size = self.features
    # Columns: reset, update, candidate.
    given = nn.Dense(3 * size, dot_general=dot_general, name="input")(x)  # [B, T, 3 H]
    kernel = self.param("state_kernel", _orthogonal_gates, (size, 3 * size))
    bias = self.param("state_bias", nn.initializers.zeros, (3 * size,))

    def step(state, at):
      given, there = at  # [B, 3 H], [B]
      of_state = state @ kernel + bias[None]
      reset, update = jnp.split(
        jax.nn.sigmoid(given[:, : 2 * size] + of_state[:, : 2 * size]), 2, axis=1
      )
      new = jnp.tanh(given[:, 2 * size :] + reset * of_state[:, 2 * size :])
      state = jnp.where(there[:, None], update * state + (1 - update) * new, state)
      return state, state

    if start is None:
      start = jnp.zeros((len(x), size), given.dtype)
    _, states = jax.lax.scan(step, start, (given.swapaxes(0, 1), where.T))
    return states.swapaxes(0, 1)


def _orthogonal_gates(key, shape, dtype=jnp.float32) -> Array:
  """An orthogonal matrix for each of the three gates."""
  size = shape[0]
  one = nn.initializers.orthogonal()
  return jnp.concatenate([one(k, (size, size), dtype) for k in jax.random.split(key, 3)], axis=1)
