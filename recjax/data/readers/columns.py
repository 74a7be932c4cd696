"""Columns that grow row by row without holding a Python object for each cell."""

from __future__ import annotations

import datetime
import math
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from recjax.data.errors import DataError, Skipped
from recjax.data.interactions import Catalog, Interactions, strings
from recjax.data.readers.files import Lines, Path, shown
from recjax.data.readers.values import moment
from recjax.types import PAD

_FLOAT32 = float(np.finfo(np.float32).max)
_DATE = re.compile(r"\d{4}-\d\d")
_CHUNK = 1 << 16  # texts held as Python strings at any time


class Numbered(NamedTuple):
  """An id column: `ids[rows]` are the raw ids."""

  rows: np.ndarray  # [N] int32, from 1
  ids: np.ndarray  # strings, PAD in front, by first appearance


class Ids:
  """Raw ids, numbered by first appearance. Numbers are ids too; "007" stays "007"."""

  def __init__(self, name: str):
    self.name = name
    self.table = {"": PAD}
    self.rows = array("i")

  def check(self, value: Any) -> str:
    return check_id(self.name, value)

  def append(self, raw: str) -> None:
    self.rows.append(self.row(raw))

  def row(self, raw: str) -> int:
    return self.table.setdefault(raw, len(self.table))

  def ids(self) -> np.ndarray:
    return strings(self.table)

  def finish(self) -> Numbered:
    return Numbered(flat(self.rows, np.int32), self.ids())


class Keys(Ids):
  """Raw ids of which each may appear once."""

  def check(self, value: Any) -> str:
    raw = super().check(value)
    if raw in self.table:
      raise DataError(
        f"{self.name} {shown(raw)} appears a second time",
        remedy='Keep one of them, or pass on_error="skip" to keep the first.',
      )
    return raw


class Floats:
  """Finite float32."""

  blank = False

  def __init__(self, name: str):
    self.name = name
    self.values = array("f")

  def check(self, value: Any) -> float:
    if self.blank and (value is None or (isinstance(value, str) and not value.strip())):
      return math.nan
    number = _finite(self.name, value)
    if abs(number) > _FLOAT32:
      raise DataError(f"{self.name} {shown(value)} is out of range")
    return number

  def append(self, value: float) -> None:
    self.values.append(value)

  def finish(self) -> np.ndarray:
    return flat(self.values, np.float32)


class Known(Floats):
  """Float32, NaN where nothing is written."""

  blank = True


class Ints:
  """Int64; "5.0" is 5."""

  def __init__(self, name: str):
    self.name = name
    self.values = array("q")

  def check(self, value: Any) -> int:
    number = _finite(self.name, value)
    if isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
      number = int(value)  # exact, where a double is not
    elif not isinstance(value, int):
      if number != int(number):
        raise DataError(f"{self.name} {shown(value)} is not a whole number")
      number = int(number)
    else:
      number = value
    if not -(2**63) <= number < 2**63:
      raise DataError(f"{self.name} {shown(value)} is out of range")
    return number

  def append(self, value: int) -> None:
    self.values.append(value)

  def finish(self) -> np.ndarray:
    return flat(self.values, np.int64)


class Times(Ints):
  """Int64: numbers as they are, dates as seconds since 1970. A column holds one or the other.

  Where any has a fraction, all are a million times that: microseconds of what were seconds.
  """

  dated: bool | None = None

  def __init__(self, name: str):
    super().__init__(name)
    self.beyond = array("i")  # millionths

  def append(self, value: tuple[int, int]) -> None:
    super().append(value[0])
    self.beyond.append(value[1])

  def finish(self) -> np.ndarray:
    whole, beyond = super().finish(), flat(self.beyond, np.int32)
    if not beyond.any():
      return whole
    if np.abs(whole).max() > 2**63 // 10**6 - 1:
      raise DataError(
        f"{self.name}: some have fractions, and {np.abs(whole).max()} is too large for these",
        remedy="Write all of them as whole numbers.",
      )
    return whole * 10**6 + beyond

  def check(self, value: Any) -> tuple[int, int]:
    dated = isinstance(value, datetime.date) or (
      isinstance(value, str) and _DATE.match(value) is not None
    )
    if self.dated not in (None, dated):
      there = "numbers" if dated else "dates"
      raise DataError(f"{self.name} {shown(value)} stands among {there}")
    found = moment(value) if dated else self._parted(value)
    self.dated = dated
    return found

  def _parted(self, value: Any) -> tuple[int, int]:
    """A number as a whole one and millionths."""
    if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()):
      return super().check(value), 0
    number = _finite(self.name, value)
    if number.is_integer() or abs(number) > 2**53:
      return super().check(value), 0
    whole, beyond = divmod(round(number * 10**6), 10**6)
    return whole, beyond


class Texts:
  """Strings, "" where there is none."""

  def __init__(self, name: str):
    self.name = name
    self.chunk: list[str] = []
    self.parts: list[np.ndarray] = []

  def check(self, value: Any) -> str:
    return check_text(self.name, value)

  def append(self, value: str) -> None:
    self.chunk.append(value)
    if len(self.chunk) == _CHUNK:
      self.parts.append(strings(self.chunk))
      self.chunk = []

  def finish(self) -> np.ndarray:
    return np.concatenate([*self.parts, strings(self.chunk)])


