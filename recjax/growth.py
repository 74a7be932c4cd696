"""New items for a recommender that was trained without them: rows -> vectors -> what it reads.

Only where an item is made of what is known of it: TIGER codes its vector and grows the trie,
`content` ranks by the vector itself. Whatever learned an embedding for each item has none for a
new one.

I items (PAD included), D width of a vector, N new items.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from recjax.data.errors import DataError
from recjax.data.interactions import Catalog, strings, with_pad
from recjax.data.readers import columns as readers
from recjax.decode import trie
from recjax.semid import assign
from recjax.systems.collaborative import content
from recjax.systems.generative import tiger
from recjax.text import encoders, lsa, vectors
from recjax.types import PAD

if TYPE_CHECKING:
  from recjax.recommender import Recommender

Row = Mapping[str, Any]
Changes = dict[str, Any]  # field of a Recommender -> its new value


class Text(NamedTuple):
  """How the items of a run became vectors."""

  template: str
  encoder: lsa.Lsa | str  # or the folder of a sentence encoder
  fingerprint: str  # the encoder's


class Collisions(NamedTuple):
  """How items of equal codes are told apart: a policy of `recjax.semid.assign`."""

  policy: str = "count_up"  # count_up, next_free, optimal
  size: int = 256  # of count_up

  def make(self) -> assign.Policy:
    known = {
      "count_up": lambda: assign.count_up(self.size),
      "next_free": lambda: assign.next_free,
      "optimal": lambda: assign.optimal,
    }
    if self.policy not in known:
      raise DataError(f"no collision policy {self.policy!r}; there is {', '.join(known)}")
    return known[self.policy]()


def grown(of: Recommender, rows: Sequence[Row]) -> Changes:
  """What changes of a recommender when it learns of these items."""
  if of.system not in GROWING:
    raise DataError(
      f"{of.system} learns what it knows of an item, an embedding or counts, from its events",
      remedy=f"Train it again with the new items; {' and '.join(GROWING)} take them as they are.",
    )
  if of.ids is not None and of.ids.quantizer is None:
    raise DataError(
      "the codes of these items were made elsewhere: there is no quantiser to code new ones with",
      remedy="Build semantic ids of your own, and train again.",
    )
  if of.ids is not None and of.collisions is None:
    raise DataError(
      "nothing says how new items that share all codes are told apart",
      remedy="Give the recommender the `collisions` that its semantic ids were assigned with.",
    )
  if not rows:
    return {}
  _check(of, rows)
  new, titles = (strings([row[name] for row in rows]) for name in ("id", "title"))
  return {
    "items": np.concatenate([of.items, new]),
    "titles": np.concatenate([of.titles, titles]),
    **GROWING[of.system](of, new, _vectors(of, rows)),
  }


def _check(of: Recommender, rows: Sequence[Row]) -> None:
  if isinstance(rows, Mapping):
    raise DataError("new items are a list of rows", remedy="Put the row into brackets: [row].")
  known, met = set(of.items.tolist()), set()
  for n, row in enumerate(rows):
    if not isinstance(row, Mapping):
      raise DataError(
        f"new item {n} is {row!r:.200}, not what is known of it", remedy='{"id": ..., "title": ...}'
      )
    for name in ("id", "title"):
      if not isinstance(row.get(name), str):
        raise DataError(f"new item {n} has no {name!r} that is a string: {dict(row)!r:.200}")
      readers.check_text(f"new item {n}: {name}", row[name])
    if not row["id"].strip():
      raise DataError(f"new item {n}: {row['id']!r} is the id of no item")
    if row["id"] in known or row["id"] in met:
      how = "known" if row["id"] in known else "twice"
      raise DataError(f"new item {n}: {row['id']!r} is there already ({how})")
    met.add(row["id"])


def _vectors(of: Recommender, rows: Sequence[Row]) -> np.ndarray:
  """[N, D] float32: those that the rows bring, those of the others by the run's encoder."""
  dim = of.ids.quantizer.dim if of.ids is not None else of.assets["vectors"].shape[1]
  made = np.zeros((len(rows), dim), np.float32)
  plain = []
  for n, row in enumerate(rows):
    if row.get("vector") is None:
      plain.append(n)
    else:
      made[n] = _checked(row, dim)
  if plain:
    made[plain] = _encoded(of.text, [rows[n] for n in plain])
  return made


