"""LSTUR (An et al., ACL 2019), https://aclanthology.org/P19-1033.

A news is its title (a convolution, then additive attention) beside vectors of its category and
subcategory. A user's own vector, the long term, starts the GRU that reads the clicked news, the
short term; its last state scores candidates by a product. In training the own vector is left out
at random, so that the GRU learns to do without it for a user whom it has not seen.

`joined` is the paper's second way, LSTUR-con: the GRU starts from zero, and half of what scores is
its state, half the user's own vector. PAD, the unknown user, has the zero vector and keeps it; so
has a category that is not told.

S words of a title, T history, E width of a category, F filters, D = F + 2 E, V words, U users,
I items (PAD included).
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from recjax.nn import dropout
from recjax.nn.recurrent import GRU
from recjax.systems.news import clicks, naml
from recjax.types import PAD, Array, System, known

SERVED = ("titles", "categories", "subcategories")  # the assets that answers read
NEW_USERS = True  # who has no vector of their own is told by the clicks


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  num_users: int  # U
  num_words: int  # V, PAD and the unknown word included
  num_categories: int  # with 0, none
  num_subcategories: int
  title: int = 30  # S, the words that are read of a title
  word_dim: int = 300
  category_dim: int = 100  # E
  filters: int = 300  # F, of the convolution
  window: int = 3  # words that a filter sees
  query: int = 200  # width of the additive attention
  dropout: float = 0.2
  masked: float = 0.5  # share of the rows that are learned without the user's own vector
  joined: bool = False  # LSTUR-con

  def __post_init__(self):
    if self.title < 1:
      raise ValueError(f"title={self.title}: read at least one word of each")
    if not 0 <= self.masked < 1:
      raise ValueError(f"masked={self.masked}: a share in [0, 1), or no user's vector is learned")
    if self.joined and self.dim % 2:
      raise ValueError(f"joined=True halves filters + 2 category_dim = {self.dim}: make it even")

  @property
  def dim(self) -> int:
    """D"""
    return self.filters + 2 * self.category_dim


def assets(
  cfg: Config,
  titles: np.ndarray,
  categories: np.ndarray,
  subcategories: np.ndarray,
  vectors: np.ndarray | None = None,
) -> dict[str, Array]:
  """Word ids of each title [I, S], ids [I] of both categories, 0 where unknown.

  And word vectors [V, word_dim] to start from, if any.
  """
  return {
    "titles": clicks.texts("titles", titles, cfg.num_items, cfg.title, cfg.num_words),
    "categories": clicks.table("categories", categories, cfg.num_items, cfg.num_categories),
    "subcategories": clicks.table(
      "subcategories", subcategories, cfg.num_items, cfg.num_subcategories
    ),
    **clicks.word_vectors(vectors, cfg.num_words, cfg.word_dim),
  }


class LSTUR(nn.Module):
  cfg: Config

  def setup(self):
    cfg, normal = self.cfg, nn.initializers.normal(0.1)
    own = cfg.dim // 2 if cfg.joined else cfg.dim
    self.words = self.param("words", normal, (cfg.num_words, cfg.word_dim))
    self.categories = self.param("categories", normal, (cfg.num_categories, cfg.category_dim))
    self.subcategories = self.param(
      "subcategories", normal, (cfg.num_subcategories, cfg.category_dim)
    )
    self.users = self.param(
      "users", lambda *given: normal(*given).at[PAD].set(0), (cfg.num_users, own)
    )
    self.of_title = naml.Text(cfg.filters, cfg.window, cfg.query, cfg.dropout)
    self.short_term = GRU(own)

  def news(self, assets, items: Array, *, train: bool) -> Array:
    """[..., D]"""
    flat = items.reshape(-1)
    words = assets["titles"][flat]  # [N, S]
    parts = [self.of_title(self.words[words], words != PAD, train=train)]
    for name, rows in (("categories", self.categories), ("subcategories", self.subcategories)):
      kind = assets[name][flat]
      parts.append(jnp.where((kind != PAD)[:, None], rows[kind], 0))
    return jnp.concatenate(parts, axis=-1).reshape(*items.shape, -1)

  def user(self, vectors: Array, where: Array, user: Array, *, train: bool) -> Array:
    cfg = self.cfg
    user = known(user, cfg.num_users)
    own = jnp.where((user != PAD)[:, None], self.users[user], 0)
    if train and cfg.masked:
      kept = dropout.keep((len(user), 1), cfg.masked, self.make_rng("dropout"))
      own = jnp.where(kept, own, 0)
    if cfg.joined:
      short = self.short_term(vectors, where)[:, -1]
      return jnp.concatenate([short, own], axis=-1)
    return self.short_term(vectors, where, start=own)[:, -1]


def make(cfg: Config) -> System:
  return clicks.system(LSTUR(cfg), num_items=cfg.num_items, num_users=cfg.num_users)
