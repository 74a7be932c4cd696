"""Where data comes from: a config's `data` section -> events, catalogue, what else there is."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from experiments.settings import Data
from recjax.data import interactions, prepare, splits, synthetic, synthetic_oracle
from recjax.data.errors import DataError
from recjax.data.interactions import STRING, Catalog, Impressions, Interactions, Links
from recjax.data.readers import (
  amazon,
  edges,
  mind,
  movielens,
  recbole,
  sequences,
  share_ids,
  steam,
  tables,
  yelp,
)
from recjax.data.readers.files import suffix

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Raw:
  """What a source holds. Events that come as train and test stay split."""

  interactions: Interactions | Impressions
  catalog: Catalog | None = None
  split: splits.Split | None = None
  links: Links | None = None  # between users
  candidates: Impressions | None = None  # each test event among sampled negatives


TRUTH = "truth.json"  # of a synthetic world, in the run's folder `raw`: what can be attained

Source = Callable[[Data, pathlib.Path, pathlib.Path], Raw]  # (config, its path, the run's folder)

_NONE = np.zeros(0, np.int64)  # rows
_SIZES = {"tiny": synthetic.TINY, "small": synthetic.SMALL}


def read(cfg: Data, workdir: pathlib.Path) -> Raw:
  """Ordered, filtered events, and the catalogue in the order of their items.

  Items that nobody met stand behind the others. A relative path that is not there is looked for in
  the folder that RECJAX_DATA names.
  """
  _check(cfg)
  raw = SOURCES[cfg.source](cfg, path_of(cfg.path), workdir)
  x, core = raw.interactions, bool(cfg.user_core or cfg.item_core)
  if raw.split is None and isinstance(x, Interactions):
    ties = _ties(cfg.ties)
    if cfg.repeats == "first":
      x = prepare.deduplicate(prepare.order(x, ties=ties))
    if core:
      x = prepare.k_core(x, user=cfg.user_core, item=cfg.item_core)
    x = prepare.order(prepare.reindex(x), ties=ties)
  elif core or cfg.repeats != "keep":
    raise ValueError(
      "data that comes as train and test, or as impressions, is filtered already: no core, no "
      "repeats"
    )
  if raw.catalog is None:
    return dataclasses.replace(raw, interactions=x, catalog=Catalog(x.items, {"title": x.items}))
  catalog = raw.catalog
  if raw.split is None and cfg.unmet and not core:
    unmet = catalog.ids[1:][~np.isin(catalog.ids[1:], x.items)]
    x = dataclasses.replace(x, items=np.concatenate([x.items, unmet]))
  known = np.isin(x.items, catalog.ids)
  catalog = interactions.align(catalog, x.items)
  if not known.all():
    catalog = _titled_by_id(catalog, known, cfg.undescribed)
  return dataclasses.replace(raw, interactions=x, catalog=catalog)


def _check(cfg: Data) -> None:
  """Values that no source could use, and those that this one would not read."""
  if cfg.source not in SOURCES:
    raise ValueError(f"no data source {cfg.source!r}; there is {', '.join(SOURCES)}")
  if cfg.repeats not in ("keep", "first"):
    raise ValueError(f"data.repeats is keep or first, not {cfg.repeats!r}")
  ours, fixed = Data(), {"columns": ("tables",), "item_columns": ("tables",)}
  fixed |= {name: ("tables", *_REVIEWS) for name in ("catalog", "on_error")}
  for name, sources in fixed.items():
    if cfg.source not in sources and getattr(cfg, name) != getattr(ours, name):
      raise ValueError(f"data.{name} is of {', '.join(sources)}; {cfg.source!r} does not read it")


def _titled_by_id(catalog: Catalog, known: np.ndarray, allowed: bool) -> Catalog:
  """Where items are unknown to the catalogue, and that is allowed, their ids are their titles."""
  lost = catalog.ids[~known]
  if not allowed:
    raise DataError(
      f"{len(lost):,} items that users met are not in the catalogue: {', '.join(lost[:3])} ...",
      remedy="Complete it, or keep them, titled by their ids: --config.data.undescribed=True.",
    )
  titles = catalog.fields.get("title", np.full(len(known), "", lost.dtype))
  return dataclasses.replace(
    catalog, fields={**catalog.fields, "title": np.where(known, titles, catalog.ids)}
  )


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
  """A table of events and, where there is one, a table of items.

  `path` is the file of events, or a folder of `interactions` and `items`, each .csv, .tsv, .jsonl
  or .parquet, compressed or not.
  """
  items = path_of(cfg.catalog) if cfg.catalog else None
  if path.is_dir():
    items, path = items or _table(path, "items"), _table(path, "interactions") or path
  if path.is_dir():
    raise DataError(
      "the folder has no table of events",
      path=path,
      remedy=f"Name it interactions, with one of {' '.join(tables.EXTENSIONS)}, or give its path.",
    )
  columns = _columns(path, cfg.columns, Data().columns, ("user", "item"), cfg.on_error)
  x = tables.interactions(path, columns, on_error=cfg.on_error)
  if items is None:
    return Raw(x)
  columns = _columns(items, cfg.item_columns, Data().item_columns, ("id",), cfg.on_error)
  lists = ["categories"] if "categories" in columns else []
  return Raw(x, tables.catalog(items, columns, lists=lists, on_error=cfg.on_error))


def _table(folder: pathlib.Path, stem: str) -> pathlib.Path | None:
  """The one table of this name, if there is any."""
  found = [p for p in sorted(folder.glob(f"{stem}.*")) if suffix(p) in tables.EXTENSIONS]
  if len(found) > 1:
    raise DataError(
      f"{len(found)} tables are named {stem}: {', '.join(p.name for p in found)}",
      path=folder,
      remedy="Leave one of them there.",
    )
  return found[0] if found else None


def _columns(
  path: pathlib.Path,
  given: Mapping[str, str],
  usual: Mapping[str, str],
  needed: Sequence[str],
  on_error: str,
) -> dict[str, str]:
  """Field -> column. One of a usual name that the table does not have is left out, if it may be."""
  there = tables.names(path, wanted=[at for at in given.values() if at], on_error=on_error)
  part = "item_columns" if "id" in needed else "columns"
  for name in needed:
    if given[name] not in there:
      raise DataError(
        f"there is no column {given[name]!r}",
        path=path,
        remedy=f"Say which of {', '.join(there)} it is: --config.data.{part}.{name}=...",
      )
  optional = {name for name, at in given.items() if name not in needed and at == usual[name]}
  found = {name: at for name, at in given.items() if at and (at in there or name not in optional)}
  unread = [name for name in there if name not in found.values()]
  missed = {"timestamp": ", so events count in the order of the file", "title": ""}
  for name, so in missed.items():
    if given.get(name) and name not in found and unread:
      _logger.warning(
        "%s has no column %r%s; if it is one of %s: --config.data.%s.%s=...",
        path,
        given[name],
        so,
        ", ".join(unread),
        part,
        name,
      )
  return found


def _reviewed(reviews: Callable, described: Callable) -> Source:
  """A file of reviews, and the one of what they are about that `catalog` names."""

  def read(cfg: Data, path: pathlib.Path, workdir: pathlib.Path) -> Raw:
    x = reviews(path, on_error=cfg.on_error)
    items = described(path_of(cfg.catalog), on_error=cfg.on_error) if cfg.catalog else None
    return Raw(x, items)

  return read


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
  """A folder NAME with NAME.inter and, where items are described, NAME.item."""
  x = recbole.interactions(_one_of(path, f"{path.name}.inter"))
  if not any(path.glob(f"{path.name}.item*")):
    return Raw(x)
  titles = {"title": "movie_title", "categories": "class"} if "ml-" in path.name else {}
  return Raw(x, recbole.catalog(_one_of(path, f"{path.name}.item"), **titles))


def _movielens(cfg: Data, path: pathlib.Path, workdir: pathlib.Path) -> Raw:
  return Raw(movielens.ratings(path), movielens.movies(path))


def _ncf(cfg: Data, path: pathlib.Path, workdir: pathlib.Path) -> Raw:
  """NCF's ml-1m: train and test ratings, and the negatives that each test event is ranked with."""
  train = sequences.ncf_ratings(_one_of(path, "ml-1m.train.rating"))
  test = sequences.ncf_ratings(_one_of(path, "ml-1m.test.rating"))
  candidates = sequences.ncf_negatives(_one_of(path, "ml-1m.test.negative"))
  train, test, candidates = share_ids(train, test, candidates)
  return dataclasses.replace(_given(train, test), candidates=candidates)


