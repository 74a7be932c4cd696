"""What a recommender can reach at best on a synthetic world: its law, solved exactly.

Two bounds. The one who knows the tables and the user's taste; and the one who knows the tables but
sees only the items of the history, and weighs the tastes by Bayes' rule: no model that learns from
histories of items beats the second, but by luck. (Ratings say a little more about a taste.)

B users, T history (left-padded), I items, S any items, P tastes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recjax.data import synthetic_laws as laws
from recjax.data.ragged import Ragged
from recjax.data.synthetic import World
from recjax.data.synthetic_laws import DESTINATIONS, SUCCESSORS, Laws


class Best(NamedTuple):
  """Expected over the law of the last events, given the histories before them."""

  recall: float
  ndcg: float


def best_attainable(world: World, k: int = 10, *, knows_taste: bool = False) -> Best:
  """Recall@k and NDCG@k of ranking by the true probability, on leave-one-out's test events."""
  if not 0 < k < world.interactions.num_items:
    raise ValueError(f"k must lie in 1..{world.interactions.num_items - 1}, it is {k}")
  user, history, _ = last_events(world)
  top = np.zeros(k)
  for rows in np.array_split(np.arange(len(user)), -(-len(user) // 512)):
    p = oracle(world, history[rows], user[rows] if knows_taste else None)
    p.partition(p.shape[1] - k, axis=1)
    top += np.sort(p[:, -k:], axis=1)[:, ::-1].sum(axis=0)
  top /= len(user)
  return Best(float(top.sum()), float((top / np.log2(np.arange(k) + 2)).sum()))


def last_events(world: World) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(user [B], history [B, T], target [B]): all before the last event of each user, and that."""
  x = world.interactions
  stop = np.cumsum(np.bincount(x.user, minlength=x.num_users)[1:])
  start = np.append(0, stop[:-1])
  history = Ragged(x.item, start, stop - 1)
  width = max(int(history.lengths.max()), 1)
  padded = history.left_padded(np.arange(len(history)), width)
  return x.user[start], padded, x.item[stop - 1]


def oracle(world: World, history: np.ndarray, user: np.ndarray | None = None) -> np.ndarray:
  """[B, I] float64: the true law of a last event after each history, given as [B, T] item rows.

  With `user` [B] their tastes are known; without, they are inferred from the histories.
  """
  law, config = world.law, world.law.config
  place = laws.place_of(config, history)  # [B, T], -1 where padded
  if (place % config.width >= config.warm)[place >= 0].any():
    raise ValueError("a history holds a cold item, which only a last event can be")
  alike = np.diff(np.sort(place, axis=1), axis=1) == 0
  if (alike & (np.sort(place, axis=1)[:, 1:] >= 0)).any():
    raise ValueError("a history holds an item twice, which the law rules out")
  weights, left = _follow(law, place)  # [B, P] each
  if user is not None:
    weights = np.eye(len(law.prior))[world.taste[user]]
  last = place[:, -1] if place.shape[1] else np.full(len(place), -1)

  items = np.arange(config.items)
  share = _share(law, items)  # [I]
  department = items // (config.width * config.leaves_of_department)
  scaled = weights / left  # met items are drawn again: each taste's law is divided by what is left
  tasted = (scaled @ law.tastes)[:, department] * share  # [B, I]
  jump = np.where(last < 0, 1.0, law.ways[-1])
  p = _led(law, last, np.broadcast_to(items, (len(last), len(items)))) * scaled.sum(1)[:, None]
  p += jump[:, None] * tasted
  row, t = np.nonzero(place >= 0)
  p[row, place[row, t]] = 0.0

  cold = items % config.width >= config.warm
  if config.cold_rate:
    to = law.leads[last // config.width, len(SUCCESSORS) :]  # [B, destinations]
    leaf = np.zeros((len(last), config.leaves))
    for nth, likely in enumerate(DESTINATIONS):
      leaf[np.arange(len(last)), to[:, nth]] += likely
    ends_cold = config.cold_rate * (last >= 0)  # a first event is a jump, never cold
    p *= 1 - ends_cold[:, None]
    p += (ends_cold[:, None] * leaf / config.cold)[:, items // config.width] * cold
  out = np.zeros((len(last), config.items + 1))
  out[:, laws.row_of(config, items)] = p
  return out


def _follow(law: Laws, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(weights, left) [B, P]: how likely each taste is, and its probability of anything new next."""
  config = law.config
  department = place // (config.width * config.leaves_of_department)  # [B, T]
  share = np.where(place < 0, 0.0, _share(law, place))
  log = np.log(law.prior)[None].repeat(len(place), 0)
  met = np.zeros((len(place), config.departments))  # share that jumps would draw again
  for t in range(place.shape[1] + 1):
    last = place[:, t - 1] if t else np.full(len(place), -1)
    jump = np.where(last < 0, 1.0, law.ways[-1])[:, None]
    again = _led(law, last, place[:, :t]).sum(axis=1)[:, None]
    left = 1 - again - jump * (met @ law.tastes.T)  # [B, P]
    if t == place.shape[1]:
      break
    here = np.flatnonzero(place[:, t] >= 0)
    now = jump[here] * law.tastes.T[department[here, t]] * share[here, t, None]
    now = now + _led(law, last[here], place[here, t : t + 1])
    log[here] += np.log(now) - np.log(left[here])
    met[here, department[here, t]] += share[here, t]
  weights = np.exp(log - log.max(axis=1, keepdims=True))
  return weights / weights.sum(axis=1, keepdims=True), left


def _share(law: Laws, place: np.ndarray) -> np.ndarray:
  """Of a jump into its department, what falls on each item; 0 for the cold."""
  table = np.zeros(law.config.width)
  table[: law.config.warm] = law.popularity / law.config.leaves_of_department
  return table[place % law.config.width]


def _led(law: Laws, last: np.ndarray, to: np.ndarray) -> np.ndarray:
  """[B, S] the probability of each `to` [B, S] after `last` [B], jumps and repeats left out."""
  config = law.config
  table = np.zeros(config.width)
  table[: config.warm] = law.popularity
  leaf, popularity = to // config.width, table[to % config.width]
  p = np.zeros(to.shape)
  for way, likely in enumerate(law.ways[:-1]):
    if way < len(SUCCESSORS):
      at = laws.successor(law, last, np.full(len(last), way))
      p += likely * (to == at[:, None])
    else:
      p += likely * popularity * (leaf == law.leads[last // config.width, way][:, None])
  return np.where((last >= 0)[:, None] & (to >= 0), p, 0.0)
