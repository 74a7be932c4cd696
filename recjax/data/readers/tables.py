"""Any table of events or items: csv, tsv, other delimiters, JSON lines, parquet.

`columns` says where each thing is found: `{"user": "reviewerID", "item": "asin"}` by name, or
`{"user": 0, "item": 1}` by position. Interactions know `user item rating timestamp behavior text`,
a catalogue knows `id`; every other name becomes a field of strings, of float32 if it is listed in
`numeric` (NaN where nothing is written), or of tuples of strings if it is listed in `lists` (a
category path). Raw ids are text: "007" stays "007".
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from recjax.data.errors import DataError, Skipped
from recjax.data.interactions import Catalog, Interactions
from recjax.data.readers import arrow, delimited
from recjax.data.readers.columns import (
  Columns,
  Floats,
  Ids,
  Keys,
  Kind,
  Known,
  Lists,
  Table,
  Texts,
  Times,
  field,
  read_lines,
  to_catalog,
  to_interactions,
)
from recjax.data.readers.files import Lines, Path, json_object, open_bytes, suffix

EVENT: Mapping[str, Kind] = {
  "user": Ids,
  "item": Ids,
  "behavior": Ids,
  "rating": Floats,
  "timestamp": Times,
}
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
EXTENSIONS = (*_DELIMITERS, ".jsonl", ".json", ".parquet")


def interactions(
  path: Path,
  columns: Mapping[str, str | int],
  *,
  numeric: Sequence[str] = (),
  lists: Sequence[str] = (),
  delimiter: str | None = None,
  header: bool = True,
  on_error: str = "raise",
  encodings: tuple[str, ...] = ("utf-8",),
) -> Interactions:
  """A table of events; `user` and `item` are required."""
  _require(columns, "user", "item")
  table = read(
    path,
    columns,
    EVENT,
    numeric=numeric,
    lists=lists,
    delimiter=delimiter,
    header=header,
    on_error=on_error,
    encodings=encodings,
  )
  return to_interactions(table)


def catalog(
  path: Path,
  columns: Mapping[str, str | int],
  *,
  numeric: Sequence[str] = (),
  lists: Sequence[str] = (),
  delimiter: str | None = None,
  header: bool = True,
  on_error: str = "raise",
  encodings: tuple[str, ...] = ("utf-8",),
) -> Catalog:
  """A table of items, one a row; `id` is required. (Or of users.)"""
  _require(columns, "id")
  table = read(
    path,
    columns,
    {"id": Keys},
    numeric=numeric,
    lists=lists,
    delimiter=delimiter,
    header=header,
    on_error=on_error,
    encodings=encodings,
  )
  return to_catalog(table)


def read(
  path: Path,
  columns: Mapping[str, str | int],
  kinds: Mapping[str, Kind] | None = None,
  *,
  numeric: Sequence[str] = (),
  lists: Sequence[str] = (),
  delimiter: str | None = None,
  header: bool = True,
  on_error: str = "raise",
  encodings: tuple[str, ...] = ("utf-8",),
) -> Table:
  """The columns alone, each of its kind: texts where nothing says more.

  The format goes by the extension below any compression's (.csv .tsv .jsonl .json .parquet);
  `delimiter` says that it is delimited text, whatever the name.
  """
  for name in (*numeric, *lists):
    if name not in columns:
      raise ValueError(f"{name!r} of `numeric` or `lists` is not in `columns`")
  special = {**dict.fromkeys(numeric, Known), **dict.fromkeys(lists, Lists), **(kinds or {})}
  kinds = {name: special.get(name, Texts) for name in columns}
  form = suffix(path)
  delimiter = delimiter or _DELIMITERS.get(form)
  if delimiter:
    return delimited.read(
      path,
      columns,
      kinds,
      delimiter=delimiter,
      header=header,
      on_error=on_error,
      encodings=encodings,
    )
  if form in (".jsonl", ".json"):
    return _jsonl(path, columns, kinds, on_error, encodings)
  if form == ".parquet":
    return _parquet(path, columns, kinds, on_error)
  raise _unknown(path, form)


def _unknown(path: Path, form: str) -> DataError:
  return DataError(
    f"a table cannot be told from the extension {form!r}",
    path=path,
    remedy='Pass delimiter=",", or name it .csv, .tsv, .jsonl or .parquet.',
  )


def names(
  path: Path,
  *,
  wanted: Collection[str] = (),
  delimiter: str | None = None,
  on_error: str = "raise",
) -> list[str]:
  """What a table's columns are called.

  Of JSON lines the fields of all records, or of the first ones that have all that is `wanted`.
  """
  form = suffix(path)
  delimiter = delimiter or _DELIMITERS.get(form)
  if delimiter:
    return delimited.header(path, delimiter)
  if form == ".parquet":
    with _parquet_file(path) as file:
      return file.schema_arrow.names
  if form not in (".jsonl", ".json"):
    raise _unknown(path, form)
  found: dict[str, None] = {}
  for record in Lines(path, on_error).parsed(json_object):
    found |= dict.fromkeys(record)
    if wanted and found.keys() >= set(wanted):
      break
  return list(found)


def _require(columns: Mapping[str, str | int], *names: str) -> None:
  for name in names:
    if name not in columns:
      raise ValueError(f"`columns` must say where {name!r} is; it names {', '.join(columns)}")


def _jsonl(path, columns, kinds, on_error: str, encodings) -> Table:
  optional = {at for name, at in columns.items() if kinds[name] in (Texts, Known, Lists)}
  unseen = set(optional)  # a record may leave out what it does not know; no record: a misspelling

  def rows(text: str) -> list[list[Any]]:
    record = json_object(text)
    unseen.difference_update(record)
    return [[record.get(at) if at in optional else field(record, at) for at in columns.values()]]

  table = read_lines(path, kinds, rows, on_error=on_error, encodings=encodings)
  if unseen:
    problem = f"no record has a field {min(map(str, unseen))!r}"
    raise DataError(problem, path=path, remedy="Check how `columns` spells it.")
  return table


def _parquet(path, columns, kinds, on_error: str) -> Table:
  """Block by block; row by row where a block holds something to be refused."""
  source = Lines(path, on_error)
  with _parquet_file(path) as file:
    there = file.schema_arrow.names
    for at in columns.values():
      if at not in there:
        remedy = f"The table has: {', '.join(there)}."
        raise DataError(f"there is no column {at!r}", path=path, remedy=remedy)
    try:
      blocks = arrow.Blocks(kinds)
      for batch in file.iter_batches(columns=list(columns.values())):
        blocks.add({name: batch.column(at) for name, at in columns.items()})
      return Table(blocks.finish(), Skipped())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, DataError):
      table = Columns(kinds)
      for number, row in enumerate(_rows(file, list(columns.values())), 1):
        try:
          checked = table.check(row)
        except DataError as error:
          source.reject(DataError(f"row {number}: {error.problem}", remedy=error.remedy))
        else:
          table.append(checked)
          source.records += 1
  return Table(table.finish(), source.finish())


@contextlib.contextmanager
def _parquet_file(path: Path) -> Iterator[parquet.ParquetFile]:
  """The open file; what is none, or breaks off, is said in our words."""
  packed = pathlib.Path(path).suffix.lower() != ".parquet"
  with open_bytes(path) as stream:
    source = pa.BufferReader(stream.read()) if packed else os.fspath(path)
  try:
    with parquet.ParquetFile(source) as file:
      yield file
  except (pa.ArrowException, OSError) as error:
    raise DataError(f"not a parquet file ({error})", path=path, remedy="Get it again.") from error


def _rows(file: parquet.ParquetFile, names: list[str]) -> Iterator[tuple]:
  for batch in file.iter_batches(columns=names):
    yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)
