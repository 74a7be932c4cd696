"""A hybrid of collaborative filtering and content: two towers (Covington et al., RecSys 2016),
https://doi.org/10.1145/2959100.2959190, whose items are an id embedding plus a projected text.

An item is its own embedding plus a learned projection of its text vector, in either tower with
tables and projections of its own. The user tower sums the history, weighted by how many items ago
each came (weights are learned), and maps it; scores are inner products. Learned by sampled softmax
on prefixes; with one negative that is BPR.

Unlike the paper: no features of the user but the history, one layer, uniform negatives. An id is
left out of an item now and then (DropoutNet, Volkovs et al., NeurIPS 2017), so that the text alone
learns to stand for the item, as it does for those that nobody met (`assets` with counts). A user
of empty history is the tower's bias, which has learned what users like in general.

B batch, T history, D width, E width of a text vector, I items (PAD included), N negatives,
K results.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from recjax import losses
from recjax.data import negatives
from recjax.decode import topk
from recjax.nn import linear
from recjax.nn.dropout import Dropout
from recjax.systems.collaborative import content
from recjax.types import PAD, Array, Assets, Loss, System


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  dim: int = 64  # D
  max_len: int = 50  # items whose age has a weight of its own; older ones share the last
  negatives: int = 100  # N, where the batch brings none
  dropout: float = 0.2  # of the user's sum
  id_dropout: float = 0.2  # share of the ids that are left out in training

  def __post_init__(self):
    if self.negatives < 1:
      raise ValueError(
        f"negatives is {self.negatives}: a target is compared with drawn items; draw 1 or more"
      )


def assets(cfg: Config, vectors: np.ndarray, counts: np.ndarray | None = None) -> dict[str, Array]:
  """The items' text vectors [I, E] at length one; zeros for PAD and for items without text.

  `counts` [I] are of the training events: an item without any is its text alone, for its id has
  learned nothing but to be drawn.
  """
  met = np.ones(cfg.num_items) if counts is None else np.asarray(counts)
  if met.shape != (cfg.num_items,):
    raise ValueError(f"counts has shape {met.shape}, there are {cfg.num_items} items")
  vectors = content.unit(vectors, cfg.num_items)
  return {"vectors": jnp.asarray(vectors), "met": jnp.asarray(met > 0)}


class Items(nn.Module):
  """Items [...] -> their id embeddings plus their projected texts [..., D]."""

  cfg: Config

  @nn.compact
  def __call__(self, ids: Array, assets: Assets, *, train: bool) -> Array:
    cfg = self.cfg
    own = nn.Embed(cfg.num_items, cfg.dim, embedding_init=nn.initializers.normal(0.05), name="ids")
    text = nn.Dense(cfg.dim, use_bias=False, dot_general=linear.dot_general, name="text")
    there = assets["met"][ids][..., None].astype(jnp.float32)
    there = Dropout(cfg.id_dropout)(there, train=train)
    return own(ids) * there + text(assets["vectors"][ids])


class Towers(nn.Module):
  cfg: Config

  def setup(self):
    self.items, self.read = Items(self.cfg), Items(self.cfg)
    self.age = self.param("age", nn.initializers.zeros, (self.cfg.max_len,))
    self.out, self.drop = nn.Dense(self.cfg.dim), Dropout(self.cfg.dropout)

  def user(self, history: Array, assets: Assets, *, train: bool) -> Array:
    """[B, D]"""
    age = np.minimum(np.arange(history.shape[1])[::-1], self.cfg.max_len - 1)
    weight = jax.nn.softmax(self.age)[age][None] * (history != PAD)  # [B, T]
    weight /= jnp.maximum(weight.sum(1, keepdims=True), 1e-12)
    read = self.read(history, assets, train=train)
    return self.out(self.drop(jnp.einsum("bt,btd->bd", weight, read), train=train))

  def item(self, ids: Array, assets: Assets, *, train: bool) -> Array:
    return self.items(ids, assets, train=train)

  def __call__(self, history: Array, assets: Assets) -> Array:  # visits every parameter, for init
    items = self.item(history, assets, train=False)
    return self.user(history, assets, train=False) + items.sum(1)


def make(cfg: Config) -> System:
  model = Towers(cfg)

  def init(key, assets, batch):
    return model.init(key, batch["history"], assets)["params"]

  def apply(params, assets, ids, method, key=None):
    rngs = None if key is None else {"dropout": key}
    return model.apply(
      {"params": params}, ids, assets, train=key is not None, rngs=rngs, method=method
    )

  def loss(params, assets, batch, key):
    user_key, item_key, draw = jax.random.split(key, 3)
    target = batch["target"]
    drawn = batch.get("candidates")
    if drawn is None:
      drawn = negatives.other(draw, target, cfg.negatives, cfg.num_items)  # [B, N]
    user = apply(params, assets, batch["history"], Towers.user, user_key)  # [B, D]
    asked = jnp.concatenate([target[:, None], drawn], axis=1)
    items = apply(params, assets, asked, Towers.item, item_key)  # [B, 1 + N, D]
    logits = jnp.einsum("bd,bnd->bn", user, items)
    where = (target != PAD) & (batch["weight"] > 0)
    there = drawn != PAD
    return Loss(
      *losses.sampled_softmax_xent(logits[:, 0], logits[:, 1:], where, negatives_where=there)
    )

  def index(params, assets):
    every = jnp.arange(cfg.num_items)
    return {**assets, "items": apply(params, assets, every, Towers.item)}  # [I, D]

  def embed(params, assets, batch):
    return apply(params, assets, batch["history"], Towers.user)

  def every(params, assets, batch):
    if "items" not in assets:
      assets = index(params, assets)
    return embed(params, assets, batch) @ assets["items"].T  # [B, I]

  def score(params, assets, batch):
    return topk.scores(every(params, assets, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, assets, batch), batch, k=k)

  return System(init, loss, recommend=recommend, score=score, embed=embed, index=index)
