"""NAML (Wu et al., IJCAI 2019), https://arxiv.org/abs/1907.05576.

News have four views, each a vector of one width: title and abstract (a convolution over the words,
then additive attention), category and subcategory (a table and a dense layer). Attention over the
views makes the news' vector, attention over the clicked news the user's; a candidate is scored by
the product of both, and learned against news of the same impression left unclicked.

Unlike the paper: the abstract stands for the body, which MIND does not give. A view that a news
lacks (no abstract, no category) takes no part in its attention.

S words of a title or an abstract, T history, D width, V words, I items (PAD included).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from recjax.nn.dropout import Dropout
from recjax.nn.linear import dot_general
from recjax.nn.pool import AdditivePool
from recjax.systems.news import clicks
from recjax.types import PAD, Array, System

SERVED = ("titles", "abstracts", "categories", "subcategories")  # the assets that answers read


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  num_words: int  # V, PAD and the unknown word included
  num_categories: int  # with 0, none
  num_subcategories: int
  title: int = 30  # S, the words that are read of a title
  abstract: int = 50  # and of an abstract
  word_dim: int = 300
  category_dim: int = 100
  dim: int = 400  # D, filters of the convolution
  window: int = 3  # words that a filter sees
  query: int = 200  # width of the additive attentions
  dropout: float = 0.2

  def __post_init__(self):
    if min(self.title, self.abstract) < 1:
      raise ValueError(f"title={self.title}, abstract={self.abstract}: read at least one word")


def assets(
  cfg: Config,
  titles: np.ndarray,
  abstracts: np.ndarray,
  categories: np.ndarray,
  subcategories: np.ndarray,
  vectors: np.ndarray | None = None,
) -> dict[str, Array]:
  """Word ids [I, S] of titles and of abstracts, ids [I] of both categories, 0 where unknown.

  And word vectors [V, word_dim] to start from, if any.
  """
  rows, words = cfg.num_items, cfg.num_words
  return {
    "titles": clicks.texts("titles", titles, rows, cfg.title, words),
    "abstracts": clicks.texts("abstracts", abstracts, rows, cfg.abstract, words),
    "categories": clicks.table("categories", categories, rows, cfg.num_categories),
    "subcategories": clicks.table("subcategories", subcategories, rows, cfg.num_subcategories),
    **clicks.word_vectors(vectors, cfg.num_words, cfg.word_dim),
  }


class Convolved(nn.Module):
  """What filters see of the words x [N, S, E], real where `where` [N, S] -> [N, S, D]."""

  filters: int  # D
  window: int
  dropout: float

  @nn.compact
  def __call__(self, x: Array, where: Array, *, train: bool) -> Array:
    x = jnp.where(where[..., None], x, 0)  # what padding holds must not reach its neighbours
    x = jax.nn.relu(nn.Conv(self.filters, (self.window,), name="filters")(x))
    return Dropout(self.dropout)(x, train=train)


class Text(nn.Module):
  """Words x [N, S, E], real where `where` [N, S] -> [N, D]."""

  filters: int  # D
  window: int
  query: int
  dropout: float

  @nn.compact
  def __call__(self, x: Array, where: Array, *, train: bool) -> Array:
    x = Dropout(self.dropout)(x, train=train)
    x = Convolved(self.filters, self.window, self.dropout, name="convolved")(x, where, train=train)
    return AdditivePool(self.query, name="pool")(x, where)


class NAML(nn.Module):
  cfg: Config

  def setup(self):
    cfg, normal = self.cfg, nn.initializers.normal(0.1)
    self.words = self.param("words", normal, (cfg.num_words, cfg.word_dim))
    self.categories = self.param("categories", normal, (cfg.num_categories, cfg.category_dim))
    self.subcategories = self.param(
      "subcategories", normal, (cfg.num_subcategories, cfg.category_dim)
    )
    self.of_title, self.of_abstract = (
      Text(cfg.dim, cfg.window, cfg.query, cfg.dropout) for _ in range(2)
    )
    self.of_category, self.of_subcategory = (
      nn.Dense(cfg.dim, dot_general=dot_general) for _ in range(2)
    )
    self.of_views, self.of_news = AdditivePool(cfg.query), AdditivePool(cfg.query)

  def news(self, assets, items: Array, *, train: bool) -> Array:
    """[..., D]"""
    flat, views, there = items.reshape(-1), [], []
    for name, read in (("titles", self.of_title), ("abstracts", self.of_abstract)):
      words = assets[name][flat]  # [N, S]
      views.append(read(self.words[words], words != PAD, train=train))
      there.append((words != PAD).any(-1))
    for name, rows, dense in (
      ("categories", self.categories, self.of_category),
      ("subcategories", self.subcategories, self.of_subcategory),
    ):
      views.append(jax.nn.relu(dense(rows[assets[name][flat]])))
      there.append(assets[name][flat] != PAD)
    x = self.of_views(jnp.stack(views, axis=1), jnp.stack(there, axis=1))  # [N, D]
    return x.reshape(*items.shape, -1)

  def user(self, vectors: Array, where: Array, user: Array, *, train: bool) -> Array:
    return self.of_news(vectors, where)


def make(cfg: Config) -> System:
  return clicks.system(NAML(cfg), num_items=cfg.num_items)
