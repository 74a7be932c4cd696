"""A system from its config section, and the assets that it reads, made of what a run has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import ml_collections
import numpy as np

from experiments import language, settings, sources
from recjax.data.errors import DataError
from recjax.data.interactions import Interactions
from recjax.semid import artefact
from recjax.systems import SYSTEMS
from recjax.systems.sequential import fdsa
from recjax.text import words
from recjax.train import stages
from recjax.types import Assets, System


class Ingredients(Protocol):
  """What assets are made of; each part costs nothing until it is asked for."""

  raw: sources.Raw
  known: Interactions  # the events that may be learned from
  vectors: np.ndarray  # [I, D]
  ids: artefact.SemanticIds
  language: language.Language
  words: words.Words
  word_vectors: np.ndarray | None  # [V, D]


class Built(NamedTuple):
  system: System
  assets: Assets
  config: Any  # the module's Config, sized by the data
  pretrain: System | None = None  # a stage before, over the same assets
  shared: stages.Shared | None = None  # which parameters it hands on
  rater: System | None = None  # the same parameters, asked for ratings; where None, `system`


def build(name: str, section: ml_collections.ConfigDict | None, of: Ingredients) -> Built:
  """The system `name`, sized by the data; without a section, with its defaults."""
  module = _module(name)
  section = ml_collections.ConfigDict() if section is None else section
  size, make_assets = _MADE.get(name, (_sizes, None))
  fields = module.Config.__dataclass_fields__
  sizes = {field: value for field, value in size(of).items() if field in fields}
  for field in _from_data(name).intersection(sizes, section):
    if section[field] not in (fields[field].default, sizes[field]):
      raise ValueError(
        f"model.{field} is {section[field]}, and the data gives {sizes[field]}: leave it out"
      )
  cfg = settings.build(module.Config, section, **sizes)
  assets = () if make_assets is None else make_assets(module, cfg, of)
  pretrain = module.make_pretrain(cfg) if hasattr(module, "make_pretrain") else None
  rater = module.make_rating(cfg) if hasattr(module, "make_rating") else None
  return Built(module.make(cfg), assets, cfg, pretrain, getattr(module, "SHARED", None), rater)


def chosen(name: str, section: Mapping[str, Any] | None) -> dict[str, Any]:
  """What a section says of the system `name` by choice: without what the data gives."""
  given = _from_data(name)
  return {field: value for field, value in (section or {}).items() if field not in given}


def _from_data(name: str) -> set[str]:
  """Fields of the system's Config that the data gives: those without a default, levels of codes."""
  missing = dataclasses.MISSING
  fields = dataclasses.fields(_module(name).Config)
  found = {f.name for f in fields if f.default is missing and f.default_factory is missing}
  return found | ({"levels"} if _MADE.get(name, (None,))[0] is _code_sizes else set())


def _module(name: str):
  if name not in SYSTEMS:
    raise ValueError(f"no system {name!r}; there is {', '.join(sorted(SYSTEMS))}")
  return SYSTEMS[name]


def _sizes(of: Ingredients) -> dict[str, Any]:
  return {"num_items": of.raw.interactions.num_items, "num_users": of.raw.interactions.num_users}


def _attributes(of: Ingredients):
  """Of each item: the catalogue's `attributes`, or every level of `categories` and the `brand`."""
  told = of.raw.catalog.fields
  wanted = ("attributes",) if "attributes" in told else ("categories", "brand")
  columns = [told[name] for name in wanted if name in told]
  rows = [
    [name for cell in cells for name in ((cell,) if isinstance(cell, str) else cell) if name]
    for cells in zip(*columns, strict=True)
  ]
  if not any(rows):
    raise DataError(
      "the catalogue tells no item's `attributes`, `categories` or `brand`, which this system "
      f"reads; it has {', '.join(told)}",
      remedy="Take a source whose catalogue has one of them, or a system of ids alone, as sasrec.",
    )
  return fdsa.numbered(rows)


def _attribute_sizes(of: Ingredients) -> dict[str, Any]:
  return {**_sizes(of), "num_attributes": len(_attributes(of)[1])}


def _rating_mean(module, cfg, of: Ingredients) -> Assets:
  return () if of.known.rating is None else module.assets(cfg, of.known)


def _from_vectors(module, cfg, of: Ingredients) -> Assets:
  return module.assets(cfg, of.vectors)


