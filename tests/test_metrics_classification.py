"""Log-loss, accuracy, F1, calibration, RMSE and MAE against scikit-learn and hand arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from recjax.metrics import classification, mean, regression

SEEDS = st.integers(0, 2**20)
N = 30  # fixed, so that each metric is compiled once

binary_log_loss = jax.jit(classification.binary_log_loss)
log_loss = jax.jit(classification.log_loss)
accuracy = jax.jit(classification.accuracy)
confusion = jax.jit(classification.confusion, static_argnames="num_classes")
calibration = jax.jit(classification.calibration, static_argnames="bins")
errors = jax.jit(regression.errors)


def _mask(rng: np.random.Generator) -> np.ndarray:
  """Any number of examples from one up."""
  where = rng.random(N) < rng.random()
  where[rng.integers(N)] = True
  return where


@given(SEEDS)
def test_binary_log_loss_equals_scikit_learn(seed):
  rng = np.random.default_rng(seed)
  probabilities = rng.choice([0, 1e-3, 0.3, 0.5, 0.9, 1], N).astype(np.float32)
  labels, where = rng.integers(0, 2, N), _mask(rng)
  want = sklearn.metrics.log_loss(labels[where], probabilities[where], labels=[0, 1])
  got = mean(binary_log_loss(probabilities, labels, where), where).finish()
  np.testing.assert_allclose(got, want, rtol=1e-5)


@given(SEEDS)
def test_log_loss_and_accuracy_of_classes_equal_scikit_learn(seed):
  rng = np.random.default_rng(seed)
  probabilities = rng.dirichlet(np.ones(4), N).astype(np.float32)
  labels, where = rng.integers(0, 4, N), _mask(rng)
  want = sklearn.metrics.log_loss(labels[where], probabilities[where], labels=range(4))
  got = mean(log_loss(probabilities, labels, where), where).finish()
  np.testing.assert_allclose(got, want, rtol=1e-5)
  predicted = probabilities.argmax(axis=1)
  got = mean(accuracy(predicted, labels, where), where).finish()
  want = sklearn.metrics.accuracy_score(labels[where], predicted[where])
  np.testing.assert_allclose(got, want, rtol=1e-6)


@given(SEEDS, st.sampled_from([2, 5]))
def test_f1_equals_scikit_learn(seed, classes):
  rng = np.random.default_rng(seed)
  labels, predicted = rng.integers(0, classes, N), rng.integers(0, classes, N)
  where = _mask(rng)
  got = confusion(predicted, labels, num_classes=classes, where=where).finish()
  for average in ("micro", "macro"):
    want = sklearn.metrics.f1_score(
      labels[where], predicted[where], average=average, zero_division=0
    )
    np.testing.assert_allclose(got[f"{average}_f1"], want, rtol=1e-6)
  if classes == 2:
    want = sklearn.metrics.f1_score(labels[where], predicted[where], zero_division=0)
    np.testing.assert_allclose(got["binary_f1"], want, rtol=1e-6)


@given(SEEDS, st.sampled_from([1, 4, 15]))
def test_calibration_error_equals_a_loop_over_bins(seed, bins):
  rng = np.random.default_rng(seed)
  probabilities = rng.random(40).astype(np.float32)
  labels = rng.integers(0, 2, 40)
  want = 0.0
  for b in range(bins):
    inside = np.floor(probabilities * np.float32(bins)) == b
    if inside.any():
      want += abs(probabilities[inside].mean() - labels[inside].mean()) * inside.mean()
  got = calibration(probabilities, labels, bins=bins).finish()
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_calibration_keeps_the_edges_and_judges_nan_wholly_wrong():
  got = classification.calibration(jnp.array([0.0, 1.0]), jnp.array([0, 1]), bins=2)
  assert got.count.tolist() == [1, 1] and got.finish() == 0
  nan = classification.calibration(jnp.array([jnp.nan, jnp.nan]), jnp.array([0, 1]))
  assert nan.finish() == 1


def test_masked_examples_cost_nothing_and_nan_costs_most():
  loss = classification.binary_log_loss(
    jnp.array([jnp.nan, jnp.nan, 0.5]), jnp.array([1, 0, 1]), jnp.array([True, False, True])
  )
  np.testing.assert_allclose(loss, [-np.log(np.finfo(np.float32).eps), 0, np.log(2)], rtol=1e-6)


def test_a_class_that_never_occurs_is_left_out_of_macro_f1():
  got = classification.confusion(jnp.array([0, 1]), jnp.array([0, 0]), num_classes=3).finish()
  # Class 0: 2 * 1 / (1 + 2); class 1: 0; class 2 does not occur.
  np.testing.assert_allclose(got["f1"], [2 / 3, 0, 0], rtol=1e-6)
  np.testing.assert_allclose(got["macro_f1"], 1 / 3, rtol=1e-6)


@given(SEEDS)
def test_rmse_and_mae_equal_scikit_learn(seed):
  rng = np.random.default_rng(seed)
  predicted, ratings = rng.normal(3, 1, N), rng.integers(1, 6, N)
  where = _mask(rng)
  got = errors(predicted, ratings, where).finish()
  kept = ratings[where], predicted[where]
  np.testing.assert_allclose(got["rmse"], sklearn.metrics.root_mean_squared_error(*kept), rtol=1e-5)
  np.testing.assert_allclose(got["mae"], sklearn.metrics.mean_absolute_error(*kept), rtol=1e-5)


def test_a_nan_rating_is_infinitely_wrong_unless_masked():
  predicted, ratings = jnp.array([jnp.nan, 2.0]), jnp.array([1.0, 1.0])
  assert regression.errors(predicted, ratings).finish()["rmse"] == np.inf
  masked = regression.errors(predicted, ratings, jnp.array([False, True])).finish()
  assert masked["rmse"] == 1 and masked["mae"] == 1
