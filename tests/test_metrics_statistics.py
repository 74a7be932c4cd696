"""Intervals cover, tests equal scipy and enumeration, and a seed fixes them."""

import itertools

import numpy as np
import pytest
import scipy.stats

from recjax.metrics import statistics


def test_t_interval_and_paired_t_equal_scipy():
  rng = np.random.default_rng(0)
  first, second = rng.normal(0.2, 1, 9), rng.normal(0, 1, 9)
  want = scipy.stats.ttest_rel(first, second)
  got = statistics.paired_t(first, second)
  low, high = want.confidence_interval(0.95)
  np.testing.assert_allclose(got, [np.mean(first - second), low, high, want.pvalue])
  np.testing.assert_allclose(statistics.t_interval(first - second), got[:3])


def test_sign_flip_of_few_pairs_is_exact():
  first, second = np.array([3.0, 1.0, 4.0, 1.0]), np.array([1.0, 1.5, 1.0, 0.0])
  d = first - second
  flips = [abs(np.dot(d, s)) for s in itertools.product([-1, 1], repeat=4)]
  got = statistics.sign_flip(first, second, seed=0)
  assert got.p == np.mean([f >= abs(d.sum()) - 1e-9 for f in flips])
  assert got.difference == d.mean()


@pytest.mark.parametrize("pairs", [6, 8, 11])
def test_the_interval_of_sign_flip_ends_where_its_test_begins_to_refuse(pairs):
  d = np.random.default_rng(pairs).normal(0.3, 1, pairs)
  got = statistics.sign_flip(d, np.zeros(pairs), seed=0)

  def p(shift):
    return statistics.sign_flip(d, np.full(pairs, shift), seed=0).p

  for end, away in ((got.low, -1), (got.high, 1)):
    assert p(end - away * 1e-6) > 0.05 >= p(end + away * 1e-6)


def test_of_five_pairs_sign_flip_can_refuse_no_difference():
  got = statistics.sign_flip(np.arange(1.0, 6), np.zeros(5), seed=0)
  assert got.p == 2 / 32 and (got.low, got.high) == (-np.inf, np.inf)


def test_sign_flip_of_many_pairs_agrees_with_scipy():
  rng = np.random.default_rng(1)
  first, second = rng.normal(0.15, 1, 200), rng.normal(0, 1, 200)
  got = statistics.sign_flip(first, second, seed=0, resamples=20_000)
  want = scipy.stats.permutation_test(
    (first, second),
    lambda a, b, axis: np.mean(a - b, axis=axis),
    permutation_type="samples",
    n_resamples=20_000,
    vectorized=True,
    rng=2,
  ).pvalue
  assert abs(got.p - want) < 4 * np.sqrt(2 * want * (1 - want) / 20_000)
  assert got.low < got.difference < got.high


def test_bootstrap_agrees_with_scipy():
  values = np.random.default_rng(3).exponential(size=300)
  got = statistics.bootstrap(values, seed=0, resamples=5000)
  want = scipy.stats.bootstrap(
    (values,), np.mean, method="percentile", n_resamples=5000, rng=1
  ).confidence_interval
  assert got.mean == values.mean()
  np.testing.assert_allclose([got.low, got.high], want, rtol=0.01)


def test_intervals_cover_the_truth_as_often_as_they_say():
  rng = np.random.default_rng(4)
  samples = rng.normal(size=(300, 60))
  for interval in (
    lambda x: statistics.bootstrap(x, seed=0, resamples=400),
    lambda x: statistics.sign_flip(x, np.zeros_like(x), seed=0, resamples=400)[:3],
    statistics.t_interval,
  ):
    covered = np.mean([low <= 0 <= high for _, low, high in map(interval, samples)])
    assert 0.90 <= covered <= 0.98


@pytest.mark.parametrize("test", [statistics.paired_bootstrap, statistics.sign_flip])
def test_no_difference_is_rejected_as_rarely_as_promised(test):
  rng = np.random.default_rng(5)
  p = [test(*rng.normal(size=(2, 40)), seed=i, resamples=300).p for i in range(300)]
  assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.10


@pytest.mark.parametrize("test", [statistics.paired_bootstrap, statistics.sign_flip])
def test_a_clear_difference_is_found_and_p_is_never_zero(test):
  rng = np.random.default_rng(6)
  base = rng.normal(size=100)
  got = test(base + 1 + 0.1 * rng.normal(size=100), base, seed=0, resamples=999)
  # The observed sample is one of the 1000; the bootstrap doubles the smaller tail.
  assert got.p in (1 / 1000, 2 / 1000)
  assert 0.9 < got.low < got.difference < got.high < 1.1


def test_equal_systems_differ_with_p_one():
  same = np.arange(8.0)
  for got in (
    statistics.paired_bootstrap(same, same, seed=0),
    statistics.sign_flip(same, same, seed=0),
    statistics.paired_t(same, same),
  ):
    assert got == (0, 0, 0, 1)


def test_a_seed_fixes_the_resamples_and_blocks_do_not_matter(monkeypatch):
  values = np.random.default_rng(7).normal(size=50)
  whole = statistics.bootstrap(values, seed=1, resamples=64)
  assert whole == statistics.bootstrap(values, seed=1, resamples=64)
  assert whole != statistics.bootstrap(values, seed=2, resamples=64)
  monkeypatch.setattr(statistics, "_BLOCK", 7 * 50)
  np.testing.assert_allclose(statistics.bootstrap(values, seed=1, resamples=64), whole)


def test_a_single_user_has_a_degenerate_interval_and_a_single_seed_none():
  assert statistics.bootstrap(np.array([0.5]), seed=0) == (0.5, 0.5, 0.5)
  with pytest.raises(ValueError, match="at least 2"):
    statistics.t_interval(np.array([0.5]))


def test_unpaired_and_broken_values_are_refused():
  with pytest.raises(ValueError, match="pair the same users"):
    statistics.paired_t(np.zeros(3), np.zeros(4))
  with pytest.raises(ValueError, match="1 of 2 values are not finite"):
    statistics.bootstrap(np.array([0.0, np.nan]), seed=0)
