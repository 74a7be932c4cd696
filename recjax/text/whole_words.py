"""Tokens and the words they are parts of: P5's whole-word embeddings read both.

A word is what stands between white space. An item that is written without spaces in it is one
word, however many tokens it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recjax.data.ragged import Ragged
from recjax.text.vocab import SentencePieces


def encode(
  vocab: SentencePieces, texts: Sequence[str], *, max_len: int | None = None
) -> tuple[Ragged, Ragged]:
  """Tokens of each text, the end token last, and beside each token its word: 1, 2 ..., the end 0.

  A word of no token, such as a mark of no width, has no number either.
  What is beyond `max_len` is cut (the end token stays). Each word is encoded apart: no piece of a
  SentencePiece vocabulary reaches over a space, so tokens are those of the whole text.
  """
  if max_len is not None and max_len < 1:
    raise ValueError(f"max_len {max_len} leaves no room for the end token")
  split = [text.split() for text in texts]
  distinct = {word: i for i, word in enumerate(dict.fromkeys(w for row in split for w in row))}
  pieces = vocab.encode(list(distinct), eos=False)
  tokens, words = [], []
  for row in split:
    parts = [pieces[distinct[word]] for word in row]
    lengths = np.array([len(part) for part in parts], int)
    place = np.repeat(np.cumsum(lengths > 0), lengths)
    keep = len(place) if max_len is None else max_len - 1
    end = np.array([vocab.eos])
    tokens.append(np.concatenate([*parts, end[:0]])[:keep].tolist() + end.tolist())
    words.append(place[:keep].tolist() + [0])
  return Ragged.from_rows(tokens), Ragged.from_rows(words)


def decode(vocab: SentencePieces, tokens: Ragged, words: Ragged) -> list[str]:
  """The texts that `encode` read."""
  texts = []
  for row, place in zip(tokens, words, strict=True):
    cuts = np.flatnonzero(np.diff(place[place > 0])) + 1
    # Of one word: decoding sets added tokens apart.
    parts = vocab.decode(np.split(row[place > 0], cuts)) if (place > 0).any() else []
    texts.append(" ".join(part.replace(" ", "") for part in parts))
  return texts
