"""Texts <-> token ids: SentencePiece (T5) and word pieces (BERT), with tokens of our own.

Both are small values with the same few methods: `encode` gives rows of unequal length,
`batch` gives a padded array, `decode` gives texts back. Tokens that we add (T5's sentinels,
users, items, codes) look like `<item_7>`, follow the pieces, and never split.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import sentencepiece

from recjax.data.errors import DataError
from recjax.data.ragged import Ragged
from recjax.types import PAD

SENTINELS = 100  # of T5: <extra_id_0> .. <extra_id_99>
_TOKEN = re.compile(r"<[^<>\s]+>")  # what an added token looks like
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # of BERT


class _Padded:
  """What every vocabulary does with the rows of `encode`."""

  pad: int

  def batch(self, texts: Sequence[str], length: int) -> np.ndarray:
    """[B, length] int32: each text cut to `length` tokens, padded on the right."""
    rows = self.encode(texts, max_len=length)
    return rows.right_padded(np.arange(len(rows)), length, fill=self.pad)


@dataclasses.dataclass(frozen=True, eq=False)
class SentencePieces(_Padded):
  """A SentencePiece model, and the tokens added after its pieces."""

  model: bytes
  added: tuple[str, ...] = ()  # the first has the id after the last piece

  def __post_init__(self):
    for i, token in enumerate(self.added):
      if not _TOKEN.fullmatch(token):
        raise ValueError(f"an added token must look like <name_7>, without spaces: {token!r}")
      if self._ids[token] != self._first + i or self._is_piece(token):
        raise ValueError(f"the vocabulary has the token {token!r} already")

  @functools.cached_property
  def _processor(self) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=self.model)

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    return {token: self._first + i for i, token in enumerate(self.added)}

  @property
  def _first(self) -> int:
    return self._processor.get_piece_size()

  def __len__(self) -> int:
    """The number of ids in use; a model's table may have more rows (T5's has 32128)."""
    return self._first + len(self.added)

  def __repr__(self) -> str:
    return f"SentencePieces({self._first:,} pieces, {len(self.added):,} added tokens)"

  @property
  def pad(self) -> int:
    return self._processor.pad_id()

  @property
  def eos(self) -> int:
    return self._processor.eos_id()

  @property
  def unk(self) -> int:
    return self._processor.unk_id()

  @functools.cached_property
  def fingerprint(self) -> str:
    """A hash of all that decides the ids."""
    return hashlib.sha256(self.model + "\n".join(self.added).encode()).hexdigest()

  def add(self, tokens: Iterable[str]) -> SentencePieces:
    """The same vocabulary with more tokens, such as `numbered("item", n)`, at its end."""
    return dataclasses.replace(self, added=self.added + tuple(tokens))

  def id(self, token: str) -> int:
    """The id of an added token or a piece."""
    if token in self._ids:
      return self._ids[token]
    if not self._is_piece(token):
      raise KeyError(f"the vocabulary has no token {token!r}")
    return self._processor.piece_to_id(token)

  def pieces(self, text: str) -> list[str]:
    """The pieces of a text without added tokens; characters that none has are left out.

    So are those that a model writes by their bytes.
    """
    while True:
      found = self._processor.encode(text, out_type=str)
      ids = [self._processor.piece_to_id(piece) for piece in found]
      known = [i != self.unk and not self._processor.is_byte(i) for i in ids]
      if all(known):
        return found
      kept = "".join(piece for piece, k in zip(found, known, strict=True) if k)
      text = kept.replace("\u2581", " ")

  def sentinel(self, i: int) -> int:
    """The id of <extra_id_i>, which stands for the i-th masked span."""
    return self.id(f"<extra_id_{i}>")

  def encode(self, texts: Sequence[str], *, max_len: int | None = None, eos: bool = True) -> Ragged:
    """The ids of each text, `eos` last; what is beyond `max_len` is cut (`eos` stays).

    What lies between added tokens is encoded apart, as transformers' T5 does.
    """
    texts = [str(text) for text in texts]
    plain = iter(self._processor.encode([p for t in texts for p in self._split(t)[::2]]))
    end = [self.eos] if eos else []
    rows = []
    for text in texts:
      row: list[int] = []
      for i, part in enumerate(self._split(text)):
        row += [self._ids[part]] if i % 2 else next(plain)
      rows.append(_cut(row, max_len, len(end)) + end)
    return Ragged.from_rows(rows)

  def decode(self, rows: Iterable[Sequence[int]]) -> list[str]:
    """The text of each row up to `eos`, without padding; an id beyond the vocabulary is unknown."""
    return [self._text([int(i) for i in row]) for row in rows]

  def _is_piece(self, token: str) -> bool:
    return self._processor.id_to_piece(self._processor.piece_to_id(token)) == token

  def _split(self, text: str) -> list[str]:
    """Plain text and added tokens in turn: text, token, text, ..., text."""
    parts, start = [], 0
    for found in _TOKEN.finditer(text) if "<" in text and self.added else ():
      if found[0] in self._ids:
        parts += [text[start : found.start()], found[0]]
        start = found.end()
    return [*parts, text[start:]]

  def _text(self, row: list[int]) -> str:
    if self.eos in row:
      row = row[: row.index(self.eos)]
    parts, run = [], []
    for i in row:
      if self._first <= i < len(self):
        parts += [self._processor.decode(run), self.added[i - self._first]]
        run = []
      elif i != self.pad:
        run.append(i if 0 <= i < self._first else self.unk)
    parts.append(self._processor.decode(run))
    return " ".join(part.strip() for part in parts if part.strip())


def sentencepieces(path: str | os.PathLike) -> SentencePieces:
  """A SentencePiece .model file; eos and unknown are as it defines them, padding is 0."""
  remedy = "Give a .model file, as tokenizers/train_sentencepiece.py writes it."
  try:
    model = pathlib.Path(path).read_bytes()
    if not model:
      raise RuntimeError
    vocab = SentencePieces(model)
    len(vocab)
  except FileNotFoundError:
    raise DataError("no such file", path=path, remedy=remedy) from None
  except OSError as error:
    raise DataError(f"cannot be read: {error.strerror}", path=path, remedy=remedy) from None
  except RuntimeError:  # the library's own words speak of its source files
    raise DataError("not a SentencePiece model", path=path, remedy=remedy) from None
  train = "Train with pad_id=0, eos_id=1, unk_id=2."
  for name in ("pad", "eos", "unk"):
    if getattr(vocab, name) < 0:
      raise DataError(f"the model has no {name} id", path=path, remedy=train)
  if vocab.pad != PAD:
    raise DataError(
      f"the model pads with {vocab.pad}, models here with {PAD}", path=path, remedy=train
    )
  one, two = vocab.encode(["a", "a a"], eos=False)
  if two.tolist() != [*one, *one]:
    raise DataError(
      "the model reads a word at the beginning of a text otherwise than one within it",
      path=path,
      remedy="Train with add_dummy_prefix, as T5's is: words are encoded apart here.",
    )
  return vocab


def t5(path: str | os.PathLike) -> SentencePieces:
  """T5's vocabulary: its pieces, then those of <extra_id_99> down to <extra_id_0> that are none."""
  words = sentencepieces(path)
  sentinels = (f"<extra_id_{i}>" for i in reversed(range(SENTINELS)))
  return words.add(token for token in sentinels if not words._is_piece(token))  # some models have


