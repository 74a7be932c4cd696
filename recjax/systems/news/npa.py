"""NPA (Wu et al., KDD 2019), https://arxiv.org/abs/1907.05559.

What a user attends to is the user's own: a vector of the user is mapped to a query for the words of
a title (a convolution saw them) and to a query for the clicked news. So a news has another vector
for each user. A candidate is scored by the product of its vector, as this user reads it, and the
user's, and learned against news of the same impression left unclicked.

There is no index: every answer reads titles for a user, at B x (T + C) of them, or B x (T + I) for
the whole catalogue. Unlike the paper: an unknown user (PAD) has the zero vector and keeps it, so
that the queries' biases read for such; a share `masked` of the rows can be learned like that.

B batch, S words of a title, T history, C candidates, D filters, V words, U users, I items (PAD
included), N news read.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from recjax import losses
from recjax.decode import topk
from recjax.nn import attention, dropout
from recjax.systems.news import clicks, naml
from recjax.types import PAD, Array, Loss, System, known

_CHUNK = 64  # news of the catalogue that are read at a time, for each user
SERVED = ("titles",)  # the assets that answers read
NEW_USERS = True  # who has no vector of their own is told by the clicks


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  num_users: int  # U
  num_words: int  # V, PAD and the unknown word included
  title: int = 30  # S, the words that are read of a title
  word_dim: int = 300
  user_dim: int = 50
  filters: int = 400  # D, of the convolution
  window: int = 3  # words that a filter sees
  query: int = 200  # width of what the user's vector is mapped to first
  dropout: float = 0.2
  masked: float = 0.0  # share of the rows that are learned as an unknown user's

  def __post_init__(self):
    if self.title < 1:
      raise ValueError(f"title={self.title}: read at least one word of each")
    if not 0 <= self.masked < 1:
      raise ValueError(f"masked={self.masked}: a share in [0, 1), or no user's vector is learned")


def assets(cfg: Config, titles: np.ndarray, vectors: np.ndarray | None = None) -> dict[str, Array]:
  """Word ids of each title [I, S], and word vectors [V, word_dim] to start from, if any."""
  return {
    "titles": clicks.texts("titles", titles, cfg.num_items, cfg.title, cfg.num_words),
    **clicks.word_vectors(vectors, cfg.num_words, cfg.word_dim),
  }


class Personal(nn.Module):
  """x [B, ..., S, D] as the users own [B, E] attend to it -> [B, ..., D], 0 of no places."""

  query: int

  @nn.compact
  def __call__(self, x: Array, where: Array, own: Array) -> Array:
    """Weights are the softmax of x . tanh(W q), q = relu(V own)."""
    query = jax.nn.relu(nn.Dense(self.query, name="preference")(own))
    query = jnp.tanh(nn.Dense(x.shape[-1], name="query")(query))  # [B, D]
    logits = jnp.einsum("b...sd,bd->b...s", x, query)
    return jnp.einsum("b...s,b...sd->b...d", attention.softmax(logits, where).astype(x.dtype), x)


class NPA(nn.Module):
  cfg: Config

  def setup(self):
    cfg, normal = self.cfg, nn.initializers.normal(0.1)
    self.words = self.param("words", normal, (cfg.num_words, cfg.word_dim))
    self.users = self.param(
      "users", lambda *given: normal(*given).at[PAD].set(0), (cfg.num_users, cfg.user_dim)
    )
    self.dropout = dropout.Dropout(cfg.dropout)
    self.convolved = naml.Convolved(cfg.filters, cfg.window, cfg.dropout)
    self.of_words, self.of_news = Personal(cfg.query), Personal(cfg.query)

  def own(self, user: Array, *, train: bool) -> Array:
    """[B, E]"""
    user = known(user, self.cfg.num_users)
    own = jnp.where((user != PAD)[:, None], self.users[user], 0)
    if train and self.cfg.masked:
      kept = dropout.keep((len(user), 1), self.cfg.masked, self.make_rng("dropout"))
      own = jnp.where(kept, own, 0)
    return own

  def news(self, assets, items: Array, own: Array, *, train: bool) -> Array:
    """[B, N] items as each user reads them -> [B, N, D]."""
    words = assets["titles"][items]  # [B, N, S]
    flat = words.reshape(-1, self.cfg.title)
    x = self.dropout(self.words[flat], train=train)
    x = self.convolved(x, flat != PAD, train=train)
    return self.of_words(x.reshape(*words.shape, -1), words != PAD, own)

  def user(self, assets, history: Array, own: Array, *, train: bool) -> Array:
    vectors = self.news(assets, history, own, train=train)
    return self.of_news(vectors, history != PAD, own)

  def __call__(self, assets, batch, *, train: bool) -> Array:
    """[B, C] of the candidates."""
    own = self.own(batch["user"], train=train)
    user = self.user(assets, batch["history"], own, train=train)
    offered = self.news(assets, batch["candidates"], own, train=train)
    return jnp.einsum("bd,bnd->bn", user, offered).astype(jnp.float32)

  def told(self, assets, batch) -> tuple[Array, Array]:
    """The user's own vector [B, E], and what the clicked news make of it [B, D]."""
    own = self.own(batch["user"], train=False)
    return own, self.user(assets, batch["history"], own, train=False)


def make(cfg: Config) -> System:
  model = NPA(cfg)

  def init(key, assets, batch):
    params = model.init(key, assets, batch, train=False)["params"]
    return params | ({"words": assets["word_vectors"]} if "word_vectors" in assets else {})

  def loss(params, assets, batch, key):
    shown = batch["candidates"]
    scores = model.apply({"params": params}, assets, batch, train=True, rngs={"dropout": key})
    scores = losses.possible(scores, shown, cfg.num_items)
    scores = losses.possible(scores, batch["user"][:, None], cfg.num_users)
    where = (shown != PAD) & (batch["weight"] > 0)[:, None]
    return Loss(*losses.taken_xent(scores, batch["labels"], where))

  def every(params, assets, batch):
    """[B, I], some news at a time."""
    own, user = model.apply({"params": params}, assets, batch, method="told")
    items = jnp.arange(-(-cfg.num_items // _CHUNK) * _CHUNK).reshape(-1, _CHUNK) % cfg.num_items

    def some(items):
      each = jnp.tile(items[None], (len(own), 1))
      news = model.apply({"params": params}, assets, each, own, train=False, method="news")
      return jnp.einsum("bd,bnd->bn", user, news)

    return jax.lax.map(some, items).swapaxes(0, 1).reshape(len(own), -1)[:, : cfg.num_items]

  def score(params, assets, batch):
    if "candidates" in batch:
      return model.apply({"params": params}, assets, batch, train=False)
    return topk.scores(every(params, assets, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, assets, batch), batch, k=k)

  def embed(params, assets, batch):
    return model.apply({"params": params}, assets, batch, method="told")[1]

  return System(init, loss, recommend=recommend, score=score, embed=embed)
