"""Semantic ids as one folder: quantiser, codes, item map, and the hash of the vectors they are of.

  config.json             sizes, hashes of the other files and of the vectors, how it was made
  codes.safetensors       [I, L] int32, row 0 (PAD) is -1
  items.json              the raw id of each row
  quantizer.safetensors   not there for ids that others published

`config.json` is written last: a folder without it was not finished.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy

from recjax.data.errors import DataError
from recjax.data.interactions import STRING, strings, with_pad
from recjax.data.readers import semantic_ids
from recjax.semid import assign, quantizer
from recjax.types import PAD

_REMEDY = "Build the semantic ids again, or copy the whole folder again."
_FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False)
class SemanticIds:
  """The codes of a catalogue. I items (PAD included), L levels."""

  items: np.ndarray  # [I] raw ids, row 0 is ""
  codes: np.ndarray  # [I, L] int32, row 0 is -1
  sizes: tuple[int, ...]  # codes of each level
  quantizer: quantizer.Quantizer | None = None  # None: they were made elsewhere
  vectors_sha256: str = ""  # of what was quantised, all of it where these are a selection
  made_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # for the reader of config

  def __post_init__(self):
    codes, items = self.codes, self.items
    if not np.issubdtype(codes.dtype, np.integer):
      raise DataError(f"codes are whole numbers, not {codes.dtype}")
    if codes.ndim != 2 or len(codes) != len(items) or codes.shape[1] != len(self.sizes):
      raise DataError(
        f"codes {codes.shape} do not fit {len(items)} items and {len(self.sizes)} levels"
      )
    if not len(items) or items[PAD] != "" or (codes[PAD] != -1).any():
      raise DataError(f"row {PAD} must be PAD: the empty id, and codes of -1")
    if len(self._rows) < len(items) - 1 or "" in self._rows:
      raise DataError(
        f"{len(items) - 1} items have {len(self._rows)} different ids, or an empty one"
      )
    made = self.quantizer
    if made is not None and tuple(self.sizes[: len(made.sizes)]) != tuple(made.sizes):
      raise DataError(f"levels of {self.sizes} codes do not begin with those of {made!r}")
    outside = (codes[1:] < 0) | (codes[1:] >= np.array(self.sizes)[None])
    if outside.any():
      row, level = np.argwhere(outside)[0] + [1, 0]
      raise DataError(
        f"item {str(items[row])!r} has code {codes[row, level]} at level {level}, "
        f"which has {self.sizes[level]}"
      )

  def __repr__(self) -> str:
    return f"SemanticIds({len(self.items) - 1:,} items, {' x '.join(map(str, self.sizes))})"

  @functools.cached_property
  def _rows(self) -> dict[str, int]:
    return {item: row for row, item in enumerate(self.items.tolist()) if row}

  @functools.cached_property
  def _sharers(self) -> dict[tuple[int, ...], list[str]]:
    found: dict[tuple[int, ...], list[str]] = {}
    for item, codes in zip(self.items[1:].tolist(), self.codes[1:].tolist(), strict=True):
      found.setdefault(tuple(codes), []).append(item)
    return found

  def sid(self, item: str) -> tuple[int, ...]:
    """item -> sid."""
    if item not in self._rows:
      raise KeyError(f"no item {item!r} among the {len(self.items) - 1} of these ids")
    return tuple(self.codes[self._rows[item]].tolist())

  def item(self, sid: Sequence[int]) -> str:
    """sid -> item; an error where several share it (see `sharing`) or none has it."""
    found = self.sharing(sid)
    if len(found) != 1:
      raise KeyError(f"{len(found)} items have the codes {tuple(sid)}: {found[:3]}")
    return found[0]

  def sharing(self, sid: Sequence[int]) -> list[str]:
    """All items with these codes."""
    return self._sharers.get(tuple(int(c) for c in sid), [])

  def select(self, items: Sequence[str]) -> SemanticIds:
    """The ids of these items, in their order; row 0 is PAD, as in `items`."""
    if not len(items) or items[PAD] != "":
      raise DataError(f"row {PAD} of `items` must be PAD, the empty id")
    lost = [item for item in items[PAD + 1 :] if item not in self._rows]
    if lost:
      raise DataError(f"{len(lost)} items, {str(lost[0])!r} first, have no codes here")
    rows = np.array([PAD, *(self._rows[item] for item in items[PAD + 1 :])])
    return dataclasses.replace(self, items=self.items[rows], codes=self.codes[rows])

  def extend(self, items: Sequence[str], vectors: np.ndarray, policy: assign.Policy) -> SemanticIds:
    """With new items behind the old ones, which keep their codes."""
    if self.quantizer is None:
      raise DataError("these ids were made elsewhere: there is no quantiser to code new items with")
    items = strings(items).tolist()
    known = [item for item in items if item in self._rows]
    if known or len(set(items)) < len(items) or "" in items:
      raise DataError(f"new items must be new and different; known: {known[:3]}")
    if len(vectors) != len(items):
      raise DataError(f"{len(items)} new items have {len(vectors)} vectors")
    return dataclasses.replace(
      self,
      items=np.concatenate([self.items, strings(items)]),
      codes=assign.extend(self.quantizer, self.codes, vectors, policy),
      # A hash of hashes: which vectors, in which order of coming.
      vectors_sha256=hashlib.sha256(
        (self.vectors_sha256 + content_hash(vectors)).encode()
      ).hexdigest(),
    )

  def save(self, folder: str | os.PathLike) -> None:
    folder = pathlib.Path(folder)
    files = {
      "codes.safetensors": safetensors.numpy.save({"codes": np.array(self.codes, order="C")}),
      "items.json": json.dumps(self.items.tolist(), ensure_ascii=False).encode(),
    }
    if self.quantizer is not None:
      files["quantizer.safetensors"] = quantizer.dumps(self.quantizer)
    config = {
      "format": _FORMAT,
      "items": len(self.items) - 1,
      "sizes": list(self.sizes),
      "made_by": dict(self.made_by),
      "vectors_sha256": self.vectors_sha256,
      "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    files["config.json"] = (json.dumps(config, indent=2) + "\n").encode()
    # Whatever fails above leaves the folder as it was.
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    if self.quantizer is None:
      (folder / "quantizer.safetensors").unlink(missing_ok=True)
    for name, data in files.items():
      part = folder / f"{name}.part"
      with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
      os.replace(part, folder / name)


def build(
  items: np.ndarray,
  vectors: np.ndarray,
  made: quantizer.Quantizer,
  policy: assign.Policy,
  *,
  made_by: Mapping[str, Any] | None = None,
) -> SemanticIds:
  """Semantic ids of the `items` [I] with `vectors` [I, D]; row 0 is PAD in both."""
  if len(items) != len(vectors):
    raise DataError(f"{len(items)} items have {len(vectors)} vectors; row 0 is PAD in both")
  return SemanticIds(
    np.asarray(items, STRING),
    assign.catalogue(made, vectors, policy),
    made.sizes + policy.further,
    made,
    content_hash(vectors),
    dict(made_by or {}),
  )


def load(folder: str | os.PathLike) -> SemanticIds:
  """What `SemanticIds.save` wrote, verified."""
  folder = pathlib.Path(folder)
  path = folder / "config.json"
  try:
    config = json.loads(_bytes(path))
    if config["format"] != _FORMAT:
      raise DataError(f"format {config['format']}, this reads {_FORMAT}", path=path)
    hashes, sizes, count = dict(config["files"]), tuple(config["sizes"]), config["items"]
    lost = {"items.json", "codes.safetensors"} - hashes.keys()
    if lost:
      raise ValueError(f"it tells nothing of {', '.join(sorted(lost))}")
    made_by, vectors_sha256 = config["made_by"], config["vectors_sha256"]
  except (KeyError, TypeError, ValueError) as error:
    if isinstance(error, DataError):
      raise
    raise DataError(f"damaged: {error}", path=path, remedy=_REMEDY) from None
  files = {}
  for name, digest in hashes.items():
    files[name] = _bytes(folder / name)
    if hashlib.sha256(files[name]).hexdigest() != digest:
      raise DataError("truncated or changed", path=folder / name, remedy=_REMEDY)
  made, items = "quantizer.safetensors", strings(json.loads(files["items.json"]))
  if len(items) != count + 1:
    raise DataError(f"{len(items) - 1} items, not {count} as it says", path=path, remedy=_REMEDY)
  return SemanticIds(
    items,
    safetensors.numpy.load(files["codes.safetensors"])["codes"],
    sizes,
    quantizer.loads(folder / made) if made in files else None,
    vectors_sha256,
    made_by,
  )


def published(path: str | os.PathLike, items: Sequence[str] | None = None) -> SemanticIds:
  """Codes that others published as a JSON list of lists; raw ids "1", "2" ... unless given."""
  codes = semantic_ids.semantic_ids(path)
  raw = [str(i + 1) for i in range(len(codes))] if items is None else items
  if len(raw) != len(codes):
    raise DataError(f"{len(codes)} rows of codes for {len(raw)} items", path=path)
  sizes = tuple(int(top) + 1 for top in codes.max(0))
  padded = np.concatenate([np.full((1, codes.shape[1]), -1, np.int32), codes])
  return SemanticIds(with_pad(np.array(raw)), padded, sizes, made_by={"file": os.fspath(path)})


def content_hash(vectors: np.ndarray) -> str:
  """SHA-256 of the vectors as float32, and of their shape."""
  vectors = np.ascontiguousarray(vectors, "<f4")
  digest = hashlib.sha256(str(vectors.shape).encode())
  digest.update(vectors)
  return digest.hexdigest()


def _bytes(path: pathlib.Path) -> bytes:
  try:
    return path.read_bytes()
  except FileNotFoundError:
    raise DataError("no such file", path=path, remedy=_REMEDY) from None
  except OSError as error:
    raise DataError(f"cannot be read: {error.strerror}", path=path, remedy=_REMEDY) from None
