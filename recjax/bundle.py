"""A folder that one JSON file vouches for: whole, unchanged, or not read.

The file holds what the writer says, the SHA-256 of every other file and, last, a hash of itself,
so no byte can change unseen. It is written last, in a folder beside, which is then renamed: a
folder under its own name is complete. Where a writer was killed between two renamings, the one
that was there before, or the new one, is put there by whoever comes next.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from recjax.data.errors import DataError

REMEDY = "Copy the whole folder again, or make it again."


def write(
  folder: pathlib.Path,
  name: str,
  about: Mapping[str, Any],
  fill: Callable[[pathlib.Path], None],  # writes the other files into the folder it is given
) -> None:
  """Replaces `folder`, if it was written by this, by what `fill` writes and `about` says.

  One at a time: two writers of one folder must take turns.
  """
  folder = folder.resolve()  # of a link, what it points to
  recover(folder, name)
  if (
    folder.exists() and not (folder / name).exists() and (folder.is_file() or any(folder.iterdir()))
  ):
    raise DataError(
      f"holds something else, no {name}, and is not written over",
      path=folder,
      remedy="Name another folder, or remove this one.",
    )
  part, old = _beside(folder)
  for rest in (part, old):
    shutil.rmtree(rest, ignore_errors=True)
  part.mkdir(parents=True)
  fill(part)
  files = sorted(path for path in part.rglob("*") if path.is_file())
  hashes = {path.relative_to(part).as_posix(): _synced(path) for path in files}
  (part / name).write_text(_sealed({**about, "files": hashes}), encoding="utf-8")
  _synced(part / name)
  if folder.exists():
    folder.rename(old)
  if part.exists():  # a reader that came between may have put it there
    part.rename(folder)
  shutil.rmtree(old, ignore_errors=True)


def recover(folder: pathlib.Path, name: str) -> None:
  """Where a writer was killed before the new folder took the place of the old: it, or the old."""
  if folder.name and not folder.exists():
    part, old = _beside(folder)
    if (old / name).exists():
      (part if (part / name).exists() else old).rename(folder)


def _beside(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """What is being written, and what was there before."""
  return folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")


def seal(folder: pathlib.Path, name: str) -> bytes:
  """Differs from what it was once the folder was written anew."""
  try:
    return (folder / name).read_bytes()
  except FileNotFoundError:
    return b""


def read(folder: pathlib.Path, name: str) -> dict[str, Any]:
  """What `about` said, once every file has been looked at."""
  path = folder / name
  try:
    text = path.read_bytes().decode()
    about = json.loads(text)
    told = {key: value for key, value in about.items() if key != "sha256"}
    if _sealed(told) != text:
      raise ValueError("its own hash does not fit")
    files = dict(told.pop("files"))
  except FileNotFoundError:
    raise DataError("no such file", path=path, remedy=REMEDY) from None
  except (AttributeError, KeyError, ValueError) as error:
    raise DataError(f"damaged: {error}", path=path, remedy=REMEDY) from None
  for file, digest in files.items():
    if not (folder / file).is_file():
      raise DataError("no such file", path=folder / file, remedy=REMEDY)
    if hashlib.sha256((folder / file).read_bytes()).hexdigest() != digest:
      raise DataError("truncated or changed", path=folder / file, remedy=REMEDY)
  return told


def dump(tree: Any) -> bytes:
  """Nested dicts of arrays as safetensors, named by their paths; `()` is an empty dict."""
  flat = flatten(tree)
  # As it lies in memory is how safetensors writes it: a transposed view must be laid out anew.
  arrays = {name: np.ascontiguousarray(x).reshape(np.shape(x)) for name, x in flat.items()}
  return safetensors.numpy.save(arrays)


def flatten(tree: Any) -> dict[str, np.ndarray]:
  """Nested dicts of arrays as one dict, "a/b/c" -> array."""
  flat = traverse_util.flatten_dict(tree or {}, sep="/")
  for name, leaf in flat.items():
    if not isinstance(leaf, np.ndarray | np.generic | jax.Array):
      raise TypeError(
        f"{name!r} is a {type(leaf).__name__}; parameters and assets that are kept must be nested "
        "dicts of arrays"
      )
  return {name: np.asarray(leaf) for name, leaf in jax.device_get(flat).items()}


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `flatten`."""
  return traverse_util.unflatten_dict(dict(flat), sep="/")


def load(path: pathlib.Path) -> dict[str, Any]:
  """What `dump` made, from its file."""
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      return nested({name: file.get_tensor(name) for name in file.keys()})
  except safetensors.SafetensorError as error:
    raise DataError(f"not safetensors: {error}", path=path, remedy=REMEDY) from None


def _sealed(about: Mapping[str, Any]) -> str:
  """`about` as JSON, with the hash of this very text without it."""
  plain = json.dumps(about, indent=2, ensure_ascii=False)
  digest = hashlib.sha256(plain.encode()).hexdigest()
  return json.dumps({**about, "sha256": digest}, indent=2, ensure_ascii=False) + "\n"


def _synced(path: pathlib.Path) -> str:
  """The SHA-256 of a file, once it is on the disk."""
  with open(path, "rb") as file:
    os.fsync(file.fileno())
    return hashlib.file_digest(file, "sha256").hexdigest()
