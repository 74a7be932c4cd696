"""A run as plain functions: raw files -> (vectors -> semantic ids ->) system -> what it is worth.

Each stage writes into the run's folder and is skipped, aloud, when what it depends on (its part
of the config and the stages before it) has not changed; training goes on from its checkpoint.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import pathlib
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from experiments import assembly, language, report, results, settings, sources, tasks
from recjax import growth, recommender
from recjax.data import examples, interactions, loader, splits, storage
from recjax.data.interactions import Interactions
from recjax.recommender import Recommender
from recjax.semid import artefact, learn
from recjax.systems import SYSTEMS
from recjax.text import encoders, lsa, vectors
from recjax.train import evaluate, loop, stages
from recjax.types import PAD, System

_logger = logging.getLogger(__name__)

MODES = ("all", "prepare", "embed", "tokenize", "train", "evaluate", "recommend", "help")


class Run:
  """A run's folder and config; every stage asks the ones before it."""

  def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path):
    self.config, self.workdir = config, workdir
    self.data = settings.build(settings.Data, config.data)
    self.evaluation = settings.build(settings.Evaluation, config.evaluation)
    if config.task not in tasks.TASKS:
      raise ValueError(f"no task {config.task!r}; there is {', '.join(tasks.TASKS)}")
    if config.examples not in tasks.EXAMPLES:
      raise ValueError(f"no examples {config.examples!r}; there is {', '.join(tasks.EXAMPLES)}")
    self.task = tasks.TASKS[config.task]
    self.in_words = self.task.asked is None
    if not self.in_words == ("prompts" in config) == (config.examples == "prompts"):
      raise ValueError(
        "a task in words needs examples='prompts' and a section `prompts`; others not"
      )
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(config.to_json_best_effort(indent=2) + "\n")

  @functools.cached_property
  def raw(self) -> sources.Raw:
    raw = sources.read(self.data, self.workdir)
    if not self.task.ratings:  # only that they met it
      split = raw.split and splits.Split(*map(_unrated, raw.split))
      raw = dataclasses.replace(raw, interactions=_unrated(raw.interactions), split=split)
    storage.save(raw.interactions, self.workdir / "data")
    _logger.info("prepared %r, %r", raw.interactions, raw.catalog)
    return raw

  @functools.cached_property
  def _split(self) -> tuple[splits.Split, np.ndarray]:
    whole = self.task.split(self.raw, self.data)
    return splits.cold_items(whole, self.data.cold, seed=self.data.split_seed)

  @property
  def split(self) -> splits.Split:
    return self._split[0]

  @property
  def cold(self) -> np.ndarray:
    """[I] the items that test and that nothing was learned of, by choice."""
    return self._split[1]

  @property
  def known(self) -> Interactions:
    """The events that may be learned from."""
    return self.split.train

  @functools.cached_property
  def before_test(self) -> Interactions:
    """Train and validation events, each user's in order."""
    both = interactions.concat(self.split[:2])
    return both.take(np.argsort(both.user, kind="stable"))

  @functools.cached_property
  def encoder(self) -> encoders.Encoder | lsa.Lsa:
    cfg = settings.build(settings.Text, self.config.text)
    if cfg.encoder != "lsa":
      return encoders.load(cfg.encoder)
    return lsa.fit(vectors.render(self.raw.catalog, cfg.template)[PAD + 1 :], dim=cfg.dim)

  @functools.cached_property
  def vectors(self) -> np.ndarray:
    """[I, D] a vector an item, kept in the run's folder under a hash of texts and encoder."""
    template = settings.build(settings.Text, self.config.text).template
    folder = self.workdir / "vectors"
    return vectors.item_vectors(self.raw.catalog, template, self.encoder, cache=folder)

  @functools.cached_property
  def ids(self) -> artefact.SemanticIds:
    cfg = settings.build(settings.SemanticIds, self.config.semantic_ids)
    folder = self.workdir / "semantic_ids"
    read = "" if cfg.published else artefact.content_hash(self.vectors)
    inputs = _digest(dataclasses.asdict(cfg), read)
    mark = folder / "inputs.sha256"
    if mark.exists() and mark.read_text() == inputs:
      _logger.info("semantic ids: unchanged, read from %s", folder)
      return artefact.load(folder)
    if cfg.published:
      every = artefact.published(sources.path_of(cfg.published))
      ids = every.select(self.raw.catalog.ids.tolist())
    else:
      made = learn.quantizer(cfg.quantizer, self.vectors[PAD + 1 :], workdir=folder / "training")
      policy = growth.Collisions(cfg.policy, cfg.collisions).make()
      ids = artefact.build(self.raw.catalog.ids, self.vectors, made, policy)
    ids.save(folder)
    mark.write_text(inputs)
    return ids

  @functools.cached_property
  def language(self) -> language.Language:
    return language.Language(settings.build(settings.Prompts, self.config.prompts), self)

  @functools.cached_property
  def built(self) -> assembly.Built:
    return assembly.build(self.config.system, self.config.get("model"), self)

  def train(self, seed: int) -> loop.Result:
    """The system with one seed; a closed form takes validation events too, as it tunes nothing."""
    system, assets = self.built.system, self.built.assets
    folder = self.folder(seed)
    began = time.perf_counter()
    if system.fit is not None:
      result = loop.solve(system, assets, self.before_test, workdir=folder)
    else:
      result = self._fit(seed, folder)
    _add_seconds(folder, time.perf_counter() - began)
    return result

  def _fit(self, seed: int, folder: pathlib.Path) -> loop.Result:
    system, assets, _, pretrain, shared, _ = self.built
    cfg = dataclasses.replace(settings.build(loop.Config, self.config.train), seed=seed)
    found = self._learned()
    suites = self._suites("valid", system, self.known, self.split.valid)
    fingerprint = {"data": _digest(self.known.item, self.known.user), "assets": _content(assets)}
    more = {"suites": suites, "fingerprint": fingerprint}
    train = self._batches(found, self.config.batch_size, seed)
    if self.in_words:
      more["init_from"] = self.language.start
    if self.in_words and self.language.cfg.sums:
      return self._fit_with_sums(train, cfg, more, seed, folder)
    if "pretrain" not in self.config or pretrain is None:
      return loop.fit(system, assets, train, cfg, workdir=folder, **more)
    first = self._batches(found, self.config.pretrain_batch_size, seed)
    both = [
      stages.Stage("pretrain", pretrain, assets, first, self._pretraining(seed)),
      stages.Stage("tune", system, assets, train, cfg, suites, ("pretrain", shared)),
    ]
    done = stages.run(both, workdir=folder)
    return done.get("tune", done["pretrain"])  # a signal may have ended it in the first

  def _pretraining(self, seed: int) -> loop.Config:
    return dataclasses.replace(settings.build(loop.Config, self.config.pretrain), seed=seed)

  def _fit_with_sums(
    self, train: loader.Batches, cfg: loop.Config, more: dict[str, Any], seed, folder: pathlib.Path
  ) -> loop.Result:
    """Sums are learned first, or beside and what they changed is added."""
    if "pretrain" not in self.config:
      raise ValueError("prompts.sums needs a section `pretrain`: how sums are learned")
    system, assets = self.built.system, self.built.assets
    found = self._batches(self.language.sums(), self.config.pretrain_batch_size, seed)
    sums = stages.Stage("pretrain", system, assets, found, self._pretraining(seed))
    if self.language.cfg.sums == "vector":
      tuned = loop.fit(system, assets, train, cfg, workdir=folder / "tune", **more)
      if tuned.stopped_by is not None:
        return tuned

      def measure(params):
        return evaluate.evaluate(params, assets, more["suites"], system=system)

      start = self.language.start
      return language.added(tuned, sums, start, measure, cfg.best, workdir=folder / "pretrain")
    first = loop.fit(
      system, assets, found, sums.cfg, workdir=folder / "pretrain", init_from=self.language.start
    )
    if first.stopped_by is not None:
      return first
    more["init_from"] = lambda fresh: first.params
    return loop.fit(system, assets, train, cfg, workdir=folder / "tune", **more)

  def _learned(self) -> loader.Source:
    if self.in_words:
      return self.language.learned(self.known, numbers=self.config.system == "t5_rating")
    return tasks.EXAMPLES[self.config.examples](self.known, self.data.max_len)

  def evaluate(self, params: dict[int, Any]) -> dict[str, list[dict[str, float]]]:
    """Test metrics of the system, a row a seed, and of what it is compared with."""
    known = self.before_test
    table = {self.config.system: []}
    for seed, learned in params.items():
      suites = self._suites("", self.built.system, known, self.split.test)
      measured = evaluate.evaluate(learned, self.built.assets, suites, system=self.built.system)
      if self.in_words:
        size = self.evaluation.batch_size
        measured |= self.language.written(
          learned, self.built.assets, self.built.system, self.split.test, size, self.data.max_len
        )
      table[self.config.system].append({"seed": seed, **measured})
    for name in self.evaluation.baselines:
      baseline, assets = assembly.build(name, None, self)[:2]
      suites = self._suites("", baseline, known, self.split.test)
      table[name] = [dict(loop.solve(baseline, assets, known, suites=suites).metrics)]
    truth = self.workdir / "raw" / "truth.json"
    if truth.exists():
      table["best attainable"] = [json.loads(truth.read_text())]
    return table

  def recommend(self, params: Any, k: int = 10) -> pathlib.Path:
    """recommendations.jsonl: for every test user the items to show next, with titles and scores."""
    system, assets = self.built.system, self.built.assets
    known = self.before_test
    batches = self._asked(known, self.split.test)
    recommend = jax.jit(system.recommend, static_argnames="k")
    users, items, titles = self.raw.interactions.users, self.raw.catalog.ids, self._titles()
    path = self.workdir / "recommendations.jsonl"
    with path.with_suffix(".part").open("w") as file:
      for batch in loader.load(batches):
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
    """Some users, evenly spread: titles of what they met, were recommended, and met next."""
    lines = recommendations.read_text().splitlines()
    of_id = dict(zip(self.raw.catalog.ids.tolist(), self._titles().tolist(), strict=True))
    test = self.split.test
    following = dict(
      zip(test.users[test.user].tolist(), test.items[test.item].tolist(), strict=True)
    )
    users = []
    for at in np.linspace(0, len(lines) - 1, min(count, len(lines))).astype(int):
      record = json.loads(lines[at])
      met = [of_id[item] or item for item in record["history"]]
      after = following[record["user"]]
      users.append({**record, "history": met, "next": of_id[after] or after})
    return users

  def recommender(self, params: Any) -> Recommender:
    """The system beside its catalogue, to be asked without the run."""
    name, ids, collisions, text = self.config.system, None, None, None
    if "semantic_ids" in self.config:
      cfg = settings.build(settings.SemanticIds, self.config.semantic_ids)
      ids, collisions = self.ids, growth.Collisions(cfg.policy, cfg.collisions)
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

  @property
  def on_ids(self) -> bool:
    """Whether the system reads or writes semantic ids."""
    if self.in_words:
      return self.language.cfg.index.method.startswith("codes")
    return "semantic_ids" in self.config

  @property
  def recommends(self) -> bool:
    """Whether users are shown items: who is asked for a rating has no history to show."""
    asked = "sequential" in self.language.families if self.in_words else not self.task.ratings
    return self.built.system.recommend is not None and asked

  def folder(self, seed: int) -> pathlib.Path:
    return self.workdir / f"seed_{seed}"

  def seconds(self) -> float:
    """Spent in training, over all seeds and pieces."""
    return sum(_read_seconds(self.folder(seed)) for seed in self.config.seeds)

  def _titles(self) -> np.ndarray:
    catalog = self.raw.catalog
    return catalog["title"] if "title" in catalog.fields else catalog.ids

  def _batches(self, found, size: int, seed: int) -> loader.Batches:
    drawn = tasks.drawn(self.config.examples, self.data, self.known)
    return loader.Batches(
      found, size, max_len=self._widths, seed=seed, epochs=None, transforms=drawn
    )

  @property
  def _widths(self) -> list[int]:
    return [*self.data.buckets, self.data.max_len]

  def _suites(
    self, name: str, system: System, before: Interactions, events: Interactions
  ) -> list[evaluate.Suite]:
    if not len(events):
      return []
    if self.in_words:
      rater, width = self.built.rater or system, self.data.max_len
      return self.language.suites(name, system, rater, before, events, self.evaluation, width)
    measure = self.task.measure(system, self.evaluation)
    beams = "semantic_ids" in self.config and jax.default_backend() == "cpu"
    return [evaluate.Suite(name, self._asked(before, events), measure, 1 if beams else None)]

  def _asked(self, before: Interactions, events: Interactions) -> loader.Batches:
    if self.in_words:
      found = self.language.ranked(
        "sequential", before, events, deny_seen=self.evaluation.deny_seen
      )
      return loader.Batches(found, self.evaluation.batch_size, max_len=self._widths)
    found = self.task.asked(self.raw, before, events)
    if self.evaluation.deny_seen:
      found = examples.deny_seen(found)
    return loader.Batches(found, self.evaluation.batch_size, max_len=self._widths)


