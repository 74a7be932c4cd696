"""A catalogue's codes as a prefix tree of device arrays, whose size is linear in the catalogue.

Nodes are numbered breadth first and, within a depth, in the order of their codes: the root is 0,
the children of a node are consecutive, the leaves come last. So a tree is one bit a node ("I am
my parent's first child") and the code on the edge into it: the n-th set bit is where the children
of node n begin, and the bits set up to a node count its parent (Jacobson, FOCS 1989, LOUDS).

Every array is padded to a capacity, so a changed catalogue swaps arrays and compiles nothing.
`root` and `lane` count 0, 1, 2 ...: their lengths are the static widths in which children are
gathered, below the root as many as the widest node has (with headroom), at the root all V.

  code   [M]      code on the edge into a node        start [L + 2]  first node of each depth
  first  [M/32]   the bits, 32 a word                 item  [N]      leaf, in order -> item
  before [M/32]   bits set before each word           rank  [N + 1]  item -> leaf, -1: it has none
  root   [V]  lane [W]  end []: the code that ends an identifier, only where there is one

B batch, K beams, L levels, M nodes, N items, V codes of the model's vocabulary, W children,
D listed items.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from recjax.types import PAD, Array

Trie = dict[str, Array]

NONE = -1  # the node of a dead beam
_NOWHERE = np.iinfo(np.int32).max  # sorts behind every node
_WIDTH = 256  # children gathered at least: a codebook of this many never outgrows it


class Marks(NamedTuple):
  """The edges that a request's list names: at depth l, the one from `parent` to `child`."""

  parent: Array  # [L, B, D] int32, NONE - 1 where the entry names nothing
  child: Array  # [L, B, D] int32


# --- Building, in NumPy ---


