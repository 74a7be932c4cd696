"""Losses: hand arithmetic, independent references, and masks that nothing passes."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from recjax import losses

LN2 = float(np.log(2))


def mean(total):
  return float(total[0] / total[1])


def test_softmax_of_equal_logits_costs_the_log_of_the_classes():
  value, weight = losses.softmax_xent(jnp.zeros((3, 4)), jnp.array([0, 1, 2]))
  np.testing.assert_allclose(value, 3 * np.log(4), rtol=1e-6)
  assert weight == 3


def test_label_smoothing_and_z_loss_equal_their_definitions():
  logits = np.array([[1.0, 2.0, 4.0]], np.float32)
  log_z = scipy.special.logsumexp(logits)
  target = 0.9 * np.array([0, 0, 1]) + 0.1 / 3
  wanted = -(target * (logits[0] - log_z)).sum() + 0.01 * log_z**2
  got = losses.softmax_xent(jnp.array(logits), jnp.array([2]), smoothing=0.1, z_loss=0.01)
  np.testing.assert_allclose(got[0], wanted, rtol=1e-6)


def test_a_class_of_minus_infinity_takes_no_part():
  three = losses.softmax_xent(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([1]), smoothing=0.2)
  four = losses.softmax_xent(jnp.array([[1.0, 2.0, 3.0, -jnp.inf]]), jnp.array([1]), smoothing=0.2)
  np.testing.assert_allclose(three[0], four[0], rtol=1e-6)


PLAIN = functools.partial(losses.gbce, num_items=9, t=0.0)


@pytest.mark.parametrize("loss", [losses.bpr, losses.bpr_max, losses.top1_max, PLAIN])
def test_what_a_ranking_loss_drops_is_as_if_it_were_not_there(loss):
  positive, negatives = jnp.array([1.0, -2.0]), jnp.array([[0.5, 9.0, -1.0], [3.0, 1.0, 0.0]])
  keep = jnp.array([[True, False, True]] * 2)
  wanted = loss(positive, negatives[:, jnp.array([0, 2])])
  chex.assert_trees_all_close(loss(positive, negatives, negatives_where=keep), wanted, rtol=1e-6)
  grads = jax.grad(lambda n: loss(positive, n, negatives_where=keep)[0])(negatives)
  chex.assert_tree_all_finite(grads)
  assert not np.any(grads[:, 1]) and np.all(grads[:, 0])
  none = jax.grad(lambda p, n: loss(p, n, negatives_where=keep & False)[0], argnums=(0, 1))
  of_positive, of_negatives = none(positive, negatives)
  assert not np.any(of_negatives)
  assert np.any(of_positive) == (loss is PLAIN)  # the others have nothing to be better than


def test_a_label_that_is_no_row_makes_the_loss_nan_where_it_counts():
  states, table = jnp.ones((2, 3)), jnp.ones((4, 3))
  for label in (4, -1, -100):
    labels = jnp.array([1, label])
    for where, finite in (([True, True], False), ([True, False], True)):
      found = losses.linear_softmax_xent(states, table, labels, jnp.array(where))[0]
      assert np.isfinite(found) == finite
      assert (
        np.isfinite(losses.softmax_xent(states @ table.T, labels, jnp.array(where))[0]) == finite
      )


def linear_case(seed=0, batch=(8, 5), items=23, dim=4):
  rng = np.random.default_rng(seed)
  states, table, bias = (rng.normal(size=s) for s in ((*batch, dim), (items, dim), (items,)))
  labels = rng.integers(0, items, batch)
  where = rng.random(batch) < 0.4
  arrays = (jnp.asarray(x, jnp.float32) for x in (states, table, bias))
  return *arrays, jnp.asarray(labels, jnp.int32), jnp.asarray(where)


@pytest.mark.parametrize("block", [1, 3, None])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_blocked_softmax_is_the_plain_one_in_value_and_gradient(block, with_bias):
  states, table, bias, labels, where = linear_case()
  states = jnp.where(where[..., None], states, jnp.nan)  # what does not count may be anything

  def plain(states, table, bias):
    logits = jnp.where(where[..., None], states, 0.0) @ table.T + with_bias * bias[None, None]
    return 2 * losses.softmax_xent(logits, labels, where)[0]

  def blocked(states, table, bias):
    given = bias if with_bias else None
    return 2 * losses.linear_softmax_xent(states, table, labels, where, bias=given, block=block)[0]

  wanted = jax.value_and_grad(plain, (0, 1, 2))(states, table, bias)
  got = jax.jit(jax.value_and_grad(blocked, (0, 1, 2)))(states, table, bias)
  chex.assert_trees_all_close(got, wanted, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(blocked(states, table, bias), wanted[0], rtol=1e-6)
  assert losses.linear_softmax_xent(states, table, labels, where)[1] == where.sum()


def test_the_blocked_softmax_is_exact_where_the_loss_is_small():
  """Great logits do not leave their rounding in it: no loss is below 0."""
  rng = np.random.default_rng(0)
  states = rng.normal(size=(64, 32)).astype(np.float32)
  table = np.concatenate([9 * states, rng.normal(size=(200, 32)).astype(np.float32)])
  labels = np.arange(64)
  for block in (1, 16, 64):
    found = losses.linear_softmax_xent(states, jnp.asarray(table), labels, block=block)[0]
    logits = states.astype(np.float64) @ table.T.astype(np.float64)
    gap = logits - logits[labels, labels][:, None]
    np.testing.assert_allclose(found, np.log(np.exp(gap).sum(1)).sum(), rtol=1e-4, atol=1e-9)
    assert found >= 0


def test_the_blocked_softmax_takes_weights_and_batches_where_nothing_counts():
  states, table, _, labels, where = linear_case(1)
  weights = where * jnp.linspace(0.5, 2, 5)[None]
  plain = losses.softmax_xent(states @ table.T, labels, weights)
  chex.assert_trees_all_close(losses.linear_softmax_xent(states, table, labels, weights), plain)
  nothing = jax.grad(lambda t: losses.linear_softmax_xent(states, t, labels, where & False)[0])
  assert not np.any(nothing(table))


@pytest.mark.parametrize("block", [1, 3, None])
def test_the_blocked_softmax_tells_how_much_is_said_right(block):
  states, table, bias, labels, where = linear_case(3)
  weights = where * jnp.linspace(0.5, 2, 5)[None]
  right = (states @ table.T + bias[None, None]).argmax(-1)
  labels = jnp.where(jnp.arange(5) % 2, labels, right)  # some are
  found = losses.linear_softmax_xent_hits(states, table, labels, weights, bias=bias, block=block)
  chex.assert_trees_all_close(
    found[:2], losses.linear_softmax_xent(states, table, labels, weights, bias=bias)
  )
  np.testing.assert_allclose(found[2], weights[labels == right].sum(), rtol=1e-6)
  assert 0 < found[2] < weights.sum()


def test_the_blocked_softmax_is_the_same_on_any_number_of_devices():
  states, table, bias, labels, where = linear_case(2, batch=(16, 3))
  one = losses.linear_softmax_xent(states, table, labels, where, bias=bias)
  for count in (2, 4, 8):
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((count,), ("data",), auto, devices=jax.devices()[:count])
    split, whole = (
      jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)) for axes in (["data"], [])
    )
    rows = jax.device_put((states, labels, where), split)
    table_, bias_ = jax.device_put((table, bias), whole)

    @jax.jit
    def both(states, labels, where, table, bias):
      def loss(states, table, bias):
        return losses.linear_softmax_xent(states, table, labels, where, bias=bias)[0]

      return jax.value_and_grad(loss, (0, 1, 2))(states, table, bias)

    got = both(*rows, table_, bias_)
    np.testing.assert_allclose(got[0], one[0], rtol=1e-6)
    wanted = jax.grad(
      lambda s, t, b: losses.softmax_xent(s @ t.T + b[None, None], labels, where)[0], (0, 1, 2)
    )(states, table, bias)
    chex.assert_trees_all_close(jax.device_get(got[1]), wanted, rtol=1e-5, atol=1e-5)


def test_sampling_every_item_once_gives_the_full_softmax():
  logits = jnp.array([0.3, -1.0, 2.0, 0.5])
  full = losses.softmax_xent(logits[None], jnp.array([2]))
  rest = jnp.array([0, 1, 3])
  q = jnp.full((3,), np.log(1 / 7.0))  # equal corrections cancel
  sampled = losses.sampled_softmax_xent(
    logits[2:3], logits[rest][None], log_q_positive=q[:1], log_q_negatives=q[None]
  )
  np.testing.assert_allclose(full[0], sampled[0], rtol=1e-6)


def test_log_q_makes_the_sampled_gradient_that_of_the_full_softmax():
  """Many draws from a skewed proposal: the corrected partition estimates the true one."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=50).astype(np.float32)
  q = rng.dirichlet(np.full(50, 0.5)).astype(np.float32) * 0.9 + 0.1 / 50
  q /= q.sum()
  drawn = rng.choice(50, size=200_000, p=q)
  corrected = logits[drawn] - np.log(q[drawn]) - np.log(len(drawn))
  estimate = scipy.special.logsumexp(corrected)
  np.testing.assert_allclose(estimate, scipy.special.logsumexp(logits), atol=0.02)
  got = losses.sampled_softmax_xent(
    jnp.array(logits[:1]),
    jnp.array(logits[drawn])[None],
    log_q_negatives=jnp.array(np.log(q[drawn]) + np.log(len(drawn)))[None],
  )
  wanted = np.logaddexp(logits[0], estimate) - logits[0]
  np.testing.assert_allclose(got[0], wanted, rtol=1e-4)


