"""Propagation against dense matrices; what a graph refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracing import counted

from recjax.nn import graph


def dense(a, b, nodes):
  """D^-1/2 A D^-1/2 by its definition."""
  adjacency = np.zeros((nodes, nodes))
  adjacency[a, b] = adjacency[b, a] = 1
  degree = adjacency.sum(1)
  out = np.zeros_like(adjacency)
  for i, j in np.argwhere(adjacency):
    out[i, j] = 1 / np.sqrt(degree[i] * degree[j])
  return out


@st.composite
def edges(draw):
  nodes = draw(st.integers(1, 9))
  pair = st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1))
  found = np.array(draw(st.lists(pair, max_size=20)), np.int32).reshape(-1, 2)
  return found[:, 0], found[:, 1], nodes


@given(edges(), st.integers(0, 5))
def test_propagation_is_the_dense_product_whatever_fills_the_capacity(found, spare):
  a, b, nodes = found
  wanted = dense(a, b, nodes)
  count = np.count_nonzero(wanted)
  made = graph.symmetric(a, b, nodes, capacity=count + spare)
  assert made["source"].shape == (count + spare,)
  x = np.random.default_rng(0).normal(size=(nodes, 3)).astype(np.float32)
  np.testing.assert_allclose(graph.propagate(made, x), wanted @ x, atol=1e-6)


@given(edges())
def test_the_gradient_is_the_dense_transpose(found):
  a, b, nodes = found
  made = graph.symmetric(a, b, nodes)
  x, out = np.random.default_rng(0).normal(size=(2, nodes, 3)).astype(np.float32)
  grad = jax.grad(lambda x: (graph.propagate(made, x) * out).sum())(x)
  np.testing.assert_allclose(grad, dense(a, b, nodes).T @ out, atol=1e-6)


def test_a_path_of_three_nodes_by_hand():
  made = graph.symmetric(np.array([0, 1]), np.array([1, 2]), 3)
  got = graph.propagate(made, jnp.array([[1.0], [10.0], [100.0]]))
  half = 1 / np.sqrt(2)  # the middle has degree 2, the ends 1
  np.testing.assert_allclose(got, [[10 * half], [101 * half], [10 * half]], rtol=1e-6)


def test_the_mean_of_layers_is_that_of_the_matrix_powers():
  rng = np.random.default_rng(1)
  user, item = rng.integers(0, 7, 30), rng.integers(0, 5, 30)
  made = graph.bipartite(user, item, 7, 5)
  matrix = dense(user, item + 7, 12)
  x = rng.normal(size=(12, 4)).astype(np.float32)
  powers = [np.linalg.matrix_power(matrix, n) for n in range(4)]
  got = jax.jit(graph.layers_mean, static_argnums=2)(made, x, 3)
  np.testing.assert_allclose(got, sum(powers) @ x / 4, atol=1e-6)


def test_users_hear_from_items_only():
  made = graph.bipartite(np.array([1, 2]), np.array([1, 1]), 3, 2)
  x = jnp.array([[0.0], [1.0], [2.0], [0.0], [50.0]])  # users 0 1 2, items 0 1
  half = 1 / np.sqrt(2)
  np.testing.assert_allclose(
    graph.propagate(made, x)[:, 0], [0, 50 * half, 50 * half, 0, 3 * half], rtol=1e-6
  )


def test_a_graph_that_changes_within_its_capacity_compiles_nothing():
  traced = []
  run = jax.jit(counted(graph.propagate, traced))
  x = jnp.ones((4, 2))
  for a, b in (([0], [1]), ([0, 1, 2], [1, 2, 3])):
    run(graph.symmetric(np.array(a), np.array(b), 4, capacity=8), x)
  assert len(traced) == 1


def test_the_mean_of_neighbours_is_that_of_a_dense_matrix_and_filling_is_no_neighbour():
  a, b = np.array([0, 0, 1, 3, 3]), np.array([1, 3, 3, 4, 4])  # node 2 has none; 3 - 4 counts once
  dense = np.zeros((5, 5))
  dense[a, b] = dense[b, a] = 1
  x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
  wanted = dense @ x / np.maximum(dense.sum(1, keepdims=True), 1)
  for capacity in (None, 30):
    made = graph.symmetric(a, b, 5, capacity=capacity)
    np.testing.assert_array_equal(graph.degrees(made), dense.sum(1))
    np.testing.assert_allclose(graph.neighbours_mean(made, x), wanted, atol=1e-6)


def test_bfloat16_comes_back_as_bfloat16():
  made = graph.symmetric(np.array([0]), np.array([1]), 2)
  got = graph.propagate(made, jnp.array([[1.0], [3.0]], jnp.bfloat16))
  assert got.dtype == jnp.bfloat16
  np.testing.assert_array_equal(got.astype(jnp.float32), [[3.0], [1.0]])


def test_what_is_no_graph_is_named():
  with pytest.raises(ValueError, match=r"nodes 0\.\.2, found 3\.\.3"):
    graph.symmetric(np.array([0]), np.array([3]), 3)
  with pytest.raises(ValueError, match=r"`item` must lie in 0\.\.1, found 2\.\.2"):
    graph.bipartite(np.array([1]), np.array([2]), 3, 2)
  with pytest.raises(ValueError, match="4 directed edges do not fit a capacity of 3"):
    graph.symmetric(np.array([0, 1]), np.array([1, 2]), 3, capacity=3)
  with pytest.raises(ValueError, match=r"x must be \[3, D\]"):
    graph.propagate(graph.symmetric(np.array([0]), np.array([1]), 3), jnp.ones((2, 4)))
