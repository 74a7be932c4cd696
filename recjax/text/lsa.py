"""LSA (Deerwester et al., JASIS 1990): TF-IDF and a truncated SVD, vectors without any weights.

A text is its terms, the words of its lowered letters, counted, damped (1 + log tf), weighted by how
rare they are, at length one; the vector is its place among the strongest directions of the texts it
was fitted on, at length one again. Fitting twice gives the same bits, signs too. N texts, V terms,
D width.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Sequence

import numpy as np
import safetensors
import safetensors.numpy
import scipy.sparse
import scipy.sparse.linalg

from recjax.data.errors import DataError
from recjax.text.vectors import check_list


@dataclasses.dataclass(frozen=True, eq=False)
class Lsa:
  """A fitted LSA. Called with texts, gives their vectors [N, D] float32."""

  terms: tuple[str, ...]  # V, sorted
  idf: np.ndarray  # [V] float32
  directions: np.ndarray  # [V, D] float32, strongest first
  sublinear: bool  # 1 + log(tf) instead of tf
  shortest: int = 2  # letters of the shortest word that is a term

  @property
  def dim(self) -> int:
    return self.directions.shape[1]

  def __repr__(self) -> str:
    return f"Lsa({len(self.terms):,} terms, dim={self.dim})"

  @functools.cached_property
  def fingerprint(self) -> str:
    """A hash of all that decides a vector."""
    return hashlib.sha256(_dump(self)).hexdigest()

  @functools.cached_property
  def _index(self) -> dict[str, int]:
    return {term: i for i, term in enumerate(self.terms)}

  def __call__(
    self, texts: Sequence[str], *, tick: Callable[[int], object] = lambda done: None
  ) -> np.ndarray:
    """[N, D] float32 of length one; zero for a text without a known term."""
    check_list(texts)
    rows = _tfidf(_counts(texts, self._index, self.shortest), self.idf, self.sublinear)
    vectors = rows @ self.directions
    tick(len(texts))
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors.astype(np.float32)

  def save(self, path: str | os.PathLike) -> None:
    """One safetensors file, whole or not at all."""
    path = pathlib.Path(path)
    part = path.with_name(path.name + ".part")
    part.write_bytes(_dump(self))
    os.replace(part, path)


def fit(
  texts: Sequence[str],
  *,
  dim: int | None = 256,
  min_df: int = 2,
  sublinear: bool = True,
  shortest: int = 2,
  seed: int = 0,
) -> Lsa:
  """Learn terms, their weights and `dim` directions; terms in fewer than `min_df` texts are left.

  With `dim=None` there are 128 directions, or half as many as texts or terms where these are few.
  In titles words of one letter tell sizes and kinds apart ("2 oz", "vitamin C"): `shortest=1`.
  `seed` is of the vector that the Lanczos iteration starts from.
  """
  if dim is not None and dim < 1:
    raise ValueError(
      f"{dim} directions: there is at least 1, or None for as many as suit the texts"
    )
  if shortest < 1:
    raise ValueError(f"the shortest word has {shortest} letters; it takes 1 or more")
  df = collections.Counter(t for text in texts for t in set(_words(text, shortest)))
  terms = tuple(sorted(term for term, count in df.items() if count >= min_df))
  if len(terms) < 2:
    raise DataError(
      f"{len(terms)} words are in at least {min_df} of the {len(texts)} texts: nothing tells them "
      "alike",
      remedy="Give texts of several words, with white space between, or use a sentence encoder.",
    )
  if dim is None:
    dim = min(128, max(min(len(terms), len(texts)) // 2, 1))
  if dim >= min(len(terms), len(texts)):
    raise DataError(
      f"{dim} directions need more than {dim} texts and terms; there are {len(texts)} texts, "
      f"and {len(terms)} terms in at least {min_df} of them",
      remedy="Lower `dim` or `min_df`, or give more texts.",
    )
  # As if one more text held every term.
  idf = np.log((1 + len(texts)) / (1 + np.array([df[term] for term in terms]))) + 1
  rows = _tfidf(_counts(texts, {t: i for i, t in enumerate(terms)}, shortest), idf, sublinear)
  start = np.random.default_rng(seed).standard_normal(min(rows.shape))
  _, strength, directions = scipy.sparse.linalg.svds(rows, k=dim, v0=start)
  directions = directions[np.argsort(-strength, kind="stable")].T  # [V, D]
  # The sign of a direction is free: its largest entry is made positive.
  largest = directions[np.abs(directions).argmax(0), np.arange(dim)]
  directions = directions * np.where(largest < 0, -1, 1)
  return Lsa(terms, idf.astype(np.float32), directions.astype(np.float32), sublinear, shortest)


def load(path: str | os.PathLike) -> Lsa:
  """What `Lsa.save` wrote."""
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      told = json.loads(file.metadata()["lsa"])
      idf, directions = file.get_tensor("idf"), file.get_tensor("directions")
  except FileNotFoundError:
    raise DataError("no such file", path=path, remedy="Fit and save an LSA first.") from None
  except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
    raise DataError(f"not a saved LSA: {error}", path=path, remedy="Fit it again.") from None
  shortest = told.get("shortest", 2)  # an LSA of an earlier version does not tell
  return Lsa(tuple(told["terms"]), idf, directions, told["sublinear"], shortest)


def _dump(lsa: Lsa) -> bytes:
  plain = {"terms": lsa.terms, "sublinear": lsa.sublinear}
  if lsa.shortest != 2:
    plain["shortest"] = lsa.shortest
  told = json.dumps(plain)
  tensors = {"idf": lsa.idf, "directions": np.ascontiguousarray(lsa.directions)}
  return safetensors.numpy.save(tensors, metadata={"lsa": told})


def _words(text: str, shortest: int) -> list[str]:
  return re.findall(rf"\w{{{shortest},}}", text.lower())


def _counts(texts: Sequence[str], index: dict[str, int], shortest: int) -> scipy.sparse.csr_array:
  """[N, V]: how often each known term occurs in each text."""
  rows = [[index[t] for t in _words(text, shortest) if t in index] for text in texts]
  start = np.cumsum([0, *map(len, rows)])
  columns = np.fromiter((c for row in rows for c in row), np.int32, start[-1])
  counts = scipy.sparse.csr_array(
    (np.ones(len(columns)), columns, start), shape=(len(texts), len(index))
  )
  counts.sum_duplicates()
  return counts


def _tfidf(
  counts: scipy.sparse.csr_array, idf: np.ndarray, sublinear: bool
) -> scipy.sparse.csr_array:
  """[N, V], rows at length one (or zero)."""
  tf = 1 + np.log(counts.data) if sublinear else counts.data
  weighted = scipy.sparse.csr_array(
    (tf * idf[counts.indices], counts.indices, counts.indptr), shape=counts.shape
  )
  norm = np.sqrt(weighted.multiply(weighted).sum(1))
  return scipy.sparse.diags_array(1 / np.maximum(norm, 1e-12)) @ weighted
