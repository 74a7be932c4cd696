"""Markov chains of items (Rendle et al., WWW 2010, 4.1), https://doi.org/10.1145/1772690.1772773.

The next item by how often it followed the last `order` items, the last one fewer, and so on down
to popularity and to chance, interpolated by absolute discounting (Ney, Essen & Kneser, 1994):

  p(i | c) = max(N(c, i) - d, 0) / N(c) + d distinct(c) / N(c) p(i | c without its oldest item)

Chosen over stupid back-off because it is a distribution (scores are log-probabilities, finite for
items never seen), and because what a seen context leaves open is not lost: contexts of items are
seen once or twice, where a back-off would trust them wholly. A context never seen says nothing and
leaves the word to the shorter one, so an empty history gets popularity.

Unlike FPMC's chain: orders above one, no user's own, no factorisation.

The contexts are a trie from the newest item back: those of length n are pairs (its n - 1 newest
items' context, its oldest item), sorted, so that one is found by a binary search and no table is
larger than the events. What followed a context is a run of one array.

B batch, T history, I items (PAD included), C contexts of a length, F (context, item) pairs met.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from recjax.data import prepare
from recjax.decode import topk
from recjax.types import PAD, Array, System


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  order: int = 2  # the longest context, in items
  discount: float = 0.75  # d

  def __post_init__(self):
    if self.order < 1 or not 0 < self.discount <= 1:
      raise ValueError(
        f"order must be at least 1 and discount in (0, 1]: {self.order}, {self.discount}"
      )


def make(cfg: Config) -> System:
  def fit(assets, interactions):
    """What followed each context of each length, as sorted arrays."""
    x, size = interactions, cfg.num_items
    if x.num_items > size:
      raise ValueError(f"the events know {x.num_items} items, the config num_items={size}")
    start, _ = prepare.bounds(x)
    age = np.arange(len(x)) - start  # [E] events of the user before
    item = x.item.astype(np.int64)
    params = {"popularity": _popularity(np.bincount(item, minlength=size), cfg.discount)}
    at = np.arange(len(x))
    context = np.zeros(len(x), np.int64)  # of each event in `at`, the empty one
    number = 1
    for n in range(1, cfg.order + 1):
      context, at = context[age[at] >= n], at[age[at] >= n]
      # Contexts by (parent, oldest item): sorted as such.
      known, context = np.unique(context * size + item[at - n], return_inverse=True)
      table = {
        "children": np.searchsorted(known // size, np.arange(number + 1)).astype(np.int32),
        "oldest": (known % size).astype(np.int32),  # [C]
      }
      number = len(known)
      pairs, times = np.unique(context * size + item[at], return_counts=True)
      owner = pairs // size
      total = np.bincount(owner, times, minlength=number)
      first = np.searchsorted(owner, np.arange(number + 1))
      distinct = np.diff(first)
      table |= {
        "first": first.astype(np.int32),  # [C + 1], where what followed begins
        "next": (pairs % size).astype(np.int32),  # [F]
        "share": ((times - cfg.discount) / total[owner]).astype(np.float32),  # [F]
        "rest": (cfg.discount * distinct / total).astype(np.float32),  # [C]
        # As long as the most that followed one context: static under jit, as shapes are.
        "place": np.arange(max(distinct.max(initial=1), 1), dtype=np.int32),
      }
      params[f"order_{n}"] = {name: _at_least_one(column) for name, column in table.items()}
    return params

  def every(params, batch):
    params = jax.tree.map(jnp.asarray, params)  # as fitted they are NumPy's
    history = batch["history"]
    rows = jnp.arange(len(history))[:, None]
    p = jnp.broadcast_to(params["popularity"][None], (len(history), cfg.num_items))
    context, known = jnp.zeros(len(history), jnp.int32), jnp.ones(len(history), bool)
    for n in range(1, min(cfg.order, history.shape[1]) + 1):
      table = params[f"order_{n}"]
      context, known = _find(table, context, known, history[:, -n])
      at = table["first"][context][:, None] + table["place"][None]  # [B, most that followed one]
      there = known[:, None] & (at < table["first"][context + 1][:, None])
      at = jnp.minimum(at, len(table["next"]) - 1)
      p = p * jnp.where(known, table["rest"][context], 1)[:, None]
      p = p.at[rows, table["next"][at]].add(jnp.where(there, table["share"][at], 0))
    return jnp.log(jnp.maximum(p, jnp.finfo(jnp.float32).tiny))

  def score(params, assets, batch):
    return topk.scores(every(params, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, batch), batch, k=k)

  return System(fit=fit, score=score, recommend=recommend)


def _popularity(count: np.ndarray, discount: float) -> np.ndarray:
  """[I] p(i) with no context, what is discounted spread evenly over all items; PAD has none."""
  total, chance = max(count.sum(), 1), 1 / (len(count) - 1)
  rest = discount * np.count_nonzero(count) / total if count.any() else 1.0
  p = np.maximum(count - discount, 0) / total + rest * chance
  p[PAD] = 0
  return p.astype(np.float32)


def _at_least_one(column: np.ndarray) -> np.ndarray:
  """So that a table without any context can be indexed; nothing finds the entry."""
  return column if len(column) else np.zeros(1, column.dtype)


def _find(table, parent: Array, known: Array, item: Array) -> tuple[Array, Array]:
  """The context [B] that is `item` before `parent`, and whether there is one."""
  low, end = table["children"][parent], table["children"][parent + 1]
  last = len(table["oldest"]) - 1

  def halve(_, bounds):
    low, high = bounds
    middle = (low + high) // 2
    right = (low < high) & (table["oldest"][jnp.minimum(middle, last)] < item)
    return jnp.where(right, middle + 1, low), jnp.where(right, high, middle)

  steps = len(table["oldest"]).bit_length()
  low, _ = jax.lax.fori_loop(0, steps, halve, (low, end))
  at = jnp.minimum(low, last)
  known = known & (low < end) & (table["oldest"][at] == item) & (item != PAD)
  return jnp.where(known, at, 0), known