def run(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  mode: str,
  *,
  name: str = "run",
  record: pathlib.Path | None = None,
) -> dict[str, list[dict[str, float]]]:
  """The stages up to `mode`, those before it from what they left; the table of results.

  With `record`, a folder, the results are kept there too, as NAME.json.
  """
  job = Run(config, workdir)
  reached = {
    "prepare": lambda: job.split,
    "embed": lambda: job.vectors,
    "tokenize": lambda: job.ids,
  }
  if mode in reached:
    reached[mode]()
    return {}
  learned = {}
  for seed in config.seeds:
    result = job.train(seed)
    if result.stopped_by is not None:
      return {}
    learned[seed] = result.params
  if job.built.system.recommend is not None and not job.in_words:
    job.recommender(learned[config.seeds[0]]).save(workdir / recommender.FOLDER)
  table = {}
  if mode in ("all", "evaluate"):
    table = {**job.evaluate(learned), **_compared(job)}
    results.write(workdir / "results.json", config, table, job.seconds())
    if record is not None:
      results.write(record / f"{name}.json", config, table, job.seconds())
    print(results.render(table))
  if mode in ("all", "recommend") and job.recommends:
    path = job.recommend(learned[config.seeds[0]])
    first = json.loads(path.open().readline())
    print(f"\nFor {first['user']}:")
    for title, score in zip(first["titles"], first["scores"], strict=True):
      print(f"  {score:8.3f}  {title}")
    print(f"\nAll recommendations are in {path}.")
  if (workdir / "results.json").exists():
    _report(job, name)
    print(f"The run on one page: {workdir / 'report.html'}")
  return table


