"""Pieces of residual quantisation: the nearest code, gradients through it, balanced choice.

A vector is replaced by its nearest code, what is left of it by the nearest code of the next level,
and so on. Ties go to the lowest index. All is float32 at full precision whatever the backend: a
code is an identity, and two machines must agree on it.

N vectors, D width, K codes of a level, L levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from recjax.types import Array

Choose = Callable[[int, Array, Array], Array]  # (level, residuals [N, D], codebook [K, D]) -> [N]


class Residual(NamedTuple):
  codes: Array  # [N, L] int32
  given: tuple[Array, ...]  # L x [N, D], what each level had to quantise
  chosen: tuple[Array, ...]  # L x [N, D], the codes it took


def product(a: Array, b: Array) -> Array:
  """Float32 product of matrices, without the short formats an accelerator would take."""
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def distances(x: Array, codebook: Array) -> Array:
  """[N, K] squared distances less |x|^2, which is the same for every code."""
  return jnp.square(codebook).sum(1)[None] - 2 * product(x, codebook.T)


def lowest(cost: Array) -> Array:
  """[N] int32: the column of the least cost of each row, the first of equals.

  Two plain reductions: XLA makes them faster than one argmin (1.6 times for 256 columns).
  """
  columns = jnp.arange(cost.shape[1], dtype=jnp.int32)[None]
  least = cost.min(1, keepdims=True)
  return jnp.where(cost == least, columns, cost.shape[1] - 1).min(1)


def nearest(x: Array, codebook: Array, price: Array | None = None) -> Array:
  """[N] int32: the nearest code; with a `price` [K], the one of least distance less price."""
  cost = distances(x, codebook)
  return lowest(cost if price is None else cost - price[None])


@jax.custom_vjp
def lookup(codebook: Array, codes: Array) -> Array:
  """[N, D] rows of the codebook; its gradient is summed in a fixed order on every backend."""
  return codebook[codes]


def _lookup_forward(codebook, codes):
  return codebook[codes], (codebook, codes)


def _lookup_backward(kept, gradient):
  codebook, codes = kept
  return sums(gradient, codes, len(codebook)), None


lookup.defvjp(_lookup_forward, _lookup_backward)


def sums(x: Array, codes: Array, size: int) -> Array:
  """[K, D]: the sum of the rows of each code; a code out of range is left out."""

  def scattered(x, codes):
    return jnp.zeros((size, x.shape[1]), x.dtype).at[codes].add(x, mode="drop")

  def multiplied(x, codes):  # an accelerator would add scattered rows in any order
    return product(jax.nn.one_hot(codes, size, dtype=x.dtype).T, x)

  return jax.lax.platform_dependent(x, codes, cpu=scattered, default=multiplied)


def residual(x: Array, codebooks: Sequence[Array], choose: Choose | None = None) -> Residual:
  """Quantises level by level. No gradient passes from a level to the codes of those before it."""
  if choose is None:

    def choose(level, left, codebook):
      del level
      return nearest(left, codebook)

  codes, given, chosen = [], [], []
  for level, codebook in enumerate(codebooks):
    held = jax.lax.stop_gradient((x, codebook))
    codes.append(choose(level, *held))
    given.append(x)
    chosen.append(lookup(codebook, codes[-1]))
    x = x - jax.lax.stop_gradient(chosen[-1])
  return Residual(jnp.stack(codes, axis=1), tuple(given), tuple(chosen))


def compose(codebooks: Sequence[Array], codes: Array) -> Array:
  """[N, D]: the sum of the codes of each row of `codes` [N, L]."""
  return sum(codebook[codes[:, level]] for level, codebook in enumerate(codebooks))


def straight_through(x: Array, quantized: Array) -> Array:
  """`quantized`, with the gradient of the identity on x."""
  return x + jax.lax.stop_gradient(quantized - x)


def rotate(x: Array, quantized: Array) -> Array:
  """`quantized`, with the gradient of the rotation and scaling that takes x there.

  The rotation trick (Fifty et al., ICLR 2025, https://arxiv.org/abs/2410.06424): the map is held
  fixed, so angles between the gradient and the code stay as they were.
  """
  x0, q = jax.lax.stop_gradient((x, quantized))
  x_norm, q_norm = (jnp.linalg.norm(v, axis=1, keepdims=True) for v in (x0, q))
  tiny = jnp.finfo(x.dtype).tiny
  a, b = x0 / jnp.maximum(x_norm, tiny), q / jnp.maximum(q_norm, tiny)
  middle = a + b
  norm = jnp.linalg.norm(middle, axis=1, keepdims=True)
  middle = middle / jnp.maximum(norm, tiny)

  def along(v):
    return (x * v).sum(1, keepdims=True)

  turned = x - 2 * along(middle) * middle + 2 * along(a) * b
  turned *= q_norm / jnp.maximum(x_norm, tiny)
  # Neither a zero vector nor opposite ones define a rotation.
  fits = (x_norm > 1e-6) & (q_norm > 1e-6) & (norm > 1e-3)
  return jnp.where(fits, turned, straight_through(x, quantized))


def shares(cost: Array, price: Array, epsilon: Array | float, where: Array) -> Array:
  """[N, K]: each row's soft choice of a column at these prices; zero where `where` [N] is False."""
  return jax.nn.softmax((price[None] - cost) / epsilon, axis=1) * where[:, None]


def prices(
  cost: Array, *, epsilon: float = 0.05, iterations: int = 50, where: Array | None = None
) -> Array:
  """[K]: prices at which every column is taken equally often, by Sinkhorn's iteration.

  What has little use is paid for: `lowest(cost - price)` is the balanced choice. `epsilon` is the
  softness of the choice, in units of the mean cost above each row's least. A row's choice depends
  on the rows beside it, so a batch that is split chooses differently.
  """
  where = jnp.ones(len(cost), bool) if where is None else where
  scale, rows = spread(cost, where)
  return settle(
    lambda price: shares(cost, price, epsilon * scale / rows, where).sum(0),
    jnp.zeros(cost.shape[1]),
    epsilon * scale / rows,
    iterations,
  )


def spread(cost: Array, where: Array) -> tuple[Array, Array]:
  """What `epsilon` is measured in, as a sum and a count: the mean cost above each row's least."""
  above = (cost - cost.min(1, keepdims=True)).mean(1)
  return jnp.where(where, above, 0).sum() + 1e-12, jnp.maximum(where.sum(), 1)


def settle(load: Callable[[Array], Array], price: Array, epsilon: Array, iterations: int) -> Array:
  """Raises the prices of columns with too little `load(price)` [K], lowers those with too much."""

  def step(_, price):
    mass = jnp.maximum(load(price), 1e-30)
    price = price + epsilon * (jnp.log(mass.mean()) - jnp.log(mass))
    return price - price.mean()  # only differences count

  return jax.lax.fori_loop(0, iterations, step, price)
