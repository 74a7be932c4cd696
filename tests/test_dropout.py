"""The hash must look random, and must not know how many devices there are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from recjax.nn import dropout as module
from recjax.nn.dropout import Dropout, dropout, keep

N = 400_000


def share_of(mask, rate):
  """How many standard deviations the share of True lies from 1 - rate."""
  mask = np.asarray(mask)
  return (mask.mean() - (1 - rate)) / np.sqrt(rate * (1 - rate) / mask.size)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2**31])
def test_the_share_that_survives_is_the_rate(rate, seed):
  assert abs(share_of(keep((N // 100, 100), rate, jax.random.key(seed)), rate)) < 4


def test_the_mean_is_kept():
  x = jnp.full((N,), 3.0)
  # The standard deviation of one element is 3 * sqrt(0.2 / 0.8) = 1.5.
  assert abs(dropout(x, 0.2, jax.random.key(5)).mean() - 3.0) < 4 * 1.5 / np.sqrt(N)


def test_survivors_are_scaled_and_the_rest_is_zero():
  y = np.asarray(dropout(jnp.ones((1000,)), 0.2, jax.random.key(0)))
  np.testing.assert_allclose(np.unique(y), [0, 1.25], rtol=1e-6)


def chi_square(a, b):
  """Of the 2 x 2 table of two masks; below 15.1 in all but one of 10,000 independent pairs."""
  a, b = np.asarray(a).reshape(-1), np.asarray(b).reshape(-1)
  table = np.array([[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]], float)
  expected = table.sum(1)[:, None] * table.sum(0)[None] / table.sum()
  return ((table - expected) ** 2 / expected).sum()


@pytest.mark.parametrize("other", [1, 2, 3, 256, 2**16, 2**31], ids=lambda k: f"key {k}")
def test_masks_of_different_keys_are_independent(other):
  a = keep((N,), 0.3, jax.random.key(0))
  assert chi_square(a, keep((N,), 0.3, jax.random.key(other))) < 15.1
  folded = jax.random.fold_in(jax.random.key(0), other)  # another layer, another step
  assert chi_square(a, keep((N,), 0.3, folded)) < 15.1


@pytest.mark.parametrize("lag", [1, 2, 3, 8, 64, 100, 128, 1000, 4096])
def test_neighbours_are_independent(lag):
  mask = np.asarray(keep((N,), 0.3, jax.random.key(1)))
  assert chi_square(mask[lag:], mask[:-lag]) < 15.1


def test_no_key_gives_the_mask_of_another_permuted():
  # With xor at the front alone, keys k and k' give masks m[i] and m[i ^ k ^ k'].
  a = np.asarray(keep((1 << 14,), 0.5, jax.random.key(0)))
  b = np.asarray(keep((1 << 14,), 0.5, jax.random.key(1)))
  index = np.arange(1 << 14)
  agree = [(a == b[index ^ shift]).mean() for shift in range(0, 1 << 14, 7)]
  assert max(agree) < 0.53  # six standard deviations


def test_runs_are_as_long_as_chance_makes_them():
  mask = np.asarray(keep((N,), 0.5, jax.random.key(7)))
  lengths = np.diff(np.flatnonzero(np.diff(mask)))
  for n in range(1, 9):  # a run is of length n with probability 2 ** -n
    expected = len(lengths) * 2.0**-n
    assert abs((lengths == n).sum() - expected) < 5 * np.sqrt(expected)


def test_every_bit_of_the_hash_is_fair():
  index = jnp.arange(N, dtype=jnp.uint32)
  bits = np.asarray(module._hash(index, jax.random.key(3)))
  for bit in range(32):
    assert abs(((bits >> bit) & 1).mean() - 0.5) < 5 * 0.5 / np.sqrt(N)


@settings(max_examples=6)  # each shape compiles
@given(st.integers(1, 5), st.integers(1, 7), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_rows_of_a_batch_are_dropped_alike_wherever_they_lie(rows, width, depth, seed):
  key = jax.random.key(seed)
  whole = keep((3 * rows, width, depth), 0.4, key)
  part = keep((rows, width, depth), 0.4, key, first_row=2 * rows)
  np.testing.assert_array_equal(whole[2 * rows :], part)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_a_device_count_changes_nothing(devices):
  x, key = jnp.ones((16, 3, 5)), jax.random.key(4)
  expected = dropout(x, 0.3, key)
  mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
  split = PartitionSpec("data")
  sharded = jax.device_put(x, NamedSharding(mesh, split))
  np.testing.assert_array_equal(jax.jit(dropout, static_argnums=1)(sharded, 0.3, key), expected)
  for check in (True, False):
    mapped = jax.shard_map(
      lambda x: dropout(x, 0.3, key), mesh=mesh, in_specs=split, out_specs=split, check_vma=check
    )
    np.testing.assert_array_equal(jax.jit(mapped)(x), expected)


def test_a_batch_split_over_two_axes_is_in_the_order_of_the_mesh():
  x, key = jnp.ones((16, 5)), jax.random.key(4)
  mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
  split = PartitionSpec(("data", "fsdp"))
  mapped = jax.shard_map(lambda x: dropout(x, 0.3, key), mesh=mesh, in_specs=split, out_specs=split)
  np.testing.assert_array_equal(jax.jit(mapped)(x), dropout(x, 0.3, key))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_a_key_of_any_generator_will_do(impl):
  masks = [keep((N,), 0.3, jax.random.key(seed, impl=impl)) for seed in (0, 1)]
  assert abs(share_of(masks[0], 0.3)) < 4
  assert chi_square(*masks) < 15.1


def test_the_module_draws_a_mask_for_each_call_and_only_to_train():
  class Twice(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
      drop = Dropout(0.5)
      return drop(x, train=train), drop(x, train=train), Dropout(0.5)(x, train=train)

  x = jnp.ones((64, 8))
  a, b, c = Twice().apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
  assert (a != b).any() and (a != c).any() and (b != c).any()
  for y in Twice().apply({}, x, train=False):
    np.testing.assert_array_equal(y, x)
  with pytest.raises(Exception, match="dropout"):  # a forgotten key is not silence
    Twice().apply({}, x, train=True)


def test_the_gradient_is_the_mask():
  x, key = jnp.linspace(-1, 1, 50), jax.random.key(2)
  grad = jax.grad(lambda x: dropout(x, 0.4, key).sum())(x)
  np.testing.assert_allclose(grad, keep(x.shape, 0.4, key) / 0.6, rtol=1e-6)


def test_bfloat16_stays_bfloat16():
  assert dropout(jnp.ones((4, 4), jnp.bfloat16), 0.1, jax.random.key(0)).dtype == jnp.bfloat16


def test_what_cannot_be_dropped_is_an_error():
  for rate in (-0.1, 1.0):
    with pytest.raises(ValueError, match="rate"):
      dropout(jnp.ones(3), rate, jax.random.key(0))
  with pytest.raises(ValueError, match="batch axis"):
    dropout(jnp.float32(1), 0.1, jax.random.key(0))
