"""The law of the synthetic data, as tables: what is met after what, and by whom.

The catalogue is a tree: departments, kinds of product, leaves (a modifier and a kind: "Compact
Kettles"). A leaf holds `brands` x `lines` items, the first lines the more popular: a popularity
draw from a leaf takes its v-th item with probability proportional to (1 + v)^-zipf. All of this
can be read from an item's title, category path and description.

A user has a latent taste: a first and a second department, the d-th being common as 1 / sqrt(d);
and `min_events` events and a geometric number more, `mean_events` on average, but `max_events` at
most. An event is drawn in one of eight ways, given the event before it (of item i, in leaf c):

  follow x (0.40, 0.25, 0.20, 0.15): one of the four successors of i, fixed for good: the same
    brand and line in the leaf after c; the next line of the same brand in c; and two items fixed
    by popularity draws, one in the leaf after c, one in another leaf of the department.
  move x (0.5, 0.3, 0.2): a popularity draw from a leaf that c leads to: the one after it, another
    of the department, one of another department.
  the rest: a jump, by taste: a department (first 0.6, second 0.3, any 0.1), any leaf of it, a
    popularity draw. The first event of a user is always a jump.

An item that the user has met is drawn again, so the law is the one above among items not yet met.
Each leaf has `cold` more items, of further lines. Nobody meets them before a last event, which is,
with probability `cold_rate`, any cold item of a leaf that c leads to. Leave-one-out therefore
trains without them; a k-core would drop them.

Ratings are 3.2, plus 1.2 in the first department or 0.6 in the second, plus a quality of the item
in -0.5..0.5, plus normal noise of 0.7, rounded into 1..5. The next event comes within half an hour
(probability 0.55), or after days (half a day, and an exponential number of them, 12 on average);
time tells nothing about items.

The tables take memory by leaf, not by item: attributes and successors of an item are hashes of its
place in the tree (leaf x width + v), computed where they are asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np

from recjax.data import synthetic_names as names
from recjax.types import PAD

SUCCESSORS = np.array([0.40, 0.25, 0.20, 0.15])
DESTINATIONS = np.array([0.5, 0.3, 0.2])
JUMP = len(SUCCESSORS) + len(DESTINATIONS)  # the last way
FIRST, SECOND = 0.6, 0.3  # of the jumps; the rest goes anywhere


@dataclasses.dataclass(frozen=True)
class Config:
  """How much of everything. Departments x kinds x modifiers are the leaves."""

  users: int
  departments: int
  kinds: int  # in a department
  modifiers: int  # of a kind
  brands: int  # in a department
  lines: int  # of a brand, in a leaf
  cold: int  # further items of a leaf
  mean_events: float = 10.0
  min_events: int = 5
  max_events: int = 30
  follow: float = 0.7
  move: float = 0.2
  zipf: float = 1.0
  cold_rate: float = 0.02
  block: int = 65_536  # users made together

  def __post_init__(self):
    limits = {
      "users": (1, names.MAX_ROW),
      "departments": (2, names.MAX_DEPARTMENTS),
      "kinds": (1, names.MAX_KINDS),
      "modifiers": (1, names.MAX_MODIFIERS),
      "brands": (1, names.MAX_BRANDS // max(self.departments, 1)),
      "lines": (2, names.MAX_ROW),
      "cold": (0, names.MAX_ROW),
      "items": (1, names.MAX_ROW),
      "min_events": (1, self.max_events),
      "mean_events": (self.min_events, self.max_events),
      "block": (1, names.MAX_ROW),
    }
    for name, (low, high) in limits.items():
      if not low <= getattr(self, name) <= high:
        raise ValueError(f"{name} must lie in {low}..{high}, it is {getattr(self, name)}")
    if self.leaves_of_department < 2:
      raise ValueError("a department needs two leaves at least: more kinds or more modifiers")
    if self.leaves * self.warm < 2 * self.max_events:
      raise ValueError("too few items for users who meet each only once: lower max_events")
    if min(self.follow, self.move) < 0 or self.follow + self.move >= 1:
      raise ValueError("follow and move must not be negative, and must leave some for jumps")
    if not 0 <= self.cold_rate < 1 or (self.cold_rate and not self.cold):
      raise ValueError("cold_rate must lie in [0, 1), and be 0 where there are no cold items")

  @property
  def leaves_of_department(self) -> int:
    return self.kinds * self.modifiers

  @property
  def leaves(self) -> int:
    return self.departments * self.leaves_of_department

  @property
  def warm(self) -> int:
    """Items of a leaf that may be met at any time."""
    return self.brands * self.lines

  @property
  def width(self) -> int:
    """Items of a leaf, the cold ones last."""
    return self.warm + self.cold

  @property
  def items(self) -> int:
    return self.leaves * self.width

  @property
  def blocks(self) -> int:
    return -(-self.users // self.block)


TINY = Config(100, 2, 2, 2, 2, 3, 1, mean_events=7, max_events=12, cold_rate=0.05, block=64)
SMALL = Config(3_000, 6, 3, 2, 4, 3, 1, block=1_024)  # 36 leaves, 468 items, 30,000 events
LARGE = Config(10_000_000, 20, 10, 5, 90, 110, 100)  # 1,000 leaves, 10,000,000 items


class Laws(NamedTuple):
  """What (config, seed) fixes for all users. W warm items of a leaf, P tastes."""

  config: Config
  seed: int
  leads: np.ndarray  # [leaves, JUMP] int32: the leaf that each way but the last leads to
  ways: np.ndarray  # [JUMP + 1] how likely each way is
  popularity: np.ndarray  # [W] the share of each warm item of a leaf
  tastes: np.ndarray  # [P, departments] where jumps go
  first: np.ndarray  # [P] the departments of a taste
  second: np.ndarray  # [P]
  prior: np.ndarray  # [P] how common a taste is


def tabulate(config: Config, seed: int) -> Laws:
  """The tables of a world."""
  rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
  departments, size = config.departments, config.leaves_of_department
  department, at = np.divmod(np.arange(config.leaves), size)
  cycle = rng.permuted(np.tile(np.arange(size), (departments, 1)), axis=1)  # [departments, size]
  after = np.empty_like(cycle)
  np.put_along_axis(after, cycle, np.roll(cycle, -1, axis=1), axis=1)
  after = department * size + after.reshape(-1)  # a cycle through each department

  def other_leaf(department):
    return department * size + (at + rng.integers(1, size, config.leaves)) % size

  abroad = (department + rng.integers(1, departments, config.leaves)) % departments
  leads = [after, np.arange(config.leaves), after, other_leaf(department)]  # successors
  leads += [after, other_leaf(department), other_leaf(abroad)]  # destinations

  first, second = np.nonzero(~np.eye(departments, dtype=bool))  # every pair is a taste
  tastes = np.full((len(first), departments), (1 - FIRST - SECOND) / departments)
  tastes[np.arange(len(first)), first] += FIRST
  tastes[np.arange(len(first)), second] += SECOND
  share = _normalized((1.0 + np.arange(departments)) ** -0.5)
  jump = 1 - config.follow - config.move
  return Laws(
    config=config,
    seed=seed,
    leads=np.stack(leads, axis=1).astype(np.int32),
    ways=np.concatenate([config.follow * SUCCESSORS, config.move * DESTINATIONS, [jump]]),
    popularity=_normalized((1.0 + np.arange(config.warm)) ** -config.zipf),
    tastes=tastes,
    first=first,
    second=second,
    prior=_normalized(share[first] * share[second] / (1 - share[first])),
  )


def successor(law: Laws, place: np.ndarray, nth: np.ndarray) -> np.ndarray:
  """[N] the place of the `nth` (0 to 3) successor of each warm item."""
  leaf, v = np.divmod(place, law.config.width)
  v = np.where(nth == 1, (v + law.config.brands) % law.config.warm, v)
  fixed = np.flatnonzero(nth >= 2)
  v[fixed] = popular(law, hashed(law, place[fixed], nth[fixed]))
  return law.leads[leaf, nth] * law.config.width + v


def popular(law: Laws, u: np.ndarray) -> np.ndarray:
  """Popularity draws within a leaf, from numbers in [0, 1)."""
  return np.searchsorted(np.cumsum(law.popularity)[:-1], u, side="right").astype(np.int32)


def row_of(config: Config, place: np.ndarray) -> np.ndarray:
  """Places in the tree -> item rows from 1, scattered, so that ties by row favour nobody."""
  return (1 + np.asarray(place, np.int64) * _stride(config.items) % config.items).astype(np.int32)


def place_of(config: Config, row: np.ndarray) -> np.ndarray:
  """Item rows -> places in the tree; -1 for PAD."""
  row = np.asarray(row, np.int64)
  back = pow(_stride(config.items), -1, config.items)
  return np.where(row == PAD, -1, (row - 1) * back % config.items)


def hashed(law: Laws, at: np.ndarray, salt: np.ndarray | int) -> np.ndarray:
  """[N] in [0, 1): a function of (seed, at, salt), by the finaliser of SplitMix64."""
  x = np.asarray(at).astype(np.uint64) + np.uint64(_offset(law.seed))
  x += np.asarray(salt).astype(np.uint64) << np.uint64(40)
  for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
    x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
  return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


@functools.cache
def _offset(seed: int) -> int:
  state = np.random.SeedSequence(seed, spawn_key=(2,)).generate_state(1, np.uint64)
  return int(state[0] >> 1)  # room to add without overflow


@functools.cache
def _stride(items: int) -> int:
  """A step that visits all items, prime to their number, near the golden ratio of it."""
  stride = max(int(items * 0.618), 1)
  while math.gcd(stride, items) > 1:
    stride += 1
  return stride


def _normalized(weights: np.ndarray) -> np.ndarray:
  return weights / weights.sum()
