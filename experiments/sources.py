"""Where data comes from: a config's `data` section -> events, catalogue, what else there is."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable

import numpy as np

from experiments.settings import Data
from recjax.data import interactions, prepare, splits, synthetic, synthetic_oracle
from recjax.data.errors import DataError
from recjax.data.interactions import Catalog, Impressions, Interactions, Links
from recjax.data.readers import amazon, edges, movielens, recbole, sequences, share_ids, tables


@dataclasses.dataclass(frozen=True)
class Raw:
  """What a source holds. Events that come as train and test stay split."""

  interactions: Interactions
  catalog: Catalog | None = None
  split: splits.Split | None = None
  links: Links | None = None  # between users
  candidates: Impressions | None = None  # each test event among sampled negatives


TRUTH = "truth.json"  # of a synthetic world, in the run's folder `raw`: what can be attained

Source = Callable[[Data, pathlib.Path, pathlib.Path], Raw]  # (config, its path, the run's folder)

_SIZES = {"tiny": synthetic.TINY, "small": synthetic.SMALL}


def read(cfg: Data, workdir: pathlib.Path) -> Raw:
  """Ordered, filtered events, and the catalogue in the order of their items.

  Items that nobody met are kept behind the others: they can be recommended too. A relative path
  that is not there is looked for in the folder that RECJAX_DATA names.
  """
  if cfg.source not in SOURCES:
    raise ValueError(f"no data source {cfg.source!r}; there is {', '.join(SOURCES)}")
  raw = SOURCES[cfg.source](cfg, path_of(cfg.path), workdir)
  x = raw.interactions
  if raw.split is None:
    if cfg.user_core or cfg.item_core:
      x = prepare.k_core(x, user=cfg.user_core, item=cfg.item_core)
    x = prepare.order(prepare.reindex(x), ties=_ties(cfg.ties))
  elif cfg.user_core or cfg.item_core:
    raise ValueError("data that comes as train and test is filtered already: no k-core of it")
  if raw.catalog is None:
    return dataclasses.replace(raw, interactions=x, catalog=Catalog(x.items, {"title": x.items}))
  lost = interactions.missing(raw.catalog, x.items)
  if lost:
    raise DataError(
      f"{lost} items that users met are not in the catalogue",
      remedy="Complete the catalogue, or drop those items' events.",
    )
  if raw.split is None:
    unmet = raw.catalog.ids[1:][~np.isin(raw.catalog.ids[1:], x.items)]
    x = dataclasses.replace(x, items=np.concatenate([x.items, unmet]))
  return dataclasses.replace(raw, interactions=x, catalog=interactions.align(raw.catalog, x.items))


def _synthetic(cfg: Data, path: pathlib.Path, workdir: pathlib.Path) -> Raw:
  """Raw files of a synthetic world, made once, read as any other; the truth beside them."""
  if cfg.size not in _SIZES:
    raise ValueError(f"no synthetic size {cfg.size!r}; there is {', '.join(_SIZES)}")
  folder = workdir / "raw"
  made, size = folder / TRUTH, folder / "size"
  if not made.exists():
    world = synthetic.generate(_SIZES[cfg.size])
    synthetic.write(world, folder)
    best = synthetic_oracle.best_attainable(world, k=10)
    size.write_text(cfg.size)
    made.write_text(json.dumps({"recall@10": best.recall, "ndcg@10": best.ndcg}))
  elif size.exists() and size.read_text() != cfg.size:
    raise DataError(
      f"a world of size {size.read_text()!r}, not {cfg.size!r}",
      path=folder,
      remedy="Take a new folder for the run.",
    )
  return _tables(cfg, folder, workdir)


def _tables(cfg: Data, path: pathlib.Path, workdir: pathlib.Path) -> Raw:
  """A folder of interactions.csv and items.jsonl."""
  events = ("user", "item", "rating", "timestamp")
  x = tables.interactions(path / "interactions.csv", {name: name for name in events})
  fields = {"id": "item", "title": "title", "brand": "brand", "categories": "categories"}
  return Raw(x, tables.catalog(path / "items.jsonl", fields, lists=["categories"]))


def _reviews(cfg: Data, path: pathlib.Path, workdir: pathlib.Path) -> Raw:
  """Amazon reviews of any edition: stars, text and summary."""
  return Raw(amazon.reviews(path))


def _sequences(cfg: Data, path: pathlib.Path, workdir: pathlib.Path) -> Raw:
  """S3-Rec's form: a folder with sequences and what is known of the items, or the one file."""
  if path.is_file():
    return Raw(sequences.grouped(path))
  catalog = None
  if (path / "items.jsonl.gz").exists():
    catalog = sequences.items(path / "items.jsonl.gz")
    if "title" not in catalog.fields and "keywords" in catalog.fields:
      catalog = dataclasses.replace(
        catalog, fields={**catalog.fields, "title": catalog["keywords"]}
      )
  elif (path / "item2attributes.json.gz").exists():
    catalog = sequences.attributes(path / "item2attributes.json.gz")
  return Raw(sequences.grouped(path / "sequences.txt.gz"), catalog)


