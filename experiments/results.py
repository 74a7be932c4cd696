"""Results: files that the launcher writes, and the tables of BUILD_NOTES.md made of them.

python -m experiments.results          # the tables, beside the published figures
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import pathlib
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections

from recjax.metrics import statistics as intervals

Table = Mapping[str, Sequence[Mapping[str, float]]]  # system -> a row a seed

_WIDE = 6  # metrics that fit beside each other

FOLDER = pathlib.Path(__file__).parent / "results"
PUBLISHED = pathlib.Path(__file__).parent / "published.json"


def write(
  path: pathlib.Path, config: ml_collections.ConfigDict, table: Table, seconds: float
) -> dict[str, Any]:
  """The config and its hash, the metrics of every seed and their spread, duration, hardware."""
  plain = portable(config)
  record = {
    "config": plain,
    "config_sha256": hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest(),
    "date": datetime.date.today().isoformat(),
    "hardware": hardware(),
    "training_seconds": round(seconds, 1),
    "systems": {name: {"seeds": rows, "mean": mean(rows)} for name, rows in table.items()},
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(path.name + ".part")
  part.write_text(json.dumps(record, indent=1) + "\n")
  part.replace(path)
  return record


def portable(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The config without the places of one machine: of an absolute path its last two parts."""

  def shortened(value):
    if isinstance(value, dict):
      return {name: shortened(inner) for name, inner in value.items()}
    if isinstance(value, str) and pathlib.Path(value).is_absolute():
      return "/".join(pathlib.Path(value).parts[-2:])
    return value

  return shortened(json.loads(config.to_json_best_effort()))


def mean(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
  """metric -> its mean over the seeds and, of several, the half-width of the 95% interval.

  There is no interval where a seed's value is not finite.
  """
  found = {}
  for metric in rows[0]:
    if metric == "seed":
      continue
    values = [row[metric] for row in rows]
    found[metric] = {"mean": statistics.fmean(values)}
    if len(values) > 1 and all(map(math.isfinite, values)):
      interval = intervals.t_interval(values)
      found[metric]["half_width"] = (interval.high - interval.low) / 2
  return found


def render(table: Table) -> str:
  """The results as text, a row a system, or a row a metric where there are many of these.

  Means, and after ± the 95% interval over the seeds.
  """
  means = {name: mean(rows) for name, rows in table.items() if rows}
  metrics = sorted({metric for row in means.values() for metric in row})
  cells = [[cell(row[m]) if m in row else "" for m in metrics] for row in means.values()]
  grid = [["", *metrics], *([name, *row] for name, row in zip(means, cells, strict=True))]
  if len(metrics) > _WIDE:
    grid = list(map(list, zip(*grid, strict=True)))
  widths = [max(18, *(len(row[at]) + 2 for row in grid)) for at in range(len(grid[0]))]
  first, *rest = widths
  return "\n".join(
    row[0].ljust(first) + "".join(x.rjust(w) for x, w in zip(row[1:], rest, strict=True))
    for row in grid
  )


def markdown(folder: pathlib.Path = FOLDER) -> str:
  """Every recorded run beside the published figures, in GitHub's form of a table."""
  published = json.loads(PUBLISHED.read_text()) if PUBLISHED.exists() else {}
  lines = [
    "| run | measured | published | seeds | training | date, hardware |",
    "|---|---|---|---|---|---|",
  ]
  for path in sorted(folder.glob("*.json")):
    record = json.loads(path.read_text())
    if "systems" not in record:  # semantic ids have a table of their own
      continue
    system = record["config"]["system"]
    found = record["systems"][system]
    wanted = published.get(path.stem, {})
    shown = [m for m in found["mean"] if m in wanted] or list(found["mean"])
    shown = sorted(shown)
    measured = ", ".join(f"{m} {cell(found['mean'][m])}" for m in shown)
    drawn = record["config"].get("evaluation", {}).get("test_users")
    if drawn:
      measured = f"{measured} (of {drawn:,} users drawn)"
    theirs = ", ".join(f"{m} {wanted[m]:.4f}" for m in shown if m in wanted)
    if "source" in wanted:
      theirs = f"{theirs} ({wanted['source']})"
    spent = f"{record['training_seconds'] / 60:.0f} min"
    told = f"{record['date']}, {record['hardware']}"
    lines.append(
      f"| {path.stem} | {measured} | {theirs} | {len(found['seeds'])} | {spent} | {told} |"
    )
  return "\n".join(lines)


def hardware() -> str:
  """The device and, of a CPU, its model and how many cores the process may use."""
  device = jax.devices()[0]
  if device.platform != "cpu":
    return f"{len(jax.devices())} x {device.device_kind}"
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  return f"{cores} cores of {_cpu_model()}"


def _cpu_model() -> str:
  info = pathlib.Path("/proc/cpuinfo")
  if info.exists():
    for line in info.read_text().splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  return platform.processor() or platform.machine()


def cell(value: Mapping[str, float]) -> str:
  """A mean and, of several seeds, the half-width of its interval."""
  spread = f" ± {value['half_width']:.4f}" if "half_width" in value else ""
  return f"{value['mean']:.4f}{spread}"


if __name__ == "__main__":
  print(markdown())
