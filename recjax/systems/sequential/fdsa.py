"""FDSA (Zhang et al., IJCAI 2019), https://www.ijcai.org/proceedings/2019/600.

One causal Transformer reads the items of a history, another a vector of each item's attributes, a
mean that a vanilla attention weighs. Both states of a place, side by side through a linear layer,
score the item after it against the item table.

Unlike the paper: the softmax over all items, not binary cross-entropy with one sampled negative;
no text among the features; an attribute's weight is one scalar from a hidden layer (eq. 2 leaves
its shape open). Places are counted from the newest item, so that padding changes nothing. The
default sizes are those of the comparison on Amazon in S3-Rec (CIKM 2020).

B batch, T history (left-padded), A attributes of one item, K attributes in all (none, 0, included),
D width, I items (PAD included).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from recjax import losses
from recjax.data import interactions
from recjax.data.errors import DataError
from recjax.data.ragged import Ragged
from recjax.decode import topk
from recjax.nn import attention, transformer
from recjax.nn.dropout import Dropout
from recjax.types import PAD, Array, Loss, System, unpacked

NONE = 0  # the id of no attribute


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  num_attributes: int  # K
  max_len: int = 50  # the longest T
  dim: int = 64  # D
  heads: int = 2
  layers: int = 2  # of each stream
  ff: int = 256
  dropout: float = 0.5


class Features(nn.Module):
  """One vector an item: its attributes' mean, weighed by attention; zero where it has none."""

  num_attributes: int
  dim: int

  @nn.compact
  def __call__(self, owned: Array) -> Array:
    """[..., A] attribute ids -> [..., D]."""
    shape = (self.num_attributes, self.dim)
    vectors = self.param("attributes", nn.initializers.normal(0.02), shape)[owned]  # [..., A, D]
    hidden = nn.tanh(nn.Dense(self.dim, name="hidden")(vectors))
    logits = nn.Dense(1, use_bias=False, name="weigh")(hidden)[..., 0]  # [..., A]
    weights = attention.softmax(logits, owned != NONE)
    return jnp.einsum("...a,...ad->...d", weights, vectors)


class FDSA(nn.Module):
  cfg: Config

  def setup(self):
    cfg = self.cfg
    normal = nn.initializers.normal(0.02)
    self.items = self.param("items", normal, (cfg.num_items, cfg.dim))
    self.positions = self.param("positions", normal, (cfg.max_len, cfg.dim))
    self.features = Features(cfg.num_attributes, cfg.dim)
    self.item_stream, self.feature_stream = (
      transformer.Encoder(
        cfg.layers, cfg.heads, cfg.ff, cfg.dropout, activation=jax.nn.relu, norm_first=False
      )
      for _ in range(2)
    )
    self.join = nn.Dense(cfg.dim)
    self.dropout = Dropout(cfg.dropout)

  def __call__(self, history: Array, owned: Array, *, train: bool) -> Array:
    """history [B, T], its attributes [B, T, A] -> [B, T, D], the state at each place."""
    length = history.shape[1]
    if length > self.cfg.max_len:
      raise ValueError(
        f"a history of {length} is longer than max_len {self.cfg.max_len}: cut it in the loader,"
        " or raise max_len"
      )
    there = history != PAD
    where = attention.causal(length) & attention.as_mask(there)

    def read(encoder, vectors):
      x = vectors * math.sqrt(self.cfg.dim) + self.positions[:length][::-1][None]
      x = self.dropout(jnp.where(there[..., None], x, 0), train=train)
      return encoder(x, where, train=train)

    both = (
      read(self.item_stream, self.items[history]),
      read(self.feature_stream, self.features(owned)),
    )
    return self.join(jnp.concatenate(both, axis=-1))


def numbered(attributes: Sequence[Sequence[str]]) -> tuple[Ragged, np.ndarray]:
  """Attributes by name, a row an item -> (their ids from 1, a row an item; the names [K])."""
  names = interactions.strings([a for row in attributes for a in row])
  ids, names = interactions.number(names)
  return Ragged.from_lengths(ids, np.array([len(row) for row in attributes], np.int64)), names


def table(
  attributes: Sequence[Sequence[int]] | Ragged, num_items: int, num_attributes: int
) -> np.ndarray:
  """[I, A] the ids of each item's attributes, each once, NONE where there are fewer than A."""
  if len(attributes) != num_items:
    raise DataError(
      f"there are attributes for {len(attributes)} items, the config says {num_items}",
      remedy="Give one row an item, PAD's (empty) first; `interactions.align` orders a catalogue.",
    )
  rows = [np.asarray(row) for row in attributes]
  named = next((i for i, row in enumerate(rows) if len(row) and row.dtype.kind not in "iu"), None)
  if named is not None:
    raise DataError(
      f"item {named} has {rows[named][0]!r} among its attributes, ids are whole numbers",
      remedy="Number the names first, by `numbered`.",
    )
  if len(rows[PAD]):
    raise DataError(f"row {PAD} is PAD's and has attributes", remedy="Put an empty row in front.")
  lengths = np.array([len(row) for row in rows])
  item = np.repeat(np.arange(num_items), lengths)
  value = np.concatenate([row for row in rows if len(row)] or [np.zeros(0, np.int64)])
  beyond = (value <= NONE) | (value >= num_attributes)
  if beyond.any():
    at = int(np.argmax(beyond))
    raise DataError(
      f"item {item[at]} has attribute {value[at]}, outside 1..{num_attributes - 1} "
      f"({beyond.sum()} such entries)",
      remedy="Number attributes from 1, and count 0, no attribute, in num_attributes.",
    )
  first = np.sort(np.unique(item * num_attributes + value, return_index=True)[1])
  item, value = item[first], value[first].astype(np.int32)
  once = Ragged.from_lengths(value, np.bincount(item, minlength=num_items))
  return once.right_padded(np.arange(num_items), max(int(once.lengths.max()), 1), fill=NONE)


def assets(cfg: Config, attributes: Sequence[Sequence[int]] | Ragged) -> Mapping[str, Array]:
  """What the system reads of the catalogue: ids of the attributes of each of I items."""
  return {"attributes": jnp.asarray(table(attributes, cfg.num_items, cfg.num_attributes))}


def make(cfg: Config) -> System:
  model = FDSA(cfg)

  def states(params, assets, batch, key=None):
    rngs = None if key is None else {"dropout": key}
    history = batch["history"]
    owned = assets["attributes"][history]
    return model.apply({"params": params}, history, owned, train=key is not None, rngs=rngs)

  def init(key, assets, batch):
    history = batch["history"]
    return model.init(key, history, assets["attributes"][history], train=False)["params"]

  def loss(params, assets, batch, key):
    unpacked(batch)
    target, table = batch["next"], params["items"]
    where = (target != PAD) & (batch["weight"] > 0)[:, None]
    x = states(params, assets, batch, key)  # [B, T, D]
    return Loss(*losses.linear_softmax_xent(x, table[1:], target - 1, where))

  def every(params, assets, batch):
    return states(params, assets, batch)[:, -1] @ params["items"].T  # [B, I]

  def score(params, assets, batch):
    return topk.scores(every(params, assets, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, assets, batch), batch, k=k)

  def embed(params, assets, batch):
    return states(params, assets, batch)[:, -1]

  return System(init, loss, recommend=recommend, score=score, embed=embed)
