"""Synthetic users, items and interactions whose law is known: `synthetic_laws` states it.

`generate` makes a world in memory; `chunks` and `catalog_chunks` stream one of any size; `write`
and `write_chunks` leave raw files as one meets them. Everything follows from (config, seed). Users
come in blocks, each from a seed of its own, so that any block can be made alone, and memory is
that of a block. What a recommender can reach at best, `synthetic_oracle` computes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv

from recjax.data import synthetic_laws as laws
from recjax.data import synthetic_names as names
from recjax.data.interactions import Catalog, Interactions, with_pad
from recjax.data.synthetic_laws import (
  DESTINATIONS,
  FIRST,
  JUMP,
  LARGE,
  SECOND,
  SMALL,
  SUCCESSORS,
  TINY,
  Config,
  Laws,
)

__all__ = ["LARGE", "SMALL", "TINY", "Chunk", "Config", "World"]
__all__ += ["catalog_chunks", "chunks", "generate", "write", "write_chunks"]

SAME_SESSION, SHORT, PAUSE = 0.55, (60, 1_800), (43_200, 12 * 86_400)  # seconds
EPOCH, SPAN = 1_577_836_800, 2 * 365 * 86_400  # users begin in 2020 and 2021


class Chunk(NamedTuple):
  """N events, user after user, each one's in the order of time."""

  user: np.ndarray  # [N] int32, rows from 1
  item: np.ndarray  # [N] int32, rows from 1
  timestamp: np.ndarray  # [N] int64
  rating: np.ndarray  # [N] float32


@dataclasses.dataclass(frozen=True, eq=False)
class World:
  """Interactions, what is known of the items, and the truth behind them."""

  interactions: Interactions
  catalog: Catalog  # row i is item i of the interactions; also those that nobody met
  law: Laws
  taste: np.ndarray  # [U] row of `law.tastes`; -1 for PAD


def generate(config: Config, seed: int = 0) -> World:
  """The whole world in memory."""
  law = laws.tabulate(config, seed)
  parts, tastes = zip(*(_block(law, b) for b in range(config.blocks)), strict=True)
  user, item, timestamp, rating = (np.concatenate(c) for c in zip(*parts, strict=True))
  catalog = _describe(law, np.arange(1, config.items + 1))
  users = with_pad(names.user_ids(np.arange(1, config.users + 1)))
  interactions = Interactions(user, item, users, catalog.ids, timestamp=timestamp, rating=rating)
  return World(interactions, catalog, law, np.concatenate([[-1], *tastes]))


def chunks(config: Config, seed: int = 0, blocks: Iterable[int] | None = None) -> Iterator[Chunk]:
  """The events block by block: of all users, or of the given blocks, in any order."""
  law = laws.tabulate(config, seed)
  for block in range(config.blocks) if blocks is None else blocks:
    if not 0 <= block < config.blocks:
      raise ValueError(f"there are blocks 0..{config.blocks - 1}, not {block}")
    yield _block(law, block)[0]


def catalog_chunks(config: Config, seed: int = 0, *, rows: int = 65_536) -> Iterator[Catalog]:
  """The items in the order of their rows, `rows` at a time, each part with a PAD of its own."""
  law = laws.tabulate(config, seed)
  for begin in range(1, config.items + 1, rows):
    yield _describe(law, np.arange(begin, min(begin + rows, config.items + 1)))


def write(world: World, folder: str | os.PathLike) -> None:
  """The world as raw files: `interactions.csv` and `items.jsonl`."""
  x = world.interactions
  _write(folder, [Chunk(x.user, x.item, x.timestamp, x.rating)], [world.catalog])


def write_chunks(config: Config, seed: int, folder: str | os.PathLike) -> None:
  """The same files as `write`, one part at a time."""
  _write(folder, chunks(config, seed), catalog_chunks(config, seed))


def _write(folder: str | os.PathLike, events: Iterable[Chunk], catalogs: Iterable[Catalog]) -> None:
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  types = {
    "user": pa.string(),
    "item": pa.string(),
    "rating": pa.float32(),
    "timestamp": pa.int64(),
  }
  schema = pa.schema(types)
  plain = csv.WriteOptions(quoting_style="none")
  with csv.CSVWriter(folder / "interactions.csv", schema, write_options=plain) as file:
    for x in events:
      columns = names.user_ids(x.user), names.item_ids(x.item), x.rating, x.timestamp
      file.write(pa.table([pa.array(c) for c in columns], schema=schema))
  with open(folder / "items.jsonl", "w", encoding="utf-8") as file:
    for catalog in catalogs:
      fields = {"item": catalog.ids, **catalog.fields}
      for values in zip(*(f[1:].tolist() for f in fields.values()), strict=True):
        file.write(json.dumps(dict(zip(fields, values, strict=True))) + "\n")


