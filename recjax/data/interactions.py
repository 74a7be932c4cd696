"""The tables that every reader fills: columnar NumPy, raw ids kept once, rows refer to them.

Users and items are numbered from 1 in `users` and `items`; row 0 is PAD, the empty string.
`num_items` and `num_users` count it, as the tables of the systems do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from recjax.data.errors import DataError, Skipped
from recjax.data.ragged import Ragged
from recjax.types import PAD

STRING = np.dtypes.StringDType()  # compact, variable width; raw ids and texts


def strings(values: Iterable[str] | np.ndarray) -> np.ndarray:
  """Any strings (or numbers, in their shortest form) as one compact array."""
  if not isinstance(values, np.ndarray):
    values = np.array(list(values), object)
  return values.astype(STRING, copy=False)


class _Ids:
  """What everything with `users` and `items` maps shares."""

  users: np.ndarray
  items: np.ndarray

  @property
  def num_users(self) -> int:
    return len(self.users)

  @property
  def num_items(self) -> int:
    return len(self.items)


@dataclasses.dataclass(frozen=True, eq=False)
class Interactions(_Ids):
  """Who met what, when, and what they thought of it. N events, in the order of the file."""

  user: np.ndarray  # [N] int32, row of `users`
  item: np.ndarray  # [N] int32, row of `items`
  users: np.ndarray  # [U] raw ids, row 0 is PAD
  items: np.ndarray  # [I] raw ids, row 0 is PAD
  timestamp: np.ndarray | None = None  # [N] int64, seconds (or anything that orders)
  rating: np.ndarray | None = None  # [N] float32
  behavior: np.ndarray | None = None  # [N] int16, row of `behaviors`
  behaviors: tuple[str, ...] = ()
  text: np.ndarray | None = None  # [N] strings
  fields: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)  # name -> [N]
  skipped: Skipped = Skipped()

  def __post_init__(self):
    for name, column in self.columns().items():
      if len(column) != len(self.user):
        raise ValueError(f"column {name!r} has {len(column)} rows, `user` has {len(self.user)}")
    for name, column, ids in (("user", self.user, self.users), ("item", self.item, self.items)):
      if not len(ids) or ids[PAD] != "":
        raise ValueError(f"row {PAD} of `{name}s` must be the empty string, PAD")
      if len(column) and not PAD < column.min() <= column.max() < len(ids):
        raise ValueError(
          f"`{name}` must lie in 1..{len(ids) - 1}, found {column.min()}..{column.max()}"
        )

  def __len__(self) -> int:
    return len(self.user)

  def __repr__(self) -> str:
    extra = [n for n in self.columns() if n not in ("user", "item")]
    return (
      f"Interactions({len(self):,} events, {self.num_users - 1:,} users, "
      f"{self.num_items - 1:,} items; {', '.join(extra) or 'no further columns'})"
    )

  def columns(self) -> dict[str, np.ndarray]:
    """Every column that is there, the further fields by their own names."""
    named = {
      name: getattr(self, name)
      for name in ("user", "item", "timestamp", "rating", "behavior", "text")
      if getattr(self, name) is not None
    }
    return {**named, **self.fields}

  def take(self, rows: np.ndarray) -> Interactions:
    """The given events (indices or a mask), ids unchanged."""
    return replace(self, **{name: column[rows] for name, column in self.columns().items()})


@dataclasses.dataclass(frozen=True, eq=False)
class Catalog:
  """What is known of each item. Row i of every field describes `ids[i]`; row 0 is PAD."""

  ids: np.ndarray  # [I] raw ids, row 0 is ""
  # Usual names: title, brand, description (strings, "" where unknown), categories (an object
  # array of tuples, broad to narrow), price (float32, NaN where unknown).
  fields: Mapping[str, np.ndarray]
  skipped: Skipped = Skipped()

  def __post_init__(self):
    for name, column in self.fields.items():
      if len(column) != len(self.ids):
        raise ValueError(f"field {name!r} has {len(column)} rows, `ids` has {len(self.ids)}")
    if not len(self.ids) or self.ids[PAD] != "":
      raise ValueError(f"row {PAD} of `ids` must be the empty string, PAD")

  def __len__(self) -> int:
    """The number of items, PAD not counted."""
    return len(self.ids) - 1

  def __getitem__(self, field: str) -> np.ndarray:
    if field not in self.fields:
      raise KeyError(f"the catalogue has no field {field!r}; it has {', '.join(self.fields)}")
    return self.fields[field]

  def __repr__(self) -> str:
    return f"Catalog({len(self):,} items; {', '.join(self.fields)})"


@dataclasses.dataclass(frozen=True, eq=False)
class Impressions(_Ids):
  """Lists that were shown: a user's history so far, the candidates, and what was taken.

  News logs, click logs and yes/no data sets are of this kind. M impressions.
  """

  user: np.ndarray  # [M] int32
  history: Ragged  # M rows of items, oldest first
  candidates: Ragged  # M rows of items
  labels: Ragged  # M rows beside `candidates`, float32: 1 taken, 0 not (or a rating)
  users: np.ndarray
  items: np.ndarray
  timestamp: np.ndarray | None = None  # [M] int64
  history_labels: Ragged | None = None  # beside `history`, where liked and disliked are told apart
  skipped: Skipped = Skipped()

  def __len__(self) -> int:
    return len(self.user)

  def __repr__(self) -> str:
    return (
      f"Impressions({len(self):,} impressions, {self.num_users - 1:,} users, "
      f"{self.num_items - 1:,} items)"
    )

  def take(self, rows: np.ndarray) -> Impressions:
    """The given impressions, ids unchanged."""
    return dataclasses.replace(
      self,
      user=self.user[rows],
      history=self.history.take(rows),
      candidates=self.candidates.take(rows),
      labels=self.labels.take(rows),
      timestamp=None if self.timestamp is None else self.timestamp[rows],
      history_labels=None if self.history_labels is None else self.history_labels.take(rows),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Links:
  """Directed edges between users: `user` trusts (follows, befriends) `friend`."""

  user: np.ndarray  # [N] int32, row of `users`
  friend: np.ndarray  # [N] int32, row of `users`
  users: np.ndarray
  skipped: Skipped = Skipped()

  def __len__(self) -> int:
    return len(self.user)

  def __repr__(self) -> str:
    return f"Links({len(self):,} links, {len(self.users) - 1:,} users)"


def number(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Raw ids -> (rows [N] int32 from 1, ids [I] with PAD at 0), numbered by first appearance."""
  raw = np.asarray(raw)
  distinct, first, rows = np.unique(raw, return_index=True, return_inverse=True)
  order = np.argsort(first, kind="stable")
  rank = np.empty(len(order), np.int32)
  rank[order] = np.arange(1, len(order) + 1, dtype=np.int32)
  return rank[rows.reshape(-1)], with_pad(distinct[order])


