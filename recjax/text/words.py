"""Texts as ids of whole words, for systems with a word table of their own, and vectors for it.

Id 0 is PAD, 1 a word that the vocabulary lacks. N texts, S words of each, V ids, D width.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Iterable, Sequence

import numpy as np

from recjax.data.errors import DataError
from recjax.text.vectors import check_list
from recjax.types import PAD

UNKNOWN = PAD + 1
_FIRST = UNKNOWN + 1
_WORD = re.compile(r"\w+|[.,!?;|]")  # what ends a clause tells something, as MIND's code has it


@dataclasses.dataclass(frozen=True, eq=False)
class Words:
  """A vocabulary. `len` counts PAD and the unknown word, as the rows of a table do."""

  words: tuple[str, ...]  # the first has id 2

  def __post_init__(self):
    if len(set(self.words)) != len(self.words):
      raise ValueError("a word is in the vocabulary twice")

  def __len__(self) -> int:
    return _FIRST + len(self.words)

  def __repr__(self) -> str:
    return f"Words({len(self.words):,} words)"

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    return {word: _FIRST + i for i, word in enumerate(self.words)}

  def batch(self, texts: Sequence[str], length: int) -> np.ndarray:
    """[N, length] int32: the first words of each text, PAD after them."""
    check_list(texts)
    if length < 1:
      raise ValueError(f"a text of {length} words tells nothing: read at least one")
    out = np.full((len(texts), length), PAD, np.int32)
    for row, text in zip(out, texts, strict=True):
      found = [self._ids.get(word, UNKNOWN) for word in split(text)[:length]]
      row[: len(found)] = found
    return out


def split(text: str) -> list[str]:
  """The words of a text in lower case, and the marks between its clauses."""
  return _WORD.findall(str(text).lower())


def fit(texts: Iterable[str], *, least: int = 1) -> Words:
  """The words that occur at least so often, the most frequent first."""
  count = collections.Counter(word for text in texts for word in split(text))
  kept = [word for word, n in count.items() if n >= least]
  if not kept:
    raise DataError(
      f"no word occurs {least} times in the texts",
      remedy="Ask for fewer times, or give texts that are not empty.",
    )
  return Words(tuple(sorted(kept, key=lambda word: (-count[word], word))))


def vectors(path: str | os.PathLike, words: Words, *, seed: int = 0) -> np.ndarray:
  """[V, D] float32 from a text file of lines `word number number ...` (GloVe); PAD's is zero.

  Words that the file lacks, and the unknown one, are drawn from a normal distribution as wide as
  the vectors that were found.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise DataError("no such file", path=path, remedy="Give a file of word vectors, as GloVe's.")
  found: dict[int, np.ndarray] = {}
  with path.open(encoding="utf-8") as file:
    for nth, line in enumerate(file, 1):
      word, *numbers = line.rstrip("\n").split(" ")
      if word not in words._ids:
        continue
      try:
        row = np.array(numbers, np.float32)
      except ValueError as error:
        raise DataError(f"not numbers: {error}", path=path, line=nth) from error
      if found and len(row) != len(next(iter(found.values()))):
        raise DataError(f"{len(row)} numbers, unlike the lines before", path=path, line=nth)
      found[words._ids[word]] = row
  if not found:
    raise DataError(
      "none of the words is in the file", path=path, remedy="Give vectors of lower-case words."
    )
  known = np.stack(list(found.values()))
  table = np.random.default_rng(seed).normal(0, known.std(), (len(words), known.shape[1]))
  table[list(found)] = known
  table[PAD] = 0
  return table.astype(np.float32)
