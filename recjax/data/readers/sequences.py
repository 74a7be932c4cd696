"""Interactions already in order of time: S3-Rec, P5, SASRec, NCF, and the id maps beside them.

These files give no time, so the timestamp is the place within the user (0, 1, ...): whatever
orders by time keeps the order of the file, ties and all.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from recjax.data.errors import DataError, Skipped
from recjax.data.interactions import Catalog, Impressions, Interactions, strings
from recjax.data.readers import tables
from recjax.data.readers.columns import (
  Columns,
  Keys,
  Table,
  Texts,
  Tuples,
  check_id,
  field,
  read_lines,
  to_catalog,
)
from recjax.data.readers.edges import user_lines
from recjax.data.readers.files import Lines, Path, json_document, json_object
from recjax.data.readers.impressions import Shown
from recjax.data.readers.values import first_path, plain


def grouped(path: Path, *, deltas: Path | None = None, on_error: str = "raise") -> Interactions:
  """`user item item ...` a line in order of time (S3-Rec, P5's sequential.txt, BERT4Rec).

  `deltas`: a file of the same shape without the users, seconds since the event before. Timestamps
  are then their running sums, from 0 at the user's first event.
  """
  users, items, lengths, skipped = user_lines(path, on_error)
  user = np.repeat(np.arange(1, len(users), dtype=np.int32), lengths)
  if deltas is None:
    time = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
  elif skipped.count:
    raise DataError(
      "lines were skipped, so the time deltas no longer match",
      path=path,
      remedy="Mend the lines, or read without `deltas`.",
    )
  else:
    time = _running_sums(deltas, lengths)
  return Interactions(
    user, items.rows, users, items.ids, timestamp=time.astype(np.int64), skipped=skipped
  )


def _running_sums(path: Path, lengths: np.ndarray) -> np.ndarray:
  parts: list[np.ndarray] = []

  def parse(text: str) -> np.ndarray:
    steps = np.array(text.split(), np.int64)
    wanted = lengths[len(parts)] if len(parts) < len(lengths) else 0
    if len(steps) != wanted:
      raise DataError(
        f"{len(steps)} time deltas for {wanted} events",
        remedy="The file must belong to the sequences, line by line.",
      )
    if (steps < 0).any():
      raise DataError("a time delta is negative", remedy="Time must not run backwards.")
    return np.cumsum(steps)

  source = Lines(path)
  for times in source.parsed(parse, blank=True):
    parts.append(times)
  if len(parts) != len(lengths):
    raise DataError(
      f"{len(parts)} lines for {len(lengths)} users",
      path=path,
      remedy="The file must belong to the sequences, line by line.",
    )
  source.finish()
  return np.concatenate(parts)


def pairs(path: Path, *, on_error: str = "raise") -> Interactions:
  """`user item` a line, each user's in order of time (SASRec)."""
  x = tables.interactions(
    path, {"user": 0, "item": 1}, delimiter=" ", header=False, on_error=on_error
  )
  order = np.argsort(x.user, kind="stable")
  lengths = np.bincount(x.user, minlength=x.num_users)
  place = np.empty(len(x), np.int64)
  place[order] = np.arange(len(x)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
  return dataclasses.replace(x, timestamp=place)


def items(path: Path, *, on_error: str = "raise") -> Catalog:
  """JSON lines beside such sequences: id, asin, title, categories (the first path), attributes.

  `idgenrec_id`, words that IDGenRec made of a title, are `fields["keywords"]`. What no line has is
  left out.
  """
  kinds = {"id": Keys, "asin": Texts, "title": Texts, "categories": Tuples, "attributes": Tuples}
  kinds |= {"keywords": Texts}
  written = {name: name for name in kinds} | {"keywords": "idgenrec_id"}
  present = {"id"}

  def rows(line: str) -> list[tuple]:
    r = json_object(line)
    present.update(name for name, key in written.items() if key in r)
    return [
      (
        field(r, "id"),
        r.get("asin"),
        plain(r.get("title")),
        first_path(r.get("categories")),
        r.get("attributes") or (),
        r.get("idgenrec_id"),
      )
    ]

  table = read_lines(path, kinds, rows, on_error=on_error)
  return to_catalog(
    table._replace(columns={n: c for n, c in table.columns.items() if n in present})
  )


def attributes(path: Path, *, names: Path | None = None) -> Catalog:
  """item2attributes.json, `{"4": [1, 2], ...}`: `fields["attributes"]`, numbers as text.

  `names`: a JSON file `{"1": "Makeup", ...}`; attributes that it lacks keep their numbers.
  """
  labels = _object(names) if names is not None else {}
  table = Columns({"id": Keys, "attributes": Tuples})
  for item, found in _object(path).items():
    try:
      numbers = [check_id("attribute", a) for a in found]
      table.append(table.check((item, [labels.get(a, a) for a in numbers])))
    except (DataError, TypeError) as error:
      problem = f"item {item!r}: {getattr(error, 'problem', error)}"
      raise DataError(problem, path=path, remedy="Give each item a list.") from error
  return to_catalog(Table(table.finish(), Skipped()))


def p5_maps(path: Path) -> tuple[dict[str, str], dict[str, str]]:
  """P5's datamaps.json: number -> raw id, of users and of items. See `renamed`."""
  document = _object(path)
  maps = []
  for name in ("user2id", "item2id"):
    forward = field(document, name)
    back = {check_id(name, number): raw for raw, number in forward.items()}
    if len(back) < len(forward):
      raise DataError(f"{name} gives one number twice", path=path, remedy="Get the file again.")
    maps.append(back)
  return maps[0], maps[1]


def id_map(path: Path) -> dict[str, str]:
  """`number rawid` a line: number -> raw id. See `renamed`."""
  found: dict[str, str] = {}

  def parse(text: str) -> tuple[str, str]:
    number, _, raw = text.strip().partition(" ")
    if not raw or number in found:
      raise DataError("two ids were expected, the first of them new", remedy="Mend the line.")
    return number, raw

  source = Lines(path)
  for number, raw in source.parsed(parse):
    found[number] = raw
  source.finish()
  return found


def names(path: Path) -> np.ndarray:
  """users.txt: the raw id of line 1, 2, ... as row 1, 2, ...; row 0 is PAD."""
  source = Lines(path)
  found = list(source.parsed(lambda text: check_id("user", text), blank=True))
  source.finish()
  if len(set(found)) < len(found):
    raise DataError("an id appears twice", path=path, remedy="Each line must be another user.")
  return strings(["", *found])


def renamed(
  x: Interactions,
  users: Mapping[str, str] | None = None,
  items: Mapping[str, str] | None = None,
) -> Interactions:
  """The same events with the ids of the file replaced by raw ones."""
  new = {}
  for name, map_ in (("users", users), ("items", items)):
    if map_ is None:
      continue
    old = getattr(x, name)[1:].tolist()
    lost = [raw for raw in old if raw not in map_]
    if lost:
      remedy = "The map must belong to the sequences."
      raise DataError(f"{len(lost)} {name}, {lost[0]!r} first, are not in the map", remedy=remedy)
    new[name] = strings(["", *(map_[raw] for raw in old)])
    if len(np.unique(new[name])) < len(new[name]):
      raise DataError(f"the map gives two {name} one id", remedy="The map must be one to one.")
  return dataclasses.replace(x, **new)


def ncf_ratings(path: Path, *, on_error: str = "raise") -> Interactions:
  """NCF's .train.rating and .test.rating: `user item rating timestamp`, tabs between."""
  at = {"user": 0, "item": 1, "rating": 2, "timestamp": 3}
  return tables.interactions(path, at, delimiter="\t", header=False, on_error=on_error)


_PAIR = re.compile(r"\((\d+),(\d+)\)")


def ncf_negatives(path: Path, *, on_error: str = "raise") -> Impressions:
  """NCF's .test.negative: `(user,item)` and the sampled negatives; the item comes first."""
  source, shown = Lines(path, on_error), Shown()

  def parse(text: str) -> tuple[str, list[str]]:
    pair, *negatives = text.split("\t")
    match = _PAIR.fullmatch(pair)
    if not match or not negatives:
      raise DataError(f"(user,item) and negatives were expected, not {text[:40]!r}")
    return match[1], [check_id("item", item) for item in (match[2], *negatives)]

  for user, candidates in source.parsed(parse):
    shown.append(user, (), candidates, [1.0] + [0.0] * (len(candidates) - 1))
  return shown.finish(source.finish())


def _object(path: Path) -> dict:
  document = json_document(path)
  if not isinstance(document, dict):
    raise DataError("a JSON object was expected", path=path, remedy="Check that it is this file.")
  return document
