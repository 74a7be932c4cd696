"""Item vectors from item texts: a catalogue, a template and an encoder -> [I, D], cached on disk.

`item_vectors(catalog, "title: {title} brand: {brand}", encoder, cache="runs/vectors")` renders a
text per item, encodes them in parts, and keeps each part, so that a run that was stopped goes on
where it was. The file's name is a hash of texts, encoder and template: whatever changes is
computed anew, and nothing else is.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pathlib
import shutil
import string
import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import safetensors
import safetensors.numpy
import tqdm

from recjax.data.errors import DataError
from recjax.data.interactions import Catalog
from recjax.types import PAD

_logger = logging.getLogger(__name__)


class TextEncoder(Protocol):
  """Texts to vectors: `encoders.Encoder`, `lsa.Lsa`, or one of your own."""

  dim: int
  fingerprint: str  # changes whenever a vector would

  def __call__(self, texts: Sequence[str], *, tick: Callable[[int], object]) -> np.ndarray: ...


def check_list(texts: Sequence[str]) -> None:
  """An error where one text is given for a list of texts: it would be read letter by letter."""
  if isinstance(texts, str):
    raise TypeError(f"texts must be a list, not the string {texts!r:.50}: put it into brackets")


def item_vectors(
  catalog: Catalog,
  template: str,
  encoder: TextEncoder,
  *,
  cache: str | os.PathLike | None = None,
  part: int = 4096,
) -> np.ndarray:
  """[I, D] float32: row i is the vector of item i's text, row PAD is zero.

  With a `cache` folder the vectors are kept there, `part` items at a time. A progress bar is
  shown where standard error is a terminal.
  """
  texts = render(catalog, template)
  key = _key(texts, encoder.fingerprint, template)
  whole = None if cache is None else pathlib.Path(cache) / f"{key}.safetensors"
  shape = (len(texts), encoder.dim)
  if whole is not None and (vectors := _read(whole, shape)) is not None:
    _logger.info("item vectors: unchanged, read from %s", whole)
    return vectors
  vectors = np.zeros(shape, np.float32)
  parts = None if whole is None else whole.with_name(f"{key}.parts-of-{part}")
  with tqdm.tqdm(total=len(catalog), unit="item", desc="item vectors", disable=None) as bar:
    for begin in range(PAD + 1, len(texts), part):
      rows = slice(begin, min(begin + part, len(texts)))
      path = None if parts is None else parts / f"{begin:09d}.safetensors"
      done = None if path is None else _read(path, vectors[rows].shape)
      if done is not None:
        bar.update(len(done))
      else:
        done = _checked(encoder(texts[rows], tick=bar.update), vectors[rows].shape, begin, texts)
        if path is not None:
          _write(path, done)
      vectors[rows] = done
  if whole is not None:
    _write(whole, vectors)
    shutil.rmtree(parts, ignore_errors=True)
  return vectors


def render(catalog: Catalog, template: str) -> list[str]:
  """The text of each row, "" for PAD: `{field}` is replaced by the item's field.

  What an item does not have, a price of NaN too, is empty; of categories, all are written; and
  any run of white space becomes one space.
  """
  pieces = []  # what stands between the fields, and each field's column
  for literal, field, form, conversion in string.Formatter().parse(template):
    pieces.append([literal] * len(catalog.ids))
    if field is None:
      continue
    if field not in catalog.fields or form or conversion:
      raise DataError(
        f"the template asks for {{{field}{'!' + conversion if conversion else ''}"
        f"{':' + form if form else ''}}}; the catalogue's fields are "
        + ", ".join(f"{{{name}}}" for name in catalog.fields),
        remedy="Write field names alone, and {{ or }} for a brace.",
      )
    pieces.append([_shown(value) for value in catalog[field].tolist()])
  texts = [" ".join("".join(row).split()) for row in zip(*pieces, strict=True)]
  texts = texts or [""] * len(catalog.ids)  # an empty template
  texts[PAD] = ""
  return texts


def unplaced(texts: Sequence[str], vectors: np.ndarray) -> np.ndarray:
  """[N] whose vector says nothing of the item: without text, or of no known word."""
  return np.array([not text for text in texts]) | ~vectors.any(1)


def _shown(value: object) -> str:
  if isinstance(value, list | tuple | np.ndarray):
    return ", ".join(str(v).strip() for v in value)
  if value is None or value != value:  # NaN alone differs from itself
    return ""
  if isinstance(value, float):
    return np.format_float_positional(np.float32(value), trim="-")
  return str(value).strip()


def _checked(vectors: np.ndarray, shape: tuple, begin: int, texts: Sequence[str]) -> np.ndarray:
  """The encoder's answer, if it is one."""
  if vectors.shape != shape:
    raise ValueError(f"the encoder gave {vectors.shape}, not {shape}")
  good = np.isfinite(vectors).all(1)
  if not good.all():
    row = begin + int(np.argmin(good))
    raise ValueError(f"the vector of row {row} is not finite; its text: {texts[row]!r}")
  return np.asarray(vectors, np.float32)


def _key(texts: Sequence[str], fingerprint: str, template: str) -> str:
  digest = hashlib.sha256()
  for text in (fingerprint, template, *texts):
    data = text.encode("utf-8", "surrogatepass")
    digest.update(len(data).to_bytes(8, "little") + data)  # the length keeps neighbours apart
  return digest.hexdigest()[:32]


def _write(path: pathlib.Path, vectors: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f"{path.name}.{os.getpid()}")
  digest = hashlib.sha256(vectors.tobytes()).hexdigest()
  with open(part, "wb") as file:
    file.write(safetensors.numpy.save({"vectors": vectors}, metadata={"sha256": digest}))
    file.flush()
    os.fsync(file.fileno())
  os.replace(part, path)


def _read(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray | None:
  """What `_write` wrote; None where there is nothing, or, with a warning, where it is damaged."""
  if not path.exists():
    return None
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      digest, vectors = file.metadata()["sha256"], file.get_tensor("vectors")
    fits = vectors.shape == shape and vectors.dtype == np.float32
    problem = "" if fits else f"it holds {vectors.dtype} {vectors.shape}, not float32 {shape}"
    if hashlib.sha256(vectors.tobytes()).hexdigest() != digest:
      problem = "its checksum does not fit"
  except (safetensors.SafetensorError, KeyError, TypeError) as error:
    problem = str(error)
  if problem:
    warnings.warn(f"{path} is damaged ({problem}): computing it anew", stacklevel=3)
    return None
  return vectors
