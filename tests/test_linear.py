"""The arrangement is for speed; the numbers are those of a plain product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, PartitionSpec

from recjax.nn import linear


@pytest.mark.parametrize("sizes", [(3, 7), (7, 3), (5, 5)], ids=str)
@pytest.mark.parametrize("lead", [(4,), (2, 3), (2, 3, 2)], ids=str)
def test_values_and_gradients_are_those_of_a_plain_product(sizes, lead):
  rng = np.random.default_rng(0)
  x, dy = rng.normal(size=(*lead, sizes[0])), rng.normal(size=(*lead, sizes[1]))
  kernel = rng.normal(size=sizes)
  x, dy, kernel = (a.astype(np.float32) for a in (x, dy, kernel))
  dense = nn.Dense(sizes[1], use_bias=False, dot_general=linear.dot_general)

  def weighed(x, kernel):
    return (dense.apply({"params": {"kernel": kernel}}, x) * dy).sum()

  value, grads = jax.jit(jax.value_and_grad(weighed, (0, 1)))(x, kernel)
  np.testing.assert_allclose(value, ((x @ kernel) * dy).sum(), rtol=1e-4)
  np.testing.assert_allclose(grads[0], dy @ kernel.T, rtol=1e-4, atol=1e-5)
  expected = x.reshape(-1, sizes[0]).T @ dy.reshape(-1, sizes[1])
  np.testing.assert_allclose(grads[1], expected, rtol=1e-4, atol=1e-5)


def test_another_contraction_is_an_error():
  with pytest.raises(ValueError, match="last axis"):
    linear.dot_general(jnp.ones((2, 3)), jnp.ones((3, 4)), (((0,), (0,)), ((), ())))


@pytest.mark.parametrize(
  "shapes, dimensions",
  [
    (((5, 3), (3, 7)), (((1,), (0,)), ((), ()))),
    (((9, 7), (7, 3)), (((1,), (0,)), ((), ()))),
    (((50, 40), (40, 3)), (((1,), (0,)), ((), ()))),
    (((2, 4, 5, 3), (2, 4, 3, 6)), (((3,), (2,)), ((0, 1), (0, 1)))),
    (((2, 5, 30), (2, 30, 4)), (((2,), (1,)), ((0,), (0,)))),
    (((2, 5, 30), (2, 4, 30)), (((2,), (2,)), ((0,), (0,)))),
    (((3, 5, 2), (6, 2, 3)), (((0, 2), (2, 1)), ((), ()))),
  ],
  ids=str,
)
def test_a_product_of_bfloat16_sums_in_float32_and_so_do_its_gradients(shapes, dimensions):
  rng = np.random.default_rng(0)
  a, b = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in shapes)
  exact = jax.lax.dot_general(a.astype(np.float32), b.astype(np.float32), dimensions)
  y, pull = jax.vjp(lambda a, b: linear.product(a, b, dimensions), a, b)
  assert y.dtype == jnp.float32
  np.testing.assert_allclose(y, exact, rtol=1e-5, atol=1e-5)
  dy = jnp.asarray(rng.normal(size=y.shape), jnp.bfloat16).astype(jnp.float32)
  plain = jax.vjp(
    lambda a, b: jax.lax.dot_general(a, b, dimensions), a.astype(np.float32), b.astype(np.float32)
  )[1]
  for ours, wanted in zip(pull(dy), plain(dy), strict=True):
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(ours, np.float32), wanted, rtol=1e-2, atol=1e-2)


def test_the_gradient_of_a_shared_kernel_is_summed_over_devices():
  rng = np.random.default_rng(2)
  x, kernel = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((8, 6), (6, 4)))

  def loss(kernel, x):
    return linear.product(x, kernel, (((1,), (0,)), ((), ()))).sum()

  mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
  split, whole = PartitionSpec("data"), PartitionSpec()
  mapped = jax.shard_map(jax.grad(loss), mesh=mesh, in_specs=(whole, split), out_specs=whole)
  found = jax.jit(mapped)(kernel, x)
  expected = np.asarray(x, np.float32).sum(0)[:, None]
  np.testing.assert_allclose(found, np.tile(expected, (1, 4)), rtol=2e-2, atol=2e-2)


def test_matmul_is_that_of_numpy():
  rng = np.random.default_rng(1)
  a, b = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 3, 5, 6))
  a, b = a.astype(np.float32), b.astype(np.float32)
  np.testing.assert_allclose(linear.matmul(a, b), a @ b, rtol=1e-4, atol=1e-5)
