"""Which tokens may follow, when an identifier may be entered anywhere: an FM-index on the device.

Ferragina & Manzini, FOCS 2000; for generating passages and items by any of their substrings see
Bevilacqua et al., NeurIPS 2022, https://arxiv.org/abs/2204.10628, and TransRec (Lin et al., KDD
2024). All suffixes of all identifiers, sorted, are the rows; those that begin with a string are a
span [lo, hi) of rows. The search grows a string to the left, so identifiers are stored reversed
and their strings grow to the right. A span never crosses from one identifier into another.

  last   [N] token that continues each row, V where its identifier ends
  before [N / S + 1, V] int32 how often each token stands in `last` before every S-th row
  first  [V] int32 the first row that begins with each token
  item   [N] int32 the item of each row
  size   [] int32 how many of the N rows are in use

N / S counters of V tokens take 4 V / S bytes a row: 64 with the default S. `following` reads two
rows of counters and 2 S tokens a span, `extend` 2 S tokens, `items` as many rows as it is asked.

N rows (capacity), S rows between counters, V vocabulary, R identifiers; leading axes are free.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import logging

from recjax.data.ragged import Ragged
from recjax.types import PAD, Array

Index = dict[str, Array]


class Span(NamedTuple):
  """The rows that begin with a string: `hi - lo` hits; none where the two are equal."""

  lo: Array
  hi: Array

  @property
  def hits(self) -> Array:
    """How often the string occurs."""
    return self.hi - self.lo


def build(
  rows: Ragged,
  vocab: int,
  *,
  items: np.ndarray | None = None,
  capacity: int | None = None,
  every: int | None = None,
) -> Index:
  """The index of identifiers, rows of token ids below `vocab`.

  Row i identifies item `items[i]`, which may have several; by default item i, and row PAD must be
  empty. `capacity` counts tokens and one more for each row, by default an eighth more than there
  are; `every` is S, rounded to V / 16 if not given.
  """
  text, item = _text(rows, vocab, items)
  if capacity is None:
    capacity = len(text) + len(text) // 8
  if capacity < len(text):
    raise ValueError(f"capacity {capacity} is less than the {len(text)} places; raise it")
  if every is None:
    every = max(64, 1 << (vocab // 16).bit_length())
  return _arrays(text, item, vocab=vocab, blocks=-(-capacity // every), every=every)


def rebuild(index: Index, rows: Ragged, *, items: np.ndarray | None = None) -> Index:
  """The index of changed identifiers in arrays of the same shapes, doubled if they do not fit."""
  text, item = _text(rows, index["first"].size, items)
  blocks, every = len(index["before"]) - 1, _every(index)
  if blocks * every < len(text):
    while blocks * every < len(text):
      blocks *= 2
    logging.info("fm_index: %d places, capacity doubled to %d", len(text), blocks * every)
  return _arrays(text, item, vocab=index["first"].size, blocks=blocks, every=every)


def _text(rows: Ragged, vocab: int, items: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
  """Every row reversed and closed by 0, tokens from 1; and the item at each place."""
  if items is None:
    items = np.arange(len(rows))
    if len(rows) and rows.lengths[PAD]:
      raise ValueError(f"row {PAD} is PAD and must be empty; shift the rows, or pass `items`")
  if len(items) != len(rows):
    raise ValueError(f"`items` names {len(items)} items for {len(rows)} rows")
  used = np.flatnonzero(rows.lengths > 0)
  if not len(used):
    raise ValueError("no row has a token: there is nothing to index")
  lengths = rows.lengths[used]
  stop = np.cumsum(lengths + 1)  # [R] behind each row's 0
  row = np.repeat(np.arange(len(used)), lengths + 1)
  # From the right end of the row: 0 is its last token, -1 its closing 0.
  place = lengths[row] - (stop[row] - np.arange(stop[-1])) + 1
  inside = place < lengths[row]
  tokens = rows.values[np.where(inside, rows.stop[used][row] - 1 - place, 0)]
  wrong = inside & ((tokens < 0) | (tokens >= vocab))
  if wrong.any():
    at = np.argmax(wrong)
    raise ValueError(
      f"row {used[row[at]]} has token {tokens[at]}, outside 0..{vocab - 1} ({wrong.sum()} such)"
    )
  return np.where(inside, tokens.astype(np.int64) + 1, 0), np.asarray(items)[used][row]


def _suffixes(text: np.ndarray) -> np.ndarray:
  """The places in the order of what follows them up to the closing 0; ties in their own order."""
  count = len(text)
  ends = np.flatnonzero(text == 0)
  left = ends[np.searchsorted(ends, np.arange(count))] - np.arange(count)  # places up to the 0
  rank, known = text, 1
  order = np.argsort(rank, kind="stable")
  # Ranks by twice as many tokens each time, from those of the place so far ahead.
  while known <= left.max():
    ahead = np.where(known <= left, rank[np.minimum(np.arange(count) + known, count - 1)] + 1, 0)
    key = rank * (max(count, text.max()) + 2) + ahead
    order = np.argsort(key, kind="stable")
    new = np.diff(key[order], prepend=key[order[0]]) > 0
    rank = np.empty_like(text)
    rank[order] = np.cumsum(new)
    known *= 2
  return order


def _arrays(text: np.ndarray, item: np.ndarray, *, vocab: int, blocks: int, every: int) -> Index:
  order = _suffixes(text)
  size, room = len(text), blocks * every
  last = np.full(room, vocab, np.uint16 if vocab < 1 << 16 else np.int32)
  previous = text[order - 1]  # before the first place stands the last row's 0
  last[:size] = np.where(previous == 0, vocab, previous - 1)
  before = np.zeros((blocks + 1, vocab), np.int32)
  there = np.flatnonzero(last < vocab)
  np.add.at(before, (there // every + 1, last[there]), 1)
  held = np.zeros(room, np.int32)
  held[:size] = item[order]
  arrays = {
    "last": last,
    "before": np.cumsum(before, axis=0, dtype=np.int32),
    "first": np.searchsorted(np.sort(text), np.arange(1, vocab + 1)).astype(np.int32),
    "item": held,
    "size": np.int32(size),
  }
  return {name: jnp.asarray(array) for name, array in arrays.items()}


# --- Asking, inside jit ---


def everywhere(index: Index, shape: tuple[int, ...] = ()) -> Span:
  """The span of the empty string, that of every search before its first token."""
  return Span(jnp.zeros(shape, jnp.int32), jnp.broadcast_to(index["size"], shape))


def following(index: Index, span: Span) -> Array:
  """[..., V] int32: how many of the hits continue with each token; at the others none follows."""
  lo, hi = (x.reshape(-1) for x in span)  # [M]
  every, row = _every(index), jnp.arange(lo.size)[:, None]
  counts = index["before"][hi // every] - index["before"][lo // every]  # [M, V]
  counts = counts.at[row, _block(index, hi)].add(1, mode="drop")
  counts = counts.at[row, _block(index, lo)].add(-1, mode="drop")
  return counts.reshape(*span.lo.shape, -1)


def allowed(index: Index, span: Span) -> Array:
  """[..., V] True for the tokens that some identifier has after the string."""
  return following(index, span) > 0


def extend(index: Index, span: Span, token: Array) -> Span:
  """The span of each string and one more token; empty where no identifier has it."""
  known = (token >= 0) & (token < index["first"].size)
  safe = jnp.where(known, token, 0)

  def rows(bound):
    counted = index["before"][bound // _every(index), safe]
    counted = counted + (_block(index, bound) == safe[..., None]).sum(-1)
    return jnp.where(known, index["first"][safe] + counted, 0)

  return Span(rows(span.lo), rows(span.hi))


def items(index: Index, span: Span, width: int) -> Array:
  """[..., width] the distinct items of the first `width` hits, ascending, PAD behind them."""
  row = span.lo[..., None] + jnp.arange(width).reshape((1,) * span.lo.ndim + (width,))
  most = jnp.iinfo(jnp.int32).max
  found = jnp.where(row < span.hi[..., None], index["item"].at[row].get(mode="clip"), most)
  found = jnp.sort(found, axis=-1)
  again = jnp.concatenate(
    [jnp.zeros_like(found[..., :1], bool), found[..., 1:] == found[..., :-1]], -1
  )
  found = jnp.sort(jnp.where(again, most, found), axis=-1)
  return jnp.where(found == most, PAD, found)


def _every(index: Index) -> int:
  return index["last"].shape[0] // (index["before"].shape[0] - 1)


def _block(index: Index, bound: Array) -> Array:
  """[..., S] the tokens of `last` between the counters before row `bound` and that row, or V."""
  every, vocab = _every(index), index["first"].size
  row = (bound // every * every)[..., None]
  row = row + jnp.arange(every).reshape((1,) * bound.ndim + (every,))
  token = index["last"].at[row].get(mode="clip").astype(jnp.int32)
  return jnp.where(row < bound[..., None], token, vocab)
