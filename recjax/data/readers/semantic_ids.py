"""Arrays that others publish: semantic ids as JSON lists, item vectors as .npy."""

from __future__ import annotations

from typing import Any

import numpy as np

from recjax.data.errors import DataError
from recjax.data.readers.files import Path, json_document, open_bytes, shown


class Codes:
  """A column of semantic ids: whole numbers from 0, as many for each item."""

  def __init__(self, name: str):
    self.name = name
    self.rows: list[list[int]] = []

  def check(self, value: Any) -> list[int]:
    if (
      not isinstance(value, list)
      or not value
      or not all(type(code) is int and 0 <= code < 2**31 for code in value)
    ):
      raise DataError(f"{self.name} {shown(value)} is not a list of whole numbers from 0")
    if self.rows and len(value) != len(self.rows[0]):
      raise DataError(f"{len(value)} {self.name}, the first item has {len(self.rows[0])}")
    return value

  def append(self, value: list[int]) -> None:
    self.rows.append(value)

  def finish(self) -> np.ndarray:
    return np.array(self.rows, np.int32)  # [items, L]


def semantic_ids(path: Path) -> np.ndarray:
  """`[[183, 70, 232, 6], ...]`, one list an item: [items, levels] int32, no row for PAD."""
  rows, column = json_document(path), Codes("codes")
  if not isinstance(rows, list) or not rows:
    raise DataError("a list of lists was expected", path=path, remedy="Check that it is this file.")
  for number, row in enumerate(rows):
    try:
      column.append(column.check(row))
    except DataError as error:
      problem = f"item {number}: {error.problem}"
      raise DataError(problem, path=path, remedy="Every item needs each level.") from error
  return column.finish()


def vectors(path: Path) -> np.ndarray:
  """A .npy matrix of finite numbers, one row an item; nothing in it is executed."""
  with open_bytes(path) as stream:
    try:
      x = np.lib.format.read_array(stream, allow_pickle=False)
    except (ValueError, EOFError) as error:
      raise DataError(f"not a .npy array ({error})", path=path, remedy="Get it again.") from error
  if x.ndim != 2 or x.dtype.kind != "f":
    raise DataError(
      f"a matrix of floats was expected, found {x.dtype} {x.shape}",
      path=path,
      remedy="Save one row an item, as float32.",
    )
  finite = np.isfinite(x).all(1)
  if not finite.all():
    raise DataError(
      f"row {np.argmin(finite)} is not finite ({(~finite).sum()} such rows)",
      path=path,
      remedy="Look at the text or the encoder that it came from.",
    )
  return x