def test_a_dropped_negative_is_as_if_it_were_not_there():
  positive, negatives = jnp.array([1.0]), jnp.array([[0.5, 9.0]])
  dropped = losses.sampled_softmax_xent(
    positive, negatives, negatives_where=jnp.array([[True, False]])
  )
  np.testing.assert_allclose(dropped[0], np.log1p(np.exp(-0.5)), rtol=1e-6)


def test_gbce_without_calibration_is_bce():
  positive, negatives = jnp.array([0.7]), jnp.array([[0.1, -0.4]])
  plain = losses.gbce(positive, negatives, num_items=100, t=0.0)
  softplus = np.log1p(np.exp([-0.7, 0.1, -0.4]))
  np.testing.assert_allclose(plain[0], softplus.sum(), rtol=1e-6)


def test_gbce_fully_calibrated_weighs_the_positive_by_the_sampling_rate():
  got = losses.gbce(jnp.array([0.0]), jnp.zeros((1, 4)), num_items=16, t=1.0)
  np.testing.assert_allclose(got[0], 0.25 * LN2 + 4 * LN2, rtol=1e-6)


def test_bce_equals_its_definition():
  got = losses.bce(jnp.array([0.0, 2.0]), jnp.array([1.0, 0.0]))
  np.testing.assert_allclose(got[0], LN2 + np.log1p(np.exp(2.0)), rtol=1e-6)


