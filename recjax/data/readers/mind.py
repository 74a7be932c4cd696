"""News: MIND (Wu et al., ACL 2020), https://msnews.github.io, and DKN's sample (Wang et al. 2018).

Items of impressions and of the catalogue are numbered apart: `align(catalog, impressions.items)`
joins them.
"""

from __future__ import annotations

import datetime
import json
import re

from recjax.data.errors import DataError
from recjax.data.interactions import Catalog, Impressions
from recjax.data.readers import tables
from recjax.data.readers.columns import (
  Keys,
  Texts,
  Tuples,
  check_id,
  field,
  read_lines,
  to_catalog,
)
from recjax.data.readers.files import Lines, Path, json_object, shown
from recjax.data.readers.impressions import Shown

_TIME = re.compile(r"(\d+)/(\d+)/(\d+) (\d+):(\d+):(\d+) ([AP])M")
_NEWS = {
  "id": Keys,
  "title": Texts,
  "category": Texts,
  "subcategory": Texts,
  "abstract": Texts,
}


def behaviors(path: Path, *, on_error: str = "raise") -> Impressions:
  """behaviors.tsv: id, user, time, clicked so far, `N1-0 N2-1` shown and whether clicked."""
  source, table = Lines(path, on_error), Shown()

  def parse(text: str):
    fields = text.split("\t")
    if len(fields) != 5:
      raise DataError(f"{len(fields)} fields, 5 expected")
    _, user, time, history, impression = fields
    candidates, labels = [], []
    for shown_ in impression.split():
      item, _, label = shown_.rpartition("-")
      if label not in ("0", "1") or not item:
        raise DataError(
          f"{shown_!r} is not a news id with -0 or -1",
          remedy="The test set of MIND-large has no labels and cannot be evaluated on.",
        )
      candidates.append(item)
      labels.append(float(label))
    if not candidates:
      raise DataError("nothing was shown")
    return check_id("user", user), history.split(), candidates, labels, _seconds(time)

  for user, history, candidates, labels, time in source.parsed(parse):
    table.append(user, history, candidates, labels, timestamp=time)
  return table.finish(source.finish())


def news(path: Path, *, on_error: str = "raise") -> Catalog:
  """news.tsv: title, category, subcategory, abstract, and the entities' Wikidata ids.

  `title_entities` and `abstract_entities` are tuples such as ("Q80976", "Q43274").
  """

  def rows(line: str) -> list[tuple]:
    fields = line.split("\t")
    if len(fields) != 8:
      raise DataError(f"{len(fields)} fields, 8 expected")
    id_, category, subcategory, title, abstract, _, in_title, in_abstract = fields
    return [
      (id_, title, category, subcategory, abstract, _wikidata(in_title), _wikidata(in_abstract))
    ]

  kinds = _NEWS | {"title_entities": Tuples, "abstract_entities": Tuples}
  return to_catalog(read_lines(path, kinds, rows, on_error=on_error))


def sampled_behaviors(path: Path, *, on_error: str = "raise") -> Impressions:
  """A JSON form: history and candidates as [news id or null, title], places clicked, no users.

  News without an id goes by its title.
  """
  source, table = Lines(path, on_error), Shown()

  def parse(text: str):
    record = json_object(text)
    history, candidates = (
      [check_id("news", title if id_ is None else id_) for id_, title in field(record, name)]
      for name in ("history", "candidates")
    )
    clicked = field(record, "clicked")
    if not candidates or not all(type(c) is int and 0 <= c < len(candidates) for c in clicked):
      raise DataError(f"clicked {shown(clicked)} are not places among {len(candidates)} candidates")
    return history, candidates, [float(i in clicked) for i in range(len(candidates))]

  for history, candidates, labels in source.parsed(parse):
    table.append(None, history, candidates, labels)
  return table.finish(source.finish())


def sampled_news(path: Path, *, on_error: str = "raise") -> Catalog:
  """The news of that form: JSON lines of id, title, category, subcategory, abstract if any."""
  columns = {name: name for name in _NEWS}
  return tables.catalog(path, columns, on_error=on_error)


def dkn(path: Path, *, clicks: Path | None = None, on_error: str = "raise") -> Impressions:
  """DKN's raw_train.txt and raw_test.txt: `user title label entities`, one candidate a line.

  Items go by title. Histories are what the user clicked in the file `clicks` (DKN: the train file,
  for both), in the order of that file, without the candidate; empty without `clicks`.
  """
  clicked: dict[str, dict[str, None]] = {}
  if clicks is not None:
    log = Lines(clicks, on_error)
    for user, title, label, _ in log.parsed(_dkn_line):
      if label:
        clicked.setdefault(user, {})[title] = None
    log.finish()
  source, table = Lines(path, on_error), Shown()
  for user, title, label, _ in source.parsed(_dkn_line):
    history = [other for other in clicked.get(user, ()) if other != title]
    table.append(user, history, [title], [label])
  return table.finish(source.finish())


def dkn_news(path: Path, *, on_error: str = "raise") -> Catalog:
  """The titles of such a file with `entities`, a tuple of ids; of a title's lines the first."""
  seen: set[str] = set()

  def rows(line: str) -> list[tuple]:
    _, title, _, entities = _dkn_line(line)
    if title in seen:
      return []
    seen.add(title)
    return [(title, title, [entity.partition(":")[0] for entity in entities.split(";") if entity])]

  kinds = {"id": Keys, "title": Texts, "entities": Tuples}
  return to_catalog(read_lines(path, kinds, rows, on_error=on_error))


def _dkn_line(text: str) -> tuple[str, str, float, str]:
  fields = text.split("\t")
  if len(fields) != 4 or fields[2] not in ("0", "1"):
    raise DataError(f"user, title, 0 or 1, and entities were expected, not {shown(fields)}")
  return check_id("user", fields[0]), check_id("news", fields[1]), float(fields[2]), fields[3]


def _wikidata(text: str) -> tuple[str, ...]:
  return tuple(check_id("entity", field(e, "WikidataId")) for e in json.loads(text or "[]"))


def _seconds(time: str) -> int:
  """Seconds since 1970 of "11/15/2019 9:55:12 AM", read as UTC."""
  match = _TIME.fullmatch(time)
  if not match:
    raise DataError(f"time {shown(time)} is not of the form 11/15/2019 9:55:12 AM")
  month, day, year, hour, minute, second = map(int, match.groups()[:6])
  if not 1 <= hour <= 12:
    raise DataError(f"time {shown(time)} has no such hour")
  hour = hour % 12 + (12 if match[7] == "P" else 0)
  date = datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.UTC)
  return int(date.timestamp())