class Tuples:
  """Tuples of strings, one a row."""

  def __init__(self, name: str):
    self.name = name
    self.values: list[tuple[str, ...]] = []

  def check(self, value: Iterable[Any]) -> tuple[str, ...]:
    return tuple(check_text(self.name, v) for v in value)

  def append(self, value: tuple[str, ...]) -> None:
    self.values.append(value)

  def finish(self) -> np.ndarray:
    return tuples(self.values)


class Lists(Tuples):
  """Tuples of strings; a string alone is one of them, none is empty."""

  def check(self, value: Any) -> tuple[str, ...]:
    if value is None or isinstance(value, str):
      value = [value] if value else []
    elif not isinstance(value, list | tuple):
      raise DataError(f"{self.name} {shown(value)} is neither text nor a list of texts")
    return super().check(value)


Kind = type[Ids] | type[Floats] | type[Ints] | type[Texts] | type[Tuples]


class Table(NamedTuple):
  columns: dict[str, Any]  # name -> [N], `Numbered` where ids
  skipped: Skipped


class Columns:
  """Named columns; a row is checked whole before any of it is kept."""

  def __init__(self, kinds: Mapping[str, Kind]):
    self.columns = {name: kind(name) for name, kind in kinds.items()}
    self._all = tuple(self.columns.values())

  def check(self, row: Sequence[Any]) -> list[Any]:
    return [column.check(value) for column, value in zip(self._all, row, strict=True)]

  def append(self, row: Sequence[Any]) -> None:
    for column, value in zip(self._all, row, strict=True):
      column.append(value)

  def finish(self) -> dict[str, Any]:
    return {name: column.finish() for name, column in self.columns.items()}


def read_lines(
  path: Path,
  kinds: Mapping[str, Kind],
  rows: Callable[[str], Iterable[Sequence[Any]]],
  *,
  on_error: str,
  encodings: tuple[str, ...] = ("utf-8",),
) -> Table:
  """A file whose every line gives rows (usually one) in the order of `kinds`."""
  source, table = Lines(path, on_error, encodings), Columns(kinds)
  for found in source.parsed(lambda text: [table.check(row) for row in rows(text)]):
    for row in found:
      table.append(row)
  return Table(table.finish(), source.finish())


def to_interactions(table: Table) -> Interactions:
  """`user`, `item` and whichever of `rating timestamp behavior text` are there; others: fields."""
  columns = dict(table.columns)
  (user, users), (item, items) = columns.pop("user"), columns.pop("item")
  behavior, behaviors = columns.pop("behavior", None), ()
  if behavior is not None:
    names = behavior.ids[1:]
    order = np.argsort(names, kind="stable")
    rank = np.empty(len(order), np.int16)
    rank[order] = np.arange(len(order), dtype=np.int16)
    behavior, behaviors = rank[behavior.rows - 1], tuple(names[order].tolist())
  return Interactions(
    user,
    item,
    users,
    items,
    timestamp=columns.pop("timestamp", None),
    rating=columns.pop("rating", None),
    behavior=behavior,
    behaviors=behaviors,
    text=columns.pop("text", None),
    fields=columns,
    skipped=table.skipped,
  )


def to_catalog(table: Table) -> Catalog:
  """`id` and further fields, with an empty row in front of each."""
  columns = dict(table.columns)
  ids = columns.pop("id").ids
  return Catalog(ids, {name: padded(c) for name, c in columns.items()}, table.skipped)


def padded(column: np.ndarray) -> np.ndarray:
  """A field with the row of PAD in front: "" or () or NaN or 0."""
  if column.dtype == object:
    return np.concatenate([tuples([()]), column])
  if isinstance(column.dtype, np.dtypes.StringDType):
    return np.concatenate([strings([""]), column])
  empty = np.nan if column.dtype.kind == "f" else 0
  return np.concatenate([np.full((1, *column.shape[1:]), empty, column.dtype), column])


def tuples(values: Sequence[tuple]) -> np.ndarray:
  """An object array with one tuple a row, also where all are of one length."""
  return np.fromiter(values, object, len(values))


def check_id(name: str, value: Any) -> str:
  """A raw id as text; nothing, blanks and fractions are none."""
  if type(value) is int:
    return str(value)
  if not isinstance(value, str):
    raise DataError(f"{name} id {shown(value)} is neither text nor a whole number")
  if not value or value.isspace():
    raise DataError(f"the {name} id is empty")
  return check_text(name, value)


def check_text(name: str, value: Any) -> str:
  """Text that can be stored; None is ""."""
  if value is None:
    return ""
  if not isinstance(value, str):
    raise DataError(f"{name} {shown(value)} is not text")
  if not value.isascii():
    try:
      value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, escaped in JSON
      raise DataError(f"{name} {shown(value)} holds half a character") from error
  return value


def field(record: Mapping[str, Any], name: str) -> Any:
  """`record[name]`, or an error that says what there is."""
  if not isinstance(record, Mapping):
    raise DataError(f"{shown(record)} is not a record with names")
  if name not in record:
    there = ", ".join(map(str, record))
    raise DataError(f"there is no field {name!r}", remedy=f"The record has: {there}.")
  return record[name]


def _finite(name: str, value: Any) -> float:
  try:
    # Python reads "1_0" and True as numbers; no data file means that.
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
      raise ValueError
    number = float(value)
  except (TypeError, ValueError, OverflowError) as error:
    raise DataError(f"{name} {shown(value)} is not a number") from error
  if not math.isfinite(number):
    raise DataError(f"{name} {shown(value)} is not finite")
  return number


def flat(values: array, dtype) -> np.ndarray:
  return np.frombuffer(values, dtype) if len(values) else np.zeros(0, dtype)
