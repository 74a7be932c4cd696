"""What language-model recommenders are tuned on: TALLRec, CoLLM, MiniOneRec, XRec."""

from __future__ import annotations

import re

import numpy as np

from recjax.data.errors import DataError, Skipped
from recjax.data.interactions import Catalog, Impressions, Interactions
from recjax.data.readers import tables
from recjax.data.readers.columns import (
  Columns,
  Keys,
  Table,
  Texts,
  check_id,
  field,
  read_lines,
  to_catalog,
)
from recjax.data.readers.files import Lines, Path, json_document, json_object, shown
from recjax.data.readers.impressions import Shown
from recjax.data.readers.semantic_ids import Codes
from recjax.data.readers.values import joined, listed, plain

_INPUT = re.compile(
  r"User Preference: (.*)\nUser Unpreference: (.*)\n"
  r'Whether the user will like the target \w+ "(.*)"\?',
  re.DOTALL,
)
_ANSWERS = {"Yes.": 1.0, "No.": 0.0}


def tallrec(path: Path, *, on_error: str = "raise") -> Impressions:
  """TALLRec's JSON list: the liked then the disliked as history with labels, one candidate.

  Items go by what the prompt calls them (`Scream (1996)`, `"Friday" written by Robert Heinlein`).
  There are no users and no times, and the order between liked and disliked is lost.
  """
  source, table = Lines(path, on_error), Shown()
  for number, record in enumerate(_records(path), 1):
    try:
      liked, disliked, target = _prompt(field(record, "input"))
      answer = field(record, "output")
      if answer not in _ANSWERS:
        raise DataError(f"output {shown(answer)} is neither 'Yes.' nor 'No.'")
    except DataError as error:
      source.reject(DataError(f"record {number}: {error.problem}", remedy=error.remedy))
      continue
    source.records += 1
    labels = [1.0] * len(liked) + [0.0] * len(disliked)
    table.append(None, liked + disliked, [target], [_ANSWERS[answer]], history_labels=labels)
  return table.finish(source.finish())


def tallrec_texts(path: Path) -> dict[str, np.ndarray]:
  """The same file as it stands: columns `instruction`, `input`, `output`, in the same order."""
  table = Columns({"instruction": Texts, "input": Texts, "output": Texts})
  for number, record in enumerate(_records(path), 1):
    try:
      table.append(table.check([field(record, name) for name in table.columns]))
    except DataError as error:
      problem = f"record {number}: {error.problem}"
      raise DataError(problem, path=path, remedy=error.remedy) from error
  return table.finish()


def collm(path: Path, *, on_error: str = "raise") -> Impressions:
  """CoLLM's samples as JSON lines (uid, iid, label, ts, his); the pads 0 of `his` are dropped."""
  source, table = Lines(path, on_error), Shown()

  def parse(text: str):
    r = json_object(text)
    label, time = field(r, "label"), field(r, "ts")
    if label not in (0, 1) or type(time) is not int:
      raise DataError(f"label {shown(label)} must be 0 or 1, time {shown(time)} a whole number")
    history = [check_id("item", item) for item in field(r, "his") if item != 0]
    user, item = check_id("user", field(r, "uid")), check_id("item", field(r, "iid"))
    return user, history, [item], [float(label)], time

  for user, history, candidates, labels, time in source.parsed(parse):
    table.append(user, history, candidates, labels, timestamp=time)
  return table.finish(source.finish())


def titles(path: Path) -> Catalog:
  """A JSON object id -> title, as CoLLM's is; its row "0", the pad, is dropped."""
  document = json_document(path)
  if not isinstance(document, dict):
    raise DataError("a JSON object was expected", path=path, remedy="Check that it is this file.")
  table = Columns({"id": Keys, "title": Texts})
  for item, title in document.items():
    if not (item == "0" and title == ""):
      table.append(table.check((item, title)))
  return to_catalog(Table(table.finish(), Skipped()))


def minionerec(path: Path, *, on_error: str = "raise") -> Impressions:
  """MiniOneRec's samples as JSON lines (user, history, item): the item is the one candidate."""
  source, table = Lines(path, on_error), Shown()

  def parse(text: str):
    r = json_object(text)
    history = [check_id("item", item) for item in field(r, "history")]
    return check_id("user", field(r, "user")), history, check_id("item", field(r, "item"))

  for user, history, item in source.parsed(parse):
    table.append(user, history, [item], [1.0])
  return table.finish(source.finish())


def minionerec_items(path: Path, *, on_error: str = "raise") -> Catalog:
  """Its items: title, description, brand, `codes` [I, L] int32 (row 0, PAD, is zeros)."""
  kinds = {"id": Keys, "title": Texts, "description": Texts, "brand": Texts, "codes": Codes}

  def rows(line: str) -> list[tuple]:
    r = json_object(line)
    words = plain(field(r, "title")), joined(listed(r.get("description"))), plain(r.get("brand"))
    return [(field(r, "id"), *words, field(r, "sid"))]

  return to_catalog(read_lines(path, kinds, rows, on_error=on_error))


def explanations(path: Path, *, on_error: str = "raise") -> Interactions:
  """XRec's JSON lines (uid, iid): text the explanation, fields the title and both summaries."""
  at = {"user": "uid", "item": "iid", "text": "explanation", "title": "title"}
  at |= {"user_summary": "user_summary", "item_summary": "item_summary"}
  return tables.interactions(path, at, on_error=on_error)


def _records(path: Path) -> list:
  records = json_document(path)
  if not isinstance(records, list) or not records:
    raise DataError("a JSON list of records was expected", path=path, remedy="Check the file.")
  return records


def _prompt(text: str) -> tuple[list[str], list[str], str]:
  match = _INPUT.fullmatch(text) if isinstance(text, str) else None
  if not match:
    raise DataError(f"input {shown(text)} is not TALLRec's prompt", remedy="See `tallrec_texts`.")
  return _entries(match[1]), _entries(match[2]), check_id("item", match[3])


def _entries(text: str) -> list[str]:
  """`"A", "B"` or `"A" written by X, "B" written by Y`, as the target names them."""
  entries = [check_id("item", e) for e in re.split(r', (?=")', text.strip()) if e]
  return [e[1:-1] if e[0] == e[-1] == '"' and " written by " not in e else e for e in entries]
