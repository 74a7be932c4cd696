"""How sure a figure is: intervals over users or seeds, and paired tests between two systems.

Values are one metric's value for each user (or seed), on the host, in float64. Give only those
that count (`values[where]`). A test pairs the same users, or the same seeds, of two systems. What
resamples needs many values, as users are: of a few seeds, the bootstrap's intervals are much too
narrow and its p too small; take Student's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import stats

_BLOCK = 1 << 22  # values drawn at a time, so that memory does not grow with the users


class Interval(NamedTuple):
  mean: float
  low: float
  high: float


class Comparison(NamedTuple):
  """How much larger the first system's mean is, its interval, and the two-sided p-value."""

  difference: float
  low: float
  high: float
  p: float


def bootstrap(
  values: np.ndarray, *, seed: int, resamples: int = 1000, level: float = 0.95
) -> Interval:
  """The percentile interval of the mean over users, drawn with replacement."""
  values = _vector(values, at_least=1)
  means = _resampled_means(values, seed, resamples)
  return Interval(float(values.mean()), *_quantiles(means, level))


def t_interval(values: np.ndarray, *, level: float = 0.95) -> Interval:
  """Student's interval of the mean over seeds."""
  values = _vector(values, at_least=2)
  mean, half = float(values.mean()), _t_half_width(values, level)
  return Interval(mean, mean - half, mean + half)


def paired_bootstrap(
  first: np.ndarray, second: np.ndarray, *, seed: int, resamples: int = 1000, level: float = 0.95
) -> Comparison:
  """Resamples the differences: p is twice the share of resamples on the other side of 0."""
  differences = _differences(first, second, at_least=1)
  means = _resampled_means(differences, seed, resamples)
  # The sample itself is one more resample, so that p is never 0.
  tail = 1 + min((means <= 0).sum(), (means >= 0).sum())
  p = min(1.0, 2.0 * tail / (resamples + 1))
  return Comparison(float(differences.mean()), *_quantiles(means, level), float(p))


def sign_flip(
  first: np.ndarray, second: np.ndarray, *, seed: int, resamples: int = 10_000, level: float = 0.95
) -> Comparison:
  """Permutation test: under no difference, the sign of each pair's difference is arbitrary.

  Exact when all 2**N signs are no more than `resamples`. The interval holds the differences that
  the test does not refuse at 1 - level; of fewer than 6 pairs (at .95) it refuses none.
  """
  differences = _differences(first, second, at_least=1)
  mean = differences.mean()
  n = len(differences)
  exact = n < 63 and 1 << n <= resamples
  if exact:
    signs = iter([1.0 - 2.0 * (np.arange(1 << n)[:, None] >> np.arange(n)[None] & 1)])
  else:
    signs = _random_signs(n, seed, resamples)
  both = np.stack([differences, np.ones(n)], axis=1)  # [N, 2]
  flipped, balance = (np.concatenate([s @ both for s in signs]) / n).T
  if not exact:  # the sample itself is one more
    flipped, balance = np.append(flipped, mean), np.append(balance, 1)
  # Equal up to rounding counts as at least as extreme.
  p = (np.abs(flipped) >= abs(mean) - 1e-12 * np.abs(differences).max()).mean()
  # If mean + u were the truth, signs would be as extreme where |flipped - (mean + u) balance| is at
  # least |u|: between two ends on either side of u = 0.
  left, right = _extreme(flipped - mean * balance, balance)
  place = max(len(left) - 1 - int((1 - level) * len(left) + 1e-9), 0)
  low, high = (np.partition(ends, place)[place] for ends in (left, right))
  return Comparison(float(mean), float(mean - low), float(mean + high), float(p))


def _extreme(c: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """How far u may go to the left and to the right until |c - u b| < |u|; |b| <= 1."""
  toward, always = np.where(c < 0, -b, b), np.abs(b) >= 1  # all signs are alike
  with np.errstate(divide="ignore", invalid="ignore"):
    ends = np.abs(c) / (1 - toward), np.abs(c) / (1 + toward)
  return np.where(always, np.inf, ends[0]), np.where(always, np.inf, ends[1])


def paired_t(first: np.ndarray, second: np.ndarray, *, level: float = 0.95) -> Comparison:
  """Student's paired test."""
  differences = _differences(first, second, at_least=2)
  mean, half = float(differences.mean()), _t_half_width(differences, level)
  error = differences.std(ddof=1) / np.sqrt(len(differences))
  if error > 0:
    p = 2 * stats.t.sf(abs(mean) / error, len(differences) - 1)
  else:
    p = 1.0 if mean == 0 else 0.0  # all pairs differ by the same amount
  return Comparison(mean, mean - half, mean + half, float(p))


def _t_half_width(values: np.ndarray, level: float) -> float:
  quantile = stats.t.ppf((1 + level) / 2, len(values) - 1)
  return float(quantile * values.std(ddof=1) / np.sqrt(len(values)))


def _resampled_means(values: np.ndarray, seed: int, resamples: int) -> np.ndarray:
  rng, n = np.random.default_rng(seed), len(values)
  return np.concatenate(
    [values[rng.integers(0, n, (rows, n))].mean(axis=1) for rows in _blocks(n, resamples)]
  )


def _random_signs(n: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
  rng = np.random.default_rng(seed)
  for rows in _blocks(n, resamples):
    yield 1.0 - 2.0 * rng.integers(0, 2, (rows, n), np.int8)


def _blocks(n: int, resamples: int) -> Iterator[int]:
  """How many resamples of n values to draw at a time."""
  size = max(_BLOCK // n, 1)
  for start in range(0, resamples, size):
    yield min(size, resamples - start)


def _quantiles(means: np.ndarray, level: float) -> tuple[float, float]:
  low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
  return float(low), float(high)


def _differences(first: np.ndarray, second: np.ndarray, *, at_least: int) -> np.ndarray:
  first, second = (_vector(x, at_least=at_least) for x in (first, second))
  if len(first) != len(second):
    raise ValueError(f"{len(first)} values against {len(second)}: pair the same users or seeds")
  return first - second


def _vector(values: np.ndarray, *, at_least: int) -> np.ndarray:
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or len(values) < at_least:
    raise ValueError(f"values of shape {values.shape}: give a vector of at least {at_least}")
  if not np.isfinite(values).all():
    raise ValueError(f"{(~np.isfinite(values)).sum()} of {len(values)} values are not finite")
  return values
