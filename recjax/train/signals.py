"""SIGTERM and SIGINT as a wish that all processes hear at the same step."""

from __future__ import annotations

import os
import signal
import threading
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils


class Stop:
  """A context in which the first SIGTERM or SIGINT is noted; a second SIGINT interrupts at once.

  Enter it after `jax.distributed.initialize`, which installs a handler of its own.
  """

  def __init__(self):
    self.signal: int | None = None
    self._old: dict[int, object] = {}

  def __enter__(self) -> Stop:
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        self._old[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *exception) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)

  def agreed(self) -> bool:
    """Whether any process was asked to stop. All processes must call it at the same step."""
    if jax.process_count() == 1:
      return self.signal is not None
    wishes = multihost_utils.process_allgather(np.int32(self.signal or 0))
    if self.signal is None and wishes.any():
      self.signal = int(wishes.max())
    return bool(wishes.any())

  def _note(self, number, frame):
    if self.signal is not None and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.signal = number


def leave(number: int, workdir: str | os.PathLike | None) -> NoReturn:
  """Ends the program after a training that a signal stopped; the exit status is 128 and its number.

  A shell and a scheduler tell by it that the work is not done.
  """
  kept = "nothing was kept" if workdir is None else f"the same command goes on from {workdir}"
  print(f"Stopped by signal {number}: {kept}.", flush=True)
  raise SystemExit(128 + number)
