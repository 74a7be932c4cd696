import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.nn import attention

rng = np.random.default_rng(0)
QUERY, KEY, VALUE = (rng.normal(size=(2, 3, n, 4)).astype(np.float32) for n in (5, 6, 6))
BIAS = rng.normal(size=(1, 3, 5, 6)).astype(np.float32)
WHERE = rng.random((2, 1, 5, 6)) < 0.6


def brute_force(where):
  out = np.zeros_like(QUERY)
  for b, h, t in np.ndindex(2, 3, 5):
    logits = [0.5 * QUERY[b, h, t] @ KEY[b, h, s] + BIAS[0, h, t, s] for s in range(6)]
    weights = [np.exp(x) * where[b, 0, t, s] for s, x in enumerate(logits)]
    if any(weights):
      out[b, h, t] = sum(w * VALUE[b, h, s] for s, w in enumerate(weights)) / sum(weights)
  return out


def test_attention_is_a_mean_of_the_values_seen():
  out = attention.attend(QUERY, KEY, VALUE, scale=0.5, bias=BIAS, where=WHERE)
  np.testing.assert_allclose(out, brute_force(WHERE), rtol=1e-4, atol=1e-5)


def test_no_mask_means_that_all_is_seen():
  out = attention.attend(QUERY, KEY, VALUE, scale=0.5, bias=BIAS)
  np.testing.assert_allclose(out, brute_force(np.ones_like(WHERE)), rtol=1e-4, atol=1e-5)


def test_a_query_that_sees_nothing_is_zero_and_so_is_its_gradient():
  where = WHERE.copy()
  where[1, 0, 2] = False

  def total(query):
    return attention.attend(query, KEY, VALUE, where=where).sum()

  grad = jax.grad(total)(jnp.asarray(QUERY))
  assert jnp.isfinite(grad).all()
  assert (grad[1, :, 2] == 0).all() and (grad[0] != 0).any()
  np.testing.assert_array_equal(attention.attend(QUERY, KEY, VALUE, where=where)[1, :, 2], 0)


def test_what_is_not_seen_does_not_matter():
  wild = np.where(WHERE[:, :, 0, :, None], VALUE, 1e30)
  where = np.broadcast_to(WHERE[:, :, :1], WHERE.shape)
  out = attention.attend(QUERY, KEY, VALUE, where=where)
  np.testing.assert_array_equal(attention.attend(QUERY, KEY, wild, where=where), out)


def test_heads_split_and_merge():
  x = np.arange(2 * 3 * 8).reshape(2, 3, 8)
  split = attention.split_heads(x, 4)
  np.testing.assert_array_equal(split[1, 2, 0], x[1, 0, 4:6])
  np.testing.assert_array_equal(attention.merge_heads(split), x)


def test_masks():
  np.testing.assert_array_equal(
    attention.causal(3)[0, 0], [[True, False, False], [True, True, False], [True, True, True]]
  )
  assert attention.as_mask(jnp.ones((2, 5))).shape == (2, 1, 1, 5)
  with pytest.raises(ValueError, match="mask"):
    attention.as_mask(jnp.ones((2, 5, 5)))
  segments = jnp.array([[1, 2, 2, 0]])
  same = attention.same_segment(segments, segments)
  expected = [[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
  np.testing.assert_array_equal(same[0, 0].astype(int), expected)


def test_softmax_is_float32_whatever_comes_in():
  logits = jnp.array([[10.0, 10.1]], jnp.bfloat16)
  assert attention.softmax(logits).dtype == jnp.float32


@pytest.mark.parametrize("sizes", [(17, 19), (17, 20), (20, 19), (3, 17)], ids=str)
@pytest.mark.parametrize("masked", [True, False])
def test_odd_lengths_in_bfloat16_are_answered_as_in_float32(sizes, masked):
  rng = np.random.default_rng(1)
  queries, keys = sizes
  shapes = (2, 3, queries, 4), (2, 3, keys, 4), (2, 3, keys, 4), (1, 3, queries, keys)
  args = [jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes]
  where = rng.random((2, 1, queries, keys)) < 0.6 if masked else None

  def answer(query, key, value, bias):
    bias = bias.astype(jnp.float32)
    return attention.attend(query, key, value, bias=bias, where=where).astype(jnp.float32)

  half, pull = jax.vjp(answer, *args)
  whole, wanted = jax.vjp(answer, *(x.astype(jnp.float32) for x in args))
  assert half.shape == whole.shape
  np.testing.assert_allclose(half, whole, atol=0.05)
  dy = jnp.asarray(rng.normal(size=whole.shape), jnp.float32)
  for ours, theirs in zip(pull(dy), wanted(dy), strict=True):
    np.testing.assert_allclose(ours.astype(jnp.float32), theirs, atol=0.2, rtol=0.1)


@pytest.mark.parametrize("shape", [(1, 3, 5, 6), (1, 1, 5, 6), (1, 3, 1, 6)], ids=str)
def test_what_all_rows_share_has_the_gradient_of_a_sum(shape):
  rng = np.random.default_rng(2)
  x, dy = rng.normal(size=(2, 4, 3, 5, 6)).astype(np.float32)
  out, pull = jax.vjp(attention.add_shared, jnp.asarray(x), jnp.ones(shape, np.float32))
  np.testing.assert_array_equal(out, x + 1)
  of_x, of_shared = pull(jnp.asarray(dy))
  np.testing.assert_array_equal(of_x, dy)
  axes = tuple(i for i, n in enumerate(shape) if n == 1)
  np.testing.assert_allclose(of_shared, dy.sum(axes, keepdims=True), rtol=1e-5, atol=1e-5)
