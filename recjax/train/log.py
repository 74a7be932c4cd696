"""What a run tells: metrics.jsonl for machines, TensorBoard events, and one line a report."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import resource
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

_logger = logging.getLogger(__name__)

# Peak dense matmul FLOP/s of one device in bfloat16, from the makers' data sheets.
_PEAK = {
  "TPU v3": 61.5e12,  # a core
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5": 459e12,
  "TPU v5p": 459e12,
  "TPU v6 lite": 918e12,
  "TPU v6e": 918e12,
  "NVIDIA A100": 312e12,
  "NVIDIA H100": 989e12,
  "NVIDIA H200": 989e12,
  "Tesla V100": 125e12,
  "Tesla T4": 65e12,
  "NVIDIA L40S": 362e12,
  "NVIDIA L4": 121e12,
}


class Log:
  """Writes from process 0 only. Lines past `resume_from` belong to a life that was lost: cut."""

  def __init__(self, folder: str | os.PathLike | None, *, resume_from: int = 0):
    self._file = self._events = None
    if folder is None or jax.process_index() != 0:
      return
    from tensorboardX import SummaryWriter  # here: half a second that imports need not pay

    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "metrics.jsonl"
    _cut(path, resume_from)
    self._file = path.open("a")
    self._events = SummaryWriter(os.fspath(folder / "events"), purge_step=resume_from + 1)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """One line of metrics.jsonl, the same as TensorBoard scalars, and on the console."""
    shown = " ".join(f"{k} {v:.5g}" for k, v in values.items() if not k.startswith("perf/"))
    speed = values.get("perf/examples_per_s")
    _logger.info("step %d: %s%s", step, shown, "" if speed is None else f" ({speed:.0f}/s)")
    if self._file is not None:
      self._file.write(json.dumps({"step": step, **values}) + "\n")
      self._file.flush()
      for name, value in values.items():
        # TensorBoard has no @ in names, and its writer tells so of each.
        self._events.add_scalar(name.replace("@", "_"), value, step)

  def close(self) -> None:
    if self._file is not None:
      self._file.close()
      self._events.close()


def peak_flops() -> float | None:
  """Of all devices together: by data sheet, measured on a CPU, None where unknown."""
  device = jax.devices()[0]
  if device.platform == "cpu":
    return _measured_peak()
  known = [name for name in _PEAK if device.device_kind.startswith(name)]
  return _PEAK[max(known, key=len)] * jax.device_count() if known else None


def memory() -> dict[str, float]:
  """Peak bytes: of the process, and of the first device where the backend counts them."""
  host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux
  stats: Mapping[str, Any] = jax.local_devices()[0].memory_stats() or {}
  device = {"perf/device_peak_bytes": stats["peak_bytes_in_use"]} if stats else {}
  return {"perf/host_peak_bytes": float(host), **device}


def _measured_peak(size: int = 1024, rounds: int = 5) -> float:
  """FLOP/s of a float32 matmul that fits the cache, the best of a few."""
  import time

  x = jnp.ones((size, size), jnp.float32)
  matmul = jax.jit(lambda a: a @ a)
  matmul(x).block_until_ready()
  times = []
  for _ in range(rounds):
    start = time.perf_counter()
    matmul(x).block_until_ready()
    times.append(time.perf_counter() - start)
  return 2 * size**3 / min(times)


def _cut(path: pathlib.Path, last: int) -> None:
  if not path.exists():
    return
  kept = []
  for line in path.read_text().splitlines():
    try:
      if json.loads(line)["step"] > last:
        break
    except (ValueError, KeyError):
      break  # the torn last line of a killed run
    kept.append(line + "\n")
  beside = path.with_suffix(".tmp")
  beside.write_text("".join(kept))
  os.replace(beside, path)