def with_pad(ids: np.ndarray) -> np.ndarray:
  """Distinct raw ids with the empty PAD in front."""
  return np.concatenate([strings([""]), strings(ids)])


def from_columns(
  user: np.ndarray,
  item: np.ndarray,
  *,
  timestamp: np.ndarray | None = None,
  rating: np.ndarray | None = None,
  behavior: np.ndarray | None = None,
  text: np.ndarray | None = None,
  fields: Mapping[str, np.ndarray] | None = None,
) -> Interactions:
  """Interactions from raw columns: ids of any kind (strings or numbers), numbered here.

  Times are whole numbers of any unit; a rating may be NaN, where nobody gave one.
  """
  user, users = number(np.asarray(user))
  item, items = number(np.asarray(item))
  for name, rows, ids in (("user", user, users), ("item", item, items)):
    if (ids[1:] == "").any():
      row = int(np.argmax(ids[rows] == ""))
      raise DataError(
        f"the {name} of row {row} is blank", remedy="Leave such rows out, or say whose they are."
      )
  behaviors: tuple[str, ...] = ()
  if behavior is not None:
    kinds, behavior = np.unique(np.asarray(behavior).astype(str), return_inverse=True)
    behaviors = tuple(kinds.tolist())
  return Interactions(
    user,
    item,
    users,
    items,
    timestamp=None if timestamp is None else _whole(np.asarray(timestamp)),
    rating=None if rating is None else np.asarray(rating, np.float32),
    behavior=None if behavior is None else behavior.astype(np.int16),
    behaviors=behaviors,
    text=None if text is None else strings(text),
    fields=dict(fields or {}),
  )