def check_added(words: SentencePieces, texts: Sequence[str]) -> None:
  """An error where a text holds a token `<...>` that is none of the vocabulary's added ones.

  It would be read as pieces: a word that means nothing.
  """
  added = set(words.added)
  for text in texts:
    for token in _TOKEN.findall(text) if "<" in text else ():
      if token not in added:
        raise DataError(
          f"{token!r}, of {text!r}, is no token of this vocabulary",
          remedy="Add the tokens of these items and users, see `instances.vocabulary`; a trained "
          "model knows those alone that it was trained with.",
        )


def numbered(name: str, count: int, *, first: int = 0) -> list[str]:
  """`<item_1>`, `<item_2>` ... : `count` tokens from `first`, in the order of their numbers."""
  return [f"<{name}_{i}>" for i in range(first, first + count)]


def codes(sizes: Sequence[int]) -> list[str]:
  """Tokens of a semantic id, level by level: <a_0> .. <a_255>, <b_0> ...; sizes per level."""
  if len(sizes) > 26:
    raise ValueError(f"{len(sizes)} levels, but only 26 letters")
  return [t for level, size in enumerate(sizes) for t in numbered(chr(ord("a") + level), size)]


@dataclasses.dataclass(frozen=True, eq=False)
class WordPieces(_Padded):
  """BERT's word pieces; a text becomes [CLS] pieces [SEP]."""

  tokenizer: Any  # tokenizers.Tokenizer
  pad: int
  cls: int
  sep: int

  def __len__(self) -> int:
    return self.tokenizer.get_vocab_size()

  def __repr__(self) -> str:
    return f"WordPieces({len(self):,} pieces)"

  @functools.cached_property
  def fingerprint(self) -> str:
    """A hash of all that decides the ids."""
    return hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()

  def encode(self, texts: Sequence[str], *, max_len: int | None = None) -> Ragged:
    """The ids of each text between [CLS] and [SEP]; what is beyond `max_len` is cut."""
    found = self.tokenizer.encode_batch_fast([str(t) for t in texts], add_special_tokens=False)
    return Ragged.from_rows([[self.cls, *_cut(f.ids, max_len, 2), self.sep] for f in found])

  def decode(self, rows: Iterable[Sequence[int]]) -> list[str]:
    """The text of each row, without special tokens."""
    return self.tokenizer.decode_batch([[int(i) for i in row] for row in rows])