def _gowalla(cfg: Data, path: pathlib.Path, workdir: pathlib.Path) -> Raw:
  """LightGCN's train and test lists; nothing is set aside for validation."""
  parts = (edges.lists(path / f"gowalla.{part}.txt.gz") for part in ("train", "test"))
  return _given(*share_ids(*parts))


def _graphrec(cfg: Data, path: pathlib.Path, workdir: pathlib.Path) -> Raw:
  data = edges.graphrec(path)
  return _given(data.train, data.test, links=data.social)


def _ciao(cfg: Data, path: pathlib.Path, workdir: pathlib.Path) -> Raw:
  """Ratings and who trusts whom; of several ratings of one item by one user the last counts."""
  at = {name: name for name in ("user", "item", "rating")}
  x = tables.interactions(path / "ciao.ratings.csv.xz", at)
  trust = edges.links(path / "ciao.trust.csv.xz", ("user", "trusts"), delimiter=",", header=True)
  x, trust = share_ids(prepare.deduplicate(x), trust)
  return Raw(x, links=trust)


def _recbole(cfg: Data, path: pathlib.Path, workdir: pathlib.Path) -> Raw:
  """A folder NAME with NAME.inter and NAME.item."""
  inter, item = (path / f"{path.name}.{part}.gz" for part in ("inter", "item"))
  titles = {"title": "movie_title", "categories": "class"} if "ml-" in path.name else {}
  return Raw(recbole.interactions(inter), recbole.catalog(item, **titles))


def _movielens(cfg: Data, path: pathlib.Path, workdir: pathlib.Path) -> Raw:
  return Raw(movielens.ratings(path), movielens.movies(path))


def _ncf(cfg: Data, path: pathlib.Path, workdir: pathlib.Path) -> Raw:
  """NCF's ml-1m: train and test ratings, and the negatives that each test event is ranked with."""
  train = sequences.ncf_ratings(_one_of(path, "ml-1m.train.rating"))
  test = sequences.ncf_ratings(_one_of(path, "ml-1m.test.rating"))
  candidates = sequences.ncf_negatives(_one_of(path, "ml-1m.test.negative"))
  train, test, candidates = share_ids(train, test, candidates)
  return dataclasses.replace(_given(train, test), candidates=candidates)


def _given(train: Interactions, test: Interactions, **more) -> Raw:
  train, test = (x.take(np.argsort(x.user, kind="stable")) for x in (train, test))
  nothing = train.take(np.zeros(0, np.int64))
  both = interactions.concat([train, test])
  return Raw(both, split=splits.Split(train, nothing, test), **more)


def _one_of(folder: pathlib.Path, name: str) -> pathlib.Path:
  """The file, whatever its compression."""
  found = sorted(folder.glob(f"{name}*"))
  if not found:
    raise DataError("no such file", path=folder / name, remedy="See the README of the source.")
  return found[0]


def path_of(given: str) -> pathlib.Path:
  """A path of a config: as it is, or below the folder that RECJAX_DATA names."""
  path = pathlib.Path(given).expanduser()
  root = os.environ.get("RECJAX_DATA")
  return path if path.exists() or path.is_absolute() or not root else pathlib.Path(root) / path


def category(catalog: Catalog, depth: int = 1) -> np.ndarray:
  """[I] the category of each item at a depth of its path; "" where it ends before."""
  return np.array([path[depth] if len(path) > depth else "" for path in catalog["categories"]])


SOURCES: dict[str, Source] = {
  "ciao": _ciao,
  "gowalla": _gowalla,
  "graphrec": _graphrec,
  "movielens": _movielens,
  "ncf": _ncf,
  "recbole": _recbole,
  "reviews": _reviews,
  "sequences": _sequences,
  "synthetic": _synthetic,
  "tables": _tables,
}


def _ties(rule: str) -> prepare.Ties:
  known = {"file": prepare.file_order, "item": prepare.by_item_id}
  if rule in known:
    return known[rule]
  if rule.isdecimal():
    return prepare.shuffled(int(rule))
  raise ValueError(f"ties must be file, item or a seed, not {rule!r}")
