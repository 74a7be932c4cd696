"""Examples: what one row of a batch holds, as index arithmetic over columns that exist once.

A history is a slice of one flat array of items, so all prefixes of all users cost two integers
each; rows are padded when a batch is gathered.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from recjax.data import interactions, prepare
from recjax.data.errors import DataError
from recjax.data.interactions import Impressions, Interactions
from recjax.data.ragged import Ragged

_BLOCK = 1 << 22  # places of histories looked at together


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
  """E examples. `left` rows are padded at the left (histories), `right` rows at the right."""

  dense: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)  # name -> [E, ...]
  left: Mapping[str, Ragged] = dataclasses.field(default_factory=dict)  # name -> E rows
  right: Mapping[str, Ragged] = dataclasses.field(default_factory=dict)  # name -> E rows

  def __post_init__(self):
    sizes = {name: len(c) for name, c in {**self.dense, **self.left, **self.right}.items()}
    if not sizes or len(set(sizes.values())) > 1:
      raise ValueError(f"the columns must be there and equally long, they have {sizes}")

  def __len__(self) -> int:
    return len(next(iter({**self.dense, **self.left, **self.right}.values())))

  @property
  def lengths(self) -> np.ndarray:
    """[E] the longest left-padded row of each example, 0 of none: what bucketing goes by."""
    return np.max([np.zeros(len(self), int), *(r.lengths for r in self.left.values())], axis=0)

  def widths(self, max_len: int) -> dict[str, int]:
    """Widths that hold every right-padded row, and left-padded ones up to `max_len`."""
    right = {name: int(max(r.lengths.max(initial=1), 1)) for name, r in self.right.items()}
    return {**{name: max_len for name in self.left}, **right}

  def gather(self, rows: np.ndarray, widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The batch of these rows: name -> [len(rows), ...]."""
    return {
      **{name: c[rows] for name, c in self.dense.items()},
      **{name: r.left_padded(rows, widths[name]) for name, r in self.left.items()},
      **{name: r.right_padded(rows, widths[name]) for name, r in self.right.items()},
    }

  def take(self, rows: np.ndarray) -> Examples:
    return Examples(
      {name: c[rows] for name, c in self.dense.items()},
      {name: r.take(rows) for name, r in self.left.items()},
      {name: r.take(rows) for name, r in self.right.items()},
    )


def events(x: Interactions) -> Examples:
  """One example an event: `user`, `target`, and `ratings` where there are some."""
  ratings = {} if x.rating is None else {"ratings": x.rating}
  return Examples({"user": x.user, "target": x.item, **ratings})


