"""Steam reviews and games (Kang & McAuley 2018; Pathak et al. 2017), Python literals a line.

https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data. Version 2 is `reviews` and `games`;
version 1 (`australian_*`) nests what a user wrote or owns in one line.
"""

from __future__ import annotations

import datetime
import re

from recjax.data.errors import DataError
from recjax.data.interactions import Catalog, Interactions
from recjax.data.readers.columns import (
  Floats,
  Ids,
  Ints,
  Keys,
  Known,
  Texts,
  Tuples,
  field,
  read_lines,
  to_catalog,
  to_interactions,
)
from recjax.data.readers.files import Path, json_object, shown
from recjax.data.readers.values import plain, price, seconds

_POSTED = re.compile(r"Posted (\w+ \d+)(?:, (\d{4}))?\.?")


def reviews(path: Path, *, text: bool = True, on_error: str = "raise") -> Interactions:
  """steam_reviews.json.gz: date, `fields["hours"]` played (NaN unknown) and, if `text`, the review.

  There is no rating. Users go by `username`, as in SASRec; only some lines have a `user_id`.
  """
  kinds = {"user": Ids, "item": Ids, "timestamp": Ints, "hours": Known}
  if text:
    kinds["text"] = Texts

  def rows(line: str) -> list[tuple]:
    r = json_object(line)
    row = (field(r, "username"), field(r, "product_id"), seconds(field(r, "date")), r.get("hours"))
    return [(*row, r.get("text")) if text else row]

  return to_interactions(read_lines(path, kinds, rows, on_error=on_error))


def games(path: Path, *, on_error: str = "raise") -> Catalog:
  """steam_games.json.gz: title, categories (the genres), tags, price, brand (the developer)."""
  kinds = {"id": Keys, "title": Texts, "categories": Tuples, "tags": Tuples, "price": Known}
  kinds["brand"] = Texts

  def rows(line: str) -> list[tuple]:
    r = json_object(line)
    cost = r.get("price")
    free = isinstance(cost, str) and cost.strip().lower().startswith("free")
    return [
      (
        field(r, "id"),
        plain(r.get("title") or r.get("app_name")),
        tuple(map(plain, r.get("genres") or ())),
        tuple(map(plain, r.get("tags") or ())),
        0.0 if free else price(cost),
        plain(r.get("developer")),
      )
    ]

  return to_catalog(read_lines(path, kinds, rows, on_error=on_error))


def australian_reviews(
  path: Path, *, crawl_year: int | None = None, on_error: str = "raise"
) -> Interactions:
  """australian_user_reviews.json.gz: rating 1 recommended, 0 not; date; text.

  Steam leaves the year out of dates in the year of the crawl; `crawl_year` puts it in.
  """
  kinds = {"user": Ids, "item": Ids, "rating": Floats, "timestamp": Ints, "text": Texts}

  def rows(line: str) -> list[tuple]:
    record = json_object(line)
    user = field(record, "user_id")
    return [
      (
        user,
        field(r, "item_id"),
        float(field(r, "recommend") is True),
        _posted(field(r, "posted"), crawl_year),
        r.get("review"),
      )
      for r in field(record, "reviews")
    ]

  return to_interactions(read_lines(path, kinds, rows, on_error=on_error))


def australian_items(path: Path, *, on_error: str = "raise") -> Interactions:
  """australian_users_items.json.gz: who owns what, `fields["playtime"]` minutes, no dates."""
  kinds = {"user": Ids, "item": Ids, "playtime": Floats}

  def rows(line: str) -> list[tuple]:
    record = json_object(line)
    user = field(record, "user_id")
    owned = field(record, "items")
    return [(user, field(r, "item_id"), field(r, "playtime_forever")) for r in owned]

  return to_interactions(read_lines(path, kinds, rows, on_error=on_error))


def _posted(text: str, crawl_year: int | None) -> int:
  """Seconds of "Posted November 5, 2011."."""
  match = _POSTED.fullmatch(text.strip()) if isinstance(text, str) else None
  if not match:
    raise DataError(f"date {shown(text)} is not of the form 'Posted November 5, 2011.'")
  year = match[2] or crawl_year
  if year is None:
    raise DataError(
      f"date {shown(text)} has no year",
      remedy='Pass crawl_year=..., or on_error="skip" to leave the line out.',
    )
  date = datetime.datetime.strptime(f"{match[1]} {year} +0000", "%B %d %Y %z")
  return int(date.timestamp())