def _from_vectors_and_counts(module, cfg, of: Ingredients) -> Assets:
  return module.assets(cfg, of.vectors, np.bincount(of.known.item, minlength=cfg.num_items))


def _from_attributes(module, cfg, of: Ingredients) -> Assets:
  return module.assets(cfg, _attributes(of)[0])


def _from_codes(module, cfg, of: Ingredients) -> Assets:
  return module.assets(cfg, of.ids.codes)


def _from_counts(module, cfg, of: Ingredients) -> Assets:
  return module.assets(cfg, np.bincount(of.known.item, minlength=cfg.num_items))


def _from_events(module, cfg, of: Ingredients) -> Assets:
  return module.assets(cfg, of.known)


def _from_links(module, cfg, of: Ingredients) -> Assets:
  if of.raw.links is None:
    raise ValueError("the source has no links between users, which this system reads")
  return module.assets(cfg, of.known, of.raw.links)


def _code_sizes(of: Ingredients) -> dict[str, Any]:
  return {"levels": of.ids.sizes}


def _vocabulary_size(of: Ingredients) -> dict[str, Any]:
  return of.language.sizes


def _from_words(module, cfg, of: Ingredients) -> Assets:
  words = of.language
  return module.assets(cfg, words.words, words.domain.items, words.ratings)


def _news_sizes(of: Ingredients) -> dict[str, Any]:
  return {
    **_sizes(of),
    "num_words": len(of.words),
    "num_categories": _kinds(of, "category")[1],
    "num_subcategories": _kinds(of, "subcategory")[1],
  }


def _kinds(of: Ingredients, field: str) -> tuple[np.ndarray, int]:
  """[I] the id of each item's category, 0 where none is told, and how many ids there are."""
  names, ids = np.unique(np.append("", of.raw.catalog[field]), return_inverse=True)
  return ids[1:], len(names)


def _from_titles(module, cfg, of: Ingredients) -> Assets:
  titles = of.words.batch(of.raw.catalog["title"].tolist(), cfg.title)
  return module.assets(cfg, titles, of.word_vectors)


def _from_views(module, cfg, of: Ingredients) -> Assets:
  told = of.raw.catalog
  titles, abstracts = (
    of.words.batch(told[field].tolist(), width)
    for field, width in (("title", cfg.title), ("abstract", cfg.abstract))
  )
  kinds = (_kinds(of, field)[0] for field in ("category", "subcategory"))
  return module.assets(cfg, titles, abstracts, *kinds, of.word_vectors)


def _from_titles_and_category(module, cfg, of: Ingredients) -> Assets:
  titles = of.words.batch(of.raw.catalog["title"].tolist(), cfg.title)
  return module.assets(cfg, titles, _kinds(of, "category")[0])


def _from_titles_and_kinds(module, cfg, of: Ingredients) -> Assets:
  titles = of.words.batch(of.raw.catalog["title"].tolist(), cfg.title)
  kinds = (_kinds(of, field)[0] for field in ("category", "subcategory"))
  return module.assets(cfg, titles, *kinds, of.word_vectors)


# name -> (sizes that the data gives, how the assets are made); the others read no assets
_MADE: dict[str, tuple[Callable[[Ingredients], dict[str, Any]], Callable[..., Assets]]] = {
  "content": (_sizes, _from_vectors),
  "coserec": (_sizes, _from_events),
  "dros": (_sizes, _from_counts),
  "ebnr": (_news_sizes, _from_titles_and_category),
  "fdsa": (_attribute_sizes, _from_attributes),
  "graphrec": (_sizes, _from_links),
  "gru4rec": (_sizes, _from_counts),
  "hybrid": (_sizes, _from_vectors_and_counts),
  "lightgcn": (_sizes, _from_events),
  "lstur": (_news_sizes, _from_titles_and_kinds),
  "mf": (_sizes, _rating_mean),
  "naml": (_news_sizes, _from_views),
  "npa": (_news_sizes, _from_titles),
  "nrms": (_news_sizes, _from_titles),
  "p5": (_vocabulary_size, _from_words),
  "s3rec": (_attribute_sizes, _from_attributes),
  "t5_rating": (_vocabulary_size, None),
  "text_graph": (_sizes, lambda module, cfg, of: module.assets(cfg, of.known, of.vectors)),
  "tiger": (_code_sizes, _from_codes),
  "tiger_lm": (_code_sizes, _from_codes),
}
