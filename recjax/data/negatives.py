"""Negatives: items that a user has not met, drawn exactly and without trial and error.

Seen from a user, the items without the positives are numbered 0, 1, ...; a number is drawn and the
r-th of them is r + 1 plus how many positives come before it: one binary search in the sorted
positives, for all users at once. Popularity weights are whole numbers, so the same holds of them:
a unit of weight is drawn, and the units of the positives are stepped over.

B users, N negatives of each, I items (PAD included), U users (PAD included), P positives in all.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from recjax.data.interactions import Impressions, Interactions
from recjax.types import PAD, Array, Key


@dataclasses.dataclass(frozen=True, eq=False)
class Positives:
  """What each user has met: `items[start[u]:start[u + 1]]`, ascending, each once."""

  items: np.ndarray  # [P] int64
  start: np.ndarray  # [U + 1] int64
  num_items: int  # I

  @classmethod
  def of(cls, x: Interactions) -> Positives:
    pairs = np.unique(x.user.astype(np.int64) * x.num_items + x.item)
    user, items = np.divmod(pairs, x.num_items)
    count = np.bincount(user, minlength=x.num_users)
    return cls(items, np.append(0, np.cumsum(count)), x.num_items)

  @property
  def count(self) -> np.ndarray:
    """[U] how many items each user has met."""
    return np.diff(self.start)


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
  """Negatives in proportion to whole weights, ready to draw; made by `uniform` or `popularity`."""

  positives: Positives
  until: np.ndarray  # [I] the weight of this item and of all before it
  met: np.ndarray  # [P + 1] the weight of all positives before each, over all users
  key: np.ndarray  # [P] user x stride + weight of the negatives before each positive; ascending
  stride: int  # above any weight

  def draw(self, rng: np.random.Generator, user: np.ndarray, n: int) -> np.ndarray:
    """[B, n] items that the users [B] have not met, independent of each other."""
    user, free = self._free(user, 1)
    return self._unit(user, rng.integers(0, free[:, None], (len(user), n)))

  def log_q(self, user: np.ndarray, items: np.ndarray) -> np.ndarray:
    """[B, N] float32: log-probability of a draw of each item, for the logQ correction."""
    user, free = self._free(user, 1)
    weight = self.until[items] - self.until[items - 1]
    if (items <= PAD).any() or (weight == 0).any():
      raise ValueError("log_q is of items that can be drawn, not of PAD or of weight 0")
    return (np.log(weight) - np.log(free)[:, None]).astype(np.float32)

  def _free(self, user: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    """The users and the weight that is left to each."""
    user = np.asarray(user, np.int64)
    p = self.positives
    free = self.until[-1] - (self.met[p.start[user + 1]] - self.met[p.start[user]])
    if (free < least).any():
      at = int(np.argmax(free < least))
      raise ValueError(
        f"user {user[at]} has met {p.count[user[at]]} of {p.num_items - 1} items, which leaves "
        f"too few to draw (of weight {free[at]}): draw fewer, or leave this user out"
      )
    return user, free

  def _unit(self, user: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """[B, N] the item in which each unit of a user's free weight lies."""
    start = self.positives.start[user][:, None]
    passed = np.searchsorted(self.key, user[:, None] * self.stride + unit, side="right")
    unit = unit + self.met[passed] - self.met[start]
    if (
      self.until[-1] == len(self.until) - 1
    ):  # all weights are 1 (popularity's sum to 2^38 and more)
      return (unit + 1).astype(np.int32)
    return np.searchsorted(self.until, unit, side="right").astype(np.int32)


def uniform(positives: Positives) -> Sampler:
  """Every item not met is equally likely."""
  return _sampler(positives, (np.arange(positives.num_items) != PAD).astype(np.int64))


