"""What can be asked of events, a family of tasks at a time: rows and columns, not yet words.

Each function turns events (as any reader gives them) into `Questions`; `instances` puts them into
words when a batch is gathered. Texts stay where they are, in the columns of the events.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterable, Mapping

import numpy as np
from absl import logging

from recjax.data import interactions
from recjax.data.errors import DataError
from recjax.data.examples import Examples
from recjax.data.interactions import Interactions
from recjax.data.ragged import Ragged


@dataclasses.dataclass(frozen=True, eq=False)
class Questions:
  """E examples of one task."""

  task: str  # a family, see `prompts.TASKS`
  user: np.ndarray  # [E] int32
  item: np.ndarray  # [E] int32, what is asked for or asked about
  row: np.ndarray  # [E] int64, row of the columns
  columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)  # name -> [N]
  history: Ragged | None = None  # E rows of items, oldest first
  stars: Ragged | None = None  # beside `history`, where it is of items that the user rated

  def __len__(self) -> int:
    return len(self.user)

  @property
  def knows(self) -> set[str]:
    """The fields of a prompt that it can fill by itself."""
    rows = {"history": self.history, "rated": self.stars}
    return {*self.columns, *(name for name, x in rows.items() if x is not None)}

  @functools.cached_property
  def fingerprint(self) -> str:
    """A hash of all that is asked; of the columns only the rows that count are read."""
    before = [x for x in (self.history, self.stars) if x is not None]
    parts = [part for x in before for part in (x.values, x.start, x.stop)]
    for name, column in sorted(self.columns.items()):
      number = np.issubdtype(column.dtype, np.number)
      parts += [[name], column[self.row] if number else map(column.__getitem__, self.row)]
    return digest([self.task], self.user, self.item, self.row, *parts)

  def take(self, rows: np.ndarray) -> Questions:
    history, stars = (None if x is None else x.take(rows) for x in (self.history, self.stars))
    parts = {n: getattr(self, n)[rows] for n in ("user", "item", "row")}
    return dataclasses.replace(self, **parts, history=history, stars=stars)


def digest(*columns: np.ndarray | Iterable[str]) -> str:
  """A hash of columns of numbers and of texts; these are read one by one."""
  made = hashlib.sha256()
  for column in columns:
    if isinstance(column, np.ndarray) and np.issubdtype(column.dtype, np.number):
      made.update(column.tobytes())
    else:
      for text in column:
        data = str(text).encode("utf-8", "surrogatepass")
        made.update(len(data).to_bytes(8, "little") + data)  # the length keeps neighbours apart
    made.update(b"end")
  return made.hexdigest()


def sequential(found: Examples) -> Questions:
  """Which item comes next, from `examples.prefixes` or `examples.next_events`."""
  missing = {"user", "target"} - set(found.dense) or {"history"} - set(found.left)
  if missing:
    raise DataError(
      f"the examples have no {', '.join(sorted(missing))}",
      remedy="Make them with examples.prefixes or examples.next_events.",
    )
  history = found.left["history"]
  some = np.flatnonzero(history.lengths > 0)  # a question about nothing is none
  _said("sequential", len(found), len(some))
  user, item = (found.dense[name][some] for name in ("user", "target"))
  return Questions("sequential", user, item, some, history=history.take(some))


def direct(x: Interactions) -> Questions:
  """Which item suits a user, history unseen."""
  return Questions("direct", x.user, x.item, np.arange(len(x)))


def rating(x: Interactions, before: Interactions | None = None) -> Questions:
  """How many stars a user gives, knowing those given earlier among the events `before`.

  By default these are `x` itself. Earlier is at a lesser timestamp; without timestamps it is
  further up in `x`, or anywhere in a table beside it.
  """
  q = _told("rating", x, {"rating": x.rating})
  before = x if before is None else before
  return q if before.rating is None else _knowing_earlier(q, x, before)


def _knowing_earlier(q: Questions, x: Interactions, before: Interactions) -> Questions:
  """With `history` and `stars`: slices of the rated events, sorted by user and time."""
  if x.timestamp is not None and before.timestamp is not None:
    times = before.timestamp, x.timestamp
  elif before is x:
    times = (np.arange(len(x)),) * 2
  else:
    times = np.zeros(len(before), np.int64), np.ones(len(x), np.int64)
  rows = np.flatnonzero(np.isfinite(before.rating))
  rows = rows[np.lexsort((times[0][rows], before.user[rows]))]
  both = np.concatenate([times[0][rows], times[1][q.row]])
  distinct, rank = np.unique(both, return_inverse=True)
  user = np.concatenate([before.user[rows], q.user]).astype(np.int64)
  key = user * len(distinct) + rank.reshape(-1)
  own, asked = key[: len(rows)], key[len(rows) :]
  start = np.searchsorted(own, q.user.astype(np.int64) * len(distinct))
  stop = np.searchsorted(own, asked)  # what is at the same time is not earlier
  history, stars = (Ragged(c[rows], start, stop) for c in (before.item, before.rating))
  return dataclasses.replace(q, history=history, stars=stars)


def explanation(x: Interactions) -> Questions:
  """Why: `fields["explanation"]`, and `rating` and `fields["feature"]` where there are some."""
  more = {"rating": x.rating, "feature": x.fields.get("feature")}
  known = {name: column for name, column in more.items() if column is not None}
  return _told("explanation", x, {"explanation": x.fields.get("explanation"), **known})


def summary(x: Interactions) -> Questions:
  """`text`, a review, in the words of `fields["summary"]`; or its `rating`."""
  known = {} if x.rating is None else {"rating": x.rating}
  return _told("summary", x, {"review": x.text, "summary": x.fields.get("summary"), **known})


def first_sentences(x: Interactions, *, words: int = 20) -> Interactions:
  """`fields["explanation"]`: the first sentence of each review, of at most so many words.

  P5's explanations are those sentences of a review that mention a feature, found by a tool for
  sentiment; this is a stand-in for data without them.
  """
  if x.text is None:
    raise DataError("there are no reviews to take sentences from", remedy="Read their text.")
  found = [_sentence(text, words) for text in x.text]
  fields = {**x.fields, "explanation": interactions.strings(found)}
  return dataclasses.replace(x, fields=fields)


def _sentence(text: str, words: int) -> str:
  return " ".join(re.split(r"(?<=[.!?])\s", str(text).strip(), maxsplit=1)[0].split()[:words])


def _told(task: str, x: Interactions, columns: Mapping[str, np.ndarray | None]) -> Questions:
  """The events of which all columns say something."""
  there = np.ones(len(x), bool)
  for name, column in columns.items():
    if column is None:
      raise DataError(
        f"the events have no column {name!r}, which the task {task!r} needs",
        remedy="Read it, make it (see first_sentences), or leave the task out.",
      )
    if np.issubdtype(column.dtype, np.number):
      there &= np.isfinite(column)
    else:
      there &= np.fromiter(map(_says, column), bool, len(x))
  rows = np.flatnonzero(there)
  _said(task, len(x), len(rows))
  return Questions(task, x.user[rows], x.item[rows], rows, columns)


def _says(text: str) -> bool:
  """Whether there is more than white space and angle brackets, which prompts leave out."""
  return any(not c.isspace() and c not in "<>" for c in str(text))


def _said(task: str, all_events: int, left: int) -> None:
  if not left:
    raise DataError(f"no event has what the task {task!r} needs", remedy="Leave the task out.")
  if left < all_events:
    logging.info("%s: %d of %d events say what it needs", task, left, all_events)
