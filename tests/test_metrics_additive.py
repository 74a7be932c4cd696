"""Statistics add up over any split, and divide once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from recjax.metrics import Mean, beyond, classification, mean, mean_by, merge, regression, roc

N = 24
STATISTICS = {
  "mean": lambda x: mean(x["scores"], x["where"]),
  "weighted mean": lambda x: mean(x["scores"], x["where"], x["labels"] + 0.5),
  "mean_by": lambda x: mean_by(x["scores"], x["groups"], num_groups=3, where=x["where"]),
  "errors": lambda x: regression.errors(x["scores"], x["labels"], x["where"]),
  "confusion": lambda x: classification.confusion(x["groups"], x["labels"], where=x["where"]),
  "calibration": lambda x: classification.calibration(x["scores"], x["labels"], x["where"], bins=5),
  "histogram": lambda x: roc.histogram(x["scores"], x["labels"], x["where"], bits=12),
  "exposure": lambda x: beyond.exposure(x["ids"], num_items=9, where=x["where"]),
}
JITTED = {name: jax.jit(statistic) for name, statistic in STATISTICS.items()}


def _examples(seed: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  return {
    "scores": rng.random(N).astype(np.float32),
    "labels": rng.integers(0, 2, N),
    "groups": rng.integers(0, 2, N),
    "ids": rng.integers(0, 9, (N, 3)),
    "where": rng.random(N) < 0.7,
  }


def _part(examples: dict, rows: slice) -> dict:
  return {key: value[rows] for key, value in examples.items()}


@pytest.mark.parametrize("name", STATISTICS)
@given(
  # Batch sizes from a few, so that few shapes are compiled.
  sizes=st.permutations([0, 1, 3, 4, 4, 12]),
  seed=st.integers(0, 2**20),
)
def test_merging_any_split_equals_the_whole(name, sizes, seed):
  examples, edges = _examples(seed), np.cumsum([0, *sizes])
  parts = [
    JITTED[name](_part(examples, slice(a, b))) for a, b in zip(edges, edges[1:], strict=False)
  ]
  whole, merged = JITTED[name](examples), merge(*parts)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), merged, whole)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    merged.finish(),
    whole.finish(),
  )


@pytest.mark.parametrize("name", STATISTICS)
@given(sliced=st.lists(st.integers(0, 3), min_size=N, max_size=N), seed=st.integers(0, 2**20))
def test_slices_are_masks_that_add_up_to_the_whole(name, sliced, seed):
  examples = _examples(seed)
  parts = [
    JITTED[name](examples | {"where": examples["where"] & (np.array(sliced) == s)})
    for s in range(4)
  ]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
    merge(*parts),
    JITTED[name](examples),
  )


@pytest.mark.parametrize("name", STATISTICS)
def test_nothing_valid_finishes_zero(name):
  examples = _examples(0)
  masked = JITTED[name](examples | {"where": np.zeros(N, bool)})
  for empty in (masked, merge(masked), JITTED[name](_part(examples, slice(0, 0)))):
    for value in jax.tree.leaves(empty.finish()):
      np.testing.assert_array_equal(value, np.zeros(np.shape(value)))


def test_uneven_slices_are_divided_once():
  # Means of parts would give ((1 + 1 + 1) / 3 + 0 / 1) / 2 = 0.5; the mean of all four is 0.75.
  parts = [mean(jnp.array([1.0, 1.0, 1.0])), mean(jnp.array([0.0, 9.0]), jnp.array([True, False]))]
  assert merge(*parts).finish() == 0.75


def test_a_device_axis_adds_up_inside_jit():
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  values = jnp.arange(16.0)
  where = jnp.arange(16) < 5  # all on the first three devices
  sharding = NamedSharding(mesh, PartitionSpec("data"))
  sharded = [jax.device_put(x, sharding) for x in (values, where)]
  assert jax.jit(lambda v, w: mean(v, w).finish())(*sharded) == (0 + 1 + 2 + 3 + 4) / 5


def test_counts_stay_exact_beyond_float32_and_int32():
  batch = Mean(jnp.float32(1.0), jnp.int32(2**30 + 1))
  merged = merge(*[batch] * 5)
  assert merged.count == 5 * (2**30 + 1)
  # 2**24 + 1 is where float32 stops counting by ones.
  ones = [Mean(jnp.float32(2**24), jnp.int32(2**24)), Mean(jnp.float32(1), jnp.int32(1))]
  assert int(merge(*ones).sum) == 2**24 + 1


def test_fractional_weights_below_one_are_not_clamped():
  assert mean(jnp.array([4.0]), weights=jnp.array([0.25])).finish() == 4.0


def test_groups_without_examples_and_masked_groups_are_zero():
  got = mean_by(
    jnp.array([1.0, 3.0, 5.0]),
    jnp.array([0, 0, 2]),
    num_groups=4,
    where=jnp.array([True, True, False]),
  )
  np.testing.assert_array_equal(got.finish(), [2.0, 0.0, 0.0, 0.0])
  np.testing.assert_array_equal(got.count, [2, 0, 0, 0])