def popularity(positives: Positives, counts: np.ndarray, *, alpha: float = 0.75) -> Sampler:
  """An item not met is drawn in proportion to counts [I] to the power of `alpha`.

  A count of 0 is never drawn (but with alpha 0, where all are alike).
  """
  counts = np.asarray(counts, np.float64)
  if counts.shape != (positives.num_items,):
    raise ValueError(f"counts has shape {counts.shape}, there are {positives.num_items} items")
  if not (np.isfinite(counts) & (counts >= 0)).all():
    raise ValueError("counts must be finite and not negative")
  weights = counts**alpha
  weights[PAD] = 0.0
  if not weights.sum():
    raise ValueError("all counts are 0: no item can be drawn")
  # As fine as a 64-bit key of user and weight allows: a share is rounded to 2^-44, to 2^-38 for
  # ten million users, and no item falls to 0.
  units = 2.0 ** min(44, 62 - len(positives.start).bit_length())
  whole = np.rint(weights / weights.sum() * units).astype(np.int64)
  return _sampler(positives, np.where(weights > 0, np.maximum(whole, 1), 0))


def distinct(
  rng: np.random.Generator, positives: Positives, user: np.ndarray, n: int
) -> np.ndarray:
  """[B, n] items not met, all different: any set of n is equally likely (99 for an evaluation).

  Floyd's way (Bentley & Floyd, CACM 1987), a step for all users at a time; the order is shuffled.
  """
  sampler = uniform(positives)
  user, free = sampler._free(user, n)
  units = np.empty((len(user), n), np.int64)
  for i in range(n):
    high = free - n + i
    unit = rng.integers(0, high + 1)
    taken = (units[:, :i] == unit[:, None]).any(axis=1)
    units[:, i] = np.where(taken, high, unit)
  return sampler._unit(user, rng.permuted(units, axis=1))


def impression(rng: np.random.Generator, x: Impressions, rows: np.ndarray, n: int) -> np.ndarray:
  """[R, n] items shown in the impressions `rows` and not taken, in random order.

  All different as long as there are n; fewer go round again, each as often as the others or once
  more; PAD where an impression has none.
  """
  rows = np.asarray(rows)
  (of, item), (_, label) = x.candidates.flat(rows), x.labels.flat(rows)  # [E] each
  of, item = of[label <= 0], item[label <= 0]
  item = item[np.lexsort((rng.random(len(item)), of))]  # shuffled within each impression
  count = np.bincount(of, minlength=len(rows))
  at = (np.cumsum(count) - count)[:, None] + np.arange(n) % np.maximum(count, 1)[:, None]
  out = np.append(item, PAD)[np.minimum(at, len(item))]
  return np.where(count[:, None] > 0, out, PAD).astype(np.int32)


def other(key: Key, target: Array, n: int, num_items: int) -> Array:
  """[..., n] items drawn uniformly from all but PAD and the target [...]; JAX, inside a loss.

  Items that the user met may be among them, as in the samplers of most published code;
  `draws.beside` draws without them, on the host.
  """
  if num_items < 3:
    raise ValueError(f"of {num_items - 1} items none is left to draw beside a target")
  drawn = jax.random.randint(key, (*target.shape, n), PAD + 1, num_items - 1)
  return drawn + (drawn >= jnp.maximum(target, PAD + 1)[..., None])


def in_batch(target: Array, candidates: Array | None = None, own: Array | None = None) -> Array:
  """[B, C] where a candidate counts for a row: the row's own target, and the other items.

  Candidates are the targets of the batch, or those of all devices with `own` [B] saying where each
  row's stands. Drops PAD and, as no negative, a second occurrence of the row's own item. JAX.
  """
  candidates = target if candidates is None else candidates
  own = jnp.arange(target.shape[0]) if own is None else own
  is_own = own[:, None] == jnp.arange(candidates.shape[0])[None]
  other = (target[:, None] != candidates[None]) & (candidates != PAD)[None]
  return is_own | other


def _sampler(positives: Positives, weights: np.ndarray) -> Sampler:
  p = positives
  until = np.cumsum(weights)  # [I]
  stride = int(until[-1]) + 1
  met = np.append(0, np.cumsum(weights[p.items]))  # [P + 1]
  user = np.repeat(np.arange(len(p.count)), p.count)
  if len(p.count) * stride >= 2**63:
    raise ValueError(f"{len(p.count)} users and {p.num_items} items exceed a 64-bit key")
  before = until[p.items] - weights[p.items] - (met[:-1] - met[p.start[user]])
  return Sampler(p, until, met, user * stride + before, stride)
