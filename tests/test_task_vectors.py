"""Task vectors: what was added and taken away again leaves the parameters as they were, exactly."""

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays

from recjax.train import task_vectors

ANY = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
TREE = st.tuples(arrays.arrays(np.float32, (2, 3), elements=ANY), arrays.arrays(np.float32, 4,
                 elements=ANY)).map(lambda x: {"a": {"kernel": x[0]}, "b": x[1]})  # fmt: skip


def bits(tree):
  return jax.tree.map(lambda x: np.asarray(x).tobytes(), tree)


@given(TREE, TREE, TREE, st.floats(-3, 3), st.floats(-3, 3))
def test_what_is_taken_away_was_never_there(base, one, two, s, t):
  first, second = (task_vectors.difference(x, base) for x in (one, two))
  start = task_vectors.Edited(base)
  assert bits(start.add("one", first, s).remove("one").params) == bits(base)
  both = start.add("one", first, s).add("two", second, t)
  assert bits(both.remove("one").params) == bits(start.add("two", second, t).params)
  assert bits(both.remove("two").remove("one").params) == bits(base)


@given(TREE, TREE, TREE)
def test_the_order_does_not_matter_and_opposites_leave_nothing(base, one, two):
  first, second = (task_vectors.difference(x, base) for x in (one, two))
  start = task_vectors.Edited(base)
  a = start.add("one", first).add("two", second, 0.5).params
  b = start.add("two", second, 0.5).add("one", first).params
  assert bits(a) == bits(b)
  chex.assert_trees_all_equal(start.add("x", first, 1.7).add("y", first, -1.7).params, base)


SIZED = st.floats(2**-13, 2**13, width=32) | st.floats(-(2**13), -(2**-13), width=32) | st.just(0)


@given(*(arrays.arrays(np.float32, 16, elements=SIZED) for _ in "xy"))
def test_the_difference_added_to_its_base_is_what_was_tuned(base, tuned):
  """Also where float32 would lose it, up to 2^26 apart."""
  vector = task_vectors.difference(tuned, base)
  found = task_vectors.Edited(base).add("t", vector).params
  np.testing.assert_array_equal(found, tuned)


def test_float32_alone_would_not_give_it_back():
  """Why nothing is subtracted from a sum: the reason of the design, in numbers."""
  x, v = np.float32(0.1), np.float32(1000.0)
  assert (x + v) - v != x
  edited = task_vectors.Edited(x).add("v", np.float64(v))
  assert edited.params == np.float32(np.float64(x) + 1000.0) and edited.remove("v").params == x


def test_vectors_are_scaled_sums_in_the_types_of_the_parameters():
  base = {"w": jnp.array([1.0, 2.0]), "h": jnp.array([4.0], jnp.bfloat16)}
  tuned = {"w": jnp.array([2.0, 0.0]), "h": jnp.array([6.0], jnp.bfloat16)}
  vector = task_vectors.difference(tuned, base)
  assert vector["w"].dtype == np.float64 and vector["w"].tolist() == [1.0, -2.0]
  found = task_vectors.Edited(base).add("a", vector, 0.5).add("b", vector, 2.0).params
  assert found["w"].tolist() == [3.5, -3.0] and found["h"].tolist() == [9.0]
  assert found["w"].dtype == np.float32 and found["h"].dtype == jnp.bfloat16


def test_what_does_not_fit_is_named():
  base = {"w": np.zeros(2, np.float32), "only": np.zeros(1, np.float32)}
  other = {"w": np.zeros(3, np.float32)}
  said = r"tuned is not of the same.*\n  only is only in one.*\n  w has shape \(3,\), that .*\(2,\)"
  with pytest.raises(ValueError, match=said):
    task_vectors.difference(other, base)
  start = task_vectors.Edited(base)
  with pytest.raises(ValueError, match="the vector 'x' is not of the same model"):
    start.add("x", other)
  with pytest.raises(ValueError, match="there is no vector 'x'; there is none"):
    start.remove("x")
  with pytest.raises(ValueError, match="is there already"):
    start.add("x", base).add("x", base)
  with pytest.raises(ValueError, match="the scale of 'x' is nan"):
    start.add("x", base, float("nan"))
