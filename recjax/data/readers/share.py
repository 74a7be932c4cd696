"""Several files over one id space (train and test, ratings and trust): put on one id map."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import numpy as np

from recjax.data.interactions import Impressions, Interactions, Links, number
from recjax.data.ragged import Ragged
from recjax.types import PAD

T = TypeVar("T", Interactions, Impressions, Links)

_COLUMNS = {"users": ("user", "friend"), "items": ("item", "history", "candidates")}


def share_ids(*tables: T) -> tuple[T, ...]:
  """The same tables, all numbered alike: ids by first appearance, in the order given."""
  for ids, columns in _COLUMNS.items():
    having = [i for i, table in enumerate(tables) if hasattr(table, ids)]
    if not having:
      continue
    raw = [getattr(tables[i], ids)[1:] for i in having]
    rows, shared = number(np.concatenate(raw))
    ends = np.cumsum([len(r) for r in raw])
    maps = dict(zip(having, np.split(rows, ends[:-1]), strict=True))
    tables = tuple(
      table
      if i not in maps
      else dataclasses.replace(table, **{ids: shared}, **_mapped(table, columns, maps[i]))
      for i, table in enumerate(tables)
    )
  return tables


def _mapped(table: T, columns: tuple[str, ...], rows: np.ndarray) -> dict[str, np.ndarray | Ragged]:
  rows = np.concatenate([[PAD], rows]).astype(np.int32)
  found = {name: getattr(table, name) for name in columns if hasattr(table, name)}
  return {
    name: dataclasses.replace(c, values=rows[c.values]) if isinstance(c, Ragged) else rows[c]
    for name, c in found.items()
  }
