"""Checkpoints: Orbax writes, a SHA-256 manifest vouches, nothing unverified is ever loaded.

    FOLDER/step_00001200/state/...      what Orbax saved
                        /meta.json      step, metrics, fingerprint and whatever the loop adds
                        /manifest.json  every file's SHA-256, written and synced last

A folder without a manifest is unfinished; one whose files differ from it is damaged. Orbax
itself restores silently wrong values from a flipped bit, hence the manifest.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import math
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

_logger = logging.getLogger(__name__)

MANIFEST, META, STATE = "manifest.json", "meta.json", "state"


class CheckpointError(RuntimeError):
  """A checkpoint that cannot be written or used. The message names it and the remedy."""


@dataclasses.dataclass(frozen=True)
class Found:
  path: pathlib.Path
  meta: Mapping[str, Any]

  @property
  def step(self) -> int:
    return self.meta["step"]


def worth(metrics: Mapping[str, float], best: str) -> float | None:
  """What `best` makes of metrics, more being better: the metric NAME or, of "-NAME", its negative.

  None where it was not measured; what is no number is worth less than any.
  """
  value = metrics.get(best.removeprefix("-"))
  if value is not None and math.isnan(value):
    return -math.inf
  return -value if value is not None and best.startswith("-") else value


class Checkpoints:
  """The checkpoints of one run: saved asynchronously, kept by recency and by best metric."""

  def __init__(
    self,
    folder: str | os.PathLike,
    *,
    fingerprint: Mapping[str, Any],  # the part of the config that the state depends on
    keep_last: int = 2,
    best: str | None = None,  # a metric of which more is better; "-NAME": less
  ):
    self.folder = pathlib.Path(folder).absolute()
    self._fingerprint = _plain(fingerprint)
    self._keep_last, self._best = keep_last, best
    self._orbax = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
    self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
    self._pending: concurrent.futures.Future | None = None
    _check_writable(self.folder)

  def save(self, state: Any, meta: Mapping[str, Any]) -> None:
    """Starts to save; returns when the arrays are copied off the devices.

    `meta` needs `step`, may have `metrics`, and must be JSON. An error of the save before is
    raised here.
    """
    self.wait()
    path = self.folder / f"step_{meta['step']:08d}"
    meta = {**meta, "fingerprint": self._fingerprint}
    text = json.dumps(meta, indent=1, sort_keys=True)
    if jax.process_index() == 0 and path.exists():
      shutil.rmtree(path)  # unfinished or damaged, or it would not be saved again
    _together("save")
    try:
      self._orbax.save(path / STATE, args=ocp.args.StandardSave(state))
    except (OSError, ValueError) as error:  # TensorStore tells of a full disk by a ValueError
      raise self._failed(path, error) from error
    self._pending = self._thread.submit(self._finish, path, text)

  def wait(self, *, alone: bool = False) -> None:
    """Until nothing is being saved, in any process. Raises if the last save failed.

    A process that an error is ending waits `alone`: the others are elsewhere.
    """
    pending, self._pending = self._pending, None
    if pending is not None:
      pending.result()
      if not alone:
        _together("saved")  # process 0 vouches; the others must not look before it has

  def close(self, *, alone: bool = False) -> None:
    self.wait(alone=alone)
    self._thread.shutdown()
    self._orbax.close()

  def finished(self) -> list[Found]:
    """Those with a manifest, oldest first; whether they are whole is not looked at."""
    return finished(self.folder)

  def best(self) -> Found | None:
    """The one with the best metric, the earlier of equals; None where none was measured."""
    return next(iter(self.ranked()), None)

  def ranked(self) -> list[Found]:
    """Those that were measured, the best first, the earlier of equals."""
    measured = [f for f in self.finished() if self._metric(f) is not None]
    return sorted(measured, key=lambda f: (-self._metric(f), f.step))

  def restore_latest(self, like: Any) -> tuple[Any, Mapping[str, Any]] | None:
    """The newest whole checkpoint as (state, meta), or None where there is none.

    `like` gives shapes, dtypes and shardings, which may be of another mesh. A damaged newest
    one is passed over with a warning; one of another config is an error.
    """
    found = self.finished()
    for each in reversed(found):
      try:
        verify(each.path)
      except CheckpointError as error:
        _logger.warning("%s Falling back to the checkpoint before it.", error)
        continue
      check(each, self._fingerprint)
      return restore(each.path, like), each.meta
    if found:
      raise CheckpointError(
        f"all {len(found)} checkpoints in {self.folder} are damaged. Start again in a new folder."
      )
    return None

  def _finish(self, path: pathlib.Path, meta: str) -> None:
    """In the thread: waits for Orbax, then vouches for the files, then forgets old ones."""
    try:
      self._orbax.wait_until_finished()
      if jax.process_index() == 0:
        _write_synced(path / META, meta)
        _write_synced(path / MANIFEST, json.dumps(_digests(path), indent=1, sort_keys=True))
        self._forget(path)
    except (OSError, ValueError) as error:
      raise self._failed(path, error) from error

  def _forget(self, newest: pathlib.Path) -> None:
    """Removes all but the last ones up to `newest` and the best, and what was never finished.

    What claims a later step was passed over as damaged: it must not count as one of the last.
    """
    found = [f for f in self.finished() if f.path.name <= newest.name]
    kept = {f.path for f in found[-self._keep_last :]}
    best = self.best()
    if best is not None:
      kept.add(best.path)
    for path in sorted(self.folder.glob("step_*")):
      if path.name < newest.name and path not in kept:
        (path / MANIFEST).unlink(missing_ok=True)  # first: half removed must not look whole
        shutil.rmtree(path)

  def _metric(self, found: Found) -> float | None:
    return None if self._best is None else worth(found.meta.get("metrics", {}), self._best)

  def _failed(self, path: pathlib.Path, error: Exception) -> CheckpointError:
    last = self.finished()
    kept = f"The last good one is {last[-1].path}." if last else "There is no earlier one."
    return CheckpointError(
      f"could not write {path}: {error}. {kept} Make room (or the folder writable) and run again:"
      " it goes on from there."
    )


def check(found: Found, fingerprint: Mapping[str, Any], *, part: bool = False) -> None:
  """Raises where a checkpoint was made with another config; of a `part`, what it tells counts."""
  theirs, ours = _leaves(found.meta.get("fingerprint", {})), _leaves(_plain(fingerprint))
  # What was not yet told then is no difference: code that has grown reads older checkpoints.
  changed = [
    f"{name}: {then!r} then, {ours.get(name)!r} now"
    for name, then in sorted(theirs.items())
    if then != ours.get(name) and (name in ours or not part)
  ]
  changed += [  # what was nothing and is a section now
    f"{name}: {then!r} then, a section now"
    for name, then in sorted(theirs.items())
    if name not in ours and any(now.startswith(f"{name}.") for now in ours)
  ]
  if changed:
    raise CheckpointError(
      f"{found.path} was made with another config: {'; '.join(changed)}. Take the old config, "
      "or a new folder."
    )


def _plain(fingerprint: Mapping[str, Any]) -> Any:
  """As it is read again from a file."""
  return json.loads(json.dumps(fingerprint, default=str))


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
  """Dotted name -> value."""
  if not isinstance(tree, dict) or not tree:
    return {prefix: tree}
  found = {}
  for name, value in tree.items():
    found |= _leaves(value, f"{prefix}.{name}" if prefix else name)
  return found


def finished(folder: str | os.PathLike) -> list[Found]:
  """The checkpoints under `folder` that have a manifest, oldest first."""
  found = []
  for path in sorted(pathlib.Path(folder).glob("step_*")):
    if not (path / MANIFEST).exists():
      continue
    found.append(Found(path, _meta(path)))
  return found


def _meta(path: pathlib.Path) -> Mapping[str, Any]:
  """What its manifest vouches for; of a damaged one the step alone, which its name tells."""
  try:
    text = (path / META).read_bytes()
    vouched = json.loads((path / MANIFEST).read_text())["files"][META]
    if hashlib.sha256(text).hexdigest() == vouched:
      return json.loads(text)
  except (OSError, ValueError, KeyError, TypeError):
    pass
  return {"step": int(path.name.removeprefix("step_"))}


def verify(path: str | os.PathLike) -> None:
  """Raises unless every file is there, byte for byte, and no other."""
  path = pathlib.Path(path)
  if not (path / MANIFEST).exists():
    raise CheckpointError(f"{path} has no {MANIFEST}: it is unfinished, or no checkpoint of ours.")
  try:
    stored = json.loads((path / MANIFEST).read_text())
    stored_files = dict(stored["files"])
    vouched = stored["self"] == _digest_of(stored_files)
  except (ValueError, KeyError, TypeError):
    vouched = False
  if not vouched:
    raise CheckpointError(f"{path / MANIFEST} is damaged.")
  there = _digests(path)["files"]
  for name in sorted(stored_files.keys() | there.keys()):
    if name not in there:
      raise CheckpointError(f"{path} is damaged: {name} is missing.")
    if name not in stored_files:
      raise CheckpointError(f"{path} is damaged: {name} was not there when it was saved.")
    if stored_files[name] != there[name]:
      raise CheckpointError(f"{path} is damaged: {name} has changed since it was saved.")


def restore(path: str | os.PathLike, like: Any) -> Any:
  """The state of a verified checkpoint, in the shapes, dtypes and shardings of `like`."""
  verify(path)
  path = pathlib.Path(path).absolute()
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)), like
  )
  with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as orbax:
    try:
      return orbax.restore(path / STATE, args=ocp.args.StandardRestore(abstract))
    except (ValueError, KeyError, TypeError) as error:
      raise CheckpointError(
        f"{path} does not hold this model's state: {error}. Was it made by another system or"
        " optimiser?"
      ) from error


def _together(name: str) -> None:
  """Waits for all processes."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def _digests(path: pathlib.Path) -> dict[str, Any]:
  files = {}
  for each in sorted(path.rglob("*")):
    if each.is_file() and each != path / MANIFEST:
      with each.open("rb") as file:
        files[str(each.relative_to(path))] = hashlib.file_digest(file, "sha256").hexdigest()
  return {"files": files, "self": _digest_of(files)}


def _digest_of(files: Mapping[str, str]) -> str:
  return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _write_synced(path: pathlib.Path, text: str) -> None:
  """Beside, synced, renamed, and the folder synced: after a crash it is whole or not there."""
  beside = path.with_suffix(".tmp")
  with beside.open("w") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(beside, path)
  folder = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(folder)
  finally:
    os.close(folder)


def _check_writable(folder: pathlib.Path) -> None:
  probe = folder / f".writable.{os.getpid()}"
  try:
    folder.mkdir(parents=True, exist_ok=True)
    probe.write_text("")
    probe.unlink(missing_ok=True)  # another machine's process may have the same number
  except OSError as error:
    raise CheckpointError(
      f"cannot write to {folder}: {error}. Choose another --workdir, before any work is lost."
    ) from error