def _block(law: Laws, block: int) -> tuple[Chunk, np.ndarray]:
  """The events of one block of users, and their tastes [B]."""
  config = law.config
  rng = np.random.default_rng(np.random.SeedSequence(law.seed, spawn_key=(1, block)))
  begin = block * config.block
  users = min(config.block, config.users - begin)
  taste = rng.choice(len(law.prior), users, p=law.prior)
  more = rng.geometric(1 / (1 + config.mean_events - config.min_events), users) - 1
  length = np.minimum(config.min_events + more, config.max_events)
  place = _walk(law, rng, taste, length)
  of = np.repeat(np.arange(users), length)  # [N] the user of each event

  short = SHORT[0] + (SHORT[1] - SHORT[0]) * rng.random(len(of))
  pause = PAUSE[0] + rng.exponential(PAUSE[1], len(of))
  gap = np.where(rng.random(len(of)) < SAME_SESSION, short, pause).astype(np.int64)
  time = np.cumsum(gap)
  time += (EPOCH + rng.integers(0, SPAN, users) - time[np.cumsum(length) - length])[of]

  department = place // (config.width * config.leaves_of_department)
  liking = 1.2 * (department == law.first[taste][of]) + 0.6 * (department == law.second[taste][of])
  rating = 3.2 + liking + laws.hashed(law, place, 5) - 0.5 + rng.normal(0, 0.7, len(of))
  rating = np.clip(np.rint(rating), 1, 5).astype(np.float32)
  user = (1 + begin + of).astype(np.int32)
  return Chunk(user, laws.row_of(config, place), time, rating), taste


def _walk(law: Laws, rng: np.random.Generator, taste: np.ndarray, length: np.ndarray) -> np.ndarray:
  """[N] places, user after user. One step is made for all users at a time."""
  config = law.config
  by_length = np.argsort(-length, kind="stable")  # who is still there at a step is a prefix
  taste, last = taste[by_length], length[by_length] - 1
  ends_cold = rng.random(len(last)) < config.cold_rate
  place = np.empty((length.max(), len(last)), np.int32)  # [T, B]
  for t in range(len(place)):
    todo = np.arange(np.count_nonzero(last >= t))
    while len(todo):
      drawn = _draw(law, rng, taste[todo], place[t - 1, todo] if t else None)
      place[t, todo] = drawn
      todo = todo[(place[:t, todo] == drawn).any(axis=0)]
    cold = np.flatnonzero(ends_cold & (last == t)) if t else []
    if len(cold):
      way = len(SUCCESSORS) + rng.choice(len(DESTINATIONS), len(cold), p=DESTINATIONS)
      leaf = law.leads[place[t - 1, cold] // config.width, way]
      place[t, cold] = leaf * config.width + rng.integers(config.warm, config.width, len(cold))
  by_user = np.argsort(by_length)
  return place.T[by_user][np.arange(len(place)) < length[:, None]]


def _draw(
  law: Laws, rng: np.random.Generator, taste: np.ndarray, last: np.ndarray | None
) -> np.ndarray:
  """[B] the place of one event each, whatever was met before the place `last`."""
  config = law.config
  way = np.full(len(taste), JUMP)
  if last is not None:
    way = np.searchsorted(np.cumsum(law.ways)[:-1], rng.random(len(taste)), side="right")
  follows, jumps = np.flatnonzero(way < len(SUCCESSORS)), np.flatnonzero(way == JUMP)
  moves = np.flatnonzero((way >= len(SUCCESSORS)) & (way < JUMP))
  place = np.empty(len(taste), np.int32)
  if last is not None:
    place[follows] = laws.successor(law, last[follows], way[follows])
    place[moves] = law.leads[last[moves] // config.width, way[moves]] * config.width
  u = rng.random(len(jumps))
  department = rng.integers(0, config.departments, len(jumps))
  department = np.where(u < FIRST + SECOND, law.second[taste[jumps]], department)
  department = np.where(u < FIRST, law.first[taste[jumps]], department)
  leaf = rng.integers(0, config.leaves_of_department, len(jumps))
  place[jumps] = (department * config.leaves_of_department + leaf) * config.width
  within = np.concatenate([moves, jumps])
  place[within] += laws.popular(law, rng.random(len(within)))
  return place


def _describe(law: Laws, row: np.ndarray) -> Catalog:
  """What is known of the items `row`, PAD in front."""
  config = law.config
  place = laws.place_of(config, row)
  leaf, v = np.divmod(place, config.width)
  paths, leaf_names = _leaves(config)
  department = leaf // config.leaves_of_department
  brand = names.brands(department * config.brands + v % config.brands)
  line, finish = names.lines(v // config.brands), names.finishes(laws.hashed(law, place, 6))
  price = (6 + 90 * laws.hashed(law, leaf, 7)) * np.exp(laws.hashed(law, place, 8) - 0.5)
  about = leaf_names[leaf] + " in " + finish + ", for " + names.departments(department) + ". "
  about = about + "Part of the " + line + " line by " + brand + "; goes well with "
  fields = {
    "title": with_pad(brand + " " + line + " " + finish + " " + leaf_names[leaf]),
    "brand": with_pad(brand),
    "categories": paths[np.append(-1, leaf)],
    "price": np.append(np.nan, price.round(2)).astype(np.float32),
    "description": with_pad(about + leaf_names[law.leads[leaf, 0]] + "s."),
  }
  return Catalog(with_pad(names.item_ids(row)), fields)


def _leaves(config: Config) -> tuple[np.ndarray, np.ndarray]:
  """The category path of each leaf, an empty one last, and its name."""
  department, at = np.divmod(np.arange(config.leaves), config.leaves_of_department)
  kind = names.kinds(department, at // config.modifiers)
  leaf = names.modifiers(at % config.modifiers) + " " + kind
  levels = names.departments(department), kind + "s", leaf + "s"
  paths = np.empty(config.leaves + 1, object)
  paths[:-1] = [*zip(*(level.tolist() for level in levels), strict=True)]
  paths[-1] = ()
  return paths, leaf
