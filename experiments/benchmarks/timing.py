"""How every figure is measured: ours and the peer in turn, medians, the spread beside them."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

Figure = dict[str, Any]  # name value unit peer peer_value ratio floor spread, and whatever helps
Suite = Callable[[], Iterator[Figure]]


def seconds(
  *runs: Callable[[], object], rounds: int = 7, warmup: int = 1
) -> tuple[list[float], ...]:
  """The wall seconds of each callable, run in turn (A B A B ...), warm-up not counted.

  A callable must not return before its work is done (`jax.block_until_ready`).
  """
  taken: tuple[list[float], ...] = tuple([] for _ in runs)
  for turn in range(warmup + rounds):
    for run, times in zip(runs, taken, strict=True):
      start = time.perf_counter()
      run()
      if turn >= warmup:
        times.append(time.perf_counter() - start)
  return taken


def rate(
  name: str,
  unit: str,
  work: float,
  ours: list[float],
  peer: str | None = None,
  theirs: list[float] | None = None,
  **more: Any,
) -> Figure:
  """A figure in `unit` (work a second) from seconds taken; `ratio` above 1: ours is better."""
  figure: Figure = {"name": name, "value": work / statistics.median(ours), "unit": unit}
  if theirs:
    figure |= {"peer": peer, "peer_value": work / statistics.median(theirs)}
    figure["ratio"] = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
  return figure | {"spread": spread(ours), "rounds": len(ours)} | more


def cost(name: str, unit: str, value: float, **more: Any) -> Figure:
  """A figure of which less is better (seconds, bytes), with no peer."""
  return {"name": name, "value": value, "unit": unit} | more


def absent(name: str, package: str) -> Figure:
  """Said in place of a ratio when the peer is not installed."""
  return {"name": name, "peer": package, "missing": f"pip install {package}"}


def spread(times: list[float]) -> float:
  """(max - min) / median of the rounds: how noisy the machine was."""
  return (max(times) - min(times)) / statistics.median(times)


def line(figure: Figure) -> str:
  """One JSON line, numbers at four significant digits."""
  return json.dumps(
    {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in figure.items()}
  )
