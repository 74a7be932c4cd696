"""Preparation: from what a reader gives to what a split expects. Every step is deterministic.

The usual chain is `reindex(k_core(deduplicate(x)))`, then `order(x, ties=...)`: published numbers
depend on how events of one user at one time are ordered, so the rule has no default.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recjax.data import interactions
from recjax.data.errors import DataError
from recjax.data.interactions import Interactions
from recjax.types import PAD

Ties = Callable[[Interactions], np.ndarray | None]  # -> [N] keys: less comes first; None: as read


def deduplicate(x: Interactions, by: tuple[str, ...] = ("user", "item")) -> Interactions:
  """Keeps the first, in file order, of the events that agree in every column of `by`."""
  columns = x.columns()
  for name in by:
    if name not in columns:
      raise DataError(f"no column {name!r} to go by", remedy=f"There is {', '.join(columns)}.")
  key = np.zeros(len(x), np.int64)
  for name in by:  # fold column after column into one dense key
    _, code = np.unique(columns[name], return_inverse=True)
    _, key = np.unique(key * (code.max(initial=0) + 1) + code, return_inverse=True)
  _, first = np.unique(key, return_index=True)
  return x.take(np.sort(first))


def k_core(x: Interactions, *, user: int = 5, item: int = 5) -> Interactions:
  """Drops users and items with too few events until none is left; ids unchanged."""
  keep = np.ones(len(x), bool)
  while True:
    users = np.bincount(x.user[keep], minlength=x.num_users)
    items = np.bincount(x.item[keep], minlength=x.num_items)
    weak = keep & ((users[x.user] < user) | (items[x.item] < item))
    if not weak.any():
      break
    keep &= ~weak
  if len(x) and not keep.any():
    raise DataError(
      f"no event is left in the core of {user} events a user and {item} an item",
      remedy="Ask for a smaller core.",
    )
  return x.take(keep)


def reindex(x: Interactions) -> Interactions:
  """Numbers the users and items in use from 1 and forgets the others.

  Users go by first appearance. Items are shuffled, always alike: were they numbered as histories go
  on, a tie that is broken by number would tell of the events that are kept for the test.
  """
  new = {}
  for name in ("user", "item"):
    rows, ids = getattr(x, name), getattr(x, f"{name}s")
    used, first = np.unique(rows, return_index=True)
    used = used[np.argsort(first, kind="stable")]
    if name == "item":
      used = np.random.default_rng(0).permutation(used)
    table = np.full(len(ids), PAD, np.int32)
    table[used] = np.arange(1, len(used) + 1)
    new |= {name: table[rows], f"{name}s": interactions.with_pad(ids[used])}
  return interactions.replace(x, **new)


def file_order(x: Interactions) -> None:
  """Events at one time stay as the file has them."""
  return None


def by_item_id(x: Interactions) -> np.ndarray:
  """Events at one time go by ascending raw item id, as in S3-Rec's Amazon files."""
  rank = np.empty(x.num_items, np.int32)
  rank[np.argsort(x.items, kind="stable")] = np.arange(x.num_items, dtype=np.int32)
  return rank[x.item]


def shuffled(seed: int) -> Ties:
  """Events at one time go in random order."""
  return lambda x: np.random.default_rng(seed).permutation(len(x))


def order(x: Interactions, *, ties: Ties) -> Interactions:
  """By user, then time, then the tie rule. Without timestamps the tie rule alone decides."""
  keys = [x.user] if x.timestamp is None else [x.timestamp, x.user]
  rule = ties(x)
  rows = np.arange(len(x)) if rule is None else np.argsort(rule, kind="stable")
  for key in keys:  # least significant first; stable sorts keep what came before
    rows = rows[np.argsort(key[rows], kind="stable")]
  return x.take(rows)


def check_ordered(x: Interactions) -> None:
  if (np.diff(x.user) < 0).any():
    raise DataError("the events are not grouped by user", remedy="Call prepare.order first.")
  if x.timestamp is not None:
    same = x.user[1:] == x.user[:-1]
    if (same & (np.diff(x.timestamp) < 0)).any():
      raise DataError("a user's events go back in time", remedy="Call prepare.order first.")


def bounds(x: Interactions) -> tuple[np.ndarray, np.ndarray]:
  """[N] where the user of each event starts and stops, for events grouped by user."""
  check_ordered(x)
  stop = np.cumsum(np.bincount(x.user, minlength=x.num_users))
  return np.concatenate([[0], stop[:-1]])[x.user], stop[x.user]


def truncate(x: Interactions, last: int) -> Interactions:
  """Each user's last events only, of ordered events."""
  _, stop = bounds(x)
  return x.take(np.arange(len(x)) >= stop - last)
