"""Item indexing: a unique sequence of tokens for every item, for systems that write item ids.

The choices compared by Hua et al. (SIGIR-AP 2023, "How to Index Item IDs for Recommendation
Foundation Models") and OpenP5 (Xu et al., SIGIR 2024), and semantic ids.

  randomly by_popularity by_time sequentially     a number an item, in some order
  titles                                          the words of its title
  clusters category_tree codes                    a prefix, shared by what is alike, and then
    counted                                         a number among those of the prefix
    independent                                     a token of its own (CID+IID, SemID+IID)

So collaborative indexing is `counted(clusters(train))`, semantic indexing `counted(category_tree(
categories))`, and the codes of a residual quantiser tell items apart by either.

What is learned from interactions is learned from those given, which must be the training part. All
else (ties, items that nobody met, numbers among what is alike) goes by raw ids, shuffled: neither
rows nor raw ids may be read as an order, for both may count first meetings, held-out ones too.

A number is one whole token, or digits cut into spans of a fixed width from the left of the number
with zeros in front: 1003 of 20000, in spans of two, is 0 10 03, as the tokens <s0_0> <s1_10>
<s2_3>. A text tokenizer would read item_1003 as "100", "3" and so liken it to item_100; here the
place is part of the token, so that items share a token only where their numbers agree in the same
place. With a whole token they share nothing. `spelled` gives that reading of plain digits, for
comparison.

I items (PAD included), L tokens of an identifier, P of a prefix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jax.sharding import AxisType

from recjax.data import interactions, prepare
from recjax.data.errors import DataError
from recjax.data.interactions import Interactions
from recjax.semid import kmeans
from recjax.text import vocab as vocabularies
from recjax.types import PAD

_PADDING = "<pad>"
_DENSE = 512  # nodes below which the dense eigensolver is the faster
_MOST = 2000  # items of a user that count for who met what together: pairs grow as the square


@dataclasses.dataclass(frozen=True, eq=False)
class Prefixes:
  """The first tokens of each item; items that are alike share them."""

  tokens: np.ndarray  # [I, P] int32, right-padded with PAD; row PAD is all PAD
  vocab: tuple[str, ...]  # token -> how it is written; the first is the padding
  items: np.ndarray  # [I] raw ids

  def __post_init__(self):
    if len(self.items) != len(self.tokens):
      raise DataError(
        f"{len(self.items) - 1} raw ids for the prefixes of {len(self.tokens) - 1} items",
        remedy="Bring both in the order of the events' items, see interactions.align.",
      )


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
  """An identifier for each item: no two are equal, and PAD follows each.

  `trie.build(index.tokens, len(index.vocab), end=PAD)` keeps a decoder inside the catalogue.
  """

  tokens: np.ndarray  # [I, L] int32, right-padded with PAD, the last column PAD; row PAD all PAD
  vocab: tuple[str, ...]  # token -> how it is written; the first is the padding

  def __post_init__(self):
    rows = self.tokens[PAD + 1 :]
    if not len(rows):
      raise DataError("there are no items to index", remedy="Row 0 is PAD; items start at row 1.")
    if (rows[:, 0] == PAD).any():
      item = int(np.argmax(rows[:, 0] == PAD)) + 1
      raise DataError(f"item {item} has no token", remedy="Finish prefixes by `counted`.")
    _, first, group = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    again = first[group.reshape(-1)] != np.arange(len(rows))
    if again.any():
      item = int(np.argmax(again))
      raise DataError(
        f"items {first[group.reshape(-1)[item]] + 1} and {item + 1} have the same identifier "
        f"({again.sum()} such repeats)",
        remedy="Finish with `counted` or `independent`.",
      )

  @property
  def lengths(self) -> np.ndarray:
    """[I] how many tokens each item has."""
    return (self.tokens != PAD).sum(1)

  def text(self, item: int) -> str:
    """The identifier as it is written into a prompt."""
    return " ".join(self.vocab[t] for t in self.tokens[item] if t != PAD)


def randomly(items: np.ndarray | int, *, seed: int, span: int | None = None) -> Index:
  """In random order, of raw ids [I] or, where the rows are the ids, of so many rows."""
  ids = np.arange(items) if isinstance(items, int) else items
  return _numbers(_shuffled(ids, seed), span)


def by_popularity(train: Interactions, *, span: int | None = None) -> Index:
  """The most popular first."""
  count, order = np.bincount(train.item, minlength=train.num_items), _shuffled(train.items)
  return _numbers(order[np.argsort(-count[order], kind="stable")], span)


def by_time(train: Interactions, *, span: int | None = None) -> Index:
  """In the order in which they were first met by anybody; items that nobody met come last.

  Timestamps must compare between users. Places within a history, as some files give, do not: they
  are an error, known by most users beginning at 0.
  """
  if train.timestamp is None:
    raise DataError("there are no timestamps to index by", remedy="Read the column.")
  users = len(np.unique(train.user))
  begun = len(np.unique(train.user[train.timestamp == 0]))
  if users > 1 and begun > users / 2:
    raise DataError(
      f"the index `time` needs times that compare between users: {begun} of {users} begin at 0, so "
      "these are places within each history",
      remedy="Index by sequential, popularity or random, or read a source with real times.",
    )
  rank = np.argsort(_shuffled(train.users))
  order = np.lexsort((rank[train.user - 1], train.timestamp))
  return _numbers(_met_first(train.item[order], train.items), span)


def sequentially(train: Interactions, *, seed: int, span: int | None = 2) -> Index:
  """Users in random order, the items of each in theirs, so that items met together are near.

  With spans such items share their first tokens. Items that nobody met come last.
  """
  prepare.check_ordered(train)
  rank = np.argsort(_shuffled(train.users, seed))
  order = np.argsort(rank[train.user - 1], kind="stable")
  return _numbers(_met_first(train.item[order], train.items), span)


def _met_first(rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
  """[I - 1] every item once: those of the events by first appearance, then the others."""
  met, first = np.unique(rows, return_index=True)
  order = _shuffled(ids)
  return np.concatenate([met[np.argsort(first)], order[~np.isin(order, met)]])


def _shuffled(ids: np.ndarray, seed: int = 0) -> np.ndarray:
  """[I - 1] the rows of raw ids [I], PAD left out, in a random order that follows from these."""
  rows = np.argsort(ids[PAD + 1 :], kind="stable") + 1
  return rows[np.random.default_rng(seed).permutation(len(rows))]


def _numbers(order: np.ndarray, span: int | None) -> Index:
  """The i-th item of `order` is number i, one token or spans of digits."""
  number = np.empty(len(order) + 1, np.int64)
  number[order] = np.arange(len(order))
  if span is None:
    return _whole(number[1:, None], ["number"])
  if span < 1:
    raise ValueError(f"a span has at least 1 digit, not {span}")
  count = -(-len(str(max(len(order) - 1, 0))) // span)
  power = 10 ** (span * np.arange(count)[::-1])
  digits = number[1:, None] // power[None] % 10**span
  return _whole(digits, [f"s{i}" for i in range(count)])


def _whole(values: np.ndarray, names: Sequence[str]) -> Index:
  """Levels that tell every item apart already."""
  prefixes = _levels(values, names, np.arange(len(values) + 1))
  return _finished(prefixes, np.full(len(values), -1), "none")


def titles(
  texts: Sequence[str], items: np.ndarray, split: Callable[[str], list[str]] = str.split
) -> Index:
  """The words of each title (row PAD ignored), or what else `split` makes of it; `items` raw ids.

  Titles of the same words get a further token, a number among them; so do empty ones. Angle
  brackets are left out: they mark tokens that are no words.
  """
  words = [split(str(text).replace("<", " ").replace(">", " ")) for text in texts[PAD + 1 :]]
  flat = interactions.strings([word for row in words for word in row])
  known, number = np.unique(flat, return_inverse=True)
  length = np.array([len(row) for row in words], np.int64)
  tokens = np.zeros((len(words) + 1, max(length, default=0) or 1), np.int32)
  row = np.repeat(np.arange(len(words)), length)
  place = np.arange(len(flat)) - np.repeat(np.cumsum(length) - length, length)
  tokens[row + 1, place] = number.reshape(-1) + 1
  prefixes = Prefixes(tokens, (_PADDING, *known.tolist()), items)
  nth, same = _nth(prefixes)
  return _finished(prefixes, np.where((same > 1) | (length == 0), nth, -1), "copy")


def spelled(index: Index, split: Callable[[str], list[str]]) -> Index:
  """Numbers that are one token each, written as `split` cuts text: P5's own identifiers.

  Items then share tokens by accident of their digits, and share them with all other numbers.
  """
  if index.tokens.shape[1] > 2 or len(index.vocab) < 2:
    raise DataError(
      "only numbers of one token each can be spelled", remedy="Index by numbers without spans."
    )
  name = index.vocab[1].rpartition("_")[0] + "_"
  written = [index.vocab[token].removeprefix(name).rstrip(">") for token in index.tokens[1:, 0]]
  if not all(number.isdecimal() for number in written):
    raise DataError("the tokens of the index are no numbers", remedy="Index by numbers.")
  texts = np.array(["", *written])
  return titles(texts, texts, split)


def codes(codes: np.ndarray, items: np.ndarray) -> Prefixes:
  """Semantic ids [I, P] of the raw ids `items`, row PAD ignored."""
  codes = np.asarray(codes)
  if codes.ndim != 2 or not np.issubdtype(codes.dtype, np.integer):
    raise DataError(f"codes are whole numbers [items, levels], not {codes.dtype} {codes.shape}")
  if codes[1:].min(initial=0) < 0:
    item = int(np.argmax((codes[1:] < 0).any(1))) + 1
    raise DataError(f"item {item} has no code", remedy="Code the whole catalogue first.")
  return _levels(codes[1:], [chr(ord("a") + i) for i in range(codes.shape[1])], items)


def category_tree(paths: Sequence[Sequence[str]], items: np.ndarray) -> Prefixes:
  """Categories of raw ids from broad to narrow (row PAD ignored), a token for each at its depth."""
  paths = list(paths[PAD + 1 :])
  columns, names = [], []
  for depth in range(max(map(len, paths), default=0)):
    deep = np.array([len(path) > depth for path in paths])
    found = [f"<category{depth}_{_name(path[depth])}>" for path in paths if len(path) > depth]
    known, number = np.unique(interactions.strings(found), return_inverse=True)
    column = np.full(len(paths), -1)
    column[deep] = number.reshape(-1)
    columns.append(column)
    names.append(known.tolist())
  values = np.stack(columns, axis=1) if columns else np.empty((len(paths), 0), np.int64)
  return _joined(values, names, items)


def _name(category: str) -> str:
  """Without spaces and brackets, as an added token must be."""
  return "_".join(str(category).replace("<", " ").replace(">", " ").split())


def clusters(train: Interactions, *, count: int = 20, leaf: int = 500, seed: int = 0) -> Prefixes:
  """A tree of spectral clusters of the graph of items that users met together.

  An edge weighs as many users as met both. Clusters of more than `leaf` items are split again,
  into at most `count`; items that are connected to nothing there are a cluster of their own. Of a
  user who met more than 2,000 items so many count, drawn.
  """
  if count < 2 or leaf < 1:
    raise ValueError(f"a split makes at least 2 clusters and a leaf has an item: {count}, {leaf}")
  order = _shuffled(train.items)
  graph = _together(train, order)
  paths = np.full((train.num_items - 1, 0), -1)
  key = jax.random.key(seed)
  wide = [np.arange(train.num_items - 1)] if train.num_items - 1 > leaf else []
  while wide:  # a level of the tree at a time
    column, deeper = np.full(len(paths), -1), []
    for node in wide:
      key, split_key = jax.random.split(key)
      label = _split(graph[node][:, node], count, split_key)
      column[node] = label
      parts = [node[label == i] for i in range(label.max() + 1)]
      deeper += [part for part in parts if len(part) > leaf]
    paths, wide = np.concatenate([paths, column[:, None]], axis=1), deeper
  values = paths[np.argsort(order)]
  return _levels(values, [f"cluster{i}" for i in range(values.shape[1])], train.items)


def _together(train: Interactions, order: np.ndarray) -> scipy.sparse.csr_matrix:
  """[I - 1, I - 1] how many users met both, of the items in this order."""
  shape = (train.num_users, train.num_items - 1)
  ones, node = np.ones(len(train), np.float64), np.argsort(order)[train.item - 1]
  met = scipy.sparse.csr_matrix((ones, (train.user, node)), shape)
  met.sum_duplicates()
  met.data[:] = 1
  rng = np.random.default_rng(0)
  for user in np.flatnonzero(np.diff(met.indptr) > _MOST):
    own = slice(met.indptr[user], met.indptr[user + 1])
    met.data[own] = rng.permutation(met.data[own].size) < _MOST
  met.eliminate_zeros()
  both = (met.T @ met).tocsr()
  both.setdiag(0)
  both.eliminate_zeros()
  both.sort_indices()  # sums over a row go by its order
  return both


def _split(graph: scipy.sparse.csr_matrix, count: int, key: jax.Array) -> np.ndarray:
  """[n] a cluster 0, 1 ... for each node; at least two of them, each of at least one node."""
  alone = np.asarray(graph.sum(1)).ravel() == 0
  label = np.zeros(len(alone), np.int64)
  if alone.all():
    return np.arange(len(alone)) * min(count, len(alone)) // len(alone)
  if alone.any():
    label[~alone] = 1 + _spectral(graph[~alone][:, ~alone], count - 1, key)
    return label
  label = _spectral(graph, count, key)
  if label.max() == 0:  # all alike: in order
    label = np.arange(len(label)) * min(count, len(label)) // len(label)
  return label


def _spectral(graph: scipy.sparse.csr_matrix, count: int, key: jax.Array) -> np.ndarray:
  """Ng, Jordan & Weiss (NeurIPS 2001): k-means of the normalised Laplacian's first vectors."""
  nodes = graph.shape[0]
  count = min(count, nodes)
  if count < 2:
    return np.zeros(nodes, np.int64)
  scale = scipy.sparse.diags_array(1 / np.sqrt(np.asarray(graph.sum(1)).ravel()))
  near = scale @ graph @ scale  # its greatest eigenvalues are the Laplacian's least
  if nodes <= _DENSE:
    vectors = np.linalg.eigh(near.toarray())[1][:, -count:]
  else:
    start = np.random.default_rng(0).normal(size=nodes)
    vectors = scipy.sparse.linalg.eigsh(near, k=count, which="LA", v0=start, tol=1e-4)[1]
  vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
  vectors = np.round(vectors, 5).astype(np.float32)  # equal up to rounding is equal
  distinct = len(np.unique(vectors, axis=0))
  if distinct < 2:
    return np.zeros(nodes, np.int64)
  one = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
  data = kmeans.put(vectors, one)
  found = kmeans.read(data, kmeans.fit(data, min(count, distinct), key))
  return np.unique(kmeans.codes(data, found), return_inverse=True)[1].reshape(-1)


