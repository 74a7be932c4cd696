"""Additive attention (Bahdanau et al., ICLR 2015) that turns a sequence into one vector.

S places, D width.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from recjax.nn import attention
from recjax.nn.linear import dot_general
from recjax.types import Array


class AdditivePool(nn.Module):
  """x [..., S, D] -> [..., D]: the mean weighed by softmax(q . tanh(W x + b)), 0 of no places."""

  width: int  # of the query q

  @nn.compact
  def __call__(self, x: Array, where: Array) -> Array:
    """`where` [..., S]: True where a place is real."""
    hidden = jnp.tanh(nn.Dense(self.width, dot_general=dot_general, name="hidden")(x))
    logits = nn.Dense(1, use_bias=False, name="query")(hidden)[..., 0]  # [..., S]
    return jnp.einsum("...s,...sd->...d", attention.softmax(logits, where).astype(x.dtype), x)
