"""What the host keeps between reports: sums not yet told, the best so far, the clock."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from recjax.data import loader
from recjax.train import checkpoint, log


class BadLoss(RuntimeError):
  """A loss that is not finite or exploded: the step, the batch and the way back."""


class Meter:
  """What the host keeps between reports: sums not yet told, the best so far, the clock."""

  def __init__(
    self,
    saved: checkpoint.Checkpoints | None,
    *,
    best: str | None,
    max_loss: float,
  ):
    self._saved, self._name, self._max_loss = saved, best, max_loss
    self.pending: tuple | None = None  # metrics of the group in flight
    self.sums: dict[str, list[float]] = {}  # name -> [sum, weight] since the last report
    self.metrics: dict[str, float] = {}  # the last evaluation
    self.best: tuple[float, int] | None = None  # (worth, step)
    self.stale = 0  # evaluations since the best
    self._peak = 0.0
    self._earlier, self._began = 0.0, None  # seconds of earlier lives, when this one began
    self._restart(0)

  def _restart(self, at: int) -> None:
    self._since, self._from = time.perf_counter(), at
    self.waited = self.paused = self.flops = 0.0
    self._at = at

  def loaded(self, seconds: float) -> None:
    """Input took this long to come; the device waited for it only if it had nothing to do."""
    if self._began is None:
      self._began = time.perf_counter() - seconds
    if self.pending is None or all(x.is_ready() for x in jax.tree.leaves(self.pending[2])):
      self.waited += seconds

  def resume(self, meta: Mapping[str, Any]) -> None:
    kept = meta["meter"]
    self.sums = {name: list(pair) for name, pair in kept["sums"].items()}
    self.metrics, self.stale = dict(kept["metrics"]), kept["stale"]
    self.best = tuple(kept["best"]) if kept["best"] else None
    self._earlier = kept.get("seconds", 0.0)
    self._restart(meta["step"])

  def kept(self) -> dict[str, Any]:
    own = {"sums": self.sums, "metrics": self.metrics, "best": self.best, "stale": self.stale}
    return {**own, "seconds": self.seconds}

  @property
  def seconds(self) -> float:
    """Spent in training, evaluation and compiling included, over all lives of the run."""
    return self._earlier + (time.perf_counter() - self._began if self._began else 0.0)

  def fetch(self) -> None:
    """Waits for the metrics of the pending group and adds them; a bad loss ends the run here."""
    if self.pending is None:
      return
    at, size, metrics, train = self.pending
    self.pending = None
    host = jax.device_get(metrics)
    for nth in range(size):
      values = {name: [float(np.ravel(x)[nth]) for x in pair] for name, pair in host.items()}
      self._check(at + nth, values, train)
      for name, (total, weight) in values.items():
        into = self.sums.setdefault(name, [0.0, 0.0])
        into[0] += total
        into[1] += weight
    self._at = at + size

  def report(self, batch_size: float) -> dict[str, float]:
    """Means since the last report, and how fast it went."""
    means = {n: t / w for n, (t, w) in self.sums.items() if w}  # all may have been skipped
    self.sums = {}
    count = self._at - self._from
    spent = max(time.perf_counter() - self._since - self.paused, 1e-9)
    perf = {
      "perf/examples_per_s": count * batch_size / spent,
      "perf/step_ms": 1e3 * spent / max(count, 1),
      "perf/input_wait": self.waited / spent,
      **log.memory(),
    }
    if self.flops:
      self._peak = self._peak or log.peak_flops() or -1.0
      perf["perf/flops_per_s"] = self.flops / spent
      if self._peak > 0:
        perf["perf/mfu"] = perf["perf/flops_per_s"] / self._peak
    self._restart(self._at)
    return {**means, **perf}

  def evaluated(self, at: int, measured: Mapping[str, float]) -> None:
    self.metrics = dict(measured)
    name = self._name
    if name is None:
      return
    value = checkpoint.worth(measured, name)
    if value is None:
      raise ValueError(f"no metric {name!r} to choose by; measured: {', '.join(sorted(measured))}")
    if self.best is None or value > self.best[0]:
      self.best, self.stale = (value, at), 0
    else:
      self.stale += 1

  def _check(self, at: int, values: Mapping[str, list[float]], train: loader.Batches) -> None:
    total, weight = values["loss"]
    norm = values["grad_norm"][0]
    mean = total / weight if weight else 0.0
    if math.isfinite(mean) and math.isfinite(norm) and abs(mean) <= self._max_loss:
      return
    last = []
    if self._saved is not None:
      self._saved.wait()  # the newest may be on its way
      last = self._saved.finished()
    raise BadLoss(
      f"step {at}: the loss is {mean} and the gradient's norm {norm}, on the batch with hash"
      f" {_hash(train[at])}."
      f" The last good checkpoint is {last[-1].path if last else 'none'}."
      " Set skip_bad to go on and leave such updates out; or take a lower learning rate or a"
      " clipped gradient, in a new folder."
    )


def _hash(batch: loader.HostBatch) -> str:
  digest = hashlib.sha256()
  for name in sorted(batch):
    digest.update(name.encode())
    digest.update(np.ascontiguousarray(batch[name]).tobytes())
  return digest.hexdigest()[:16]