def sequences(x: Interactions, max_len: int, *, stride: int | None = None) -> Examples:
  """One example a user: `history`, and `next`, the item that follows each of its places.

  A user with more than `max_len` + 1 events gives the last ones; with a `stride`, also the
  windows that end that many events earlier each time, until all events are covered.
  """
  start, stop = _users(x)
  if stride is not None:
    if not 1 <= stride <= max_len:
      raise ValueError(f"stride must lie in 1..{max_len}, else events are missed; it is {stride}")
    windows = 1 + np.maximum(-(-(stop - start - 1 - max_len) // stride), 0)
    nth = np.arange(windows.sum()) - np.repeat(np.cumsum(windows) - windows, windows)
    start, stop = np.repeat(start, windows), np.repeat(stop, windows) - nth * stride
  start = np.maximum(start, stop - max_len - 1)
  long = stop - start >= 2  # one event alone has no next
  if not long.any():
    raise DataError(
      "no user has two events, so there is nothing that follows another",
      remedy="Check that `user` is who met the items, not a row or a visit.",
    )
  start, stop = start[long], stop[long]
  return Examples(
    {"user": x.user[start]},
    {"history": Ragged(x.item, start, stop - 1), "next": Ragged(x.item, start + 1, stop)},
  )


def rows(x: Interactions, max_len: int, *, seed: int = 0) -> Examples:
  """The `sequences` of all events, several to a row of `max_len`; `segment` counts them from 1.

  Nearly nothing is padded, and batches of one width hold histories of every length. For systems
  that read `segment`; `user` is that of a row's first history.
  """
  found = sequences(x, max_len, stride=max_len)
  history, following = found.left["history"], found.left["next"]
  length = history.lengths
  order = np.random.default_rng(seed).permutation(len(found))
  order = order[np.argsort(-length[order], kind="stable")]
  row = _filled(length[order], max_len)
  by_row = np.argsort(row, kind="stable")
  order, row = order[by_row], row[by_row]
  first = np.flatnonzero(np.diff(row, prepend=-1))  # of each row, its first history
  nth = np.arange(len(row)) - np.repeat(first, np.diff(np.append(first, len(row))))
  count = length[order]
  within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
  stop = np.cumsum(count)[np.append(first[1:], len(row)) - 1]
  start = np.append(0, stop[:-1])
  columns = {
    "history": history.values[np.repeat(history.start[order], count) + within],
    "next": following.values[np.repeat(following.start[order], count) + within],
    "segment": np.repeat(1 + nth, count).astype(np.int32),
  }
  return Examples(
    {"user": found.dense["user"][order[first]]},
    {name: Ragged(values, start, stop) for name, values in columns.items()},
  )


def prefixes(x: Interactions) -> Examples:
  """One example an event but a user's first: `history`, all before it, and `target`."""
  start, _ = prepare.bounds(x)
  return _until(x, start, np.flatnonzero(np.arange(len(x)) > start))


def next_events(before: Interactions, x: Interactions) -> Examples:
  """One example an event of `x`: `history` is all that its user did before it, in either."""
  both = interactions.concat([before, x])
  rows = np.argsort(both.user, kind="stable")
  both, is_event = both.take(rows), rows >= len(before)
  start, _ = prepare.bounds(both)
  return _until(both, start, np.flatnonzero(is_event))


def sets(before: Interactions, x: Interactions) -> Examples:
  """One example a user of `x`: `history`, all of `before`, and `target`, all of the user's `x`."""
  prepare.check_ordered(before)
  grouped = x.take(np.argsort(x.user, kind="stable"))
  start, stop = _users(grouped)
  user = grouped.user[start]
  first = np.searchsorted(before.user, user, "left")
  last = np.searchsorted(before.user, user, "right")
  return Examples(
    {"user": user},
    {"history": Ragged(before.item, first, last)},
    {"target": Ragged(grouped.item, start, stop)},
  )


def impressions(x: Impressions) -> Examples:
  """One example an impression: `user`, `history`, `candidates` and their `labels`."""
  return Examples(
    {"user": x.user}, {"history": x.history}, {"candidates": x.candidates, "labels": x.labels}
  )


def clicks(x: Impressions) -> Examples:
  """One example a candidate that was taken: `target`, `history`, and the row of its `impression`.

  `draws.shown` puts what was left of the impression beside it.
  """
  (of, item), (_, label) = x.candidates.flat(), x.labels.flat()
  taken = label > 0
  if not taken.any():
    raise DataError(
      "nothing was taken in any impression, so there is nothing to learn from",
      remedy="Check the labels: 1 is a candidate that was taken, 0 one that was not.",
    )
  of = of[taken].astype(np.int32)
  return Examples(
    {"user": x.user[of], "target": item[taken], "impression": of}, {"history": x.history.take(of)}
  )


def deny_seen(examples: Examples) -> Examples:
  """Adds `deny`, the items of the whole history: what a protocol without repeats leaves out."""
  return dataclasses.replace(examples, right={**examples.right, "deny": examples.left["history"]})


def again(examples: Examples) -> float:
  """The share of examples of which a target is in its own history."""
  if not len(examples):
    return 0.0
  history, targets = examples.left["history"], examples.right.get("target")
  if targets is None:
    at = np.arange(len(examples))
    targets = Ragged(examples.dense["target"], at, at + 1)
  found = 0
  for rows in np.array_split(np.arange(len(examples)), 1 + int(history.lengths.sum()) // _BLOCK):
    (by, met), (of, wanted) = history.flat(rows), targets.flat(rows)
    size = 1 + max(met.max(initial=0), wanted.max(initial=0))
    found += len(np.unique(of[np.isin(of * size + wanted, by * size + met)]))
  return found / len(examples)


def _until(x: Interactions, start: np.ndarray, rows: np.ndarray) -> Examples:
  history = Ragged(x.item, start[rows], rows)
  return Examples({"user": x.user[rows], "target": x.item[rows]}, {"history": history})


def _users(x: Interactions) -> tuple[np.ndarray, np.ndarray]:
  """Where the events of each user that has any start and stop."""
  prepare.check_ordered(x)
  first = np.flatnonzero(np.diff(x.user, prepend=-1))
  return first, np.append(first[1:], len(x))


def _filled(lengths: np.ndarray, room: int) -> np.ndarray:
  """The row of each of these descending lengths: the fullest that has room, else a new one."""
  open_rows: list[list[int]] = [[] for _ in range(room + 1)]  # by the room that is left
  row, count = np.empty(len(lengths), np.int64), 0
  for at, length in enumerate(lengths.tolist()):
    left = next((r for r in range(length, room + 1) if open_rows[r]), None)
    if left is None:
      row[at], left, count = count, room, count + 1
    else:
      row[at] = open_rows[left].pop()
    open_rows[left - length].append(row[at])
  return row
