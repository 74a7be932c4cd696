"""Where data comes from: a config's `data` section -> interactions and the catalogue."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable

import numpy as np

from experiments.settings import Data
from recjax.data import interactions, prepare, synthetic, synthetic_oracle
from recjax.data.errors import DataError
from recjax.data.interactions import Catalog, Interactions
from recjax.data.readers import sequences, tables

Source = Callable[[Data, pathlib.Path], tuple[Interactions, Catalog]]

_SIZES = {"tiny": synthetic.TINY, "small": synthetic.SMALL}


def read(cfg: Data, workdir: pathlib.Path) -> tuple[Interactions, Catalog]:
  """Ordered, filtered events, and the catalogue in the order of their items.

  Items that nobody met are kept behind the others: they can be recommended too.
  """
  if cfg.source not in SOURCES:
    raise ValueError(f"no data source {cfg.source!r}; there is {', '.join(SOURCES)}")
  x, catalog = SOURCES[cfg.source](cfg, workdir)
  if cfg.user_core or cfg.item_core:
    x = prepare.k_core(x, user=cfg.user_core, item=cfg.item_core)
  x = prepare.order(prepare.reindex(x), ties=_ties(cfg.ties))
  lost = interactions.missing(catalog, x.items)
  if lost:
    raise DataError(
      f"{lost} items that users met are not in the catalogue",
      remedy="Complete the catalogue, or drop those items' events.",
    )
  unmet = catalog.ids[1:][~np.isin(catalog.ids[1:], x.items)]
  x = dataclasses.replace(x, items=np.concatenate([x.items, unmet]))
  return x, interactions.align(catalog, x.items)


def _synthetic(cfg: Data, workdir: pathlib.Path):
  """Raw files of a synthetic world, made once, read as any other; the truth goes to truth.json."""
  if cfg.size not in _SIZES:
    raise ValueError(f"no synthetic size {cfg.size!r}; there is {', '.join(_SIZES)}")
  folder = workdir / "raw"
  if not (folder / "truth.json").exists():
    world = synthetic.generate(_SIZES[cfg.size])
    synthetic.write(world, folder)
    best = synthetic_oracle.best_attainable(world, k=10)
    (folder / "truth.json").write_text(json.dumps({"recall@10": best.recall, "ndcg@10": best.ndcg}))
  return _tables(Data(path=str(folder)), workdir)


def _tables(cfg: Data, workdir: pathlib.Path):
  events = ("user", "item", "rating", "timestamp")
  folder = pathlib.Path(cfg.path)
  x = tables.interactions(folder / "interactions.csv", {name: name for name in events})
  fields = {"id": "item", "title": "title", "brand": "brand", "categories": "categories"}
  return x, tables.catalog(folder / "items.jsonl", fields, lists=["categories"])


def _sequences(cfg: Data, workdir: pathlib.Path):
  folder = pathlib.Path(cfg.path)
  return sequences.grouped(folder / "sequences.txt.gz"), sequences.items(folder / "items.jsonl.gz")


SOURCES: dict[str, Source] = {
  "synthetic": _synthetic,
  "tables": _tables,
  "sequences": _sequences,
}


def _ties(rule: str) -> prepare.Ties:
  known = {"file": prepare.file_order, "item": prepare.by_item_id}
  if rule in known:
    return known[rule]
  if rule.isdecimal():
    return prepare.shuffled(int(rule))
  raise ValueError(f"ties must be file, item or a seed, not {rule!r}")
