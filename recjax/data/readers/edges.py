"""Graphs as files: adjacency lists (LightGCN, Gowalla), weighted edges, social links, GraphRec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recjax.data.errors import DataError, Skipped
from recjax.data.interactions import Interactions, Links, number
from recjax.data.readers import tables
from recjax.data.readers.columns import (
  Columns,
  Floats,
  Ids,
  Table,
  field,
  to_interactions,
)
from recjax.data.readers.files import Lines, Path, json_document
from recjax.data.readers.share import share_ids


def lists(path: Path, *, on_error: str = "raise") -> Interactions:
  """`user item item ...` a line, in no order of time; a user without items is a user too.

  Train and test files are separate: `share_ids(lists(train), lists(test))` numbers them alike.
  """
  users, items, lengths, skipped = user_lines(path, on_error)
  user = np.repeat(np.arange(1, len(users), dtype=np.int32), lengths)
  return Interactions(user, items.rows, users, items.ids, skipped=skipped)


def user_lines(path: Path, on_error: str):
  """The users of such a file, all items, how many items each user has, and what was skipped."""
  source = Lines(path, on_error)
  users, items = Ids("user"), Ids("item")
  lengths: list[int] = []

  def parse(text: str) -> list[str]:
    names = text.split()
    if names[0] in users.table:
      raise DataError(f"user {names[0]!r} has a line already", remedy="Join the lines of a user.")
    return names

  for user, *taken in source.parsed(parse):
    users.append(user)
    lengths.append(len(taken))
    for item in taken:
      items.append(item)
  return users.ids(), items.finish(), np.array(lengths, np.int64), source.finish()


def weighted(path: Path, *, on_error: str = "raise") -> Interactions:
  """`user<TAB>item<TAB>weight` a line; the weight is the rating."""
  at = {"user": 0, "item": 1, "rating": 2}
  return tables.interactions(path, at, delimiter="\t", header=False, on_error=on_error)


def links(
  path: Path,
  columns: Sequence[str | int] = (0, 1),
  *,
  delimiter: str = "\t",
  header: bool = False,
  on_error: str = "raise",
) -> Links:
  """One directed edge a line: the columns of who trusts and of who is trusted."""
  user, friend = columns
  table = tables.read(
    path,
    {"user": user, "friend": friend},
    {"user": Ids, "friend": Ids},
    delimiter=delimiter,
    header=header,
    on_error=on_error,
  )
  return _links(table)


def _links(table: Table) -> Links:
  user, friend = table.columns["user"], table.columns["friend"]
  rows, users = number(np.concatenate([user.ids[user.rows], friend.ids[friend.rows]]))
  return Links(*np.split(rows, 2), users, table.skipped)


class GraphRec(NamedTuple):
  train: Interactions
  test: Interactions
  social: Links


def graphrec(path: Path) -> GraphRec:
  """GraphRec's toy data as JSON: train and test ratings and who is linked to whom, on shared ids.

  The histories of the file are the train ratings over again, grouped; that is checked.
  """
  document = json_document(path)
  if not isinstance(document, dict):
    raise DataError("a JSON object was expected", path=path)
  try:
    train, test = (_ratings(document, part) for part in ("train", "test"))
    adjacency = field(document, "social_adj_lists")
    social = Columns({"user": Ids, "friend": Ids})
    for user, friends in adjacency.items():
      for friend in friends:
        social.append(social.check((user, friend)))
    history = field(document, "history_u_lists")
    if sum(map(len, history.values())) != len(train):
      raise DataError("the histories do not hold the train ratings")
  except (DataError, TypeError, AttributeError) as error:
    problem = getattr(error, "problem", f"not the lists of GraphRec ({error})")
    raise DataError(problem, path=path, remedy="Write the pickle's lists again.") from error
  return GraphRec(*share_ids(train, test, _links(Table(social.finish(), Skipped()))))


def _ratings(document: dict, part: str) -> Interactions:
  columns = [field(document, f"{part}_{letter}") for letter in "uvr"]
  if len({len(c) for c in columns}) > 1:
    raise DataError(f"the {part} lists are of different lengths")
  table = Columns({"user": Ids, "item": Ids, "rating": Floats})
  for row in zip(*columns, strict=True):
    table.append(table.check(row))
  return to_interactions(Table(table.finish(), Skipped()))