def wordpieces(folder: str | os.PathLike) -> WordPieces:
  """The word pieces of a Hugging Face folder: its tokenizer.json, or else its vocab.txt."""
  try:
    import tokenizers
  except ImportError:
    raise ImportError(
      "BERT's word pieces need the Hugging Face tokenizers: pip install 'recjax[text]'"
    ) from None
  folder = pathlib.Path(folder)
  whole, words = folder / "tokenizer.json", folder / "vocab.txt"
  try:
    if whole.exists():
      tokenizer = tokenizers.Tokenizer.from_str(whole.read_text(encoding="utf-8"))
    elif words.exists():
      told = folder / "tokenizer_config.json"
      told = json.loads(told.read_text(encoding="utf-8")) if told.exists() else {}
      tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece.from_file(str(words), unk_token="[UNK]")
      )
      tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=told.get("do_lower_case", True),
        strip_accents=told.get("strip_accents"),
        handle_chinese_chars=told.get("tokenize_chinese_chars", True),
      )
      tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
      tokenizer.decoder = tokenizers.decoders.WordPiece()
      tokenizer.add_special_tokens(list(_SPECIAL))
    else:
      raise DataError(
        "neither tokenizer.json nor vocab.txt", path=folder, remedy="Download the whole folder."
      )
  except DataError:
    raise
  except Exception as error:  # the library raises plain Exception
    raise DataError(
      f"not a tokenizer: {error}", path=folder, remedy="Download the folder again."
    ) from None
  # A file may carry the padding and truncation of its training; ours are the caller's.
  tokenizer.no_padding()
  tokenizer.no_truncation()
  special = [tokenizer.token_to_id(t) for t in ("[PAD]", "[CLS]", "[SEP]")]
  if None in special:
    raise DataError(
      "no [PAD], [CLS] or [SEP]", path=folder, remedy="Give the folder of a BERT encoder."
    )
  return WordPieces(tokenizer, *special)


def _cut(row: list[int], max_len: int | None, special: int) -> list[int]:
  """The first tokens of a row that leave room for `special` more."""
  if max_len is None:
    return row
  if max_len < special:
    raise ValueError(f"max_len {max_len} leaves no room for the {special} special tokens")
  return row[: max_len - special]
