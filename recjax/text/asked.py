"""Instances as evaluation asks them: the answer is an item or a rating in place of its text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from recjax.data.errors import DataError
from recjax.data.examples import Examples
from recjax.text.instances import Instances
from recjax.text.questions import Questions


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
  """A source for `data.loader`: `source` and `words` of the instances, and the answer's columns."""

  of: Instances
  answer: Examples

  def __len__(self) -> int:
    return len(self.of)

  @property
  def lengths(self) -> np.ndarray:
    return self.of.lengths

  @property
  def fingerprint(self) -> str:
    """A hash of what batches are made of, see `Instances`."""
    return self.of.fingerprint

  def widths(self, max_len: int) -> dict[str, int]:
    return {**self.of.widths(max_len), **self.answer.widths(max_len)}

  def gather(self, rows: np.ndarray, widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    batch = self.of.gather(rows, {**widths, "target": self.of.target_len})
    return {"source": batch["source"], "words": batch["words"], **self.answer.gather(rows, widths)}


def ranked(instances: Instances, *, deny_seen: bool = False) -> Asked:
  """`target` [B], the item that answers, and with `deny_seen` the history as `deny`."""
  q = _one_task(instances, "{target}")
  deny = {"deny": q.history} if deny_seen and q.history is not None else {}
  if deny_seen and not deny:
    raise DataError(f"the questions of {q.task!r} have no history to deny")
  return Asked(instances, Examples({"target": q.item}, right=deny))


def rated(instances: Instances) -> Asked:
  """`ratings` [B], the rating that answers."""
  q = _one_task(instances, "{rating}")
  return Asked(instances, Examples({"ratings": q.columns["rating"][q.row].astype(np.float32)}))


def _one_task(instances: Instances, target: str) -> Questions:
  if len(instances.questions) > 1 or instances.cfg.weights:
    raise DataError("evaluation asks one task, every example once", remedy="Leave weights empty.")
  for prompt in instances.prompts:
    if prompt.task == instances.questions[0].task and prompt.target != target:
      raise DataError(
        f"{prompt} is not answered by {target}", remedy="Choose prompts whose target is that."
      )
  return instances.questions[0]
