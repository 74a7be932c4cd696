"""What is made of raw files before any system: events, their split, item vectors, semantic ids.

Events are read from the raw files each time. A fitted LSA, vectors and semantic ids are kept in the
run's folder and read again, aloud, as long as what they depend on (their part of the config and
what they were made from) has not changed.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import math
import pathlib
from typing import Any

import ml_collections
import numpy as np

from experiments import settings, sources, tasks
from recjax import growth
from recjax.data import interactions, prepare, splits, storage
from recjax.data.errors import DataError
from recjax.data.interactions import Impressions, Interactions
from recjax.semid import artefact, assign, learn, quantizer, report
from recjax.text import encoders, lsa, vectors, words
from recjax.types import PAD

_logger = logging.getLogger(__name__)


class Preparation:
  """The data of a run, below its folder."""

  def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path):
    self.config, self.workdir = config, workdir
    self.data = settings.build(settings.Data, config.data)
    self.task = tasks.named(config)
    workdir.mkdir(parents=True, exist_ok=True)

  def keep_data(self) -> None:
    save = storage.save_maps if self.task.impressions else storage.save
    save(self.raw.interactions, self.workdir / "data")

  def section(self, name: str) -> ml_collections.ConfigDict:
    """A part of the config that this stage needs."""
    if name not in self.config:
      raise ValueError(f"the config has no section `{name}`, which this stage reads")
    return self.config[name]

  @functools.cached_property
  def raw(self) -> sources.Raw:
    raw = sources.read(_unread(self.data, self.task), self.workdir)
    if isinstance(raw.interactions, Impressions) != self.task.impressions:
      raise ValueError(
        f"the source {self.data.source!r} and the task {self.config.task!r} do not fit: impressions"
        " are of the sources mind and mind_sample, and of the task impressions"
      )
    if not (self.task.ratings or self.task.impressions):  # only that they met it
      split = raw.split and splits.Split(*map(_unrated, raw.split))
      raw = dataclasses.replace(raw, interactions=_unrated(raw.interactions), split=split)
    _logger.info("prepared %r, %r", raw.interactions, raw.catalog)
    return raw

  @functools.cached_property
  def _split(self) -> tuple[splits.Split, np.ndarray]:
    whole = self.task.split(self.raw, self.data)
    if self.task.impressions:
      if self.data.cold:
        raise ValueError("data.cold is of events, not of impressions")
      return whole, np.zeros(self.raw.interactions.num_items, bool)
    tasks.check_split(self.config, whole)
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
    parts = self.split[:2]
    if self.task.impressions:
      parts = [interactions.taken(part) for part in parts]
    return prepare.order(interactions.concat(parts), ties=prepare.file_order)

  @functools.cached_property
  def words(self) -> words.Words:
    """The vocabulary of the news that training impressions show."""
    cfg = settings.build(settings.Words, self.section("words"))
    shown = (self.known.history, self.known.candidates)
    news = np.unique(np.concatenate([row.flat()[1] for row in shown]))
    texts = (self.raw.catalog[name][news].tolist() for name in cfg.fields)
    return words.fit(itertools.chain.from_iterable(texts), least=cfg.least)

  @functools.cached_property
  def word_vectors(self) -> np.ndarray | None:
    """[V, D] that a word table starts from, where the config names a file."""
    path = settings.build(settings.Words, self.section("words")).vectors
    return words.vectors(sources.path_of(path), self.words) if path else None

  @functools.cached_property
  def encoder(self) -> encoders.Encoder | lsa.Lsa:
    cfg = settings.build(settings.Text, self.section("text"))
    if cfg.encoder != "lsa":
      return encoders.load(cfg.encoder)
    if not sources.titled(self.raw.catalog) and set(self.raw.catalog.fields) == {"title"}:
      raise DataError(
        "nothing is known of the items but their ids, so there are no words to make vectors of",
        remedy="Name a table of items: --config.data.catalog=FILE, titles in a column `title` or "
        "the one that --config.data.item_columns.title names.",
      )
    texts = vectors.render(self.raw.catalog, cfg.template)[PAD + 1 :]
    path = self.workdir / "vectors" / f"lsa_{digest(cfg.dim, cfg.shortest, texts)[:32]}.safetensors"
    if path.exists():
      _logger.info("lsa: unchanged, read from %s", path)
      return lsa.load(path)
    fitted = lsa.fit(texts, dim=cfg.dim or None, shortest=cfg.shortest)
    path.parent.mkdir(exist_ok=True)
    fitted.save(path)
    return fitted

  @functools.cached_property
  def vectors(self) -> np.ndarray:
    """[I, D] a vector an item, kept in the run's folder under a hash of texts and encoder."""
    template = settings.build(settings.Text, self.section("text")).template
    folder = self.workdir / "vectors"
    made = vectors.item_vectors(self.raw.catalog, template, self.encoder, cache=folder)
    texts = vectors.render(self.raw.catalog, template)
    empty = np.flatnonzero(vectors.unplaced(texts, made)[PAD + 1 :]) + PAD + 1
    if len(empty):
      _logger.warning(
        "%d of %d items have no text, or none of known words (the first is %s): nothing in their "
        "vectors tells them apart",
        len(empty),
        len(made) - 1,
        self.raw.catalog.ids[empty[0]],
      )
    return made

  @functools.cached_property
  def ids(self) -> artefact.SemanticIds:
    cfg = settings.build(settings.SemanticIds, self.section("semantic_ids"))
    folder = self.workdir / "semantic_ids"
    if cfg.published:
      given = artefact.published(sources.path_of(cfg.published))
      read = digest(given.items.tolist(), np.asarray(given.codes))
    else:
      read = artefact.content_hash(self.vectors)
    inputs = digest(dataclasses.asdict(cfg), self.raw.catalog.ids.tolist(), read)
    mark = folder / "inputs.sha256"
    if mark.exists() and mark.read_text() == inputs:
      _logger.info("semantic ids: unchanged, read from %s", folder)
      return artefact.load(folder)
    if cfg.published:
      ids = given.select(self.raw.catalog.ids.tolist())
    else:
      training = folder / f"training_{inputs[:8]}"
      made = learn.quantizer(cfg.quantizer, self.vectors[PAD + 1 :], workdir=training)
      ids = self._coded(made, cfg)
    mark.unlink(missing_ok=True)  # until all that it vouches for is there
    ids.save(folder)
    x = None if ids.quantizer is None else self.vectors[PAD + 1 :]
    category = sources.category(self.raw.catalog)[PAD + 1 :]
    told = report.measure(
      ids.codes[PAD + 1 :],
      sizes=ids.sizes,
      vectors=x,
      category=category if any(category) else None,
      quantizer=ids.quantizer,
    )
    (folder / "report.json").write_text(told.json() + "\n")
    mark.write_text(inputs)
    return ids

  def _coded(self, made: quantizer.Quantizer, cfg: settings.SemanticIds) -> artefact.SemanticIds:
    """By the policy of the config. Sizes that nobody chose do not fail: then a level counts."""
    items, policy = self.raw.catalog.ids, growth.Collisions(cfg.policy, cfg.collisions)
    try:
      return artefact.build(items, self.vectors, made, policy.make())
    except assign.Overflow as error:
      if cfg.quantizer.sizes:
        raise DataError(
          error.problem,
          remedy="Choose more codes or levels (--config.semantic_ids.quantizer.sizes), or count "
          "within what is alike: --config.semantic_ids.policy=count_up "
          "--config.semantic_ids.collisions=SIZE.",
        ) from error
      alike = np.unique(made.encode(self.vectors[PAD + 1 :]), axis=0, return_counts=True)[1].max()
      size = max(16, 2 ** math.ceil(math.log2(2 * alike)))
      _logger.warning(
        "%s: a further level of %d codes counts within what is alike", error.problem, size
      )
      return artefact.build(items, self.vectors, made, assign.count_up(size))

  @property
  def collisions(self) -> growth.Collisions:
    """How the ids tell apart what the quantiser does not."""
    cfg = settings.build(settings.SemanticIds, self.section("semantic_ids"))
    if self.ids.quantizer is not None and len(self.ids.sizes) > len(self.ids.quantizer.sizes):
      return growth.Collisions("count_up", self.ids.sizes[-1])
    return growth.Collisions(cfg.policy, cfg.collisions)


def digest(*parts: Any) -> str:
  """A hash of arrays and of plain values."""
  made = hashlib.sha256()
  for part in parts:
    raw = part.tobytes() if isinstance(part, np.ndarray) else json.dumps(part, sort_keys=True)
    made.update(raw if isinstance(raw, bytes) else raw.encode())
  return made.hexdigest()


def _unread(cfg: settings.Data, task: tasks.Task) -> settings.Data:
  """Without a column that the task would not use: what is wrong in it is no error."""
  usual = settings.Data().columns["rating"]
  if task.ratings or cfg.source != "tables" or cfg.columns["rating"] != usual:
    return cfg
  return dataclasses.replace(cfg, columns={**cfg.columns, "rating": ""})


def _unrated(x: Interactions) -> Interactions:
  return dataclasses.replace(x, rating=None)
