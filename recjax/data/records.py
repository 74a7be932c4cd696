"""Examples larger than memory: ArrayRecord files read by random access, decoded without a loop.

A record is one example: the bytes of its dense columns, then the length and the values of each
ragged one. `schema.json` beside the shards says which is which; `lengths.npy` serves bucketing.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np
from array_record.python import array_record_module as array_record

from recjax.data.errors import DataError
from recjax.data.examples import Examples
from recjax.data.ragged import Ragged

_REMEDY = "Write the folder again with records.write."


def write(parts: Iterable[Examples], folder: str | os.PathLike, *, block: int = 65536) -> None:
  """Writes examples (an iterable, so that they never need to be in memory at once), a shard each.

  All parts have the same columns. The schema is written last: a folder without it is unfinished.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  if any(folder.iterdir()):
    raise DataError("the folder is not empty", path=folder, remedy="Give a new one.")
  schema, shards, lengths = None, [], []
  longest: dict[str, int] = {}
  for nth, part in enumerate(parts):
    own = _schema(part)
    schema = schema or own
    if own != schema:
      raise DataError(f"part {nth} has columns {own}, the first has {schema}", path=folder)
    name = f"examples-{nth:05d}.array_record"
    # One record a group: a batch's rows are scattered, so larger groups are read for nothing.
    writer = array_record.ArrayRecordWriter(os.fspath(folder / name), "group_size:1")
    for begin in range(0, len(part), block):
      for record in _encode(part, np.arange(begin, min(begin + block, len(part))), schema):
        writer.write(record)
    writer.close()
    shards.append({"name": name, "count": len(part)})
    lengths.append(part.lengths.astype(np.int32))
    for column, width in part.widths(1).items():
      longest[column] = max(width, longest.get(column, 1))
  if schema is None:
    raise DataError("there are no parts to write", path=folder)
  np.save(folder / "lengths.npy", np.concatenate(lengths))
  text = json.dumps({"columns": schema, "longest": longest, "shards": shards}, indent=1)
  (folder / "schema.tmp").write_text(text)
  (folder / "schema.tmp").replace(folder / "schema.json")


class Records:
  """A folder of records as a `loader.Source`."""

  def __init__(self, folder: str | os.PathLike):
    folder = pathlib.Path(folder)
    if not (folder / "schema.json").exists():
      raise DataError(
        "no schema.json: not a finished folder of records", path=folder, remedy=_REMEDY
      )
    stored = json.loads((folder / "schema.json").read_text())
    self._folder, self._columns, self._longest = folder, stored["columns"], stored["longest"]
    self._readers = []
    for shard in stored["shards"]:
      path = folder / shard["name"]
      try:
        reader = array_record.ArrayRecordReader(os.fspath(path))
        found = reader.num_records()
      except (ValueError, RuntimeError, OSError) as error:
        raise DataError(f"unreadable: {error}", path=path, remedy=_REMEDY) from error
      if found != shard["count"]:
        raise DataError(
          f"{found} records where the schema has {shard['count']}", path=path, remedy=_REMEDY
        )
      self._readers.append(reader)
    self._ends = np.cumsum([shard["count"] for shard in stored["shards"]])
    self.lengths = np.load(folder / "lengths.npy", mmap_mode="r")
    if len(self.lengths) != self._ends[-1]:
      raise DataError(
        f"{len(self.lengths)} lengths for {self._ends[-1]} records",
        path=folder / "lengths.npy",
        remedy=_REMEDY,
      )

  def __len__(self) -> int:
    return int(self._ends[-1])

  def widths(self, max_len: int) -> dict[str, int]:
    return {
      name: max_len if c["kind"] == "left" else self._longest[name]
      for name, c in self._columns.items()
      if c["kind"] != "dense"
    }

  def gather(self, rows: np.ndarray, widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    shard = np.searchsorted(self._ends, rows, side="right")
    records: list[bytes] = [b""] * len(rows)
    for s in np.unique(shard):
      at = np.flatnonzero(shard == s)
      begin = self._ends[s - 1] if s else 0
      # Distinct ascending rows: one pass over the file, duplicates read once.
      wanted, back = np.unique(rows[at] - begin, return_inverse=True)
      try:
        found = self._readers[s].read(wanted.tolist())
      except (ValueError, RuntimeError, OSError) as error:
        raise DataError(f"damaged: {error}", path=self._folder, remedy=_REMEDY) from error
      for place, i in zip(at.tolist(), back.tolist(), strict=True):
        records[place] = found[i]
    return self._decode(records, widths)

  def _decode(self, records: list[bytes], widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    flat = np.frombuffer(b"".join(records), np.uint8)
    sizes = np.fromiter((len(r) for r in records), np.int64, len(records))
    at = np.cumsum(sizes) - sizes  # [B] where the next column of each record starts
    batch = {}
    for name, column in self._columns.items():
      dtype = np.dtype(column["dtype"])
      if column["kind"] == "dense":
        shape = tuple(column["shape"])
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        raw = flat[at[:, None] + np.arange(size)]
        batch[name] = raw.view(dtype).reshape(len(records), *shape)
        at = at + size
      else:
        lengths = flat[at[:, None] + np.arange(4)].view(np.int32)[:, 0].astype(np.int64)
        at = at + 4
        # Bytes as a ragged array of bytes: pad to whole values, then view.
        raw = Ragged(flat, at, at + lengths * dtype.itemsize)
        pad = raw.left_padded if column["kind"] == "left" else raw.right_padded
        wide = pad(np.arange(len(records)), widths[name] * dtype.itemsize, 0)
        batch[name] = np.ascontiguousarray(wide).view(dtype)
        at = at + lengths * dtype.itemsize
    return batch


def _schema(part: Examples) -> dict[str, dict]:
  schema = {
    name: {"kind": "dense", "dtype": c.dtype.str, "shape": list(c.shape[1:])}
    for name, c in part.dense.items()
  }
  for kind in ("left", "right"):
    for name, rows in getattr(part, kind).items():
      schema[name] = {"kind": kind, "dtype": rows.values.dtype.str}
  return schema


def _encode(part: Examples, rows: np.ndarray, schema: Mapping[str, dict]) -> Iterable[bytes]:
  columns = []
  for name, column in schema.items():
    if column["kind"] == "dense":
      values = np.ascontiguousarray(part.dense[name][rows])
      columns.append([v.tobytes() for v in values])
    else:
      ragged = getattr(part, column["kind"])[name].take(rows)
      columns.append(
        [np.int32(len(v)).tobytes() + v.tobytes() for v in (ragged[i] for i in range(len(rows)))]
      )
  return (b"".join(parts) for parts in zip(*columns, strict=True))