def _whole(times: np.ndarray) -> np.ndarray:
  """[N] int64, or an error that names the first time that is no whole number."""
  if times.dtype.kind == "f":
    bad = np.flatnonzero(~(np.isfinite(times) & (times == np.floor(times))))
    if len(bad):
      raise DataError(
        f"the time of row {bad[0]} is {times[bad[0]]}, which is no whole number",
        remedy="Count in a finer unit (milliseconds: 1000 * seconds, rounded), and drop events "
        "without a time.",
      )
  return times.astype(np.int64)


def replace(x: Interactions, **columns: object) -> Interactions:
  """The table with other columns (further fields too) or id maps."""
  fields = {name: columns.pop(name, column) for name, column in x.fields.items()}
  return dataclasses.replace(x, **columns, fields=fields)


def concat(parts: Sequence[Interactions]) -> Interactions:
  """Tables over the same id maps and columns, one after the other."""
  first = parts[0]
  for other in parts[1:]:
    same = all(
      getattr(first, n) is getattr(other, n) or np.array_equal(getattr(first, n), getattr(other, n))
      for n in ("users", "items")
    )
    if not same or first.columns().keys() != other.columns().keys():
      raise ValueError("only tables over the same id maps and columns can be put together")
  columns = [part.columns() for part in parts]
  return replace(first, **{n: np.concatenate([c[n] for c in columns]) for n in columns[0]})


def taken(x: Impressions) -> Interactions:
  """What was taken, an event each; where nobody is named, everyone shares the user "anyone"."""
  (of, items), (_, labels) = x.candidates.flat(), x.labels.flat()
  kept = labels > 0
  users, user = x.users, x.user[of[kept]]
  if (user == PAD).any():
    users, user = np.append(users, strings(["anyone"])), np.where(user == PAD, len(users), user)
  time = None if x.timestamp is None else x.timestamp[of[kept]]
  return Interactions(user.astype(np.int32), items[kept], users, x.items, timestamp=time)


def renumber(x: Interactions, users: np.ndarray, items: np.ndarray) -> Interactions:
  """The same events under other id maps; every raw id in use must be in them."""
  maps = {}
  for name, old, new in (("user", x.users, users), ("item", x.items, items)):
    table = _lookup(old, new)
    rows = table[getattr(x, name)]
    if (rows == PAD).any():
      lost = old[getattr(x, name)[np.argmax(rows == PAD)]]
      raise DataError(
        f"{name} {str(lost)!r} is not in the given id map",
        remedy=f"Build the map from all the data, or drop that {name}'s events first.",
      )
    maps[name] = rows
  return dataclasses.replace(x, **maps, users=users, items=items)


def align(catalog: Catalog, items: np.ndarray) -> Catalog:
  """The catalogue in the order of `items`, so that row i describes item i.

  Items it does not know get empty fields; `missing` counts them.
  """
  rows = _lookup(items, catalog.ids)
  rows[PAD] = PAD
  return Catalog(strings(items), {name: f[rows] for name, f in catalog.fields.items()})


def missing(catalog: Catalog, items: np.ndarray) -> int:
  """How many of `items` the catalogue does not describe."""
  return int((_lookup(items, catalog.ids)[1:] == PAD).sum())


def _lookup(old: np.ndarray, new: np.ndarray) -> np.ndarray:
  """[len(old)] int32: the row of each old id in `new`, PAD where it has none."""
  order = np.argsort(new, kind="stable")
  at = np.searchsorted(new[order], old)
  rows = order[np.minimum(at, len(new) - 1)]
  return np.where(new[rows] == old, rows, PAD).astype(np.int32)
