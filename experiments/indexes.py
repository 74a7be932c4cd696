"""How a run's items are written: a name of the config's `prompts.index` -> identifiers.

What is learned from events is learned from those that may be learned from; see `text.indexing`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from experiments import settings, sources
from recjax.data.errors import DataError
from recjax.data.interactions import Interactions
from recjax.semid import artefact
from recjax.text import indexing, vocab


class Ingredients(Protocol):
  raw: sources.Raw
  known: Interactions  # the events that may be learned from
  ids: artefact.SemanticIds


class Language(Protocol):
  """What items are written of; each part costs nothing until it is asked for."""

  of: Ingredients
  pieces: vocab.SentencePieces
  titles: list[str]
  titled: bool  # not by ids alone


def _span(cfg: settings.Index) -> int | None:
  return cfg.span or None


def _categories(of: Language, cfg: settings.Index) -> indexing.Prefixes:
  catalog = of.of.raw.catalog
  if "categories" not in catalog.fields:
    raise DataError(
      f"the index {cfg.method!r} needs categories, the catalogue has {', '.join(catalog.fields)}",
      remedy="Index by clusters, codes or sequential, or read a source with categories.",
    )
  return indexing.category_tree(catalog["categories"].tolist(), catalog.ids)


def _codes(of: Language) -> indexing.Prefixes:
  """Without the level that only tells apart what has the same codes."""
  ids = of.of.ids
  levels = ids.codes.shape[1] if ids.quantizer is None else len(ids.quantizer.sizes)
  return indexing.codes(ids.codes[:, :levels], of.of.raw.catalog.ids)


def _clusters(of: Language, cfg: settings.Index) -> indexing.Prefixes:
  known = of.of.known
  leaf = min(cfg.leaf, max(known.num_items // 2, 1))
  return indexing.clusters(known, count=cfg.clusters, leaf=leaf, seed=cfg.seed)


def _titles(of: Language, cfg: settings.Index) -> indexing.Index:
  if not of.titled:
    raise DataError(
      f"the index {cfg.method!r} needs titles, and the catalogue names items by their ids alone",
      remedy="Index by clusters or sequential, or read a source with titles.",
    )
  first = [" ".join(str(title).split()[: cfg.title_words]) for title in of.titles]
  return indexing.titles(first, of.of.raw.catalog.ids, of.pieces.pieces)


# A method `X+item` gives each item a token of its own behind its prefix, where `X` counts.
INDEXES: dict[str, Callable[[Language, settings.Index], indexing.Index]] = {
  "random": lambda of, cfg: indexing.randomly(of.of.known.items, seed=cfg.seed, span=_span(cfg)),
  "popularity": lambda of, cfg: indexing.by_popularity(of.of.known, span=_span(cfg)),
  "time": lambda of, cfg: indexing.by_time(of.of.known, span=_span(cfg)),
  "sequential": lambda of, cfg: indexing.sequentially(of.of.known, seed=cfg.seed, span=_span(cfg)),
  "title": _titles,
  "clusters": lambda of, cfg: indexing.counted(_clusters(of, cfg)),
  "clusters+item": lambda of, cfg: indexing.independent(_clusters(of, cfg)),
  "category": lambda of, cfg: indexing.counted(_categories(of, cfg)),
  "category+item": lambda of, cfg: indexing.independent(_categories(of, cfg)),
  "codes": lambda of, cfg: indexing.counted(_codes(of)),
  "codes+item": lambda of, cfg: indexing.independent(_codes(of)),
}
