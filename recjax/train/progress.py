"""Progress bars with rate and time left, on a terminal; elsewhere nothing is shown."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import tqdm


def bar(total: int, *, unit: str, desc: str, initial: int = 0) -> tqdm.tqdm:
  """Of the first process alone."""
  quiet = True if jax.process_index() else None  # None: as the stream is a terminal or not
  return tqdm.tqdm(
    total=total, initial=initial, unit=unit, desc=desc, disable=quiet, dynamic_ncols=True,
    leave=False,
  )  # fmt: skip


def show(shown: tqdm.tqdm, metrics: Mapping[str, float]) -> None:
  """The last metrics, behind the bar."""
  shown.set_postfix({name: f"{value:.4g}" for name, value in metrics.items()})


# A context for what is printed or logged while a bar is shown: it stands above it.
above = tqdm.tqdm.external_write_mode
