"""A run as plain functions: raw files -> (vectors -> semantic ids ->) system -> what it is worth.

`preparation` has the stages before a system: what they made is read again, aloud, where nothing
that they depend on has changed. `training` has how a system is trained: it goes on from its
checkpoint, and one of another config is an error. Here are what a run is worth and what it leaves.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import re
from typing import Any

import jax
import ml_collections
import numpy as np

from experiments import (
  assembly,
  language,
  preparation,
  report,
  results,
  settings,
  sources,
  tasks,
  training,
)
from recjax import growth, recommender
from recjax.data import loader, splits
from recjax.data.interactions import Interactions
from recjax.recommender import Recommender
from recjax.systems import SYSTEMS
from recjax.train import evaluate, loop, progress, signals
from recjax.types import PAD

MODES = ("all", "prepare", "embed", "tokenize", "train", "evaluate", "recommend", "help")
CONFIG = "config.json"
TEXTS = "texts.jsonl"  # what a seed wrote, beside what users wrote

Table = dict[str, list[dict[str, float]]]  # system -> a row a seed


class Run(preparation.Preparation):
  """A run's folder and config; every stage asks the ones before it."""

  def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path):
    super().__init__(config, workdir)
    self.evaluation = settings.build(settings.Evaluation, config.evaluation)
    if "prompts" in config and self.evaluation.baselines:
      raise ValueError("evaluation.baselines read ids, not words: give them a config of their own")
    best = re.fullmatch(r".*@(\d+)", config.get("train", {}).get("best") or "")
    if best and int(best[1]) not in self.evaluation.ks:
      raise ValueError(
        f"train.best is {config.train.best!r}, but {best[1]} is not in evaluation.ks, "
        f"{self.evaluation.ks}"
      )
    self.compared = [self._compared(file) for file in self.evaluation.compare]
    if not (workdir / CONFIG).exists():
      self.keep_config()

  @property
  def in_use(self) -> ml_collections.ConfigDict:
    """The config with its model as it is built; before it is, without what the data gives."""
    model = assembly.chosen(self.config.system, self.config.get("model"))
    if "built" in self.__dict__:
      model = dataclasses.asdict(self.built.config)
    config = self.config.copy_and_resolve_references()
    with config.unlocked():
      config.model = ml_collections.ConfigDict(model)
    return config

  def keep_config(self) -> None:
    """As the run's: once what is there of it, checkpoints above all, has not refused it."""
    part = self.workdir / f"{CONFIG}.part"
    part.write_text(self.in_use.to_json_best_effort(indent=2) + "\n")
    part.replace(self.workdir / CONFIG)

  @functools.cached_property
  def tested(self) -> Interactions:
    """The events that measure: of all users, or of so many drawn."""
    users = self.evaluation.test_users
    return splits.some_users(self.split.test, users, seed=0) if users else self.split.test

  @functools.cached_property
  def questions(self) -> tasks.Questions:
    """What the system learns from and is asked, in words or in ids."""
    return self.language if "prompts" in self.config else tasks.InIds(self)

  @functools.cached_property
  def language(self) -> language.Language:
    return language.Language(settings.build(settings.Prompts, self.config.prompts), self)

  @functools.cached_property
  def built(self) -> assembly.Built:
    return assembly.build(self.config.system, self.config.get("model"), self)

  @functools.cached_property
  def baselines(self) -> dict[str, assembly.Built]:
    """Built before any work is done: one that cannot be measured is an error then."""
    found = {name: assembly.build(name, None, self) for name in self.evaluation.baselines}
    for name, built in found.items():
      if built.system.fit is None or name == self.config.system:
        raise ValueError(
          f"evaluation.baselines takes further systems in closed form, not {name!r}: name a config "
          "of it in evaluation.compare"
        )
    return found

  def _compared(self, file: str) -> tuple[str, ml_collections.ConfigDict]:
    """A config of another system on this run's data, with as much of a history as it reads."""
    other = settings.load(file)
    if other.task != self.config.task or "prompts" in other:
      raise ValueError(f"{file} has the task {other.task!r}, not this run's: it cannot be compared")
    with other.unlocked():
      own = {name: other.data[name] for name in ("max_len", "buckets", "negatives")}
      other.data = ml_collections.ConfigDict({**self.config.data.to_dict(), **own})
      other.seeds = self.config.seeds
      other.evaluation.deny_seen = self.config.evaluation.deny_seen
      other.evaluation.test_users = self.evaluation.test_users
      other.evaluation.ks = tuple(sorted({*self.evaluation.ks, *other.evaluation.ks}))
      other.evaluation.baselines = other.evaluation.compare = ()
    return pathlib.Path(file).stem, other

  def train(self, seed: int) -> loop.Result:
    return training.train(self, seed)

  def trained(self) -> tuple[dict[int, Any], float]:
    """Parameters of every seed, and the seconds; a signal ends the program, whose status tells."""
    learned, seconds = {}, 0.0
    for seed in self.config.seeds:
      result = self.train(seed)
      if result.stopped_by is not None:
        signals.leave(result.stopped_by, self.workdir)
      learned[seed], seconds = result.params, seconds + result.seconds
    return learned, seconds

  def evaluate(self, params: dict[int, Any]) -> Table:
    """Test metrics of the system, a row a seed."""
    system, assets, rater = self.built.system, self.built.assets, self.built.rater
    rows = []
    for seed, learned in params.items():
      suites = self.questions.suites("", system, rater or system, self.before_test, self.tested)
      measured = evaluate.evaluate(learned, assets, suites, system=system)
      texts = self.folder(seed) / TEXTS
      measured |= self.questions.written(learned, assets, system, self.tested, texts)
      rows.append({"seed": seed, **measured})
    return {self.config.system: rows}

  def solve_baselines(self) -> Table:
    """Test metrics of the baselines."""
    known, table = self.before_test, {}
    for name, (baseline, assets, *_) in self.baselines.items():
      suites = tasks.InIds(self).whole(baseline, known, self.tested)
      table[name] = [dict(loop.solve(baseline, assets, known, suites=suites).metrics)]
    return table

  def attainable(self) -> Table:
    """What no system can exceed, of a synthetic world: it is of every user's last event."""
    fewer = self.data.user_core or self.data.item_core or self.data.repeats != "keep"
    fewer = fewer or self.evaluation.test_users
    if self.data.source != "synthetic" or self.config.task != "next_item" or fewer:
      return {}
    truth = self.workdir / "raw" / sources.TRUTH
    return {"best attainable": [json.loads(truth.read_text())]}

  def compare(self) -> Table:
    """Test metrics of the configs that the evaluation names."""
    table = {}
    for stem, config in self.compared:
      beside = Run(config, self.workdir / "compare" / stem)
      beside.__dict__["raw"] = self.raw
      training.check(beside)
      learned, _ = beside.trained()
      name = (
        stem if config.system in {self.config.system, *self.baselines, *table} else config.system
      )
      table[name] = beside.evaluate(learned)[config.system]
    return table

  def recommend(self, params: Any, k: int = 10) -> pathlib.Path:
    """recommendations.jsonl: for every test user the items to show next, with titles and scores.

    Of fewer than `k` items there are, all.
    """
    k = min(k, self.raw.interactions.num_items - 1)
    system, assets = self.built.system, self.built.assets
    if system.index is not None:
      assets = jax.jit(system.index)(params, assets)
    batches = self.questions.asked(self.before_test, self.split.test)
    recommend = jax.jit(system.recommend, static_argnames="k")
    users, items, titles = self.raw.interactions.users, self.raw.catalog.ids, self._titles()
    path = self.workdir / "recommendations.jsonl"
    bar = progress.bar(len(batches), unit="batch", desc="recommendations")
    with path.with_suffix(".part").open("w", encoding="utf-8") as file, bar:
      for batch in loader.load(batches):
        bar.update()
        question = {name: x for name, x in batch.items() if name != "target"}
        ranked = jax.device_get(recommend(params, assets, question, k=k))
        for row in np.flatnonzero(batch["weight"] > 0):
          shown = ranked.ids[row][ranked.ids[row] != PAD]
          met = batch["history"][row]
          record = {
            "user": users[batch["user"][row]],
            "history": items[met[met != PAD]].tolist(),
            "items": items[shown].tolist(),
            "titles": titles[shown].tolist(),
            "scores": [round(float(s), 4) for s in ranked.scores[row][: len(shown)]],
          }
          file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return path.with_suffix(".part").replace(path)

  def shown(self, recommendations: pathlib.Path, count: int = 12) -> list[dict[str, Any]]:
    """Some users, evenly spread: titles of what they met, were recommended, and met next.

    An item without a title is told by its id.
    """
    records = _some(recommendations, count)
    of_id = dict(zip(self.raw.catalog.ids.tolist(), self._titles().tolist(), strict=True))
    test, users = self.split.test, []
    for record in records:
      after = test.items[test.item[test.users[test.user] == record["user"]]].tolist()
      told = {
        "history": [of_id[item] or item for item in record["history"]],
        "titles": [of_id[item] or item for item in record["items"]],
        "hit": [item in after for item in record["items"]],
        "next": ", ".join(of_id[item] or item for item in after),
      }
      users.append({**record, **told})
    return users

  def recommender(self, params: Any) -> Recommender:
    """The system beside its catalogue, to be asked without the run."""
    name, ids, collisions, text = self.config.system, None, None, None
    if "semantic_ids" in self.config:
      ids, collisions = self.ids, self.collisions
    coded_elsewhere = ids is not None and ids.quantizer is None
    if name in growth.GROWING and "text" in self.config and not coded_elsewhere:
      cfg = settings.build(settings.Text, self.config.text)
      kept = self.encoder if cfg.encoder == "lsa" else str(pathlib.Path(cfg.encoder).absolute())
      text = growth.Text(cfg.template, kept, self.encoder.fingerprint)
    assets, served = self.built.assets, getattr(SYSTEMS[name], "SERVED", None)
    return Recommender(
      name,
      self.built.config,
      params,
      assets if served is None else {part: assets[part] for part in served},
      self.raw.catalog.ids,
      self._titles(),
      self.raw.interactions.users,
      max_len=self.data.max_len,
      deny_seen=self.evaluation.deny_seen,
      ids=ids,
      collisions=collisions,
      text=text,
    )

  def folder(self, seed: int) -> pathlib.Path:
    return self.workdir / f"seed_{seed}"

  def _titles(self) -> np.ndarray:
    catalog = self.raw.catalog
    return catalog["title"] if "title" in catalog.fields else catalog.ids