def _checked(row: Row, dim: int) -> np.ndarray:
  try:
    vector = np.asarray(row["vector"], np.float32)
  except (TypeError, ValueError):
    raise DataError(
      f"the vector of new item {row['id']!r} must be {dim} finite numbers",
      remedy="Use the encoder that the other items' vectors are of.",
    ) from None
  if vector.shape != (dim,) or not np.isfinite(vector).all():
    raise DataError(
      f"the vector of new item {row['id']!r} must be {dim} finite numbers; its shape is "
      f"{vector.shape}",
      remedy="Use the encoder that the other items' vectors are of.",
    )
  return vector


def _encoded(text: Text | None, rows: Sequence[Row]) -> np.ndarray:
  if text is None:
    raise DataError(
      f"new item {rows[0]['id']!r} has no `vector`, and this recommender keeps no text encoder",
      remedy="Give each new item its vector.",
    )
  fields = [name for _, name, _, _ in string.Formatter().parse(text.template) if name is not None]
  for row in rows:
    missing = [name for name in fields if name not in row]
    if missing:
      raise DataError(
        f"new item {row['id']!r} lacks {', '.join(missing)}: its text is {text.template!r}",
        remedy="Give the fields, empty where unknown, or a `vector`.",
      )
  encoder = text.encoder
  if isinstance(encoder, str):
    encoder = encoders.load(encoder)
    if encoder.fingerprint != text.fingerprint:
      raise DataError(
        "another encoder than the one of the run",
        path=text.encoder,
        remedy="Bring the run's encoder back to that folder, or give each new item its `vector`.",
      )
  columns = {name: np.empty(1 + len(rows), object) for name in fields}  # lists stay lists in them
  for name, column in columns.items():
    column[PAD + 1 :] = [row[name] for row in rows]
  catalog = Catalog(with_pad(strings([row["id"] for row in rows])), columns)
  made = vectors.item_vectors(catalog, text.template, encoder)[PAD + 1 :]
  lost = vectors.unplaced(vectors.render(catalog, text.template)[PAD + 1 :], made)
  if lost.any():
    row = rows[int(np.argmax(lost))]
    raise DataError(
      f"no word of the text of new item {row['id']!r} is known, so nothing places it",
      remedy="Describe it by words that the catalogue has, or give it a `vector`.",
    )
  return made


def _grow_tiger(of: Recommender, new: np.ndarray, made: np.ndarray) -> Changes:
  ids = of.ids.extend(new.tolist(), made, of.collisions.make())
  tree, count = of.assets["trie"], len(ids.codes)
  # `assets` checks the codes and makes tokens of them; the trie keeps the old one's shapes.
  capacity = max(len(tree["item"]), count - 1)
  tokens = np.asarray(tiger.assets(of.config, ids.codes, capacity=capacity)["tokens"][:count])
  tree = trie.rebuild(tree, tokens)
  room = np.zeros((len(tree["rank"]), tokens.shape[1]), np.int32)
  room[:count] = tokens
  return {"ids": ids, "assets": {"tokens": jnp.asarray(room), "trie": tree}}


def _grow_content(of: Recommender, new: np.ndarray, made: np.ndarray) -> Changes:
  made = content.unit(np.pad(made, ((1, 0), (0, 0))), len(new) + 1)[1:]
  rows, begin, end = of.config.num_items, len(of.items), len(of.items) + len(new)
  more = max(rows // 4, end - rows) if end > rows else 0  # room for a quarter; scoring reads it too
  table = np.pad(of.assets["vectors"], ((0, more), (0, 0)))
  fallback = np.pad(of.params["fallback"], (0, more), constant_values=-np.inf)
  table[begin:end] = made
  fallback[begin:end] = -1  # nobody has met the new: the least popularity there is
  return {
    "config": dataclasses.replace(of.config, num_items=rows + more),
    "params": {"fallback": jnp.asarray(fallback)},
    "assets": {"vectors": jnp.asarray(table)},
  }


# name -> (recommender, new raw ids [N], their vectors [N, D]) -> what changes
GROWING: dict[str, Callable[[Recommender, np.ndarray, np.ndarray], Changes]] = {
  "content": _grow_content,
  "tiger": _grow_tiger,
  "tiger_lm": _grow_tiger,
}
