"""k-means: against NumPy, on planted clusters, balanced, over devices, on bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType

from recjax.data.errors import DataError
from recjax.nn import quantize
from recjax.semid import kmeans, rqkmeans

KEY = jax.random.key(0)


def devices(count):
  return jax.make_mesh(
    (count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count]
  )


ONE = devices(1)


def planted(count=8, each=50, dim=6, seed=0, noise=0.05):
  rng = np.random.default_rng(seed)
  centers = rng.normal(size=(count, dim)) * 4
  x = np.repeat(centers, each, axis=0) + noise * rng.normal(size=(count * each, dim))
  return x.astype(np.float32)[rng.permutation(len(x))], centers


def brute(x, centroids):
  return np.square(x[:, None].astype(np.float64) - centroids[None]).sum(-1)


@pytest.mark.parametrize("count", [1, 8])
def test_a_pass_finds_the_nearest_centroid_of_every_vector(count):
  rng = np.random.default_rng(1)
  x, c = rng.normal(size=(203, 5)).astype(np.float32), rng.normal(size=(7, 5)).astype(np.float32)
  data = kmeans.put(x, devices(count))
  found = kmeans.read(data, kmeans.Clusters(jnp.asarray(c), jnp.zeros(7)))
  far = brute(x, c)
  np.testing.assert_array_equal(kmeans.codes(data, found), far.argmin(1))
  np.testing.assert_array_equal(found.counts, np.bincount(far.argmin(1), minlength=7))
  sums = np.stack([x[far.argmin(1) == k].sum(0) for k in range(7)])
  np.testing.assert_allclose(found.sums, sums, rtol=1e-4, atol=1e-5)
  gaps = np.asarray(found.gaps).reshape(-1)
  np.testing.assert_allclose(gaps[:203], far.min(1), rtol=1e-4, atol=1e-5)
  assert (gaps[203:] == -1).all()
  left = kmeans.vectors(kmeans.subtract(data, jnp.asarray(c), found))
  np.testing.assert_allclose(left, x - c[far.argmin(1)], rtol=1e-6)


@pytest.mark.parametrize("seeding", [kmeans.plus_plus, kmeans.parallel])
@pytest.mark.parametrize("batch", [None, 128])
def test_planted_clusters_are_found(seeding, batch):
  x, centers = planted()
  found = kmeans.fit(kmeans.put(x, ONE), 8, KEY, seeding=seeding, batch=batch)
  nearest = brute(centers, np.asarray(found.centroids))
  assert sorted(nearest.argmin(1)) == list(range(8))
  assert nearest.min(1).max() < 0.01


def test_lloyd_ends_where_numpy_ends_from_the_same_start():
  rng = np.random.default_rng(3)
  x, start = rng.normal(size=(300, 3)).astype(np.float32), rng.normal(size=(5, 3))
  ours = kmeans.fit(
    kmeans.put(x, ONE), 5, KEY, seeding=lambda *_: jnp.float32(start), iterations=10, tolerance=0
  )
  theirs = start
  for _ in range(10):
    code = brute(x, theirs).argmin(1)
    theirs = np.stack([x[code == k].mean(0) for k in range(5)])
  np.testing.assert_allclose(ours.centroids, theirs, rtol=1e-4, atol=1e-5)


def test_an_empty_cluster_moves_to_the_farthest_vector():
  x = np.float32([[0, 0], [0.1, 0], [0, 0.1], [9, 9]])
  start = jnp.float32([[0, 0], [100, 100], [200, 200]])
  found = kmeans.fit(kmeans.put(x, ONE), 3, KEY, seeding=lambda *_: start, iterations=1)
  # The first takes all four; of the empty ones one goes to (9, 9), one to the next farthest.
  np.testing.assert_allclose(found.centroids[0], x.mean(0), rtol=1e-5)
  assert {tuple(row) for row in np.asarray(found.centroids[1:]).tolist()} < {
    tuple(row) for row in x.tolist()
  }
  np.testing.assert_array_equal(found.centroids[1], [9, 9])


def test_no_cluster_is_empty_after_a_few_passes():
  x, _ = planted(count=4, each=100, noise=0.3)
  data = kmeans.put(x, ONE)
  counts = kmeans.read(data, kmeans.fit(data, 64, KEY)).counts
  assert counts.min() > 0


def test_balanced_clusters_hold_nearly_as_many():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1024, 4)).astype(np.float32) ** 3  # dense in the middle, long tails
  data = kmeans.put(x, ONE)
  free = kmeans.read(data, kmeans.fit(data, 16, KEY)).counts
  even = kmeans.read(data, kmeans.fit(data, 16, KEY, balance=0.05)).counts
  assert free.max() > 3 * 64
  assert even.max() < 1.4 * 64 and even.min() > 0.65 * 64


def test_the_key_decides_and_the_devices_do_not():
  x, _ = planted(count=8, each=60)
  one, again = (kmeans.fit(kmeans.put(x, ONE), 8, KEY) for _ in range(2))
  np.testing.assert_array_equal(one.centroids, again.centroids)
  eight = kmeans.fit(kmeans.put(x, devices(8)), 8, KEY)
  np.testing.assert_allclose(one.centroids, eight.centroids, atol=1e-4)
  three = kmeans.fit(kmeans.put(x, devices(3)), 8, KEY, balance=0.05, iterations=3)
  other = kmeans.fit(kmeans.put(x, ONE), 8, KEY, balance=0.05, iterations=3)
  np.testing.assert_allclose(three.centroids, other.centroids, atol=1e-4)
  np.testing.assert_allclose(three.prices, other.prices, atol=1e-3)


def test_seeding_draws_no_vector_twice_while_there_are_others():
  x = np.repeat(np.eye(6, dtype=np.float32), 20, axis=0)
  for seeding in (kmeans.plus_plus, kmeans.parallel):
    start = np.asarray(seeding(kmeans.put(x, ONE), 6, KEY))
    assert len(np.unique(start, axis=0)) == 6


def test_copies_of_one_vector_leave_nothing_to_the_next_level():
  x = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
  for copies in (1, 25):
    with pytest.raises(DataError, match="level 1"):
      rqkmeans.residual(np.repeat(x, copies, 0), (40, 8), jax.random.key(0))


def test_padding_is_never_drawn():
  x = np.full((9, 2), 5, np.float32) + np.arange(9)[:, None]
  for seeding in (kmeans.plus_plus, kmeans.parallel):
    for seed in range(5):
      start = np.asarray(seeding(kmeans.put(x, ONE), 9, jax.random.key(seed)))
      assert start.min() >= 5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_named(bad):
  x = np.ones((5, 2))
  x[3, 1] = bad
  with pytest.raises(DataError, match=r"vector 3 is not finite \(1 such"):
    kmeans.put(x)


def test_too_few_different_vectors_are_counted():
  with pytest.raises(DataError, match="8 codes need as many different .* are 5 among 5"):
    kmeans.fit(kmeans.put(np.eye(5)), 8, KEY)
  twice = np.repeat(np.eye(4), 10, axis=0)
  twice[0] *= -1.0  # and a fifth; its zeros, now negative, are still zeros
  with pytest.raises(DataError, match="there are 5 among 40"):
    kmeans.fit(kmeans.put(twice), 6, KEY)
  with pytest.raises(DataError, match=r"shape \(0, 3\)"):
    kmeans.put(np.zeros((0, 3)))
  with pytest.raises(ValueError, match="batch of 4 vectors cannot fill 8"):
    kmeans.fit(kmeans.put(planted()[0]), 8, KEY, batch=4)


# --- The pieces in nn.quantize ---


@given(st.integers(0, 10**6), st.sampled_from([(1, 1, 1), (7, 33, 2), (20, 8, 5)]))
def test_the_nearest_code_is_brute_force_and_ties_go_to_the_lowest(seed, shape):
  rng, (rows, size, dim) = np.random.default_rng(seed), shape
  x = rng.integers(-2, 3, (rows, dim))  # whole numbers: distances are exact, ties are many
  book = rng.integers(-2, 3, (size, dim))
  expected = np.square(x[:, None] - book[None]).sum(-1).argmin(1)  # NumPy takes the first
  np.testing.assert_array_equal(quantize.nearest(jnp.float32(x), jnp.float32(book)), expected)


@given(st.integers(0, 10**6), st.sampled_from([1, 3]))
def test_residual_quantisation_is_a_numpy_loop(seed, levels):
  rng = np.random.default_rng(seed)
  x = rng.integers(-20, 20, (6, 3)).astype(np.float32)
  books = [rng.integers(-9, 9, (5, 3)).astype(np.float32) for _ in range(levels)]
  found = quantize.residual(jnp.asarray(x), [jnp.asarray(b) for b in books])
  left = x.copy()
  for level, book in enumerate(books):
    code = np.square(left[:, None] - book[None]).sum(-1).argmin(1)
    np.testing.assert_array_equal(found.codes[:, level], code)
    np.testing.assert_array_equal(found.given[level], left)
    left -= book[code]
  np.testing.assert_array_equal(x - quantize.compose(books, np.asarray(found.codes)), left)


def test_sums_are_by_code_and_drop_what_has_none():
  x = jnp.float32([[1, 2], [3, 4], [5, 6], [7, 8]])
  np.testing.assert_array_equal(
    quantize.sums(x, jnp.array([2, 0, 2, 3]), 3), [[3, 4], [0, 0], [6, 8]]
  )


def test_lookup_has_the_gradient_of_indexing():
  book, codes = jnp.arange(12.0).reshape(4, 3), jnp.array([1, 3, 1])
  weight = jnp.arange(9.0).reshape(3, 3)
  ours = jax.grad(lambda b: (quantize.lookup(b, codes) * weight).sum())(book)
  theirs = jax.grad(lambda b: (b[codes] * weight).sum())(book)
  np.testing.assert_array_equal(ours, theirs)


def test_the_straight_gradient_is_the_identity():
  x, q = jnp.float32([[1, 2]]), jnp.float32([[4, -1]])
  value, gradient = jax.value_and_grad(lambda x: (quantize.straight_through(x, q) ** 2).sum())(x)
  assert value == 17  # 4^2 + 1^2
  np.testing.assert_array_equal(gradient, 2 * q)


def test_the_rotation_takes_x_to_its_code_and_its_gradient_is_the_map_by_hand():
  x, q = jnp.float32([[3, 0]]), jnp.float32([[0, 2]])
  # A quarter turn and a scaling by 2/3: y = 2/3 [[0, -1], [1, 0]] x.
  np.testing.assert_allclose(quantize.rotate(x, q), q, atol=1e-6)
  gradient = jax.grad(lambda x: (quantize.rotate(x, q) * jnp.float32([[5, 7]])).sum())(x)
  np.testing.assert_allclose(gradient, [[7 * 2 / 3, -5 * 2 / 3]], rtol=1e-5)


@pytest.mark.parametrize("x, q", [([0, 0], [1, 2]), ([1, 2], [0, 0]), ([1, 2], [-1, -2])])
def test_where_no_rotation_is_defined_the_gradient_is_straight(x, q):
  x, q = jnp.float32([x]), jnp.float32([q])
  np.testing.assert_array_equal(quantize.rotate(x, q), q)
  gradient = jax.grad(lambda x: (quantize.rotate(x, q) * jnp.float32([[5, 7]])).sum())(x)
  np.testing.assert_array_equal(gradient, [[5, 7]])


def test_prices_make_every_column_equally_taken():
  rng = np.random.default_rng(0)
  cost = jnp.float32(rng.uniform(size=(64, 4)) + np.array([[0, 0.1, 0.3, 0.5]]))
  where = jnp.arange(64) < 48
  cost = cost.at[48:].add(jnp.float32([[9, 0, 9, 9]]))  # what does not count must not matter
  price = quantize.prices(cost, epsilon=0.02, iterations=300, where=where)
  taken = np.bincount(np.asarray(quantize.lowest(cost - price[None]))[:48], minlength=4)
  assert np.abs(taken - 12).max() <= 1
  assert np.bincount(np.asarray(quantize.lowest(cost))[:48], minlength=4).max() >= 24
