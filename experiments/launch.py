"""What every script does first; import it before anything else, jax and numpy too.

The allocator is set on import: other modules start threads as they are imported (pyarrow does), a
thread that allocates gets a heap of its own, and a heap of a thread gives memory back to the
system and faults it in again at each step. Whichever thread of XLA's inherits it is slow: a
training step of TIGER took 250 ms where the same run went on at 180 (BUILD_NOTES.md).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from recjax.train import allocator

allocator.keep_freed_memory()


def prepare(*, devices: int = 2) -> None:
  """Before any device is used: how many the CPU shows, and who may speak.

  A batch that is split over two devices on a CPU of several cores trains faster than on one that
  uses all the cores.
  """
  from absl import logging as absl_logging  # after the allocator, as all the rest

  from recjax.train import process

  process.host_devices(min(devices, os.cpu_count() or 1))
  absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax tells a page a checkpoint
  for name in ("recjax", "experiments"):
    logging.getLogger(name).setLevel(logging.INFO)


def start(main: Callable[[], None]) -> None:
  """A script's `main` after its flags are read; what is no flag is an error, not left aside.

  Of an error that says what to do, the message is all that is printed.
  """
  from absl import app

  from recjax.data.errors import DataError
  from recjax.train.checkpoint import CheckpointError

  def checked(argv: list[str]) -> None:
    if argv[1:]:
      raise app.UsageError(f"no such argument: {' '.join(argv[1:])}; options are --NAME=VALUE")
    try:
      main()
    except (DataError, CheckpointError) as error:
      raise SystemExit(str(error)) from None

  app.run(checked)
