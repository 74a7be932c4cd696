"""What a system is asked, and how it is measured: a config's `task`.

| task | split | question | measured |
|---|---|---|---|
| next_item | a user's last event tests, the one before validates | history | full ranking |
| top_n | as given, or by ratio | history | full ranking of all a user's test items |
| sampled | as next_item, or as given | candidates | rank among the candidates |
| rating | as given, or by ratio | user and item | RMSE, MAE |
| impressions | as given, the end of train validates, or by ratio | candidates | AUC, MRR, NDCG |
| prompts | as next_item | in words | as `language` says of each family of questions |
| rating_prompts | as rating | in words | the same |
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import ml_collections
import numpy as np

from experiments import settings, sources
from recjax.data import draws, examples, interactions, loader, negatives, prepare, splits
from recjax.data.errors import DataError
from recjax.data.examples import Examples
from recjax.data.interactions import Impressions, Interactions
from recjax.systems import SYSTEMS
from recjax.train import evaluate
from recjax.types import PAD, Assets, Params, System

_logger = logging.getLogger(__name__)

_VALIDATED = "data.valid is a share of a given training part: here a part validates already"
_PLACES = 2**17  # of a batch of whole histories, as item-kNN reads a hundred neighbours at each


class Task(NamedTuple):
  split: Callable[[sources.Raw, settings.Data], splits.Split]
  # (raw, before, events); None: `language` says what is asked
  asked: Callable[[sources.Raw, Interactions, Interactions], Examples] | None = None
  measure: Callable[[System, settings.Evaluation], evaluate.Measure] | None = None
  ratings: bool = False  # what users thought of it counts, not only that they met it
  impressions: bool = False  # of `Impressions`, not of `Interactions`


def _next_item_split(raw: sources.Raw, cfg: settings.Data) -> splits.Split:
  if cfg.valid:
    raise ValueError("data.valid is for the tasks top_n, rating and sampled, not for this one")
  return raw.split or splits.leave_one_out(raw.interactions)


def _sampled_split(raw: sources.Raw, cfg: settings.Data) -> splits.Split:
  """As given, or by the last events.

  Of a given training part, the last event of a share `data.valid` of the users validates.
  """
  if not cfg.valid:
    return raw.split or splits.leave_one_out(raw.interactions)
  if raw.split is None or len(raw.split.valid):
    raise ValueError(_VALIDATED)
  train = raw.split.train
  start, stop = prepare.bounds(train)
  last = np.flatnonzero((np.arange(len(train)) == stop - 1) & (stop - start > 1))
  rng = np.random.default_rng(cfg.split_seed)
  chosen = np.zeros(len(train), bool)
  chosen[rng.choice(last, round(cfg.valid * len(last)), replace=False)] = True
  return splits.Split(train.take(~chosen), train.take(chosen), raw.split.test)


def _ratio_split(raw: sources.Raw, cfg: settings.Data, unless: float = 0.0) -> splits.Split:
  """As given, or at random, a tenth each for validation and test, each part in the order of users.

  Where the source gives no validation part, a share of its training events is one: `data.valid`, or
  `unless`.
  """
  split = raw.split or _by_user(
    splits.ratio(raw.interactions, valid=0.1, test=0.1, seed=cfg.split_seed)
  )
  if raw.split is None or len(split.valid):
    if cfg.valid:
      raise ValueError(_VALIDATED)
    return split
  share = cfg.valid or unless
  if not share:
    return split
  train, valid, _ = splits.ratio(split.train, valid=share, test=0.0, seed=cfg.split_seed)
  return _by_user(splits.Split(train, valid, split.test))


def _rating_split(raw: sources.Raw, cfg: settings.Data) -> splits.Split:
  """The same, a tenth where nothing else is said: ratings are always validated."""
  return _ratio_split(raw, cfg, unless=0.1)


def _impressions_split(raw: sources.Raw, cfg: settings.Data) -> splits.Split:
  """As given, where the last of the training part validates, a tenth or `data.valid`; or at random.

  At random a tenth each validates and tests. Users of whom nothing is learned are unknown there.
  """
  if raw.split is None:
    if cfg.valid:
      raise ValueError("data.valid is a share of a given training part, and the source gives none")
    train, *others = splits.ratio(raw.interactions, valid=0.1, test=0.1, seed=cfg.split_seed)
  else:
    at = splits.moments(raw.split.train, valid=cfg.valid or 0.1, test=0.0)
    train, valid, _ = splits.temporal(raw.split.train, **at)
    others = valid, raw.split.test
  users = (np.where(np.isin(x.user, train.user), x.user, PAD) for x in others)
  known = (
    dataclasses.replace(x, user=user.astype(np.int32))
    for x, user in zip(others, users, strict=True)
  )
  return splits.Split(train, *known)


def _by_user(split: splits.Split) -> splits.Split:
  return splits.Split(*(x.take(np.argsort(x.user, kind="stable")) for x in split))


def _ranked(system: System, cfg: settings.Evaluation) -> evaluate.Measure:
  by_score = cfg.by_score and system.score is not None
  rank = evaluate.ranking_by_score if by_score else evaluate.ranking_by_list
  return rank(system, cfg.ks)


def _with_candidates(raw: sources.Raw, before: Interactions, events: Interactions) -> Examples:
  """The test events with the candidates that the source gives for each user.

  Other events, those that validate, get as many: their target among items their user has not met,
  drawn alike each time. Nothing of the test is asked for that.
  """
  if raw.candidates is None:
    raise ValueError("the source brings no candidates: this task ranks a target among given ones")
  found = examples.next_events(before, events)
  user, target = found.dense["user"], found.dense["target"]
  width = int(raw.candidates.candidates.lengths.max())
  if raw.split is not None and not _same(events, raw.split.test):
    met = negatives.Positives.of(interactions.concat([before, events]))
    others = negatives.distinct(np.random.default_rng(0), met, user, width - 1)
    shown = np.concatenate([target[:, None], others], axis=1)
  else:
    row = np.full(raw.interactions.num_users, -1)
    row[raw.candidates.user] = np.arange(len(raw.candidates))
    rows = row[user]
    shown = raw.candidates.candidates.right_padded(rows, width)  # [E, C]
    if (rows < 0).any() or (shown != target[:, None]).all(1).any():
      raise ValueError("a test event's target is not among its user's candidates")
  return dataclasses.replace(found, dense={**found.dense, "candidates": shown})


def _same(x: Interactions, y: Interactions) -> bool:
  return np.array_equal(x.user, y.user) and np.array_equal(x.item, y.item)


TASKS: dict[str, Task] = {
  "next_item": Task(
    _next_item_split, lambda raw, before, events: examples.next_events(before, events), _ranked
  ),
  "top_n": Task(_ratio_split, lambda raw, before, events: examples.sets(before, events), _ranked),
  "sampled": Task(
    _sampled_split,
    _with_candidates,
    lambda system, cfg: evaluate.sampled_ranking(system, cfg.ks),
  ),
  "rating": Task(
    _rating_split,
    lambda raw, before, events: examples.events(events),
    lambda system, cfg: evaluate.rating(system),
    ratings=True,
  ),
  "impressions": Task(
    _impressions_split,
    lambda raw, before, events: examples.impressions(events),
    lambda system, cfg: evaluate.clicks(system, cfg.ks),
    impressions=True,
  ),
  "prompts": Task(_next_item_split, ratings=True),
  "rating_prompts": Task(_rating_split, ratings=True),
}

# name -> (train, max_len) -> what one row of a training batch holds
EXAMPLES: dict[str, Callable[[Interactions, int], Examples] | None] = {
  "prompts": None,  # `language` makes them
  "events": lambda train, max_len: examples.events(train),
  "users": lambda train, max_len: examples.events(train),  # drawn anew: see `drawn`
  "prefixes": lambda train, max_len: examples.prefixes(train),
  "alike": lambda train, max_len: examples.prefixes(train),  # each beside one of the same target
  "sequences": lambda train, max_len: examples.sequences(train, max_len, stride=max_len),
  "rows": lambda train, max_len: examples.rows(train, max_len),
  "impressions": lambda train, max_len: examples.clicks(train),  # negatives drawn: see `drawn`
}


class Questions(Protocol):
  """What a run's system learns from and is asked."""

  on_ids: bool  # it reads or writes semantic ids
  shown: bool  # answers are items to show to users: who is asked for a rating has no history
  served: bool  # it can be asked without the run, see `recjax.Recommender`
  needs_sums: bool  # sums are learned first or beside, see `language`
  start: Callable[[Params], Params] | None  # fresh parameters -> those to start from

  def learned(self) -> loader.Source: ...

  def drawn(self) -> Sequence[loader.Transform]:
    """What is drawn anew for each batch that is learned from."""

  def asked(self, before: Interactions, events: Interactions) -> loader.Batches:
    """What each of the events' users is shown items for, with their history."""

  def suites(
    self, name: str, system: System, rater: System, before: Interactions, events: Interactions
  ) -> list[evaluate.Suite]:
    """What `system` ranks and `rater` rates."""

  def written(
    self, params: Params, assets: Assets, system: System, events: Interactions, path: pathlib.Path
  ) -> dict[str, float]:
    """What is measured of texts, beside the suites; the texts, where there are some, in `path`."""


