"""Training in stages: pretrain, then fine-tune; a frozen language model, then an adapter.

A later stage starts from an earlier one by a strict, named mapping of parameters: what it names
must be there on both sides, in the same shapes; what it does not name starts afresh. Or by a
function of the earlier parameters, which gives all of its own.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from recjax.data import loader
from recjax.train import evaluate, loop
from recjax.train import mesh as meshes
from recjax.types import Assets, Params, System

# Prefixes of paths, ours -> theirs, or theirs -> all of ours.
Shared = Mapping[str, str] | Callable[[Params], Params]


class Stage(NamedTuple):
  name: str  # its folder below the run's
  system: System
  assets: Assets
  train: loader.Batches
  cfg: loop.Config
  suites: Sequence[evaluate.Suite] = ()
  # An earlier stage, and which of its parameters become which of ours: {"": ""} takes everything,
  # {"user_encoder": "encoder"} one module.
  init_from: tuple[str, Shared] | None = None


def run(
  stages: Sequence[Stage],
  *,
  workdir: str | os.PathLike | None = None,
  mesh: Mesh | None = None,
  rules: meshes.Rules = (),
  fingerprint: Mapping[str, Any] | None = None,  # further config that a resumed run must share
) -> dict[str, loop.Result]:
  """Every stage in turn; one that was finished before is only read. Ends early on a signal."""
  results: dict[str, loop.Result] = {}
  for stage in stages:
    init = None
    if stage.init_from is not None:
      source, mapping = stage.init_from
      if source not in results:
        raise ValueError(
          f"stage {stage.name!r} starts from {source!r}, which is none of the stages before it: "
          f"{', '.join(results) or 'there are none'}"
        )

      def init(fresh, old=results[source].params, mapping=mapping):
        return transfer(fresh, old, mapping)

    results[stage.name] = loop.fit(
      stage.system,
      stage.assets,
      stage.train,
      stage.cfg,
      suites=stage.suites,
      workdir=None if workdir is None else pathlib.Path(workdir) / stage.name,
      mesh=mesh,
      rules=rules,
      init_from=init,
      fingerprint={**(fingerprint or {}), "init_from": _named(stage.init_from, results)},
    )
    if results[stage.name].stopped_by is not None:
      break
  return results


def transfer(new: Params, old: Params, mapping: Shared) -> Params:
  """`new` with the parameters that `mapping` (prefix of ours -> prefix of theirs) names from `old`.

  The longest prefix that fits decides. One error lists everything that does not fit.
  """
  if callable(mapping):
    return transfer(new, mapping(old), {"": ""})
  theirs = {meshes.path_name(p): x for p, x in jax.tree_util.tree_flatten_with_path(old)[0]}
  used: set[str] = set()
  faults: list[str] = []
  matched: set[str] = set()

  def pick(path, fresh):
    name = meshes.path_name(path)
    prefix = max((p for p in mapping if _under(name, p)), key=len, default=None)
    if prefix is None:
      return fresh
    matched.add(prefix)
    rest = name[len(prefix) :].lstrip("/")
    source = "/".join(part for part in (mapping[prefix], rest) if part)
    if source not in theirs:
      faults.append(f"{name} should come from {source}, which is not there")
      return fresh
    used.add(source)
    if np.shape(theirs[source]) != np.shape(fresh):
      faults.append(f"{name} has shape {np.shape(fresh)}, {source} {np.shape(theirs[source])}")
      return fresh
    return theirs[source]

  moved = jax.tree_util.tree_map_with_path(pick, new)
  faults += [f"no parameter of ours is under {p!r}" for p in mapping if p not in matched]
  faults += [
    f"{name} would be left behind"
    for name in theirs
    if name not in used and any(_under(name, p) for p in mapping.values())
  ]
  if faults:
    raise ValueError("the parameters cannot be taken over:\n  " + "\n  ".join(faults))
  return moved


def _named(init_from: tuple[str, Shared] | None, results: Mapping[str, loop.Result]) -> Any:
  """What a stage starts from: another mapping, or a source of more steps, is another start."""
  if init_from is None:
    return None
  source, shared = init_from
  how = f"{shared.__module__}.{shared.__qualname__}" if callable(shared) else shared
  return [source, how, int(results[source].state.step)]


def _under(name: str, prefix: str) -> bool:
  return not prefix or name == prefix or name.startswith(prefix + "/")
