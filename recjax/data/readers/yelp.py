"""Yelp Open Dataset, https://business.yelp.com/data/resources/open-dataset: JSON lines."""

from __future__ import annotations

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
from recjax.data.readers.files import Path, json_object
from recjax.data.readers.values import seconds


def reviews(path: Path, *, text: bool = True, on_error: str = "raise") -> Interactions:
  """yelp_academic_dataset_review.json: stars, date and, if `text`, the review."""
  kinds = {"user": Ids, "item": Ids, "rating": Floats, "timestamp": Ints}
  if text:
    kinds["text"] = Texts

  def rows(line: str) -> list[tuple]:
    r = json_object(line)
    row = (field(r, "user_id"), field(r, "business_id"), field(r, "stars"))
    row += (seconds(field(r, "date")),)
    return [(*row, r.get("text")) if text else row]

  return to_interactions(read_lines(path, kinds, rows, on_error=on_error))


def businesses(path: Path, *, on_error: str = "raise") -> Catalog:
  """yelp_academic_dataset_business.json: name as title, categories (in no order), city, state.

  `stars` and `review_count` are Yelp's own averages over all time: features that know the future.
  """
  kinds = {"id": Keys, "title": Texts, "categories": Tuples, "city": Texts, "state": Texts}
  kinds |= {"stars": Known, "review_count": Known}

  def rows(line: str) -> list[tuple]:
    r = json_object(line)
    row = (field(r, "business_id"), r.get("name"), _categories(r.get("categories")))
    return [(*row, r.get("city"), r.get("state"), r.get("stars"), r.get("review_count"))]

  return to_catalog(read_lines(path, kinds, rows, on_error=on_error))


def _categories(value) -> tuple[str, ...]:
  """One text with commas (since 2018), or a list (before)."""
  if isinstance(value, str):
    return tuple(name.strip() for name in value.split(",") if name.strip())
  if value is not None and not isinstance(value, list):
    raise DataError("the categories are neither text nor a list")
  return tuple(value or ())
