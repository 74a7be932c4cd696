"""RecBole's atomic files, https://recbole.io/docs/user_guide/data/atomic_files.html.

A header of `name:type` (token, token_seq, float, float_seq), tabs between fields, spaces within.
Tokens become strings, token_seq tuples of them, float float32 (NaN where nothing is written),
float_seq tuples of Python floats. Keyword arguments name the columns of a file that calls them
otherwise than usual.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from recjax.data.errors import DataError
from recjax.data.interactions import Catalog, Interactions, Links
from recjax.data.readers import edges, tables
from recjax.data.readers.columns import Keys, Kind, Table, to_catalog, to_interactions, tuples
from recjax.data.readers.files import Lines, Path

_TYPES = ("token", "token_seq", "float", "float_seq")


def interactions(
  path: Path,
  *,
  user: str = "user_id",
  item: str = "item_id",
  rating: str = "rating",
  timestamp: str = "timestamp",
  on_error: str = "raise",
) -> Interactions:
  """An .inter file; rating and timestamp if they are there, every other column a field."""
  names = {"user": user, "item": item, "rating": rating, "timestamp": timestamp}
  return to_interactions(_read(path, names, tables.EVENT, on_error))


def catalog(
  path: Path,
  *,
  id: str = "item_id",
  title: str = "title",
  categories: str = "categories",
  on_error: str = "raise",
) -> Catalog:
  """An .item file (or, with `id="user_id"`, a .user file); the title is text, not tokens."""
  return to_catalog(
    _read(path, {"id": id, "title": title, "categories": categories}, {"id": Keys}, on_error)
  )


def links(
  path: Path, *, source: str = "source_id", target: str = "target_id", on_error: str = "raise"
) -> Links:
  """A .net file of users."""
  types = _header(path)
  columns = [f"{name}:{types[name]}" for name in (source, target) if name in types]
  if len(columns) < 2:
    raise _missing(path, source if source not in types else target, types)
  return edges.links(path, columns, header=True, on_error=on_error)


def _read(path: Path, names: Mapping[str, str], kinds: Mapping[str, Kind], on_error: str) -> Table:
  types = _header(path)
  for name in ("user", "item", "id"):
    if name in names and names[name] not in types:
      raise _missing(path, names[name], types)
  ours = {theirs: name for name, theirs in names.items()}
  columns = {ours.get(name, name): f"{name}:{kind}" for name, kind in types.items()}
  typed = {ours.get(name, name): kind for name, kind in types.items()}
  numeric = [name for name, kind in typed.items() if kind == "float" and name not in kinds]
  table = tables.read(
    path, columns, kinds, numeric=numeric, delimiter="\t", header=True, on_error=on_error
  )
  for name, kind in typed.items():
    if kind.endswith("_seq") and name != "title":
      split = _floats if kind == "float_seq" else str.split
      try:
        table.columns[name] = tuples([tuple(split(cell)) for cell in table.columns[name]])
      except ValueError as error:
        raise DataError(f"column {name!r}: {error}", path=path, remedy="Mend the cell.") from error
  return table


def _header(path: Path) -> dict[str, str]:
  """name -> type."""
  source = Lines(path)
  header = next(source.parsed(lambda text: text), None)
  if header is None:
    source.finish()
  types: dict[str, str] = {}
  for column in header.split("\t"):
    name, _, kind = column.rpartition(":")
    if kind not in _TYPES or not name or name in types:
      raise DataError(
        f"column {column!r} of the header is not a new name:type",
        path=path,
        line=1,
        remedy=f"The types of an atomic file are {', '.join(_TYPES)}.",
      )
    types[name] = kind
  return types


def _missing(path: Path, name: str, types: Mapping[str, str]) -> DataError:
  remedy = f"The file has: {', '.join(types)}. Name the column to be used."
  return DataError(f"there is no column {name!r}", path=path, line=1, remedy=remedy)


def _floats(cell: str) -> list[float]:
  values = [float(value) for value in cell.split()]
  if not all(map(math.isfinite, values)):
    raise ValueError(f"{cell[:40]!r} holds a number that is not finite")
  return values