def test_squared_sums_squares():
  assert losses.squared(jnp.array([1.0, 3.0]), jnp.array([0.0, 1.0])) == (5.0, 2.0)


def test_bpr_of_equal_scores_is_log_two_however_many_negatives():
  np.testing.assert_allclose(mean(losses.bpr(jnp.zeros(3), jnp.zeros((3, 5)))), LN2, rtol=1e-6)


def test_bpr_max_equals_its_definition():
  r, n = 0.3, np.array([0.5, -1.0])
  s = scipy.special.softmax(n)
  wanted = -np.log((s * scipy.special.expit(r - n)).sum()) + 0.7 * (s * n**2).sum()
  got = losses.bpr_max(jnp.array([r]), jnp.array(n)[None], regularization=0.7)
  np.testing.assert_allclose(got[0], wanted, rtol=1e-6)


def test_bpr_max_keeps_a_gradient_where_the_plain_form_underflows():
  grad = jax.grad(lambda p: losses.bpr_max(p, jnp.array([[0.0]]), regularization=0.0)[0])
  np.testing.assert_allclose(grad(jnp.array([-200.0])), [-1.0], rtol=1e-6)


def test_top1_max_equals_its_definition():
  r, n = 0.3, np.array([0.5, -1.0])
  s = scipy.special.softmax(n)
  wanted = (s * (scipy.special.expit(n - r) + scipy.special.expit(n**2))).sum()
  np.testing.assert_allclose(
    losses.top1_max(jnp.array([r]), jnp.array(n)[None])[0], wanted, rtol=1e-6
  )


