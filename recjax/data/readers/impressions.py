"""Impressions in the making: who was shown what, after which history."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from recjax.data.errors import Skipped
from recjax.data.interactions import Impressions
from recjax.data.ragged import Ragged
from recjax.data.readers.columns import Ids, flat
from recjax.types import PAD


class Shown:
  """Where a file names no user, `user` is None and becomes PAD."""

  def __init__(self):
    self.users, self.items = Ids("user"), Ids("item")
    self._user, self._timestamp = array("i"), array("q")
    self._history, self._history_labels = _Rows("i"), _Rows("f")
    self._candidates, self._labels = _Rows("i"), _Rows("f")

  def append(
    self,
    user: str | None,
    history: Sequence[str],
    candidates: Sequence[str],
    labels: Sequence[float],
    *,
    timestamp: int | None = None,
    history_labels: Sequence[float] | None = None,
  ) -> None:
    """One impression, of values already checked; all of a file have the optional ones or none."""
    self._user.append(PAD if user is None else self.users.row(user))
    self._history.extend(map(self.items.row, history))
    self._candidates.extend(map(self.items.row, candidates))
    self._labels.extend(labels)
    if timestamp is not None:
      self._timestamp.append(timestamp)
    if history_labels is not None:
      self._history_labels.extend(history_labels)

  def finish(self, skipped: Skipped) -> Impressions:
    return Impressions(
      flat(self._user, np.int32),
      self._history.ragged(np.int32),
      self._candidates.ragged(np.int32),
      self._labels.ragged(np.float32),
      self.users.ids(),
      self.items.ids(),
      timestamp=flat(self._timestamp, np.int64) if self._timestamp else None,
      history_labels=self._history_labels.ragged(np.float32) if self._history_labels.stop else None,
      skipped=skipped,
    )


class _Rows:
  def __init__(self, code: str):
    self.values, self.stop = array(code), array("q")

  def extend(self, values: Iterable) -> None:
    self.values.extend(values)
    self.stop.append(len(self.values))

  def ragged(self, dtype) -> Ragged:
    lengths = np.diff(flat(self.stop, np.int64), prepend=0)
    return Ragged.from_lengths(flat(self.values, dtype), lengths)
