"""MovieLens 100K, 1M, 10M, 20M, 25M, 32M (GroupLens), https://grouplens.org/datasets/movielens.

Each function takes the file or the unpacked folder, and tells the edition from the file names.
"""

from __future__ import annotations

import pathlib
import re

from recjax.data.errors import DataError
from recjax.data.interactions import Catalog, Interactions
from recjax.data.readers import tables
from recjax.data.readers.columns import (
  Keys,
  Known,
  Texts,
  Tuples,
  read_lines,
  to_catalog,
)
from recjax.data.readers.files import COMPRESSIONS, Path

# The 100K and 1M files are latin-1; copies in UTF-8 circulate, and no line is valid as both.
_ENCODINGS = ("utf-8", "latin-1")
_YEAR = re.compile(r"\((\d{4})\)\s*$")
_GENRES = (  # the flags of u.item, in order
  *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
  *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance"),
  *("Sci-Fi", "Thriller", "War", "Western"),
)


def ratings(path: Path, *, on_error: str = "raise") -> Interactions:
  """u.data, ratings.dat or ratings.csv."""
  path, name = _find(path, "u.data", "ratings.dat", "ratings.csv")
  if name == "ratings.csv":
    at = {"user": "userId", "item": "movieId", "rating": "rating", "timestamp": "timestamp"}
    return tables.interactions(path, at, delimiter=",", on_error=on_error)
  delimiter = "\t" if name == "u.data" else "::"
  at = {"user": 0, "item": 1, "rating": 2, "timestamp": 3}
  return tables.interactions(path, at, delimiter=delimiter, header=False, on_error=on_error)


def movies(path: Path, *, on_error: str = "raise") -> Catalog:
  """u.item, movies.dat or movies.csv: title "Name (Year)", year, genres as `categories`."""
  path, name = _find(path, "u.item", "movies.dat", "movies.csv")
  if name == "u.item":
    kinds = {"id": Keys, "title": Texts, "year": Known, "categories": Tuples}
    return to_catalog(read_lines(path, kinds, _movie, on_error=on_error, encodings=_ENCODINGS))
  is_csv = name == "movies.csv"
  table = tables.read(
    path,
    {"id": "movieId", "title": "title", "genres": "genres"}
    if is_csv
    else {"id": 0, "title": 1, "genres": 2},
    {"id": Keys},
    delimiter="," if is_csv else "::",
    header=is_csv,
    on_error=on_error,
    encodings=_ENCODINGS,
  )
  years, genres = Known("year"), Tuples("categories")
  for title, names in zip(table.columns["title"], table.columns.pop("genres"), strict=True):
    years.append(years.check(_year(title)))
    genres.append(() if names in ("", "(no genres listed)") else tuple(names.split("|")))
  table.columns.update(year=years.finish(), categories=genres.finish())
  return to_catalog(table)


def users(path: Path, *, on_error: str = "raise") -> Catalog:
  """u.user or users.dat, one row a user: gender, age, occupation, zip. Later editions have none.

  1M gives the lower bound of an age group and the number of an occupation.
  """
  path, name = _find(path, "u.user", "users.dat")
  is_100k = name == "u.user"
  order = ("id", "age", "gender", "occupation", "zip")
  at = {field: i for i, field in enumerate(order)}
  return tables.catalog(
    path,
    at if is_100k else at | {"gender": 1, "age": 2},
    numeric=("age",),
    delimiter="|" if is_100k else "::",
    header=False,
    on_error=on_error,
    encodings=_ENCODINGS,
  )


def _movie(line: str) -> list[tuple]:
  fields = line.split("|")
  if len(fields) != 5 + len(_GENRES):
    raise DataError(f"{len(fields)} fields, {5 + len(_GENRES)} expected")
  names = tuple(genre for genre, flag in zip(_GENRES, fields[5:], strict=True) if flag == "1")
  return [(fields[0], fields[1], _year(fields[1]), names)]


def _year(title: str) -> float | None:
  match = _YEAR.search(title)
  return float(match[1]) if match else None


def _find(path: Path, *names: str) -> tuple[pathlib.Path, str]:
  """The file at `path`, or the one in that folder, which has one of the names."""
  path = pathlib.Path(path)
  for name in names:
    for compression in COMPRESSIONS:
      if path.name == name + compression and not path.is_dir():
        return path, name
      if (path / (name + compression)).is_file():
        return path / (name + compression), name
  raise DataError(
    f"there is none of {', '.join(names)}",
    path=path,
    remedy="Name the unpacked folder of a MovieLens edition, or such a file (also .gz, .xz, .zst).",
  )