def counted(prefixes: Prefixes) -> Index:
  """A number among the items of the same prefix.

  The tokens of these numbers are the same below every prefix.
  """
  return _finished(prefixes, _nth(prefixes)[0], "leaf")


def independent(prefixes: Prefixes) -> Index:
  """A token of its own for each item behind its prefix."""
  return _finished(prefixes, np.argsort(_shuffled(prefixes.items)), "item")


def _finished(prefixes: Prefixes, number: np.ndarray, name: str) -> Index:
  """A last token for each item by its `number` [I - 1]; -1: it has none."""
  item = np.flatnonzero(number >= 0)
  end = (prefixes.tokens[1:] != PAD).sum(1)
  tokens = np.pad(prefixes.tokens, ((0, 0), (0, 2)))
  tokens[item + 1, end[item]] = number[item] + len(prefixes.vocab)
  longest = int((end + (number >= 0)).max(initial=0))
  last = vocabularies.numbered(name, int(number.max(initial=-1)) + 1)
  return Index(tokens[:, : longest + 1], (*prefixes.vocab, *last))


def _nth(prefixes: Prefixes) -> tuple[np.ndarray, np.ndarray]:
  """[I - 1] the number of each item among those of its prefix, and how many these are."""
  _, group, size = np.unique(prefixes.tokens[1:], axis=0, return_inverse=True, return_counts=True)
  group, order = group.reshape(-1), _shuffled(prefixes.items) - 1
  nth = np.empty(len(group), np.int64)
  nth[order[np.argsort(group[order], kind="stable")]] = np.arange(len(group)) - np.repeat(
    np.cumsum(size) - size, size
  )
  return nth, size[group]


def _levels(values: np.ndarray, names: Sequence[str], items: np.ndarray) -> Prefixes:
  """From numbers [I - 1, P]; each level has tokens of its own, `<name_0>`, `<name_1>` ..."""
  tops = values.max(0, initial=-1)
  return _joined(
    values,
    [vocabularies.numbered(n, int(top) + 1) for n, top in zip(names, tops, strict=True)],
    items,
  )


def _joined(values: np.ndarray, names: Sequence[Sequence[str]], items: np.ndarray) -> Prefixes:
  """From numbers [I - 1, P] and what each level's are called; -1, only at the end, is PAD."""
  offsets = 1 + np.cumsum([0, *map(len, names)])[:-1]
  tokens = np.zeros((len(values) + 1, values.shape[1]), np.int32)
  tokens[1:] = np.where(values >= 0, values + offsets[None], PAD)
  return Prefixes(tokens, (_PADDING, *(name for level in names for name in level)), items)
