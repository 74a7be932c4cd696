"""Transformer blocks over embedded sequences (Vaswani et al., NeurIPS 2017).

What sequential recommenders share: multi-head attention under a mask and a position-wise network,
each with dropout, a residual sum and a LayerNorm before it (`norm_first`) or after the sum.

B batch, T time, D width, H heads, F feed-forward.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import linen as nn

from recjax.nn import attention
from recjax.nn.dropout import Dropout
from recjax.nn.linear import dot_general
from recjax.types import Array


class Block(nn.Module):
  heads: int  # H
  ff: int  # F
  dropout: float
  attention_dropout: float
  activation: Callable[[Array], Array]
  norm_first: bool
  eps: float = 1e-6
  std: float | None = None  # of normal kernels; None: Xavier uniform

  @nn.compact
  def __call__(self, x: Array, where: Array, *, train: bool, last: bool = False) -> Array:
    """x [B, T, D]; where [B or 1, 1, T or 1, T], True where a query (third axis) may look.

    With `last` only the last place is asked, which makes [B, 1, D].
    """
    width = x.shape[-1]
    if width % self.heads:
      raise ValueError(f"a width of {width} does not divide into {self.heads} heads")

    def attend(y):
      query, key, value = (
        attention.split_heads(self._dense(width, name)(of), self.heads)  # [B, H, T, D / H]
        for name, of in (("query", y[:, -1:] if last else y), ("key", y), ("value", y))
      )
      weigh = Dropout(self.attention_dropout, name="attention_dropout")
      y = attention.attend(
        query,
        key,
        value,
        scale=(width // self.heads) ** -0.5,
        where=where[:, :, -1:] if last else where,
        dropout=lambda w: weigh(w, train=train),
      )
      return self._dense(width, "out")(attention.merge_heads(y))

    def widen(y):
      y = self.activation(self._dense(self.ff, "wide")(y))  # [B, T, F]
      return self._dense(width, "narrow")(Dropout(self.dropout)(y, train=train))

    for name, change in (("attention_norm", attend), ("ff_norm", widen)):
      norm = nn.LayerNorm(self.eps, name=name)
      y = Dropout(self.dropout)(change(norm(x) if self.norm_first else x), train=train)
      x = x[:, -1:] if last else x
      x = x + y if self.norm_first else norm(x + y)
    return x

  def _dense(self, features: int, name: str) -> nn.Dense:
    normal = None if self.std is None else nn.initializers.truncated_normal(self.std)
    return nn.Dense(
      features,
      kernel_init=normal or nn.initializers.xavier_uniform(),
      dot_general=dot_general,
      name=name,
    )


class Encoder(nn.Module):
  """Blocks in a row; with `norm_first` a last LayerNorm follows them."""

  layers: int
  heads: int
  ff: int
  dropout: float
  attention_dropout: float | None = None  # None: as `dropout`
  activation: Callable[[Array], Array] = jax.nn.gelu
  norm_first: bool = True
  eps: float = 1e-6
  std: float | None = None

  @nn.compact
  def __call__(self, x: Array, where: Array, *, train: bool, last: bool = False) -> Array:
    """[B, T, D]; with `last` the last place alone, [B, 1, D], at less work in the last block."""
    for i in range(self.layers):
      x = Block(
        self.heads,
        self.ff,
        self.dropout,
        self.dropout if self.attention_dropout is None else self.attention_dropout,
        self.activation,
        self.norm_first,
        self.eps,
        self.std,
        name=f"block_{i}",
      )(x, where, train=train, last=last and i == self.layers - 1)
    return nn.LayerNorm(self.eps, name="norm")(x) if self.norm_first else x
