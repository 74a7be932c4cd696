"""x @ kernel over the last axis, so arranged that a CPU's gradient of the kernel is fast.

XLA computes that gradient from x^T and dy. With operands [B, T, D] it first writes x transposed,
and with the greater operand on the left the product itself takes 2.5 times as long (both measured
for x [256, 81, 1024], kernel [1024, 128]). Two axes, and the smaller operand first, avoid both.
"""

from __future__ import annotations

import jax

from recjax.types import Array


def dot_general(x, kernel, dimension_numbers, precision=None, preferred_element_type=None) -> Array:
  """For `nn.Dense(..., dot_general=dot_general)`: [..., D] times [D, F]."""
  if kernel.ndim != 2 or dimension_numbers != (((x.ndim - 1,), (0,)), ((), ())):
    raise ValueError(f"only the last axis of x and the first of a kernel, not {dimension_numbers}")
  if kernel.shape[0] > kernel.shape[1]:
    # The gradient is made transposed; the barrier stops XLA from turning the product round again.
    kernel = jax.lax.optimization_barrier(kernel.T).T
  y = jax.lax.dot_general(
    x.reshape(-1, x.shape[-1]),
    kernel,
    (((1,), (0,)), ((), ())),
    precision=precision,
    preferred_element_type=preferred_element_type,
  )
  return y.reshape(*x.shape[:-1], -1)
