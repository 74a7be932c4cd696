"""Weights in and out: a Hugging Face folder <-> a tree of params, by rules written out by name.

A folder holds config.json and model.safetensors, or shards and model.safetensors.index.json.
Nothing is unpickled. A model brings a list of `Rule`; every tensor that no rule knows, that a
rule misses, or whose shape is wrong, is named in one error.
"""

from __future__ import annotations

import fnmatch
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from recjax.data.errors import DataError
from recjax.types import Params

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = WEIGHTS + ".index.json"
Tensors = dict[str, np.ndarray]


class Rule(NamedTuple):
  """One tensor of a checkpoint and its place in the params."""

  name: str  # "encoder.block.0.layer.0.SelfAttention.q.weight"
  path: str  # "encoder/layer_0/attention/query"
  transpose: bool = False  # a torch Linear keeps [out, in], ours [in, out]


def read(
  folder: str | os.PathLike, *, names: tuple[str, str] = (CONFIG, WEIGHTS)
) -> tuple[dict[str, Any], Tensors]:
  """The config and every tensor of a Hugging Face folder; floats of any width as float32."""
  folder, (about, file) = pathlib.Path(folder), names
  if not folder.is_dir():
    raise DataError("no such folder", path=folder, remedy=f"Give the folder that holds {about}.")
  config = _json(folder / about)
  if (folder / file).exists():
    return config, _tensors(folder / file)
  if (folder / INDEX).exists() and file == WEIGHTS:
    return config, _shards(folder)
  if any(folder.glob("*.bin")):
    raise DataError(
      "the weights are pickled (.bin), and recjax never unpickles",
      path=folder,
      remedy="Convert them where you trust them: AutoModel.from_pretrained(folder)"
      ".save_pretrained(folder, safe_serialization=True).",
    )
  missing = f"no {WEIGHTS} and no {INDEX}" if file == WEIGHTS else f"no {file}"
  raise DataError(missing, path=folder, remedy="Download the whole folder.")


def write(
  folder: str | os.PathLike,
  config: Mapping[str, Any],
  tensors: Mapping[str, Any],
  *,
  names: tuple[str, str] = (CONFIG, WEIGHTS),
) -> None:
  """Write a folder that `read` and `transformers` load; each file appears whole or not at all."""
  folder, (about, file) = pathlib.Path(folder), names
  folder.mkdir(parents=True, exist_ok=True)
  # safetensors writes the buffer as it lies, so a transposed view must be laid out anew.
  arrays = {name: np.ascontiguousarray(t).reshape(np.shape(t)) for name, t in tensors.items()}
  data = safetensors.numpy.save(arrays, metadata={"format": "pt"})
  _replace(folder / file, data)
  _replace(folder / about, (json.dumps(dict(config), indent=2) + "\n").encode())


def fill(
  rules: Sequence[Rule],
  tensors: Mapping[str, np.ndarray],
  template: Params,
  *,
  ignore: Iterable[str] = (),
) -> Params:
  """The params of `template`'s structure (arrays or ShapeDtypeStruct), from a checkpoint.

  `ignore` lists patterns (`*.position_ids`) of tensors that may be there and are not needed.
  """
  wanted = traverse_util.flatten_dict(template, sep="/")
  params, problems = {}, []
  for name, path, transpose in rules:
    if path not in wanted:
      problems.append(f"no such parameter: {path} (for {name})")
    elif name not in tensors:
      problems.append(f"missing: {name} {_shape(wanted[path].shape, transpose)}")
    elif tensors[name].shape != _shape(wanted[path].shape, transpose):
      shape = _shape(wanted[path].shape, transpose)
      problems.append(f"mis-shaped: {name} is {tensors[name].shape}, expected {shape}")
    elif not np.isfinite(tensors[name]).all():
      problems.append(f"not finite: {name}")
    else:
      value = tensors[name].T if transpose else tensors[name]
      params[path] = np.ascontiguousarray(value, wanted[path].dtype).reshape(wanted[path].shape)
  known, ignore = {rule.name for rule in rules}, tuple(ignore)
  for name in tensors:
    if name not in known and not any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore):
      problems.append(f"unknown: {name} {tensors[name].shape}")
  for path in wanted.keys() - {rule.path for rule in rules}:
    problems.append(f"no rule fills {path}")
  if problems:
    raise DataError(
      f"the checkpoint does not fit the model ({len(problems)} problems):\n  "
      + "\n  ".join(sorted(problems)),
      remedy="\nIs config.json the one that belongs to these weights, and of this kind of model?",
    )
  return traverse_util.unflatten_dict(params, sep="/")


def empty(rules: Sequence[Rule], params: Params) -> Tensors:
  """The tensors of a checkpoint, from params: the inverse of `fill`."""
  flat = traverse_util.flatten_dict(params, sep="/")
  missing = sorted({rule.path for rule in rules} ^ flat.keys())
  if missing:
    raise DataError(
      f"rules and params differ in {', '.join(missing)}",
      remedy="The params must be of the same config as the rules.",
    )
  arrays = {rule.name: np.asarray(flat[rule.path]) for rule in rules}
  return {rule.name: arrays[rule.name].T if rule.transpose else arrays[rule.name] for rule in rules}


def _shape(shape: tuple[int, ...], transpose: bool) -> tuple[int, ...]:
  return tuple(shape[::-1]) if transpose else tuple(shape)


def _json(path: pathlib.Path) -> dict[str, Any]:
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise DataError("no such file", path=path, remedy="Download the whole folder.") from None
  except ValueError as error:
    raise DataError(f"not valid JSON: {error}", path=path, remedy="Download it again.") from None
  if not isinstance(value, dict):
    raise DataError("not a JSON object", path=path, remedy="Download it again.")
  return value


def _shards(folder: pathlib.Path) -> Tensors:
  where = _json(folder / INDEX).get("weight_map")
  if not isinstance(where, dict) or not all(isinstance(f, str) for f in where.values()):
    raise DataError("no `weight_map`", path=folder / INDEX, remedy="Download it again.")
  tensors: Tensors = {}
  for file in sorted(set(where.values())):
    if pathlib.PurePath(file).name != file or "\\" in file:
      raise DataError(
        f"the shard {file!r} lies outside the folder",
        path=folder / INDEX,
        remedy="Do not trust this checkpoint.",
      )
    shard = _tensors(folder / file)
    named = {name for name, home in where.items() if home == file}
    if shard.keys() != named:
      raise DataError(
        f"the index and the shard differ in {', '.join(sorted(shard.keys() ^ named))}",
        path=folder / file,
        remedy="Index and shards must come from one download.",
      )
    tensors |= shard
  return tensors


def _tensors(path: pathlib.Path) -> Tensors:
  if not path.exists():
    raise DataError("no such file", path=path, remedy="Download every shard the index names.")
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      return {name: _float32(file.get_tensor(name)) for name in file.keys()}
  except safetensors.SafetensorError as error:
    raise DataError(
      f"truncated or corrupt safetensors: {error}", path=path, remedy="Download it again."
    ) from None


def _float32(x: np.ndarray) -> np.ndarray:
  floating = np.issubdtype(x.dtype, np.floating) or x.dtype == ml_dtypes.bfloat16
  return x.astype(np.float32) if floating else x


def _replace(path: pathlib.Path, data: bytes) -> None:
  part = path.with_name(path.name + ".part")
  with open(part, "wb") as file:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
  os.replace(part, path)
