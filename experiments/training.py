"""A run's system, trained with one seed: in closed form, by gradients, or in two stages."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

from experiments import assembly, language, preparation, settings, tasks
from recjax.data import loader, splits
from recjax.data.interactions import Interactions
from recjax.train import evaluate, loop, stages


class Job(Protocol):
  """What is trained, on what, and where."""

  config: ml_collections.ConfigDict
  data: settings.Data
  split: splits.Split
  known: Interactions  # the events that may be learned from
  before_test: Interactions
  questions: tasks.Questions
  built: assembly.Built

  def folder(self, seed: int) -> pathlib.Path: ...


def train(job: Job, seed: int) -> loop.Result:
  """A closed form takes validation events too, as it tunes nothing."""
  system, assets = job.built.system, job.built.assets
  folder = job.folder(seed)
  began = time.perf_counter()
  if system.fit is not None:
    result = loop.solve(system, assets, job.before_test, workdir=folder)
  else:
    result = _fit(job, seed, folder)
  _add_seconds(folder, time.perf_counter() - began)
  return result


def seconds(folders: Sequence[pathlib.Path]) -> float:
  """Spent in training in these, over all pieces."""
  return sum(_read_seconds(folder) for folder in folders)


def _fit(job: Job, seed: int, folder: pathlib.Path) -> loop.Result:
  system, assets, _, pretrain, shared, rater = job.built
  cfg = _seeded(job.config.train, seed)
  found = job.questions.learned()
  batches = _batches(job, found, job.config.batch_size, seed)
  valid = job.questions.suites("valid", system, rater or system, job.known, job.split.valid)
  data = preparation.digest(job.known.item, job.known.user)
  fingerprint = {"data": data, "assets": _content(assets)}
  more = {"suites": valid, "fingerprint": fingerprint, "init_from": job.questions.start}
  if isinstance(job.questions, language.Language) and job.questions.cfg.sums:
    return _fit_with_sums(job, batches, cfg, more, seed, folder)
  if "pretrain" not in job.config or pretrain is None:
    return loop.fit(system, assets, batches, cfg, workdir=folder, **more)
  first = _batches(job, found, job.config.pretrain_batch_size, seed)
  both = [
    stages.Stage("pretrain", pretrain, assets, first, _seeded(job.config.pretrain, seed)),
    stages.Stage("tune", system, assets, batches, cfg, valid, ("pretrain", shared)),
  ]
  done = stages.run(both, workdir=folder)
  return done.get("tune", done["pretrain"])  # a signal may have ended it in the first


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
    system, assets, found, sums.cfg, workdir=folder / "pretrain", init_from=words.start
  )
  if first.stopped_by is not None:
    return first
  more["init_from"] = lambda fresh: first.params
  return loop.fit(system, assets, batches, cfg, workdir=folder / "tune", **more)


def _seeded(section: ml_collections.ConfigDict, seed: int) -> loop.Config:
  return dataclasses.replace(settings.build(loop.Config, section), seed=seed)


def _batches(job: Job, found: loader.Source, size: int, seed: int) -> loader.Batches:
  widths, drawn = settings.widths(job.data), job.questions.drawn()
  return loader.Batches(found, size, max_len=widths, seed=seed, epochs=None, transforms=drawn)


def _content(assets: Any) -> str:
  return preparation.digest(*(np.asarray(x) for x in jax.tree.leaves(assets)))


def _read_seconds(folder: pathlib.Path) -> float:
  path = folder / "seconds.json"
  return json.loads(path.read_text()) if path.exists() else 0.0


def _add_seconds(folder: pathlib.Path, seconds: float) -> None:
  """Training may come in pieces: their sum is kept."""
  (folder / "seconds.json").write_text(json.dumps(_read_seconds(folder) + seconds))