def _some(path: pathlib.Path, count: int) -> list[dict[str, Any]]:
  """The records of some lines, evenly spread."""
  with path.open(encoding="utf-8") as file:  # a title may hold other ends of lines
    number = sum(1 for _ in file)
    chosen = set(np.linspace(0, number - 1, min(count, number)).astype(int).tolist())
    file.seek(0)
    return [json.loads(line) for at, line in enumerate(file) if at in chosen]


def run(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  mode: str,
  *,
  name: str = "run",
  record: pathlib.Path | None = None,
) -> Table:
  """The stages up to `mode`, those before it from what they left; the table of results.

  With `record`, a folder, the results are kept there too, as NAME.json.
  """
  job = Run(config, workdir)
  training.check(job)
  job.keep_data()
  reached = {
    "prepare": lambda: job.split,
    "embed": lambda: job.vectors,
    "tokenize": lambda: job.ids,
  }
  if mode in reached:
    reached[mode]()
    job.keep_config()
    return {}
  measures = mode in ("all", "evaluate")
  if measures:
    _ = job.baselines  # an error now, not after the training
  learned, seconds = job.trained()
  job.keep_config()
  answers = job.built.system.recommend is not None
  if answers and job.questions.served:
    job.recommender(learned[config.seeds[0]]).save(workdir / recommender.FOLDER)
  table, path = {}, None
  if measures:
    own = functools.partial(job.evaluate, learned)
    for part in (own, job.solve_baselines, job.attainable, job.compare):
      table |= part()
      kept = results.write(workdir / "results.json", job.in_use, table, seconds)  # others may fail
    if record is not None:
      results.write(record / f"{name}.json", job.in_use, table, seconds)
    print(results.render(table))
  if mode in ("all", "recommend") and answers and job.questions.shown:
    path = job.recommend(learned[config.seeds[0]])
    with path.open(encoding="utf-8") as file:
      first = json.loads(file.readline())
    print(f"\nFor {first['user']}:")
    for title, score in zip(first["titles"], first["scores"], strict=True):
      print(f"  {score:8.3f}  {title}")
    print(f"\nAll recommendations are in {path}.")
  if measures:
    _report(job, name, kept, path)
    print(f"The run on one page: {workdir / 'report.html'}")
  return table


