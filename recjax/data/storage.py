"""Interactions and id maps on disk: parquet columns, and maps that a person can read."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recjax.data.errors import DataError
from recjax.data.interactions import Impressions, Interactions, strings
from recjax.types import PAD

_SUM = ".sha256"
_REMEDY = "Prepare the data again."


def save_ids(ids: np.ndarray, path: str | os.PathLike) -> None:
  """One JSON string a line: line n (from 0) is the raw id of row n; line 0 is PAD."""
  path = pathlib.Path(path)
  text = "".join(json.dumps(raw, ensure_ascii=False) + "\n" for raw in ids.tolist())
  _replace(path, lambda at: at.write_text(text, encoding="utf-8"))


def load_ids(path: str | os.PathLike) -> np.ndarray:
  path = pathlib.Path(path)
  if not path.exists():
    raise DataError("no such id map", path=path, remedy=_REMEDY)
  ids = []
  try:
    text = path.read_text(encoding="utf-8")
  except UnicodeDecodeError as error:
    raise DataError(f"damaged: {error}", path=path, remedy=_REMEDY) from error
  for nth, line in enumerate(text.removesuffix("\n").split("\n"), 1):
    try:
      raw = json.loads(line)
    except json.JSONDecodeError as error:
      raise DataError(f"not a JSON string: {error}", path=path, line=nth, remedy=_REMEDY) from error
    if not isinstance(raw, str) or (raw == "") != (nth - 1 == PAD):
      raise DataError(
        f"{raw!r} cannot be the raw id of row {nth - 1}", path=path, line=nth, remedy=_REMEDY
      )
    ids.append(raw)
  if len(set(ids)) != len(ids) or not ids:
    raise DataError("raw ids must be there, each once", path=path, remedy=_REMEDY)
  return strings(ids)


def save_maps(x: Interactions | Impressions, folder: str | os.PathLike) -> None:
  """The id maps alone."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  save_ids(x.users, folder / "users.jsonl")
  save_ids(x.items, folder / "items.jsonl")


def save(x: Interactions, folder: str | os.PathLike) -> None:
  """Writes `events.parquet`, its SHA-256, and the id maps `users.jsonl` and `items.jsonl`."""
  folder = pathlib.Path(folder)
  save_maps(x, folder)
  columns = {
    name: pa.array(c.astype(object) if c.dtype.kind == "T" else c)
    for name, c in x.columns().items()
  }
  table = pa.table(columns).replace_schema_metadata({"behaviors": json.dumps(x.behaviors)})
  path = folder / "events.parquet"
  path.with_suffix(_SUM).unlink(missing_ok=True)  # until the file that it vouches for is there
  _replace(path, lambda at: pq.write_table(table, at, compression="zstd"))
  _replace(path.with_suffix(_SUM), lambda at: at.write_text(_digest(path)))


def load(folder: str | os.PathLike) -> Interactions:
  folder = pathlib.Path(folder)
  path = folder / "events.parquet"
  for part in (path, path.with_suffix(_SUM)):
    if not part.exists():
      raise DataError("no such file", path=part, remedy=_REMEDY)
  # Parquet itself reads many a flipped bit as another event, or as a column of another name.
  if path.with_suffix(_SUM).read_bytes() != _digest(path).encode():
    raise DataError("damaged: its checksum does not fit", path=path, remedy=_REMEDY)
  try:
    table = pq.read_table(path)
    behaviors = json.loads((table.schema.metadata or {}).get(b"behaviors", b"[]"))
  except (pa.ArrowException, OSError, ValueError, TypeError) as error:
    raise DataError(f"damaged: {error}", path=path, remedy=_REMEDY) from error
  columns = {}
  for name in table.column_names:
    column = table[name].to_numpy()
    columns[name] = strings(column) if column.dtype == object else column
  known = ("user", "item", "timestamp", "rating", "behavior", "text")
  fields = {name: columns.pop(name) for name in list(columns) if name not in known}
  return Interactions(
    **columns,
    users=load_ids(folder / "users.jsonl"),
    items=load_ids(folder / "items.jsonl"),
    behaviors=tuple(behaviors),
    fields=fields,
  )


def _digest(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _replace(path: pathlib.Path, write) -> None:
  """Writes beside, then renames: a reader never sees half a file."""
  beside = path.with_name(path.name + ".tmp")
  write(beside)
  os.replace(beside, path)
