"""NRMS (Wu et al., EMNLP 2019), https://aclanthology.org/D19-1671.

Self-attention of several heads relates the words of a title, and additive attention makes the
news' vector of them; the same pair of layers over the clicked news makes the user's. A candidate
is scored by the product of both, and learned against news of the same impression left unclicked.

As the authors' code, unlike the paper: queries and keys are projected apart and their product is
divided by the root of a head's width. Word vectors start from a file where the assets bring one.
Of a user without history all candidates are alike.

S words of a title, T history, D width (heads x head_dim), V words, I items (PAD included).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from flax import linen as nn

from recjax.nn import attention
from recjax.nn.dropout import Dropout
from recjax.nn.linear import dot_general
from recjax.nn.pool import AdditivePool
from recjax.systems.news import clicks
from recjax.types import PAD, Array, System

SERVED = ("titles",)  # the assets that answers read


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  num_words: int  # V, PAD and the unknown word included
  title: int = 30  # S, the words that are read of a title
  word_dim: int = 300
  heads: int = 16
  head_dim: int = 16
  query: int = 200  # width of the additive attention
  dropout: float = 0.2

  def __post_init__(self):
    if self.title < 1:
      raise ValueError(f"title={self.title}: read at least one word of each")


def assets(cfg: Config, titles: np.ndarray, vectors: np.ndarray | None = None) -> dict[str, Array]:
  """Word ids of each title [I, S], and word vectors [V, word_dim] to start from, if any."""
  return {
    "titles": clicks.texts("titles", titles, cfg.num_items, cfg.title, cfg.num_words),
    **clicks.word_vectors(vectors, cfg.num_words, cfg.word_dim),
  }


class Attended(nn.Module):
  """Places x [N, S, E], real where `where` [N, S], are related to each other -> [N, D]."""

  cfg: Config

  @nn.compact
  def __call__(self, x: Array, where: Array, *, train: bool) -> Array:
    cfg, width = self.cfg, self.cfg.heads * self.cfg.head_dim

    def heads(name):
      made = nn.Dense(width, use_bias=False, dot_general=dot_general, name=name)(x)
      return attention.split_heads(made, cfg.heads)  # [N, H, S, head_dim]

    related = attention.attend(
      heads("query"), heads("key"), heads("value"),
      scale=1 / math.sqrt(cfg.head_dim), where=attention.as_mask(where),
    )  # fmt: skip
    related = Dropout(cfg.dropout)(attention.merge_heads(related), train=train)
    return AdditivePool(cfg.query, name="pool")(related, where)


class NRMS(nn.Module):
  cfg: Config

  def setup(self):
    cfg = self.cfg
    self.words = self.param("words", nn.initializers.normal(0.1), (cfg.num_words, cfg.word_dim))
    self.dropout = Dropout(cfg.dropout)
    self.of_words, self.of_news = Attended(cfg), Attended(cfg)

  def news(self, assets, items: Array, *, train: bool) -> Array:
    """[..., D]"""
    words = assets["titles"][items].reshape(-1, self.cfg.title)  # [N, S]
    x = self.dropout(self.words[words], train=train)
    x = self.of_words(x, words != PAD, train=train)
    return x.reshape(*items.shape, -1)

  def user(self, vectors: Array, where: Array, user: Array, *, train: bool) -> Array:
    return self.of_news(vectors, where, train=train)


def make(cfg: Config) -> System:
  return clicks.system(NRMS(cfg), num_items=cfg.num_items)