def _report(job: Run, name: str) -> None:
  on_ids, shown = job.on_ids, job.workdir / "recommendations.jsonl"
  report.write(
    job.workdir / "report.html",
    title=name,
    record=json.loads((job.workdir / "results.json").read_text()),
    curves=report.curves_of({f"seed {seed}": job.folder(seed) for seed in job.config.seeds}),
    codes=job.ids.codes[PAD + 1 :] if on_ids else None,
    vectors=job.vectors[PAD + 1 :] if on_ids and job.ids.quantizer is not None else None,
    users=job.shown(shown) if shown.exists() else (),
  )


def _compared(job: Run) -> dict[str, list[dict[str, float]]]:
  """The same data under the configs that the evaluation names, each in a folder of its own."""
  table = {}
  for file in job.evaluation.compare:
    other = settings.load(file)
    with other.unlocked():
      # The data of this run, but as much of a history as the other system reads.
      own = {name: other.data[name] for name in ("max_len", "buckets")}
      other.data = ml_collections.ConfigDict({**job.config.data.to_dict(), **own})
      other.seeds = job.config.seeds
      for field in ("deny_seen", "ks"):
        other.evaluation[field] = job.config.evaluation[field]
    beside = Run(other, job.workdir / "compare" / pathlib.Path(file).stem)
    beside.__dict__["raw"] = job.raw
    params = {seed: beside.train(seed).params for seed in other.seeds}
    table[other.system] = beside.evaluate(params)[other.system]
  return table


