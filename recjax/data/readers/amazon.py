"""Amazon reviews of 2014, 2018 and 2023 (McAuley et al.), https://amazon-reviews-2023.github.io.

Review and metadata files hold one record a line: JSON, or (2014's metadata) a Python literal.
Timestamps are seconds in all; 2023's milliseconds are cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from recjax.data.errors import DataError
from recjax.data.interactions import Catalog, Interactions
from recjax.data.readers import tables
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
from recjax.data.readers.files import Path, json_object
from recjax.data.readers.values import first_path, joined, plain, price

_RATINGS: dict[int, tuple[bool, dict[str, str | int]]] = {  # edition -> (header, columns)
  2014: (False, {"user": 0, "item": 1, "rating": 2, "timestamp": 3}),
  2018: (False, {"item": 0, "user": 1, "rating": 2, "timestamp": 3}),
  2023: (
    True,
    {"user": "user_id", "item": "parent_asin", "rating": "rating", "timestamp": "timestamp"},
  ),
}


def ratings(path: Path, edition: int, *, on_error: str = "raise") -> Interactions:
  """The ratings-only csv of an edition: 2014 puts the user first, 2018 the item, 2023 a header."""
  if edition not in _RATINGS:
    raise ValueError(f"edition must be one of {', '.join(map(str, _RATINGS))}, not {edition}")
  header, columns = _RATINGS[edition]
  x = tables.interactions(path, columns, delimiter=",", header=header, on_error=on_error)
  return dataclasses.replace(x, timestamp=x.timestamp // 1000) if edition == 2023 else x


def reviews(path: Path, *, text: bool = True, on_error: str = "raise") -> Interactions:
  """Reviews of any edition: rating, timestamp, and if `text` the text and `fields["summary"]`."""
  kinds = {"user": Ids, "item": Ids, "rating": Floats, "timestamp": Ints}
  if text:
    kinds |= {"text": Texts, "summary": Texts}

  def rows(line: str) -> list[tuple]:
    r = json_object(line)
    if "reviewerID" in r:
      row = (r["reviewerID"], field(r, "asin"), field(r, "overall"), field(r, "unixReviewTime"))
      words = (r.get("reviewText"), r.get("summary"))
    else:
      row = (field(r, "user_id"), field(r, "parent_asin"), field(r, "rating"), _seconds(r))
      words = (r.get("text"), r.get("title"))
    return [row + words if text else row]

  return to_interactions(read_lines(path, kinds, rows, on_error=on_error))


def metadata(path: Path, *, on_error: str = "raise") -> Catalog:
  """Products of any edition: title, categories, brand, price, description, features, main_category.

  Of several category paths (2014) the first; 2023's store is the brand.
  """
  kinds = {
    "id": Keys,
    "title": Texts,
    "categories": Tuples,
    "brand": Texts,
    "price": Known,
    "description": Texts,
    "features": Texts,
    "main_category": Texts,
  }

  def rows(line: str) -> list[tuple]:
    r = json_object(line)
    return [
      (
        r["parent_asin"] if "parent_asin" in r else field(r, "asin"),
        plain(r.get("title")),
        first_path(r.get("categories") or r.get("category")),
        plain(r.get("store") if "store" in r else r.get("brand")),
        price(r.get("price")),
        joined(r.get("description")),
        joined(r.get("features") or r.get("feature")),
        plain(r.get("main_category") or r.get("main_cat")),
      )
    ]

  return to_catalog(read_lines(path, kinds, rows, on_error=on_error))


def _seconds(record: Mapping[str, Any]) -> int:
  milliseconds = field(record, "timestamp")
  if type(milliseconds) is not int:
    raise DataError("the timestamp is not a whole number of milliseconds")
  return milliseconds // 1000
