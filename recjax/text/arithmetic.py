"""Sums in words: what a language model can learn of numbers before it learns to rate.

"what is 3 plus 5 ?" -> "8". A model trained on them gives a task vector (see
`train.task_vectors`), or is where training on ratings begins.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from recjax.data.errors import DataError
from recjax.text import whole_words
from recjax.text.prompts import Text
from recjax.text.vocab import SentencePieces


@dataclasses.dataclass(frozen=True, eq=False)
class Sums:
  """A source for `data.loader`: sums of two numbers 0..highest, none twice, made when gathered.

  Parts of one `seed` that do not overlap share no sum: rows `first` to `first + count` of all.
  """

  words: SentencePieces
  count: int
  first: int = 0
  highest: int = 99
  seed: int = 0

  def __post_init__(self):
    every = (self.highest + 1) ** 2
    if self.highest < 1 or self.first < 0 or not 0 < self.count <= every - self.first:
      raise DataError(
        f"there are {every} sums of numbers 0..{self.highest}, not {self.count} from row "
        f"{self.first} on",
        remedy="Ask for fewer, or for higher numbers.",
      )

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, i: int) -> Text:
    one, other = divmod(int(self._order[i]), self.highest + 1)
    return Text(f"what is {one} plus {other} ?", str(one + other))

  @property
  def lengths(self) -> np.ndarray:
    """[E] tokens of each source."""
    return whole_words.encode(self.words, [text.source for text in self._every])[0].lengths

  def widths(self, max_len: int) -> dict[str, int]:
    longest = whole_words.encode(self.words, [text.target for text in self._every])[0].lengths
    return {"source": max_len, "target": int(longest.max())}

  def gather(self, rows: np.ndarray, widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The batch of these rows, as `instances` gives it."""
    texts, every = [self[i] for i in rows], np.arange(len(rows))
    source, words = whole_words.encode(self.words, [text.source for text in texts])
    target, _ = whole_words.encode(self.words, [text.target for text in texts])
    longest = int(source.lengths.max())
    if longest > widths["source"]:
      raise DataError(
        f"a sum takes {longest} tokens, the loader gives it {widths['source']}",
        remedy="Raise its max_len.",
      )
    return {
      "source": source.right_padded(every, widths["source"], fill=self.words.pad),
      "words": words.right_padded(every, widths["source"], fill=0),
      "target": target.right_padded(every, widths["target"], fill=self.words.pad),
    }

  @property
  def _every(self) -> list[Text]:
    return [self[i] for i in range(len(self))]

  @functools.cached_property
  def _order(self) -> np.ndarray:
    drawn = np.random.default_rng(self.seed).permutation((self.highest + 1) ** 2)
    return drawn[self.first : self.first + self.count]
