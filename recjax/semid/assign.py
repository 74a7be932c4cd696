"""Codes that tell the items of a catalogue apart, by a policy for those that collide.

`catalogue(quantizer, vectors, policy)` codes everything once; `extend` codes new items beside the
old ones, which keep theirs. A policy is a function, and these make the usual ones:

  keep             nothing: items that collide share their codes
  count_up(256)    a further level that counts within a collision (TIGER)
  next_free        all but the nearest item move to the next nearest free code of the last level
  optimal          the last codes of items with a common prefix are dealt out anew, at least cost
                   in all: the transport that Sinkhorn's iteration approximates, solved exactly

N items, L levels, K codes of the last level. [I, L] codes of a catalogue have row 0 for PAD: -1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.optimize

from recjax.data.errors import DataError
from recjax.semid.quantizer import Quantizer


class Request(NamedTuple):
  """What a policy decides on."""

  quantizer: Quantizer
  vectors: np.ndarray  # [N, D] of the items to be told apart
  codes: np.ndarray  # [N, L] the quantiser's
  taken: np.ndarray  # [M, L'] final codes of earlier items, which stay


class Policy(NamedTuple):
  apply: Callable[[Request], np.ndarray]  # -> [N, L'] final codes
  further: tuple[int, ...] = ()  # sizes of the levels it adds to the quantiser's


class Overflow(DataError):
  """More items share a prefix than there are codes to tell them apart."""

  def __init__(self, prefix: np.ndarray, items: int, size: int, places: int):
    self.items, self.size = items, size
    super().__init__(
      f"{items} items share the codes {tuple(int(c) for c in prefix)} and {size} codes tell them "
      f"apart: {items - size} too many ({places} such places)",
      remedy="Use more codes or levels, another policy, or merge items that are the same.",
    )


def catalogue(quantizer: Quantizer, vectors: np.ndarray, policy: Policy) -> np.ndarray:
  """[I, L'] int32 codes of the items with `vectors` [I, D], row 0 (PAD) of both left aside."""
  none = np.full((1, len(quantizer.sizes) + len(policy.further)), -1, np.int32)
  return extend(quantizer, none, vectors[1:], policy)


def extend(
  quantizer: Quantizer, codes: np.ndarray, vectors: np.ndarray, policy: Policy
) -> np.ndarray:
  """`codes` [I, L'] unchanged, and below them those of new items with `vectors` [N, D]."""
  width = len(quantizer.sizes) + len(policy.further)
  if codes.ndim != 2 or codes.shape[1] != width or not len(codes) or (codes[0] != -1).any():
    raise DataError(
      f"codes [items, {width}] with -1 in row 0 (PAD) are needed, these have shape {codes.shape}",
      remedy="Extend with the quantiser and the policy that the codes were made with.",
    )
  taken = codes[1:][codes[1:, 0] >= 0]
  new = policy.apply(Request(quantizer, vectors, quantizer.encode(vectors), taken))
  return np.concatenate([codes, new.astype(np.int32)])


keep = Policy(lambda request: request.codes)


def count_up(size: int) -> Policy:
  """The published TIGER's: a level of `size` codes, 0 for the first item, 1 for the second ..."""

  def apply(request: Request) -> np.ndarray:
    codes, levels = request.codes, request.codes.shape[1]
    group, count = _groups(np.concatenate([request.taken[:, :levels], codes]))
    old, new = np.split(group, [len(request.taken)])
    start = np.zeros(count, np.int64)  # after the last number given, so that none is given twice
    np.maximum.at(start, old, request.taken[:, levels].astype(np.int64) + 1)
    number = start[new] + _nth(new)
    if len(number) and number.max() >= size:
      worst = int(np.argmax(number))
      raise Overflow(codes[worst], int(number[worst]) + 1, size, len(set(new[number >= size])))
    return np.concatenate([codes, number[:, None].astype(np.int32)], axis=1)

  return Policy(apply, (size,))


def _next_free(request: Request) -> np.ndarray:
  place = _Places(request)
  cost = request.quantizer.last_costs(request.vectors[place.rows])
  own = request.codes[place.rows, -1]
  # The nearest item of each code keeps it, unless an earlier item has it.
  stays = place.take(own, cost[np.arange(len(own)), own], np.arange(len(own)))
  last = np.where(stays, own, -1)
  return place.write(place.settle(last, cost))


next_free = Policy(_next_free)


def _optimal(request: Request) -> np.ndarray:
  place = _Places(request)
  cost = request.quantizer.last_costs(request.vectors[place.rows])
  last = np.full(len(cost), -1)
  order = np.argsort(place.group, kind="stable")
  for items in np.split(order, np.flatnonzero(np.diff(place.group[order])) + 1):
    if len(items):
      free = np.flatnonzero(~place.full[place.group[items[0]]])
      row, column = scipy.optimize.linear_sum_assignment(cost[np.ix_(items, free)])
      last[items[row]] = free[column]
  return place.write(last)


optimal = Policy(_optimal)


class _Places:
  """The items in question (those whose prefix holds a collision) and the last codes of each prefix.

  G prefixes, n items.
  """

  def __init__(self, request: Request):
    size, codes = request.quantizer.sizes[-1], request.codes
    every = np.concatenate([request.taken, codes])
    whole, count = _groups(every)
    new_whole = whole[len(request.taken) :]
    collides = np.bincount(whole, minlength=count)[new_whole] > 1
    prefix, count = _groups(every[:, :-1]) if every.shape[1] > 1 else (np.zeros(len(every), int), 1)
    old, new = np.split(prefix, [len(request.taken)])
    involved = np.zeros(count, bool)
    involved[new[collides]] = True
    self.codes = codes
    self.rows = np.flatnonzero(involved[new])  # [n] rows of `codes`
    number = np.cumsum(involved) - 1
    self.group = number[new[self.rows]]  # [n]
    self.full = np.zeros((int(involved.sum()), size), bool)  # [G, K] codes that are given away
    there = involved[old]
    self.full[number[old[there]], request.taken[there, -1]] = True
    held = self.full.sum(1)
    wanted = held + np.bincount(self.group, minlength=len(held))
    if (wanted > size).any():
      worst = int(np.argmax(wanted))
      row = self.rows[np.argmax(self.group == worst)]
      raise Overflow(codes[row, :-1], int(wanted[worst]), size, int((wanted > size).sum()))

  def take(self, code: np.ndarray, cost: np.ndarray, items: np.ndarray) -> np.ndarray:
    """True for each of `items` that gets its code: the cheapest, then the first, if it is free."""
    place = self.group[items] * self.full.shape[1] + code
    order = np.lexsort((items, cost, place))
    first = np.diff(place[order], prepend=-1) != 0
    won = np.zeros(len(items), bool)
    won[order[first]] = True
    won &= ~self.full[self.group[items], code]
    self.full[self.group[items[won]], code[won]] = True
    return won

  def settle(self, last: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Gives each item without a code (-1) its cheapest free one; in a tie of two, to the nearer."""
    while len(left := np.flatnonzero(last < 0)):
      open_cost = np.where(self.full[self.group[left]], np.inf, cost[left])
      code = open_cost.argmin(1)
      won = self.take(code, open_cost[np.arange(len(left)), code], left)
      last[left[won]] = code[won]
    return last

  def write(self, last: np.ndarray) -> np.ndarray:
    codes = self.codes.copy()
    codes[self.rows, -1] = last
    return codes


def _groups(codes: np.ndarray) -> tuple[np.ndarray, int]:
  """[N] the number of each row among the distinct ones, and how many these are."""
  if not len(codes):
    return np.zeros(0, np.int64), 0
  distinct, group = np.unique(codes, axis=0, return_inverse=True)
  return group.reshape(-1), len(distinct)


def _nth(group: np.ndarray) -> np.ndarray:
  """[N]: how many earlier rows are of the same group."""
  order = np.argsort(group, kind="stable")
  first = np.diff(group[order], prepend=-1) != 0
  start = np.maximum.accumulate(np.where(first, np.arange(len(group)), 0))
  nth = np.empty(len(group), np.int64)
  nth[order] = np.arange(len(group)) - start
  return nth