def test_infonce_of_orthogonal_rows():
  value, weight = losses.infonce(jnp.eye(3), jnp.eye(3), temperature=0.5)
  np.testing.assert_allclose(value / weight, np.log(np.exp(2) + 2) - 2, rtol=1e-6)


def test_infonce_counts_extra_negatives_and_not_collisions():
  q = jnp.eye(2, 3)
  extra = jnp.array([[0.0, 0.0, 1.0]])
  collide = jnp.array([[False, True], [True, False]])
  got = losses.infonce(q, q, temperature=1.0, extra=extra, collide=collide)
  np.testing.assert_allclose(mean(got), np.log(np.e + 1) - 1, rtol=1e-6)


def test_infonce_never_uses_a_masked_row_as_a_negative():
  q = jnp.array([[1.0, 0.0], [0.0, 1.0], [jnp.nan, 5.0]])
  three = losses.infonce(q, q, jnp.array([1.0, 1.0, 0.0]), temperature=1.0)
  two = losses.infonce(q[:2], q[:2], temperature=1.0)
  chex.assert_trees_all_close(three, two, rtol=1e-6)


def test_nt_xent_contrasts_each_view_with_both_views_of_all_other_rows():
  rng = np.random.default_rng(0)
  views = rng.normal(size=(2, 4, 3))
  counts = np.array([True, True, False, True])
  same = np.zeros((4, 4), bool)
  same[0, 3] = same[3, 0] = True
  wanted = 0.0
  for v, row in itertools.product(range(2), np.flatnonzero(counts)):
    logit = views @ views[v, row] / 0.5  # [2, 4]
    others = counts & ~same[row] & (np.arange(4) != row)
    logits = [logit[1 - v, row], *logit[:, others].ravel()]
    assert len(logits) == 1 + 2 * (1 if row in (0, 3) else 2)
    wanted += scipy.special.logsumexp(logits) - logits[0]
  one, other = jnp.asarray(views, jnp.float32)
  got = losses.nt_xent(one, other, jnp.array(counts), temperature=0.5, collide=jnp.array(same))
  np.testing.assert_allclose(got[0], wanted, rtol=1e-5)
  assert got[1] == 6


def test_multiple_pairwise_ranking_takes_the_hardest_of_each_side():
  got = losses.multiple_pairwise_ranking(
    jnp.array([0.9]),
    jnp.array([[0.5, 0.7]]),
    jnp.array([[0.1, 0.3, 8.0]]),
    weight=jnp.array([0.25]),
    far_where=jnp.array([[True, True, False]]),
  )
  margin = 0.25 * (0.9 - 0.7) + 0.75 * (0.5 - 0.3)
  np.testing.assert_allclose(got[0], np.log1p(np.exp(-margin)), rtol=1e-5)


def test_kl_equals_scipy_and_survives_zeros():
  p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])
  with np.errstate(divide="ignore"):
    got = losses.kl(jnp.log(p)[None], jnp.log(q)[None])
  np.testing.assert_allclose(got[0], scipy.special.rel_entr(p, q).sum(), rtol=1e-6)