class Ingredients(Protocol):
  """What questions in ids are made of."""

  config: ml_collections.ConfigDict
  task: Task
  data: settings.Data
  evaluation: settings.Evaluation
  raw: sources.Raw
  known: Interactions  # the events that may be learned from


class InIds:
  """Questions whose users and items are numbers."""

  served, needs_sums, start = True, False, None

  def __init__(self, of: Ingredients):
    self.of = of
    self.on_ids = "semantic_ids" in of.config
    self.shown = not (of.task.ratings or of.task.impressions)

  def learned(self) -> Examples:
    return EXAMPLES[self.of.config.examples](self.of.known, self.of.data.max_len)

  def drawn(self) -> list[loader.Transform]:
    return drawn(self.of.config.examples, self.of.data, self.of.known)

  def asked(self, before: Interactions, events: Interactions) -> loader.Batches:
    found, size = self._examples(before, events), self.of.evaluation.batch_size
    return loader.Batches(found, size, max_len=settings.widths(self.of.data))

  def suites(
    self, name: str, system: System, rater: System, before: Interactions, events: Interactions
  ) -> list[evaluate.Suite]:
    if not len(events):
      return []
    answers = rater if self.of.task.ratings else system
    measure = self.of.task.measure(answers, self.of.evaluation)
    beams = self.on_ids and jax.default_backend() == "cpu"
    return [evaluate.Suite(name, self.asked(before, events), measure, 1 if beams else None)]

  def whole(
    self, system: System, before: Interactions, events: Interactions
  ) -> list[evaluate.Suite]:
    """`suites` of a baseline, which reads whole histories however little the run's system reads."""
    if not len(events):
      return []
    found = self._examples(before, events)
    longest = int(found.lengths.max()) if found.left else 1
    widths = sorted({*(2**n for n in range(3, longest.bit_length())), max(longest, 8)})
    measure = self.of.task.measure(system, self.of.evaluation)
    devices = jax.device_count()
    rows = devices * max(_PLACES // (widths[-1] * devices), 1)
    rows = min(rows, self.of.evaluation.batch_size)
    return [evaluate.Suite("", loader.Batches(found, rows, max_len=widths), measure)]

  def _examples(self, before: Interactions, events: Interactions) -> Examples:
    found = self.of.task.asked(self.of.raw, before, events)
    if not self.of.evaluation.deny_seen:
      return found
    again = examples.again(found)
    if again:
      _logger.warning(
        "%.1f%% of the questions ask for what was met before, which evaluation.deny_seen counts as "
        "a miss: "
        "--config.data.repeats=first or --config.evaluation.deny_seen=False",
        100 * again,
      )
    return examples.deny_seen(found)

  def written(
    self, params: Params, assets: Assets, system: System, events: Interactions, path: pathlib.Path
  ) -> dict[str, float]:
    return {}


def named(config: ml_collections.ConfigDict) -> Task:
  """The config's task; one in words goes with prompts and no other does."""
  if config.task not in TASKS:
    raise ValueError(f"no task {config.task!r}; there is {', '.join(TASKS)}")
  if config.examples not in EXAMPLES:
    raise ValueError(f"no examples {config.examples!r}; there is {', '.join(EXAMPLES)}")
  task = TASKS[config.task]
  if not (task.asked is None) == ("prompts" in config) == (config.examples == "prompts"):
    raise ValueError("a task in words needs examples='prompts' and a section `prompts`; others not")
  if task.impressions != (config.examples == "impressions"):
    raise ValueError("the task 'impressions' needs examples='impressions'; others not")
  if task.impressions:
    if not config.data.negatives:
      raise ValueError("impressions are learned with data.negatives beside each click: name some")
    if config.evaluation.deny_seen:
      raise ValueError("evaluation.deny_seen is of rankings, not of the impressions' candidates")
    return task
  if config.data.negatives and (task.ratings or config.examples not in ("events", "users")):
    raise ValueError(
      "data.negatives goes with examples 'events' or 'users' of a task without ratings, not with "
      f"{config.examples!r} of {config.task!r}"
    )
  if config.examples == "rows" and not getattr(SYSTEMS.get(config.system), "SEGMENTS", False):
    raise ValueError(
      f"examples 'rows' hold several histories each, which {config.system} would mix"
    )
  if config.examples == "users" and task.ratings:
    raise ValueError(
      f"examples 'users' draws events anew, without ratings: not for {config.task!r}"
    )
  return task


def check_split(config: ml_collections.ConfigDict, split: splits.Split) -> None:
  """An error where users have too few events for the task, or for what is learned from."""
  remedy = "Check that --config.data.columns.user names who met the items, not a row or a visit."
  if TASKS[config.task].split is _next_item_split and not len(split.test):
    raise DataError("no user has three events, so none validates and none tests", remedy=remedy)
  if config.examples in ("rows", "sequences", "prefixes", "alike"):
    start, stop = prepare.bounds(split.train)
    if not (stop - start > 1).any():
      raise DataError(
        "no user has two events to learn from, beside the two that validate and test",
        remedy=remedy,
      )


def drawn(
  name: str, cfg: settings.Data, train: Interactions | Impressions
) -> list[loader.Transform]:
  """What is drawn anew for each batch of these examples."""
  if name == "alike":
    return [draws.same_target(examples.prefixes(train))]
  if name == "impressions":
    return [draws.shown(train, cfg.negatives)]
  if name != "users" and not cfg.negatives:
    return []
  positives = negatives.Positives.of(train)
  found = [draws.by_user(positives)] if name == "users" else []
  return [*found, draws.beside(positives, cfg.negatives)] if cfg.negatives else found
