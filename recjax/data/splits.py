"""Splits: ordered interactions -> train, valid and test, over the same id maps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recjax.data import prepare
from recjax.data.errors import DataError
from recjax.data.interactions import Interactions
from recjax.types import PAD


class Split(NamedTuple):
  train: Interactions
  valid: Interactions
  test: Interactions


def leave_one_out(x: Interactions) -> Split:
  """A user's last event tests, the one before validates; users of fewer than three only train."""
  start, stop = prepare.bounds(x)
  left = np.where(stop - start >= 3, stop - np.arange(len(x)), len(x) + 3)  # 1: the last event
  return Split(x.take(left > 2), x.take(left == 2), x.take(left == 1))


def temporal(x: Interactions, *, valid_from: float, test_from: float) -> Split:
  """By two moments, the same for all users; the tests come after everything learned from."""
  if x.timestamp is None:
    raise DataError("a temporal split needs timestamps", remedy="Read the column, or use `ratio`.")
  if valid_from > test_from:
    raise ValueError(f"valid_from {valid_from} is later than test_from {test_from}")
  late, last = x.timestamp >= valid_from, x.timestamp >= test_from
  return Split(x.take(~late), x.take(late & ~last), x.take(last))


def moments(x: Interactions, *, valid: float, test: float) -> dict[str, float]:
  """The arguments of `temporal` that leave these fractions of all events for valid and test."""
  _check_fractions(valid, test)
  if x.timestamp is None or not len(x):
    raise DataError("there are no timestamps to split by", remedy="Read the column.")
  early, late = np.quantile(x.timestamp, [1 - valid - test, 1 - test], method="higher")
  test_from = float(late) if test else np.inf  # else the last moment would test
  return {"valid_from": float(early) if valid else test_from, "test_from": test_from}


def ratio(x: Interactions, *, valid: float, test: float, seed: int) -> Split:
  """Each event to one part at random, as rating prediction does."""
  _check_fractions(valid, test)
  place = np.empty(len(x), np.int64)
  place[np.random.default_rng(seed).permutation(len(x))] = np.arange(len(x))
  return _by_place(x, place, np.int64(len(x)), valid, test)


def ratio_by_user(x: Interactions, *, valid: float, test: float) -> Split:
  """Of each user's ordered events the last fractions; every user keeps at least one for train."""
  _check_fractions(valid, test)
  start, stop = prepare.bounds(x)
  return _by_place(x, np.arange(len(x)) - start, stop - start, valid, test)


def few_shot(x: Interactions, shots: int, *, seed: int) -> Interactions:
  """A random few of the events, in their order."""
  if not 0 < shots <= len(x):
    raise ValueError(f"cannot take {shots} shots of {len(x)} events")
  return x.take(np.sort(np.random.default_rng(seed).choice(len(x), shots, replace=False)))


def some_users(x: Interactions, count: int, *, seed: int) -> Interactions:
  """All events of so many users at random, in their order; of all users where there are no more."""
  if count < 1:
    raise ValueError(f"cannot draw {count} users")
  drawn = np.random.default_rng(seed).permutation(np.unique(x.user))[:count]
  return x.take(np.isin(x.user, drawn))


def cold_items(split: Split, fraction: float, *, seed: int) -> tuple[Split, np.ndarray]:
  """Hides a fraction of the test items from train and valid -> (split, cold [I] mask)."""
  if not 0 <= fraction < 1:
    raise ValueError(f"the cold fraction must lie in [0, 1), it is {fraction}")
  tested = np.setdiff1d(split.test.item, [PAD])
  rng = np.random.default_rng(seed)
  cold = np.zeros(split.test.num_items, bool)
  cold[rng.choice(tested, round(fraction * len(tested)), replace=False)] = True
  train, valid = (part.take(~cold[part.item]) for part in (split.train, split.valid))
  return Split(train, valid, split.test), cold


def _by_place(x, place, count, valid, test) -> Split:
  """Events by their place among `count`: the tail tests, what precedes it validates."""
  # .29 of 100 is 29, whatever binary fractions make of it.
  tests, valids = (np.floor(count * part + 1e-9).astype(np.int64) for part in (test, valid))
  last, late = place >= count - tests, place >= count - tests - valids
  return Split(x.take(~late), x.take(late & ~last), x.take(last))


def _check_fractions(valid: float, test: float) -> None:
  if not (valid >= 0 and test >= 0 and valid + test < 1):
    raise ValueError(f"valid {valid} and test {test} must be fractions that leave some for train")
