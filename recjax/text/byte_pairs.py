"""Texts <-> token ids of a decoder-only model: byte-pair encoding from a folder's tokenizer.json.

GPT-2 cuts bytes, LLaMA's newer versions too; older ones cut words with a mark for the space. All
of it is in the file, which the Hugging Face tokenizers read. Id 0 is a token like any other, so
what is padding follows from lengths, never from an id: `batch` gives a mask beside the tokens.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from recjax.data.errors import DataError
from recjax.data.ragged import Ragged


@dataclasses.dataclass(frozen=True, eq=False)
class BytePairs:
  """A tokenizer, and the ids of what begins, ends and fills a text."""

  tokenizer: Any  # tokenizers.Tokenizer
  eos: int
  pad: int
  bos: int | None = None  # None: nothing stands before a text

  def __len__(self) -> int:
    return self.tokenizer.get_vocab_size()

  def __repr__(self) -> str:
    return f"BytePairs({len(self):,} tokens)"

  @functools.cached_property
  def fingerprint(self) -> str:
    """A hash of all that decides the ids."""
    told = f"{self.tokenizer.to_str()} {self.bos} {self.eos} {self.pad}"
    return hashlib.sha256(told.encode()).hexdigest()

  def id(self, token: str) -> int:
    """The id of a token as the vocabulary writes it."""
    found = self.tokenizer.token_to_id(token)
    if found is None:
      raise KeyError(f"the vocabulary has no token {token!r}")
    return found

  def encode(
    self, texts: Sequence[str], *, max_len: int | None = None, bos: bool = True, eos: bool = False
  ) -> Ragged:
    """The ids of each text. What is beyond `max_len` is cut at the end, but for an `eos`.

    `bos` puts in front what the model was trained to see there, which may be nothing.
    """
    texts = [str(text) for text in texts]
    begin = [self.bos] if bos and self.bos is not None else []
    end = [self.eos] if eos else []
    room = None if max_len is None else max_len - len(begin) - len(end)
    if room is not None and room < 0:
      raise ValueError(f"max_len {max_len} leaves no room for the special tokens")
    found = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return Ragged.from_rows([[*begin, *one.ids[:room], *end] for one in found])

  def batch(
    self,
    texts: Sequence[str],
    length: int,
    *,
    left: bool = False,
    bos: bool = True,
    eos: bool = False,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [B, length] int32 and their mask, padded on the right, or on the left."""
    rows = self.encode(texts, max_len=length, bos=bos, eos=eos)
    every, places = np.arange(len(rows)), np.arange(length)[None]
    padded = rows.left_padded if left else rows.right_padded
    short = rows.lengths[:, None]
    mask = places >= length - short if left else places < short
    return padded(every, length, fill=self.pad), mask

  def decode(self, rows: Iterable[Sequence[int]]) -> list[str]:
    """The text of each row up to its `eos`, without special tokens."""
    return self.tokenizer.decode_batch([self._said([int(i) for i in row]) for row in rows])

  def _said(self, row: list[int]) -> list[int]:
    return row[: row.index(self.eos)] if self.eos in row else row


def byte_pairs(folder: str | os.PathLike) -> BytePairs:
  """The tokenizer of a Hugging Face folder.

  Special tokens are as tokenizer_config.json, special_tokens_map.json or config.json say; a text
  begins with `bos` where the tokenizer puts it there. Without a token for padding `eos` fills.
  """
  try:
    import tokenizers
  except ImportError:
    raise ImportError(
      "tokenizer.json needs the Hugging Face tokenizers: pip install 'recjax[text]'"
    ) from None
  folder = pathlib.Path(folder)
  path = folder / "tokenizer.json"
  if not path.is_file():
    raise DataError(
      "no tokenizer.json",
      path=folder,
      remedy="Make it: AutoTokenizer.from_pretrained(folder).save_pretrained(folder).",
    )
  try:
    tokenizer = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
  except Exception as error:  # the library raises plain Exception
    raise DataError(f"not a tokenizer: {error}", path=path, remedy="Download it again.") from None
  # A file may carry the padding and truncation of its training; ours are the caller's.
  tokenizer.no_padding()
  tokenizer.no_truncation()
  special = {name: _special(folder, tokenizer, name) for name in ("bos", "eos", "pad")}
  if special["eos"] is None:
    raise DataError(
      "no file says which token ends a text",
      path=folder,
      remedy='Write {"eos_token": "..."} into tokenizer_config.json.',
    )
  begins = tokenizer.encode("a", add_special_tokens=True).ids[:1] == [special["bos"]]
  pad = special["eos"] if special["pad"] is None else special["pad"]
  return BytePairs(tokenizer, special["eos"], pad, special["bos"] if begins else None)


def _special(folder: pathlib.Path, tokenizer: Any, name: str) -> int | None:
  """The id of the token that begins, ends or fills, from the first file that tells it."""
  for file in ("tokenizer_config.json", "special_tokens_map.json"):
    told = _json(folder / file).get(f"{name}_token")
    token = told.get("content") if isinstance(told, dict) else told
    if token is None:
      continue
    found = tokenizer.token_to_id(token) if isinstance(token, str) else None
    if found is None:
      raise DataError(
        f"{name}_token is {told!r}, no token of tokenizer.json",
        path=folder / file,
        remedy="Both files must be of one model.",
      )
    return found
  found = _json(folder / "config.json").get(f"{name}_token_id")
  found = found[0] if isinstance(found, list) and found else found  # LLaMA 3 ends in several ways
  if found is None:
    return None
  if not isinstance(found, int) or not 0 <= found < tokenizer.get_vocab_size():
    raise DataError(
      f"{name}_token_id is {found!r}, no token of tokenizer.json",
      path=folder / "config.json",
      remedy="Both files must be of one model.",
    )
  return found


def _json(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_file():
    return {}
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise DataError(f"not valid JSON: {error}", path=path, remedy="Download it again.") from None
  if not isinstance(found, dict):
    raise DataError("not a JSON object", path=path, remedy="Download it again.")
  return found