def _mind(cfg: Data, path: pathlib.Path, workdir: pathlib.Path) -> Raw:
  """MIND's folders `train`, and `dev` (or `valid`, as some copies name it) to test on.

  The test part of MIND has no labels: papers report on dev.
  """
  folders = path / "train", path / "valid" if (path / "valid").is_dir() else path / "dev"
  parts = share_ids(*(mind.behaviors(_one_of(at, "behaviors.tsv")) for at in folders))
  catalog = _stacked([mind.news(_one_of(at, "news.tsv")) for at in folders])
  return Raw(parts[0], catalog, splits.Split(parts[0], parts[0].take(_NONE), parts[1]))


def _mind_sample(cfg: Data, path: pathlib.Path, workdir: pathlib.Path) -> Raw:
  """Impressions and news of MIND as JSON lines; news without an id goes by its title."""
  x = mind.sampled_behaviors(_one_of(path, "impressions.jsonl"))
  catalog = mind.sampled_news(_one_of(path, "news.jsonl"))
  titles = interactions.with_pad(x.items[~np.isin(x.items, catalog.ids)])
  return Raw(x, _stacked([catalog, Catalog(titles, {"title": titles})]))


def _stacked(catalogs: Sequence[Catalog]) -> Catalog:
  """The texts of several catalogues; of an item that more than one describes, the first's."""
  ids = np.concatenate([c.ids for c in catalogs])
  _, first = np.unique(ids, return_index=True)
  first = np.sort(first)
  fields = {
    name: np.concatenate([c.fields.get(name, np.full(len(c.ids), "", STRING)) for c in catalogs])
    for name in ("title", "category", "subcategory", "abstract")
  }
  return Catalog(ids[first], {name: field[first] for name, field in fields.items()})


