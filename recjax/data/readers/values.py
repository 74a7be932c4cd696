"""What several sources write alike: dates, titles with entities, lists in strings."""

from __future__ import annotations

import ast
import datetime
import html
import math
import re
from typing import Any

from recjax.data.errors import DataError
from recjax.data.readers.files import shown

_PRICE = re.compile(r"\$?\s*(\d[\d,]*\.?\d*|\.\d+)")


def seconds(date: Any) -> int:
  """Whole seconds since 1970 of a date, see `moment`."""
  return moment(date)[0]


def moment(date: Any) -> tuple[int, int]:
  """Seconds since 1970 of "2017-12-17" or "2018-07-07 22:09:11", UTC where no zone is named.

  And the microseconds beyond.
  """
  try:
    parsed = datetime.datetime.fromisoformat(date if isinstance(date, str) else date.isoformat())
  except (AttributeError, ValueError) as error:
    raise DataError(f"date {shown(date)} is not of the form 2018-07-07 22:09:11") from error
  zone = parsed.tzinfo or datetime.UTC
  exact = parsed.replace(tzinfo=zone)
  return math.floor(exact.replace(microsecond=0).timestamp()), exact.microsecond


def plain(text: Any) -> Any:
  """Text with its HTML entities resolved; anything else as it is."""
  return html.unescape(text) if isinstance(text, str) else text


def joined(text: Any) -> Any:
  """A text, or a list of them, as one text."""
  if isinstance(text, (list, tuple)) and all(isinstance(part, str) for part in text):
    text = " ".join(part for part in text if part)
  return plain(text)


def price(value: Any) -> float | None:
  """12.99, "12.99" and "$1,012.99"; None for a range, words, or nothing."""
  if isinstance(value, str):
    match = _PRICE.fullmatch(value.strip())
    value = float(match[1].replace(",", "")) if match else None
  known = isinstance(value, (int, float)) and math.isfinite(value) and value >= 0
  return float(value) if known else None


def listed(text: Any) -> Any:
  """A list that was written as a string, "['a', 'b']", as a list; anything else as it is."""
  if isinstance(text, str) and text.startswith("["):
    try:
      return ast.literal_eval(text)  # parses literals, runs nothing
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
      return text
  return text


def first_path(categories: Any) -> tuple[str, ...]:
  """A list of names, or the first of a list of such lists, entities resolved."""
  if not categories:
    return ()
  if not isinstance(categories, (list, tuple)):
    raise DataError("the categories are not a list")
  names = categories[0] if isinstance(categories[0], (list, tuple)) else categories
  return tuple(plain(name) for name in names)
