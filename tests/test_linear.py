"""The arrangement is for speed; the numbers are those of a plain product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

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