def _given(train: Interactions, test: Interactions, **more) -> Raw:
  train, test = (x.take(np.argsort(x.user, kind="stable")) for x in (train, test))
  both = interactions.concat([train, test])
  return Raw(both, split=splits.Split(train, train.take(_NONE), test), **more)


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


def titled(catalog: Catalog) -> bool:
  """Whether items are named by more than their ids."""
  titles = catalog["title"] if "title" in catalog.fields else catalog.ids
  named = zip(titles.tolist(), catalog.ids.tolist(), strict=True)
  return any(title not in ("", item) for title, item in named)


def category(catalog: Catalog, depth: int = 1) -> np.ndarray:
  """[I] the category of each item at a depth of its path; "" where it ends before or is unknown."""
  if "categories" not in catalog.fields:
    return np.full(len(catalog.ids), "")
  return np.array([path[depth] if len(path) > depth else "" for path in catalog["categories"]])


_REVIEWS: dict[str, Source] = {
  "reviews": _reviewed(amazon.reviews, amazon.metadata),  # of Amazon, any edition
  "steam": _reviewed(steam.reviews, steam.games),
  "yelp": _reviewed(yelp.reviews, yelp.businesses),
}
SOURCES: dict[str, Source] = {
  "ciao": _ciao,
  "gowalla": _gowalla,
  "graphrec": _graphrec,
  "mind": _mind,
  "mind_sample": _mind_sample,
  "movielens": _movielens,
  "ncf": _ncf,
  "recbole": _recbole,
  "sequences": _sequences,
  "synthetic": _synthetic,
  "tables": _tables,
  **_REVIEWS,
}


def _ties(rule: str) -> prepare.Ties:
  known = {"file": prepare.file_order, "item": prepare.by_item_id}
  if rule in known:
    return known[rule]
  if rule.isdecimal():
    return prepare.shuffled(int(rule))
  raise ValueError(f"ties must be file, item or a seed, not {rule!r}")
