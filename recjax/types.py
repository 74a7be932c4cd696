"""The contract every recommender fulfils, and the letters that shapes are written in.

A system is a value: a tuple of pure functions over parameters (learned), assets (arrays it
reads and does not learn: a trie, text vectors, a graph) and a batch. Training, evaluation,
checkpoints and export know nothing else of it.

Letters:
  B batch, T time (a history's length), D width, H heads, I items (PAD included), U users,
  V token vocabulary, K results, L levels of a semantic id, C candidates, S source, N anything
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Array = jax.Array
Key = jax.Array
Params = Any
Assets = Any
# A flat dict; every array leads with B. Ids are int32, and 0 (PAD) fills what is empty.
#
#   weight      [B] float32; 0: the row only fills the batch. Every loss reads it
#   user        [B]
#   history     [B, T] oldest first, filled at the left
#   next        [B, T] what follows each place of the history; segment [B, T]: histories of a row
#   alike       [B, T] another user's history, before the same target
#   target      [B], or [B, N] filled at the right; also the item that `ratings` [B] are of
#   candidates  [B, C] to score or to learn from; labels [B, C], or [B] where they are classes
#   allow, deny [B, N] items that alone, or never, are recommended
#   source      [B, S] tokens; words [B, S] the whole word of each; target [B, N] then has tokens
#   vector      [B, D]
#
# A loss reads the most that its system's module says; `recjax.data.examples` makes such batches.
Batch = Mapping[str, Array]
Metrics = Mapping[str, tuple[Array, Array]]  # name -> (sum, weight)

PAD = 0  # the id of no item and of no user; row 0 of every table
FROZEN = "frozen"  # the label, from `System.trainable`, of parameters that do not change


def unpacked(batch: Batch) -> None:
  """An error where rows hold several histories: for systems that would read them as one."""
  if "segment" in batch:
    raise ValueError(
      "these rows hold several histories (`segment`), which this system would mix: batch "
      "`examples.sequences`, not `examples.rows`"
    )


def known(ids: Array, count: int) -> Array:
  """Ids in 0..count-1 as they are, any other as PAD, which means unknown."""
  return jax.numpy.where((ids >= 0) & (ids < count), ids, PAD)


class Ranked(NamedTuple):
  """Items, best first. A place that nothing fills holds PAD and -inf."""

  ids: Array  # [B, K] int32
  scores: Array  # [B, K] float32


class Loss(NamedTuple):
  """A sum and the weight it was summed over: the runtime divides once, over all devices."""

  sum: Array  # []
  weight: Array  # []
  metrics: Metrics = {}
  stats: Any = ()  # what `System.update` needs


class System(NamedTuple):
  """What a recommender can do; what it cannot is None."""

  init: Callable[..., Params] | None = None  # (key, assets, batch) -> params
  loss: Callable[..., Loss] | None = None  # (params, assets, batch, key) -> Loss
  # Answers.
  recommend: Callable[..., Ranked] | None = None  # (params, assets, batch, *, k, key=None)
  score: Callable[..., Array] | None = None  # (params, assets, batch) -> [B, C], or [B, classes]
  generate: Callable[..., Array] | None = None  # (params, assets, batch, *, key=None) -> [B, T]
  embed: Callable[..., Array] | None = None  # (params, assets, batch) -> [B, D]
  # For the few that need them.
  index: Callable[..., Assets] | None = None  # (params, assets) -> assets, once before answering
  update: Callable[..., Params] | None = None  # (params, assets, stats, key) -> params
  trainable: Callable[..., Any] | None = None  # (params) -> labels for optax.multi_transform
  fit: Callable[..., Params] | None = None  # (assets, interactions) -> params, closed form
