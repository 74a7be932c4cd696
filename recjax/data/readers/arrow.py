"""Blocks of Arrow columns to ours, without a Python object for each cell.

Whatever is not plainly right is a `DataError` without a place: the caller then reads the file
again, slowly, to name it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recjax.data.errors import DataError
from recjax.data.interactions import strings, with_pad
from recjax.data.readers.columns import (
  Floats,
  Ids,
  Ints,
  Keys,
  Kind,
  Known,
  Numbered,
  Texts,
  Times,
  Tuples,
)
from recjax.types import PAD

_IDS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)


def type_of(kind: Kind) -> pa.DataType:
  """What a column of this kind is parsed as."""
  numbers = {Floats: pa.float64(), Known: pa.float64(), Ints: pa.int64(), Times: pa.int64()}
  return numbers.get(kind, pa.string())


class Blocks:
  """Columns of the given kinds, a block at a time."""

  def __init__(self, kinds: Mapping[str, Kind]):
    self._kinds = kinds
    self.rows = 0
    self._parts: dict[str, list] = {name: [] for name in kinds}

  def add(self, block: Mapping[str, pa.Array]) -> None:
    self.rows += len(next(iter(block.values())))
    for name, column in block.items():
      self._parts[name].append(_part(column, self._kinds[name]))

  def finish(self) -> dict[str, Any]:
    return {name: _joined(parts, self._kinds[name]) for name, parts in self._parts.items()}


def _part(column: pa.Array, kind: Kind) -> pa.Array | np.ndarray:
  if issubclass(kind, Ids):
    if column.null_count or not any(is_(column.type) for is_ in _IDS):
      raise DataError("an id is missing, or neither text nor a whole number")
    return column.cast(pa.string()).dictionary_encode()
  if kind is Texts:
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
      raise DataError("a text is none")
    return strings(column.fill_null("").to_pylist())
  if issubclass(kind, Tuples):
    raise DataError("a list is read row by row")
  if not pa.types.is_integer(column.type) and not pa.types.is_floating(column.type):
    raise DataError("a number is none")
  if column.null_count and kind is not Known:
    raise DataError("a number is missing")
  if issubclass(kind, Ints):
    return column.cast(pa.int64()).to_numpy(zero_copy_only=False)
  values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)  # null becomes NaN
  with np.errstate(over="ignore"):
    values = values.astype(np.float32)
  if np.isnan(values).sum() > column.null_count or np.isinf(values).any():
    raise DataError("a number is not finite")
  return values


def _joined(parts: list, kind: Kind) -> Numbered | np.ndarray:
  if not parts or not sum(map(len, parts)):
    raise DataError("no records")
  if not issubclass(kind, Ids):
    return np.concatenate(parts)
  column = pa.chunked_array(parts).unify_dictionaries()  # in order of first appearance
  distinct = column.chunk(column.num_chunks - 1).dictionary
  if pc.any(pc.equal(pc.utf8_trim_whitespace(distinct), "")).as_py():
    raise DataError("an id is empty")
  rows = np.concatenate([chunk.indices.to_numpy() for chunk in column.chunks])
  rows += PAD + 1
  if kind is Keys and len(rows) > len(distinct):
    raise DataError("an id appears twice")
  return Numbered(rows, with_pad(strings(distinct.to_pylist())))
