"""What is made of raw files before any system: events, their split, item vectors, semantic ids.

Each is kept in the run's folder and made once: what is there is read again, aloud, as long as what
it depends on (its part of the config and what it was made from) has not changed.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import pathlib
from typing import Any

import ml_collections
import numpy as np

from experiments import settings, sources, tasks
from recjax import growth
from recjax.data import interactions, splits, storage
from recjax.data.interactions import Interactions
from recjax.semid import artefact, learn
from recjax.text import encoders, lsa, vectors
from recjax.types import PAD

_logger = logging.getLogger(__name__)


class Preparation:
  """The data of a run, below its folder."""

  def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path):
    self.config, self.workdir = config, workdir
    self.data = settings.build(settings.Data, config.data)
    self.task = tasks.named(config)
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
    inputs = digest(dataclasses.asdict(cfg), read)
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


def digest(*parts: Any) -> str:
  """A hash of arrays and of plain values."""
  made = hashlib.sha256()
  for part in parts:
    raw = part.tobytes() if isinstance(part, np.ndarray) else json.dumps(part, sort_keys=True)
    made.update(raw if isinstance(raw, bytes) else raw.encode())
  return made.hexdigest()


def _unrated(x: Interactions) -> Interactions:
  return dataclasses.replace(x, rating=None)
