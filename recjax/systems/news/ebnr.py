"""EBNR (Okura et al., KDD 2017), https://doi.org/10.1145/3097983.3098108.

An article's vector is the code of a denoising autoencoder over the set of its words, pretrained so
that articles of one category are alike: of three, the two of one category have the greater product.
A GRU over the vectors of clicked articles, which stay as they are, makes the user's; a candidate is
scored by the product of both, and learned in pairs with what was left of its impression.

`make_pretrain` and `make` are the two systems; SHARED says what the second takes from the first.
Pretraining draws its articles from the whole catalogue, one triplet for each row of a batch. As in
the paper words are left out at random there, and in use their sum shrinks by as much instead.

Unlike the paper: the words are the title's; no bias for where an article was displayed, which MIND
does not tell; both activations are sigmoids, and alpha is 1. An article whose category is not told
is reconstructed and has no triplet. Of a user without history all candidates are alike.

B batch, S words of a title, T history, D width, V words, K categories, I items (PAD included).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from recjax import losses
from recjax.nn.recurrent import GRU
from recjax.systems.news import clicks
from recjax.types import FROZEN, PAD, Array, Loss, System

SHARED = {"articles": "articles"}  # ours -> theirs, for `Stage.init_from`
SERVED = ("titles",)  # the assets that answers read


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  num_words: int  # V, PAD and the unknown word included
  num_categories: int  # K, with 0, none
  title: int = 30  # S, the words that are read of a title
  dim: int = 500  # D
  corruption: float = 0.3  # share of the words that pretraining leaves out
  alpha: float = 1.0  # weight of the triplets beside the reconstruction
  tuned: bool = False  # the articles' encoder learns on with the users

  def __post_init__(self):
    if self.title < 1:
      raise ValueError(f"title={self.title}: read at least one word of each")
    if not 0 <= self.corruption < 1:
      raise ValueError(f"corruption={self.corruption}: a share in [0, 1), or nothing is read")


def assets(cfg: Config, titles: np.ndarray, categories: np.ndarray) -> dict[str, Array]:
  """Word ids of each title [I, S], ids [I] of the categories, 0 where unknown."""
  kinds = clicks.table("categories", categories, cfg.num_items, cfg.num_categories)
  order = np.argsort(kinds, kind="stable")
  order = order[np.asarray(kinds)[order] != PAD]
  count = np.bincount(np.asarray(kinds)[order], minlength=cfg.num_categories)
  if (count > 0).sum() < 2:
    raise ValueError("EBNR tells categories apart, and the items have fewer than two")
  return {
    "titles": clicks.texts("titles", titles, cfg.num_items, cfg.title, cfg.num_words),
    "categories": kinds,
    "by_category": jnp.asarray(order, jnp.int32),  # items of category 1, of 2, ...
    "first": jnp.asarray(np.cumsum(count) - count, jnp.int32),  # [K] where they begin
    "count": jnp.asarray(count, jnp.int32),
  }


def triplets(key: Array, assets, rows: int) -> Array:
  """[rows, 3] items: any, one of its category (it may be itself), and one of another."""
  any_key, same_key, other_key = jax.random.split(key, 3)
  one = jax.random.randint(any_key, (rows,), PAD + 1, len(assets["titles"]))
  kind, order = assets["categories"][one], assets["by_category"]
  first, count = assets["first"][kind], assets["count"][kind]
  same = first + jax.random.randint(same_key, (rows,), 0, jnp.maximum(count, 1))
  other = first + count + jax.random.randint(other_key, (rows,), 0, len(order) - count)
  return jnp.stack([one, order[same], order[other % len(order)]], axis=1)


def once(words: Array) -> Array:
  """[N, S] where a word stands for the first time: a title is a set of words."""
  same = words[:, :, None] == words[:, None, :]  # [N, S, S]
  earlier = jnp.tril(jnp.ones(same.shape[1:], bool), -1)[None]
  return (words != PAD) & ~(same & earlier).any(-1)


class Articles(nn.Module):
  """sigmoid(W x + b) - sigmoid(b) of the words that are kept: zero of no words."""

  cfg: Config

  @nn.compact
  def __call__(self, words: Array, kept: Array) -> Array:
    """[N, S] words and how much each counts -> [N, D]."""
    cfg = self.cfg
    table = self.param("words", nn.initializers.normal(0.1), (cfg.num_words, cfg.dim))
    bias = self.param("bias", nn.initializers.zeros, (cfg.dim,))
    x = jnp.einsum("ns,nsd->nd", kept.astype(table.dtype), table[words]) + bias[None]
    return jax.nn.sigmoid(x) - jax.nn.sigmoid(bias)[None]


class Autoencoder(nn.Module):
  cfg: Config

  @nn.compact
  def __call__(self, words: Array, kept: Array) -> tuple[Array, Array]:
    """Codes [N, D], and logits [N, V] of the words that each had."""
    codes = Articles(self.cfg, name="articles")(words, kept)
    return codes, nn.Dense(self.cfg.num_words, name="decoder")(codes)


class EBNR(nn.Module):
  cfg: Config

  def setup(self):
    self.articles, self.reader = Articles(self.cfg), GRU(self.cfg.dim)

  def news(self, assets, items: Array, *, train: bool) -> Array:
    """[..., D]"""
    words = assets["titles"][items].reshape(-1, self.cfg.title)  # [N, S]
    codes = self.articles(words, (1 - self.cfg.corruption) * once(words))
    return codes.reshape(*items.shape, -1)

  def user(self, vectors: Array, where: Array, user: Array, *, train: bool) -> Array:
    return self.reader(vectors, where)[:, -1]


def pairs(scores: Array, labels: Array, where: Array) -> losses.Total:
  """Each click in pairs with all that was left: the mean of -log sigmoid of the difference."""
  left = where & (labels <= 0)
  taken = where & (labels > 0) & left.any(-1, keepdims=True)
  square = (*scores.shape, scores.shape[-1])  # [B, C, C]
  others, kept = (jnp.broadcast_to(x[:, None], square) for x in (scores, left))
  return losses.bpr(scores, others, taken, negatives_where=kept)


def make_pretrain(cfg: Config) -> System:
  model = Autoencoder(cfg)

  def init(key, assets, batch):
    words = assets["titles"][:1]
    return model.init(key, words, words)["params"]

  def loss(params, assets, batch, key):
    draw_key, keep_key = jax.random.split(key)
    items = triplets(draw_key, assets, len(batch["weight"]))  # [B, 3]
    words = assets["titles"][items].reshape(-1, cfg.title)
    own = once(words)
    kept = own & jax.random.bernoulli(keep_key, 1 - cfg.corruption, own.shape)
    codes, logits = model.apply({"params": params}, words, kept)
    had = jnp.where(own, jnp.take_along_axis(logits, words, axis=1), 0).sum(-1)
    lost = (jax.nn.softplus(logits[:, PAD + 1 :]).sum(-1) - had).reshape(items.shape).sum(-1)
    one, same, other = jnp.moveaxis(codes.reshape(*items.shape, -1), 1, 0)  # each [B, D]
    gap = jax.nn.softplus((one * other).sum(-1) - (one * same).sum(-1))
    gap = jnp.where(assets["categories"][items[:, 0]] != PAD, gap, 0)
    where = batch["weight"] > 0
    parts = {"reconstruction": losses.total(lost, where), "triplet": losses.total(gap, where)}
    return Loss(*losses.total(lost + cfg.alpha * gap, where), parts)

  return System(init, loss)


def make(cfg: Config) -> System:
  def trainable(params):
    labels = {name: FROZEN if name == "articles" else name for name in params}
    return {n: jax.tree.map(lambda _, n=n: labels[n], tree) for n, tree in params.items()}

  system = clicks.system(EBNR(cfg), num_items=cfg.num_items, competing=pairs)
  return system if cfg.tuned else system._replace(trainable=trainable)
