"""The main job as plain functions: raw files -> semantic ids -> TIGER -> metrics, recommendations.

Each stage writes into the run's folder and is skipped, aloud, when what it depends on (its part
of the config and the stages before it) has not changed; training goes on from its checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from experiments import settings, sources
from recjax.data import examples, interactions, loader, splits, storage
from recjax.data.interactions import Catalog, Interactions
from recjax.semid import artefact, assign, rqkmeans
from recjax.systems import SYSTEMS
from recjax.systems.generative import tiger
from recjax.text import encoders, lsa, vectors
from recjax.train import evaluate, loop
from recjax.types import PAD, System

_logger = logging.getLogger(__name__)

MODES = ("all", "prepare", "embed", "tokenize", "train", "evaluate", "recommend", "help")


class Prepared(NamedTuple):
  interactions: Interactions
  catalog: Catalog
  split: splits.Split


class Run:
  """A run's folder and config; every stage asks the ones before it."""

  def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path):
    self.config, self.workdir = config, workdir
    self.data = settings.build(settings.Data, config.data)
    self.text = settings.build(settings.Text, config.text)
    self.semantic_ids = settings.build(settings.SemanticIds, config.semantic_ids)
    self.evaluation = settings.build(settings.Evaluation, config.evaluation)
    self.train_config = settings.build(loop.Config, config.train)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(config.to_json_best_effort(indent=2) + "\n")

  def prepare(self) -> Prepared:
    x, catalog = sources.read(self.data, self.workdir)
    storage.save(x, self.workdir / "data")
    prepared = Prepared(x, catalog, splits.leave_one_out(x))
    _logger.info("prepared %r, %r", x, catalog)
    return prepared

  def embed(self, prepared: Prepared) -> np.ndarray:
    """[I, D] a vector an item, kept in the run's folder under a hash of texts and encoder."""
    cfg = self.text
    if cfg.encoder == "lsa":
      texts = vectors.render(prepared.catalog, cfg.template)
      encoder = lsa.fit(texts[PAD + 1 :], dim=cfg.dim)
    else:
      encoder = encoders.load(cfg.encoder)
    folder = self.workdir / "vectors"
    return vectors.item_vectors(prepared.catalog, cfg.template, encoder, cache=folder)

  def tokenize(self, prepared: Prepared, item_vectors: np.ndarray) -> artefact.SemanticIds:
    cfg, folder = self.semantic_ids, self.workdir / "semantic_ids"
    inputs = _digest(dataclasses.asdict(cfg), artefact.content_hash(item_vectors))
    return _stage(
      "semantic ids",
      folder,
      inputs,
      load=lambda: artefact.load(folder),
      make=lambda: self._make_ids(prepared, item_vectors),
    )

  def _make_ids(self, prepared: Prepared, item_vectors: np.ndarray) -> artefact.SemanticIds:
    cfg = self.semantic_ids
    made = rqkmeans.residual(item_vectors[PAD + 1 :], cfg.sizes, jax.random.key(cfg.seed))
    policy = assign.count_up(cfg.collisions)
    ids = artefact.build(prepared.catalog.ids, item_vectors, made, policy)
    ids.save(self.workdir / "semantic_ids")
    return ids

  def system(self, ids: artefact.SemanticIds) -> tuple[System, Any]:
    cfg = settings.build(tiger.Config, self.config.model, levels=ids.sizes)
    return tiger.make(cfg), tiger.assets(cfg, ids.codes)

  def train(self, prepared: Prepared, ids: artefact.SemanticIds) -> loop.Result:
    system, assets = self.system(ids)
    train, max_len = prepared.split.train, self.data.max_len
    found = (
      examples.sequences(train, max_len, stride=max_len)
      if self.config.model.item_causal
      else examples.prefixes(train)
    )
    batches = loader.Batches(
      found,
      self.config.batch_size,
      max_len=[*self.data.buckets, max_len],
      seed=self.config.seed,
      epochs=None,
    )
    valid = self._asked(train, prepared.split.valid)
    measure = evaluate.ranking_by_list(system, self.evaluation.ks)
    return loop.fit(
      system,
      assets,
      batches,
      self.train_config,
      suites=[evaluate.Suite("valid", valid, measure)],
      workdir=self.workdir / "tiger",
      fingerprint={"data": _digest(train.item, train.user), "ids": _digest(ids.codes)},
    )

  def evaluate(
    self, prepared: Prepared, ids: artefact.SemanticIds, params: Any
  ) -> dict[str, dict[str, float]]:
    """Test metrics of TIGER and of the baselines: system -> metric -> value."""
    known = interactions.concat(prepared.split[:2])
    test = self._asked(known, prepared.split.test)
    ks = self.evaluation.ks
    system, assets = self.system(ids)
    table = {}
    suite = evaluate.Suite("", test, evaluate.ranking_by_list(system, ks))
    table["tiger"] = evaluate.evaluate(params, assets, [suite])
    for name in self.evaluation.baselines:
      module = SYSTEMS[name]
      baseline = module.make(module.Config(num_items=known.num_items))
      suite = evaluate.Suite("", test, evaluate.ranking_by_list(baseline, ks))
      table[name] = dict(loop.solve(baseline, (), known, suites=[suite]).metrics)
    truth = self.workdir / "raw" / "truth.json"
    if truth.exists():
      table["best attainable"] = json.loads(truth.read_text())
    (self.workdir / "results.json").write_text(json.dumps(table, indent=1) + "\n")
    return table

  def recommend(
    self, prepared: Prepared, ids: artefact.SemanticIds, params: Any, k: int = 10
  ) -> pathlib.Path:
    """recommendations.jsonl: for every test user the items to show next, with titles and scores."""
    system, assets = self.system(ids)
    known = interactions.concat(prepared.split[:2])
    batches = self._asked(known, prepared.split.test)
    recommend = jax.jit(system.recommend, static_argnames="k")
    items, titles = prepared.interactions.items, prepared.catalog["title"]
    path = self.workdir / "recommendations.jsonl"
    with path.with_suffix(".part").open("w") as file:
      for batch in loader.load(batches):
        question = {name: x for name, x in batch.items() if name != "target"}
        ranked = jax.device_get(recommend(params, assets, question, k=k))
        for row in np.flatnonzero(batch["weight"] > 0):
          shown = ranked.ids[row][ranked.ids[row] != PAD]
          record = {
            "user": prepared.interactions.users[batch["user"][row]],
            "items": items[shown].tolist(),
            "titles": titles[shown].tolist(),
            "scores": [round(float(s), 4) for s in ranked.scores[row][: len(shown)]],
          }
          file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return path.with_suffix(".part").replace(path)

  def _asked(self, before: Interactions, events: Interactions) -> loader.Batches:
    found = examples.next_events(before, events)
    if self.evaluation.deny_seen:
      found = examples.deny_seen(found)
    return loader.Batches(found, self.evaluation.batch_size, max_len=self.data.max_len)


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path, mode: str) -> None:
  """The stages up to `mode`, those before it from what they left."""
  job = Run(config, workdir)
  prepared = job.prepare()
  if mode == "prepare":
    return
  item_vectors = job.embed(prepared)
  if mode == "embed":
    return
  ids = job.tokenize(prepared, item_vectors)
  if mode == "tokenize":
    return
  result = job.train(prepared, ids)
  if mode == "train" or result.stopped_by is not None:
    return
  if mode in ("all", "evaluate"):
    print(render(job.evaluate(prepared, ids, result.params)))
  if mode in ("all", "recommend"):
    path = job.recommend(prepared, ids, result.params)
    first = json.loads(path.open().readline())
    print(f"\nFor {first['user']}:")
    for title, score in zip(first["titles"], first["scores"], strict=True):
      print(f"  {score:8.3f}  {title}")
    print(f"\nAll recommendations are in {path}.")