def build(
  codes: np.ndarray, vocab: int, *, end: int | None = None, capacity: int | None = None
) -> Trie:
  """The tree over `codes` [items, L], item i being row i.

  Row 0 is PAD and ignored; a row of -1 is an item that is not there. Codes are what the model's
  logits [.., vocab] are indexed by: add a level's offset first if its codebook has one. With
  `end`, identifiers may differ in length: what follows a row's first `end` is ignored. `capacity`
  items fit before `rebuild` must grow the arrays; by default an eighth more than there are.
  """
  order, columns = _sorted(_checked(codes, vocab, end))
  count = len(codes) - 1
  if capacity is None:
    capacity = -(-(count + count // 8) // 64) * 64
  if capacity < count:
    raise ValueError(
      f"capacity {capacity} is less than the {count} items; raise it or leave it out"
    )
  return _arrays(order, columns, vocab=vocab, capacity=capacity, end=end)


def rebuild(trie: Trie, codes: np.ndarray) -> Trie:
  """The tree of a changed catalogue in arrays of the same shapes, doubled if it does not fit."""
  vocab, capacity = len(trie["root"]), len(trie["item"])
  end = int(trie["end"]) if "end" in trie else None
  if np.ndim(codes) != 2 or np.shape(codes)[1] != levels(trie):
    raise ValueError(
      f"the trie has {levels(trie)} levels, `codes` has shape {np.shape(codes)}; "
      "use `build` for another layout"
    )
  order, columns = _sorted(_checked(codes, vocab, end))
  if len(codes) - 1 > capacity:
    while capacity < len(codes) - 1:
      capacity *= 2
    logging.info("trie: %d items, capacity doubled to %d", len(codes) - 1, capacity)
  return _arrays(order, columns, vocab=vocab, capacity=capacity, end=end, width=len(trie["lane"]))


def _checked(codes: np.ndarray, vocab: int, end: int | None) -> np.ndarray:
  """[I, L] the codes as given, or an error that says what is wrong with them."""
  codes = np.asarray(codes)
  if codes.ndim != 2 or codes.shape[1] == 0 or not np.issubdtype(codes.dtype, np.integer):
    raise ValueError(f"`codes` must be integers [items, levels], got {codes.dtype} {codes.shape}")
  if len(codes) < 2 or codes[1:].max() < 0:
    raise ValueError("the catalogue is empty: row 0 is PAD, every other row of `codes` an item")
  if codes[1:].min() < 0 or codes[1:].max() >= vocab:
    bad = (codes < -1) | (codes >= vocab) | ((codes < 0) & (codes.max(1) >= 0)[:, None])
    bad[0] = False
    if bad.any():
      item, level = np.argwhere(bad)[0]
      raise ValueError(
        f"item {item} has code {codes[item, level]} at level {level}, outside 0..{vocab - 1} "
        f"({bad.any(1).sum()} such items); an item that is not there has -1 at every level"
      )
  if end is None:
    return codes
  if not 0 <= end < vocab:
    raise ValueError(f"`end` {end} is not one of the {vocab} codes")
  is_end = codes == end
  endless = np.flatnonzero(~is_end[1:].any(1) & (codes[1:, 0] >= 0)) + 1
  if len(endless):
    raise ValueError(
      f"item {endless[0]} does not end with {end} ({len(endless)} such items); add the end code "
      "to every row, and levels if the longest has no room"
    )
  return np.where(np.logical_or.accumulate(is_end, axis=1), end, codes)


def _sorted(codes: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
  """The items in the order of their codes, and each level's codes [N] in that order."""
  there = np.flatnonzero(codes[1:, 0] >= 0) + 1
  rows = codes[1:] if len(there) == len(codes) - 1 else codes[there]
  low = rows.min(0).tolist()
  bits = [int(top).bit_length() for top in rows.max(0) - rows.min(0)]
  # As many levels as fit go into one 63-bit key: a sort by few keys is fast.
  keys: list[np.ndarray] = []
  places: list[tuple[int, int]] = []  # a level's key, and how far up in it the level ends
  room = 0
  for level, b in enumerate(bits):
    if not keys or b > room:
      keys.append(np.zeros(len(rows), np.int64))
      room = 63
    keys[-1] <<= b
    keys[-1] |= np.subtract(rows[:, level], low[level], dtype=np.int64)
    room -= b
    places.append((len(keys) - 1, room))
  order = np.argsort(keys[0]) if len(keys) == 1 else np.lexsort(keys[::-1])
  keys = [key[order] for key in keys]
  columns = []
  ends = {key: room for key, room in places}  # the room left in a key when it was closed
  for (key, room), b, least in zip(places, bits, low, strict=True):
    columns.append((keys[key] >> (room - ends[key]) & ((1 << b) - 1)) + least)
  return there[order].astype(np.int32), columns


def _arrays(
  order: np.ndarray,
  columns: list[np.ndarray],
  *,
  vocab: int,
  capacity: int,
  end: int | None,
  width: int = 0,
) -> Trie:
  """The padded arrays, from the sorted items and their codes."""
  depth = len(columns)
  new = np.zeros(len(order), bool)  # [N] a node of this depth begins at this item
  new[0] = True
  codes, heads, widest = [], [np.zeros(1, bool)], 1
  for column in columns:
    above, new = new, new.copy()
    new[1:] |= column[1:] != column[:-1]
    at = np.flatnonzero(new)
    codes.append(column[at])
    heads.append(above[at])
    if len(codes) > 1:
      widest = max(widest, np.diff(np.flatnonzero(heads[-1]), append=len(at)).max())
  if len(at) < len(order):
    raise ValueError(_collision(order, new, columns))
  if width < min(widest, vocab):
    grown = min(max(_WIDTH, 1 << int(2 * widest - 1).bit_length()), vocab, capacity)
    if width:
      logging.info("trie: a node has %d children, lanes grow to %d", widest, grown)
    width = grown

  # What a depth can hold at most, whatever the items: so a rebuild always fits.
  room, below = 1, vocab
  for _ in range(depth):
    room, below = room + min(capacity, below), min(capacity, below * width)
  room = -(-(room + 1) // 32) * 32
  if room > np.iinfo(np.int32).max:
    raise ValueError(f"{room} nodes do not fit int32; shorten the identifiers or the capacity")
  code = np.zeros(
    room, np.uint8 if vocab <= 1 << 8 else np.uint16 if vocab <= 1 << 16 else np.int32
  )
  head = np.ones(room, bool)  # set in the padding: there the last node's children end
  start = np.cumsum([0] + [len(h) for h in heads])
  head[: start[-1]] = np.concatenate(heads)
  code[1 : start[-1]] = np.concatenate(codes)
  first = np.packbits(head, bitorder="little").view("<u4")
  ones = np.bitwise_count(first).astype(np.int32)
  item = np.zeros(capacity, np.int32)
  item[: len(order)] = order
  rank = np.full(capacity + 1, -1, np.int32)
  rank[order] = np.arange(len(order), dtype=np.int32)
  arrays = {
    "code": code,
    "first": first,
    "before": np.cumsum(ones, dtype=np.int32) - ones,
    "start": start.astype(np.int32),
    "item": item,
    "rank": rank,
    "root": np.arange(vocab, dtype=np.int32),
    "lane": np.arange(width, dtype=np.int32),
  }
  if end is not None:
    arrays["end"] = np.int32(end)
  return {name: jnp.asarray(array) for name, array in arrays.items()}


def _collision(order: np.ndarray, new: np.ndarray, columns: list[np.ndarray]) -> str:
  at = np.flatnonzero(~new)
  codes = tuple(int(column[at[0]]) for column in columns)
  return (
    f"items {order[at[0] - 1]} and {order[at[0]]} have the same codes {codes} "
    f"({len(at)} such repeats); add a level that tells them apart"
  )


# --- Asking, inside jit ---


def levels(trie: Trie) -> int:
  """How many codes an identifier has."""
  return trie["start"].shape[0] - 2


def children(trie: Trie, node: Array) -> tuple[Array, Array]:
  """(first, stop): the children of each inner node are the nodes first..stop - 1."""
  ends = _select(trie, jnp.stack([node, node + 1]))
  return ends[0], ends[1]


def parent(trie: Trie, node: Array) -> Array:
  """The node above each node: as many nodes have begun their children up to it."""
  word, bit = node >> 5, (node & 31).astype(jnp.uint32)
  upto = _at(trie["first"], word) & ((jnp.uint32(2) << bit) - jnp.uint32(1))
  return _at(trie["before"], word) + _ones(upto) - 1


def code(trie: Trie, node: Array) -> Array:
  """The code on the edge into each node, int32."""
  return _at(trie["code"], node).astype(jnp.int32)


def rank(trie: Trie, ids: Array) -> Array:
  """Where each item's leaf stands among the leaves; -1 for PAD and for what is not there."""
  known = (ids > 0) & (ids < trie["rank"].shape[0])
  return jnp.where(known, _at(trie["rank"], ids), -1)


def leaves(trie: Trie, node: Array) -> Array:
  """The item of each leaf."""
  return _at(trie["item"], node - trie["start"][-2])


def below(trie: Trie, node: Array, depth) -> tuple[Array, Array]:
  """(first, stop): the ranks of the leaves below (or at) each node of this depth."""

  def down(_, ends):
    return _select(trie, ends)

  ends = jax.lax.fori_loop(depth, levels(trie), down, jnp.stack([node, node + 1]))
  first, stop = ends - trie["start"][-2]
  return first, stop


def ended(trie: Trie, node: Array) -> Array:
  """True where the identifier is complete, so that what follows is certain."""
  if "end" not in trie:
    return jnp.zeros(node.shape, bool)
  return (node > 0) & (code(trie, node) == trie["end"])


def paths(trie: Trie, ids: Array) -> Array:
  """[L, *ids.shape] the nodes at depth 1..L above (and at) each item's leaf, NONE where unknown."""
  at = rank(trie, ids)
  nodes = [at + trie["start"][-2]]
  for _ in range(levels(trie) - 1):
    nodes.append(parent(trie, nodes[-1]))
  return jnp.where((at >= 0)[None], jnp.stack(nodes[::-1]), NONE)


def _at(table: Array, i: Array) -> Array:
  return table.at[i].get(mode="clip")


def _ones(word: Array) -> Array:
  return jax.lax.population_count(word).astype(jnp.int32)


def _select(trie: Trie, n: Array) -> Array:
  """Where the n-th set bit is: its word by bisection, its place in it by counting."""
  word = jnp.searchsorted(trie["before"], n, side="right") - 1
  upto = jnp.uint32((2 << np.arange(32)) - 1).reshape((1,) * n.ndim + (32,))
  ones = _ones(_at(trie["first"], word)[..., None] & upto)  # [..., 32] set up to each place
  passed = ones <= (n - _at(trie["before"], word))[..., None]
  # 32 words and the places passed in the last. All inside the sum: what is left outside XLA
  # would fuse into what reads it and repeat for every child.
  return (word[..., None] + passed).sum(-1)


# --- A request's own list of items ---


def left(trie: Trie, allow: Array, deny: Array | None = None) -> Array:
  """`allow` [B, D], PAD where `deny` or the tree leaves nothing of it."""
  at = rank(trie, allow)
  if deny is not None:
    # One that is nothing is added, for a list of no length at all.
    denied = jnp.pad(rank(trie, deny), ((0, 0), (1, 0)), constant_values=-1)
    denied = jnp.sort(denied, axis=1)  # [B, D']
    spot = jax.vmap(jnp.searchsorted)(denied, at)
    found = jnp.take_along_axis(denied, jnp.minimum(spot, denied.shape[1] - 1), axis=1)
    at = jnp.where(found == at, -1, at)
  return jnp.where(at >= 0, allow, PAD)


def listed(trie: Trie, ids: Array, first: Array, stop: Array) -> Array:
  """[B, K] how many of `ids` [B, D], each counted once, are among the leaves first..stop - 1."""
  at = jnp.sort(rank(trie, ids), axis=1)
  again = jnp.pad(at[:, 1:] == at[:, :-1], ((0, 0), (1, 0)))
  at = jnp.sort(jnp.where(again | (at < 0), _NOWHERE, at), axis=1)
  before = jax.vmap(jnp.searchsorted)
  return before(at, stop) - before(at, first)


def allowed(trie: Trie, allow: Array, deny: Array | None = None) -> Marks:
  """The edges on the way to the items of `allow` [B, D] (PAD ignored) that `deny` leaves."""
  allow = left(trie, allow, deny)
  nodes = paths(trie, allow)  # [L, B, D]
  root = jnp.where(nodes[-1] >= 0, 0, NONE)[None]
  above = jnp.concatenate([root, nodes[:-1]])
  return Marks(jnp.where(nodes >= 0, above, NONE - 1), nodes)


def denied(trie: Trie, deny: Array) -> Marks:
  """The edges below which every leaf is in `deny` [B, D] (PAD, repeats and the unknown ignored)."""
  at = rank(trie, deny)
  node = jnp.sort(jnp.where(at >= 0, at + trie["start"][-2], _NOWHERE), axis=1)  # [B, D]
  repeated = jnp.pad(node[:, 1:] == node[:, :-1], ((0, 0), (1, 0)))
  closed = (node < _NOWHERE) & ~repeated  # closed and the first of its kind
  spot = jnp.arange(node.shape[1])[None]
  marks = []
  for _ in range(levels(trie)):
    above = jnp.where(node < _NOWHERE, parent(trie, node), _NOWHERE)
    marks.append((jnp.where(closed, above, NONE - 1), node))
    # A node closes when as many of its children have closed as it has. Nodes stay sorted upwards.
    upto = jnp.pad(jnp.cumsum(closed, axis=1), ((0, 0), (1, 0)))  # [B, D + 1]
    left, right = (
      jax.vmap(functools.partial(jnp.searchsorted, side=side))(above, above)
      for side in ("left", "right")
    )
    count = jnp.take_along_axis(upto, right, axis=1) - jnp.take_along_axis(upto, left, axis=1)
    first, stop = children(trie, above)
    closed = (node < _NOWHERE) & (count == stop - first) & (spot == left)
    node = above
  return Marks(*(jnp.stack(x) for x in zip(*reversed(marks), strict=True)))


def lanes(node: Array, first: Array, above: Array, child: Array, width: int) -> Array:
  """[B, K, width] True where the edge from beam to child is marked at this depth.

  `node` and `first` [B, K] are the beams' nodes, distinct within a row, and their first children;
  `above` and `child` [B, D] are one depth of `Marks`.
  """
  hit = node[:, :, None] == above[:, None, :]  # [B, K, D]
  beam = jnp.where(hit.any(1), hit.argmax(1), node.shape[1])  # [B, D], out of range: no beam
  lane = child - jnp.take_along_axis(first, beam, axis=1, mode="clip")
  row = jnp.arange(node.shape[0])[:, None]
  marked = jnp.zeros((*node.shape, width), bool)
  return marked.at[row, beam, lane].set(True, mode="drop")
