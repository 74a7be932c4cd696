"""What is wrong with the data: which file, which line, and what to do about it."""

from __future__ import annotations

import dataclasses
import os


class DataError(ValueError):
  """Input that cannot be used. The message names the place and the remedy."""

  def __init__(
    self,
    problem: str,
    *,
    path: str | os.PathLike | None = None,
    line: int | None = None,
    remedy: str = "",
  ):
    self.problem, self.path, self.line, self.remedy = problem, path, line, remedy
    place = "" if path is None else f"{os.fspath(path)}:" + ("" if line is None else f"{line}:")
    super().__init__(" ".join(part for part in (place, problem.rstrip(".") + ".", remedy) if part))


@dataclasses.dataclass(frozen=True)
class Skipped:
  """What `on_error="skip"` left out."""

  count: int = 0
  first: tuple[str, ...] = ()  # the first few errors, whole

  def __add__(self, other: Skipped) -> Skipped:
    return Skipped(self.count + other.count, (self.first + other.first)[:5])