SHAPED = {
  "softmax_xent": lambda x, w: losses.softmax_xent(x, jnp.arange(4) % 3, w, smoothing=0.1),
  "sampled": lambda x, w: losses.sampled_softmax_xent(x[:, 0], x[:, 1:], w),
  "gbce": lambda x, w: losses.gbce(x[:, 0], x[:, 1:], w, num_items=9, t=0.5),
  "bce": lambda x, w: losses.bce(x[:, 0], jnp.ones(4), w),
  "squared": lambda x, w: losses.squared(x[:, 0], jnp.ones(4), w),
  "bpr": lambda x, w: losses.bpr(x[:, 0], x[:, 1:], w),
  "bpr_max": lambda x, w: losses.bpr_max(x[:, 0], x[:, 1:], w),
  "top1_max": lambda x, w: losses.top1_max(x[:, 0], x[:, 1:], w),
  "infonce": lambda x, w: losses.infonce(x, 2 * x, w, temperature=0.3),
  "nt_xent": lambda x, w: losses.nt_xent(x, 2 * x, w, temperature=0.3),
  "ranking": lambda x, w: losses.multiple_pairwise_ranking(
    x[:, 0], x[:, 1:2], x[:, 2:], w, weight=jnp.full((4,), 0.5)
  ),
  "kl": lambda x, w: losses.kl(x - 2, -x, w),
}


@pytest.mark.parametrize("name", SHAPED)
def test_a_masked_example_passes_neither_value_nor_gradient(name):
  rng = np.random.default_rng(1)
  x = jnp.array(rng.normal(size=(4, 3)), jnp.float32)
  where = jnp.array([True, True, False, True])
  poisoned = x.at[2].set(jnp.nan)
  f = SHAPED[name]
  clean, grad = jax.value_and_grad(lambda v: f(v, where)[0])(x)
  dirty, dirty_grad = jax.value_and_grad(lambda v: f(v, where)[0])(poisoned)
  assert np.isfinite(clean) and clean == dirty
  np.testing.assert_array_equal(grad, dirty_grad)
  assert not grad[2].any() and grad[0].any()


@pytest.mark.parametrize("name", SHAPED)
def test_nothing_valid_gives_zero_over_zero_and_no_nan(name):
  value, weight = SHAPED[name](jnp.ones((4, 3)), jnp.zeros(4, bool))
  assert value == 0 and weight == 0


@pytest.mark.parametrize("name", [n for n in SHAPED if n not in ("infonce", "nt_xent")])
def test_sums_add_over_any_split_of_the_batch(name):
  x = jnp.array(np.random.default_rng(2).normal(size=(4, 3)), jnp.float32)
  where = jnp.array([1.0, 0.5, 0.0, 2.0])
  whole = SHAPED[name](x, where)
  parts = [SHAPED[name](x, where * jnp.array(m, jnp.float32)) for m in ([1, 0, 0, 1], [0, 1, 1, 0])]
  chex.assert_trees_all_close(whole, jax.tree.map(lambda a, b: a + b, *parts), rtol=1e-5)


class Variants(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True, with_device=True)
  def test_jit_equals_eager(self):
    x = jnp.array(np.random.default_rng(3).normal(size=(4, 3)), jnp.float32)
    where = jnp.array([True, False, True, True])
    for name, f in SHAPED.items():
      got = self.variant(f)(x, where)
      with jax.disable_jit():
        wanted = f(x, where)
      for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, err_msg=name)


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**31 - 1))
def test_softmax_equals_numpy_on_anything(rows, classes, seed):
  rng = np.random.default_rng(seed)
  logits = rng.normal(scale=30, size=(rows, classes)).astype(np.float32)
  labels = rng.integers(0, classes, rows)
  wanted = (scipy.special.logsumexp(logits, axis=-1) - logits[np.arange(rows), labels]).sum()
  got, _ = losses.softmax_xent(jnp.array(logits), jnp.array(labels))
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_bfloat16_logits_are_summed_in_float32():
  logits = jnp.ones((1000, 4), jnp.bfloat16)
  value, weight = losses.softmax_xent(logits, jnp.zeros(1000, jnp.int32))
  assert value.dtype == weight.dtype == jnp.float32
  np.testing.assert_allclose(value, 1000 * np.log(4), rtol=1e-5)


def test_shapes_that_do_not_fit_are_named():
  with pytest.raises(ValueError, match=r"`labels` must have shape \(2,\)"):
    losses.softmax_xent(jnp.zeros((2, 3)), jnp.zeros((2, 1), jnp.int32))
  with pytest.raises(ValueError, match="does not mask"):
    losses.bce(jnp.zeros(3), jnp.zeros(3), jnp.ones(2))