def _report(
  job: Run, name: str, record: dict[str, Any], recommendations: pathlib.Path | None
) -> None:
  """Of what was measured and recommended just now: older files may be of other parameters."""
  on_ids, texts = job.questions.on_ids, job.folder(job.config.seeds[0]) / TEXTS
  report.write(
    job.workdir / "report.html",
    title=name,
    record=record,
    curves=report.curves_of({f"seed {seed}": job.folder(seed) for seed in job.config.seeds}),
    codes=job.ids.codes[PAD + 1 :] if on_ids else None,
    vectors=job.vectors[PAD + 1 :] if on_ids and job.ids.quantizer is not None else None,
    users=job.shown(recommendations) if recommendations is not None else (),
    texts=_some(texts, 12) if texts.exists() else (),
  )


def describe(config: ml_collections.ConfigDict) -> str:
  """Every field of the config, with its value and what it means."""
  sections = {
    "data": settings.Data,
    "text": settings.Text,
    "words": settings.Words,
    "semantic_ids": settings.SemanticIds,
    "prompts": settings.Prompts,
    "model": SYSTEMS[config.system].Config,
    "train": loop.Config,
    "pretrain": loop.Config,
    "evaluation": settings.Evaluation,
  }
  said = {**config, "model": assembly.chosen(config.system, config.get("model"))}
  told = [settings.describe(n, cls, said[n]) for n, cls in sections.items() if n in config]
  plain = [
    f"  --config.{name}={v!r}  # {settings.PLAIN[name]}"
    for name, v in config.items()
    if name not in sections
  ]
  return "\n\n".join([*told, "the run:\n" + "\n".join(plain)])