def render(table: dict[str, dict[str, float]]) -> str:
  """The results as text, a row a system."""
  metrics = sorted({m for row in table.values() for m in row})
  lines = ["".join([f"{'':18}", *(f"{m:>12}" for m in metrics)])]
  for name, row in table.items():
    cells = (f"{row[m]:12.4f}" if m in row else f"{'':12}" for m in metrics)
    lines.append("".join([f"{name:18}", *cells]))
  return "\n".join(lines)


def describe(config: ml_collections.ConfigDict) -> str:
  """Every field of the config, with its value and what it means."""
  sections = {
    "data": settings.Data,
    "text": settings.Text,
    "semantic_ids": settings.SemanticIds,
    "model": tiger.Config,
    "train": loop.Config,
    "evaluation": settings.Evaluation,
  }
  told = [settings.describe(n, settings.build(cls, config[n])) for n, cls in sections.items()]
  plain = [f"  --config.{name}={v!r}" for name, v in config.items() if name not in sections]
  return "\n\n".join([*told, "the run:\n" + "\n".join(plain)])


def _stage(name: str, folder: pathlib.Path, inputs: str, *, load: Callable, make: Callable) -> Any:
  """What `make` gives, or what it left in `folder` when the inputs were the same."""
  mark = folder / "inputs.sha256"
  if mark.exists() and mark.read_text() == inputs:
    _logger.info("%s: unchanged, read from %s", name, folder)
    return load()
  made = make()
  mark.write_text(inputs)
  return made


def _digest(*parts: Any) -> str:
  digest = hashlib.sha256()
  for part in parts:
    raw = part.tobytes() if isinstance(part, np.ndarray) else json.dumps(part, sort_keys=True)
    digest.update(raw if isinstance(raw, bytes) else raw.encode())
  return digest.hexdigest()