def describe(config: ml_collections.ConfigDict) -> str:
  """Every field of the config, with its value and what it means."""
  sections = {
    "data": settings.Data,
    "text": settings.Text,
    "semantic_ids": settings.SemanticIds,
    "prompts": settings.Prompts,
    "model": SYSTEMS[config.system].Config,
    "train": loop.Config,
    "pretrain": loop.Config,
    "evaluation": settings.Evaluation,
  }
  told = [settings.describe(n, cls, config[n]) for n, cls in sections.items() if n in config]
  plain = [f"  --config.{name}={v!r}" for name, v in config.items() if name not in sections]
  return "\n\n".join([*told, "the run:\n" + "\n".join(plain)])


def _unrated(x: Interactions) -> Interactions:
  return dataclasses.replace(x, rating=None)


def _digest(*parts: Any) -> str:
  digest = hashlib.sha256()
  for part in parts:
    raw = part.tobytes() if isinstance(part, np.ndarray) else json.dumps(part, sort_keys=True)
    digest.update(raw if isinstance(raw, bytes) else raw.encode())
  return digest.hexdigest()


def _content(assets: Any) -> str:
  return _digest(*(np.asarray(x) for x in jax.tree.leaves(assets)))


def _read_seconds(folder: pathlib.Path) -> float:
  path = folder / "seconds.json"
  return json.loads(path.read_text()) if path.exists() else 0.0


def _add_seconds(folder: pathlib.Path, seconds: float) -> None:
  """Training may come in pieces: their sum is kept."""
  (folder / "seconds.json").write_text(json.dumps(_read_seconds(folder) + seconds))
