"""A run's system, trained with one seed: in closed form, by gradients, or in two stages."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

from experiments import assembly, language, preparation, settings, tasks
from recjax.data import loader, splits
from recjax.data.interactions import Impressions, Interactions
from recjax.train import evaluate, loop, stages


class Job(Protocol):
  """What is trained, on what, and where."""

  config: ml_collections.ConfigDict
  data: settings.Data
  evaluation: settings.Evaluation
  split: splits.Split
  known: Interactions  # the events that may be learned from
  before_test: Interactions
  questions: tasks.Questions
  built: assembly.Built

  def folder(self, seed: int) -> pathlib.Path: ...


def check(job: Job) -> None:
  """Raises where what was trained before is of another config, or of other events.

  It writes nothing. Sizes and assets, which take work to know, are left to `loop.fit`.
  """
  _check(job, {"config": _configured(job)})
  _check(job, _events(job))


def _check(job: Job, told: dict[str, Any]) -> None:
  for seed in job.config.seeds:
    for name, section in (("", "train"), ("tune", "train"), ("pretrain", "pretrain")):
      if section in job.config:
        loop.check(job.folder(seed) / name, _seeded(job.config[section], seed), told)


def train(job: Job, seed: int) -> loop.Result:
  """A closed form takes validation events too, as it tunes nothing."""
  system, assets = job.built.system, job.built.assets
  folder = job.folder(seed)
  if system.fit is not None:
    return loop.solve(system, assets, job.before_test, workdir=folder)
  return _fit(job, seed, folder)


def _fit(job: Job, seed: int, folder: pathlib.Path) -> loop.Result:
  system, assets, _, pretrain, shared, rater = job.built
  cfg = _seeded(job.config.train, seed)
  found = job.questions.learned()
  batches = _batches(job, found, job.config.batch_size, seed, even=job.data.even)
  events, users = job.split.valid, job.evaluation.valid_users
  if users:
    events = splits.some_users(events, users, seed=0)
  valid = job.questions.suites("valid", system, rater or system, job.known, events)
  fingerprint = _fingerprint(job)
  more = {"suites": valid, "fingerprint": fingerprint, "init_from": job.questions.start}
  if job.questions.needs_sums:
    return _fit_with_sums(job, batches, cfg, more, seed, folder)
  if "pretrain" not in job.config or pretrain is None:
    return loop.fit(system, assets, batches, cfg, workdir=folder, **more)
  first = _batches(job, found, job.config.pretrain_batch_size, seed)
  own = ()  # a stage before that answers as the system does is measured alike
  if pretrain.score is not None or pretrain.recommend is not None:
    own = job.questions.suites("valid", pretrain, pretrain, job.known, events)
  both = [
    stages.Stage("pretrain", pretrain, assets, first, _seeded(job.config.pretrain, seed), own),
    stages.Stage("tune", system, assets, batches, cfg, valid, ("pretrain", shared)),
  ]
  done = stages.run(both, workdir=folder, fingerprint=fingerprint)
  spent = sum(result.seconds for result in done.values())
  # A signal may have ended it in the first.
  return done.get("tune", done["pretrain"])._replace(seconds=spent)


def _fit_with_sums(
  job: Job,
  batches: loader.Batches,
  cfg: loop.Config,
  more: dict[str, Any],
  seed: int,
  folder: pathlib.Path,
) -> loop.Result:
  """Sums are learned first, or beside and what they changed is added."""
  if "pretrain" not in job.config:
    raise ValueError("prompts.sums needs a section `pretrain`: how sums are learned")
  words, (system, assets) = job.questions, job.built[:2]
  if words.cfg.sums == "vector" and not cfg.best:
    raise ValueError("prompts.sums='vector' needs train.best, the metric that chooses its scale")
  found = _batches(job, words.sums(), job.config.pretrain_batch_size, seed)
  sums = stages.Stage("pretrain", system, assets, found, _seeded(job.config.pretrain, seed))
  if words.cfg.sums == "vector":
    tuned = loop.fit(system, assets, batches, cfg, workdir=folder / "tune", **more)
    if tuned.stopped_by is not None:
      return tuned

    def measure(params):
      return evaluate.evaluate(params, assets, more["suites"], system=system)

    workdir = folder / "pretrain"
    return language.added(tuned, sums, words.start, measure, cfg.best, workdir=workdir)
  first = loop.fit(
    system, assets, found, sums.cfg, workdir=folder / "pretrain", **{**more, "suites": ()}
  )
  if first.stopped_by is not None:
    return first
  started = ["pretrain", "sums", int(first.state.step)]  # more of these are another start
  more["fingerprint"] = {**more["fingerprint"], "init_from": started}
  more["init_from"] = lambda fresh: first.params
  tuned = loop.fit(system, assets, batches, cfg, workdir=folder / "tune", **more)
  return tuned._replace(seconds=first.seconds + tuned.seconds)


def _seeded(section: ml_collections.ConfigDict, seed: int) -> loop.Config:
  return dataclasses.replace(settings.build(loop.Config, section), seed=seed)


def _batches(
  job: Job, found: loader.Source, size: int, seed: int, *, even: bool = False
) -> loader.Batches:
  widths, drawn = settings.widths(job.data), job.questions.drawn()
  if job.config.examples == "rows":
    widths = widths[-1]  # rows are full, and one that is not would be a batch of its own
  more = {"even": even, "transforms": drawn}
  return loader.Batches(found, size, max_len=widths, seed=seed, epochs=None, **more)


def _fingerprint(job: Job) -> dict[str, Any]:
  """All that parameters depend on, beside what `loop.fit` tells of its own config."""
  return {
    **({"words": job.questions.fingerprint} if "prompts" in job.config else {}),
    "config": {**_configured(job), "model": dataclasses.asdict(job.built.config)},
    **_events(job),
    "assets": preparation.digest(*map(np.asarray, jax.tree.leaves(job.built.assets))),
  }


def _configured(job: Job) -> dict[str, Any]:
  """What of it the config alone tells: of the model, what neither data nor a T5 gives."""
  names = ("system", "task", "examples", "batch_size", "pretrain_batch_size", "prompts", "model")
  told = {name: job.config.get(name) for name in names}
  told = json.loads(ml_collections.ConfigDict(told).to_json_best_effort())
  pretrained = (told["prompts"] or {}).get("pretrained")
  told["model"] = {} if pretrained else assembly.chosen(told["system"], told["model"])
  # The events themselves are compared, not how they were read.
  where = ("source", "path", "catalog", "columns", "item_columns", "on_error", "size")
  data = dataclasses.asdict(job.data)
  told["data"] = {name: x for name, x in data.items() if name not in where}
  kinds = (("text", settings.Text, "encoder"), ("semantic_ids", settings.SemanticIds, "published"))
  for name, cls, place in kinds:
    if name in job.config:
      section = dataclasses.asdict(settings.build(cls, job.config[name]))
      told[name] = {**section, place: "/".join(pathlib.Path(section[place]).parts[-2:])}
  if any(job.config.get(stage, {}).get("best") for stage in ("train", "pretrain")):
    by = ("deny_seen", "by_score", "valid_users")  # the metric's own k is in its name
    told["evaluation"] = {name: getattr(job.evaluation, name) for name in by}
  return told


def _events(job: Job) -> dict[str, str]:
  """Those that are learned from, and those that choose among checkpoints."""
  found = {"data": job.known}
  if any(job.config.get(stage, {}).get("best") for stage in ("train", "pretrain")):
    found["validation"] = job.split.valid
  return {name: _digest(x) for name, x in found.items()}


def _digest(x: Interactions | Impressions) -> str:
  if isinstance(x, Impressions):
    rows = (part for row in (x.history, x.candidates, x.labels) for part in row.flat())
    return preparation.digest(x.user, *rows)
  return preparation.digest(x.item, x.user, *([] if x.rating is None else [x.rating]))
