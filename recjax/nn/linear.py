"""Products of matrices, so arranged that they are fast on a CPU, forward and backward.

Two things are measured there. XLA computes a kernel's gradient from x^T and dy: with operands
[B, T, D] it first writes x transposed, and with the greater operand on the left the float32
product takes 2.5 times as long (x [256, 81, 1024], kernel [1024, 128]); two axes and the smaller
operand first avoid both. And a product of bfloat16 operands runs at twice float32's speed when its
result is float32 and rows of the first meet columns of the second, an even number of places: at a
third of that when the result is bfloat16, as JAX's own gradient would ask, and at less than
float32's when the first operand lies the other way, as it does in the gradient of a kernel.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from recjax.types import Array

Dimensions = tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]


def dot_general(x, kernel, dimension_numbers, precision=None, preferred_element_type=None) -> Array:
  """For `nn.Dense(..., dot_general=dot_general)`: [..., D] times [D, F]."""
  if kernel.ndim != 2 or dimension_numbers != (((x.ndim - 1,), (0,)), ((), ())):
    raise ValueError(f"only the last axis of x and the first of a kernel, not {dimension_numbers}")
  flat = x.reshape(-1, x.shape[-1])
  dims = (((1,), (0,)), ((), ()))
  if x.dtype == kernel.dtype == jnp.bfloat16:
    y = product(flat, kernel, dims).astype(x.dtype)
    return y.reshape(*x.shape[:-1], -1)
  if kernel.shape[0] > kernel.shape[1]:
    # The gradient is made transposed; the barrier stops XLA from turning the product round again.
    kernel = jax.lax.optimization_barrier(kernel.T).T
  y = jax.lax.dot_general(
    flat, kernel, dims, precision=precision, preferred_element_type=preferred_element_type
  )
  return y.reshape(*x.shape[:-1], -1)


def matmul(a: Array, b: Array) -> Array:
  """[..., T, D] @ [..., D, S] in float32, the leading axes alike."""
  batch = tuple(range(a.ndim - 2))
  return product(a, b, (((a.ndim - 1,), (b.ndim - 2,)), (batch, batch)))


def product(a: Array, b: Array, dimensions: Dimensions) -> Array:
  """`jax.lax.dot_general` with a float32 result; of bfloat16, so is every product backward."""
  if a.dtype == b.dtype == jnp.bfloat16:
    return _half(*alike(a, b), dimensions)
  return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def alike(*arrays: Array) -> tuple[Array, ...]:
  """The same; inside `jax.shard_map` all vary over the axes that any varies over.

  A gradient of one's own cannot sum over devices, as that of an operand which is whole on each
  must be; that of choosing between two does.
  """
  if not jax.sharding.get_abstract_mesh().manual_axes:
    return arrays
  firsts = (jax.lax.stop_gradient(x.reshape(-1)[:1].sum(dtype=jnp.float32)) for x in arrays)
  other = functools.reduce(jnp.add, firsts)
  return tuple(jnp.where(False, other.astype(x.dtype), x) for x in arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _half(a: Array, b: Array, dimensions: Dimensions) -> Array:
  return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def _half_forward(a, b, dimensions):
  return _half(a, b, dimensions), (a, b)


def _half_backward(dimensions, kept, gradient):
  (a, b), ((a_sum, b_sum), (a_batch, b_batch)) = kept, dimensions
  gradient = gradient.astype(a.dtype)  # axes: the batch's, a's free ones, b's
  a_free = tuple(i for i in range(a.ndim) if i not in (*a_sum, *a_batch))
  b_free = tuple(i for i in range(b.ndim) if i not in (*b_sum, *b_batch))
  lead, split = tuple(range(len(a_batch))), len(a_batch) + len(a_free)
  of_a, of_b = tuple(range(len(lead), split)), tuple(range(split, gradient.ndim))
  a_summed = tuple(a_sum[b_sum.index(i)] for i in sorted(b_sum))
  b_summed = tuple(b_sum[a_sum.index(i)] for i in sorted(a_sum))

  d_a = _half(gradient, b, ((of_b, b_free), (lead, b_batch)))
  if _turns(a_batch, a_free, a.ndim):  # [..., N, D] and [..., N, F], to be summed over N
    dims = (((a.ndim - 1,), (a.ndim - 2,)), (lead, lead))
    if a.size > 2 * gradient.size:  # the lesser is turned: it costs less, and d_b is small
      d_b, came = _half(_turned(gradient), a, dims), (*b_free, *b_summed)
    else:
      d_b, came = _half(_turned(a), gradient, dims), (*b_summed, *b_free)
    d_b = jax.lax.optimization_barrier(d_b)  # or XLA turns the product round again
  elif a.size < gradient.size:  # the smaller operand goes first
    d_b, came = _half(a, gradient, ((a_free, of_a), (a_batch, lead))), (*b_summed, *b_free)
  else:
    d_b, came = _half(gradient, a, ((of_a, a_free), (lead, a_batch))), (*b_free, *b_summed)
  return (
    _put_back(d_a, (*a_batch, *a_free, *a_summed)).astype(a.dtype),
    _put_back(d_b, (*b_batch, *came)).astype(b.dtype),
  )


def _turns(batch: tuple[int, ...], free: tuple[int, ...], rank: int) -> bool:
  """Whether an operand is [*batch, N, D] with N free, on a CPU, where the order matters."""
  plain = batch == tuple(range(rank - 2)) and free == (rank - 2,)
  return plain and jax.default_backend() == "cpu"


def _turned(x: Array) -> Array:
  """[..., N, D] -> [..., D, N], written out: XLA would else only note that it is read across."""
  y = x.swapaxes(-1, -2)
  return jax.lax.optimization_barrier(y.reshape(-1)).reshape(y.shape)


def _put_back(x: Array, came: tuple[int, ...]) -> Array:
  """Axis i of x to where it came from."""
  return x.transpose([came.index(i) for i in range(x.ndim)])


_half.defvjp(_half_forward, _half_backward)
