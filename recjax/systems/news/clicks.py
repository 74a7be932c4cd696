"""What news recommenders share: candidates of an impression, each told by a user's vector.

A model is a Linen module that reads news and users apart:

  news(assets, items [...], train=) -> [..., D]
  user(vectors [B, T, D], where [B, T], user [B], train=) -> [B, D], of the history's news

A candidate's score is the product of both. Learning takes `examples.clicks` with the candidates
that `draws.shown` puts beside each click, or whole impressions (`examples.impressions`). It reads
the news of the batch alone, each place of history and candidates by itself; answers read the
vectors that `index` made of all news, where it ran.

B batch, T history (left-padded with PAD), C candidates, D width, I items (PAD included), S words.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from recjax import losses
from recjax.decode import topk
from recjax.types import PAD, Array, Loss, System

_CHUNK = 256  # news that `index` encodes at a time


def table(what: str, ids: np.ndarray, rows: int, count: int) -> Array:
  """An asset [rows, ...] of ids below `count`, checked; row 0, of no news, is PAD throughout."""
  ids = np.array(ids, np.int32)
  if len(ids) != rows:
    raise ValueError(f"{what}: {len(ids)} rows, and the config has num_items={rows}, PAD included")
  ids[PAD] = PAD
  if not 0 <= ids.min() <= ids.max() < count:
    raise ValueError(
      f"{what}: ids of {ids.min()}..{ids.max()}, and the config has {count}: raise that number"
    )
  return jnp.asarray(ids)


def texts(what: str, ids: np.ndarray, rows: int, width: int, words: int) -> Array:
  """The same of word ids [rows, width]."""
  if np.shape(ids)[1:] != (width,):
    raise ValueError(f"{what} of shape {np.shape(ids)}; the config reads {width} words of each")
  return table(what, ids, rows, words)


def word_vectors(vectors: np.ndarray | None, words: int, dim: int) -> dict[str, Array]:
  """The asset that `init` starts the word table from, where there is one."""
  if vectors is None:
    return {}
  if vectors.shape != (words, dim):
    raise ValueError(f"word vectors of shape {vectors.shape}; the config has {(words, dim)}")
  return {"word_vectors": jnp.asarray(vectors, jnp.float32)}


def system(
  model: nn.Module,
  *,
  num_items: int,
  num_users: int | None = None,  # where the model has a vector for each
  competing: Callable[[Array, Array, Array], losses.Total] = losses.taken_xent,
) -> System:
  """The loss is `competing` of scores, labels and where there is a candidate, all [B, C]."""

  def init(key, assets, batch):
    params = model.init(key, assets, batch, train=False, method=_user)["params"]
    if "word_vectors" in assets:
      params = {**params, "words": assets["word_vectors"]}
    return params

  def loss(params, assets, batch, key):
    scores = model.apply(
      {"params": params}, assets, batch, train=True, method=_scores, rngs={"dropout": key}
    )
    shown = batch["candidates"]
    scores = losses.possible(scores, shown, num_items)
    if num_users is not None:
      scores = losses.possible(scores, batch["user"][:, None], num_users)
    where = (shown != PAD) & (batch["weight"] > 0)[:, None]
    return Loss(*competing(scores, batch["labels"], where))

  def index(params, assets):
    items = jnp.arange(-(-num_items // _CHUNK) * _CHUNK).reshape(-1, _CHUNK) % num_items

    def some(items):
      return model.apply({"params": params}, assets, items, train=False, method="news")

    vectors = jax.lax.map(some, items)
    return {**assets, "vectors": vectors.reshape(-1, vectors.shape[-1])[:num_items]}

  def embed(params, assets, batch):
    return model.apply({"params": params}, assets, batch, train=False, method=_user)

  def every(params, assets, batch):
    vectors = (assets if "vectors" in assets else index(params, assets))["vectors"]
    return embed(params, assets, batch) @ vectors.T  # [B, I]

  def score(params, assets, batch):
    if "candidates" in batch:
      return model.apply({"params": params}, assets, batch, train=False, method=_scores)
    return topk.scores(every(params, assets, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, assets, batch), batch, k=k)

  return System(init, loss, recommend=recommend, score=score, embed=embed, index=index)


def _news(model, assets, items: Array, *, train: bool) -> Array:
  if "vectors" in assets and not train:
    return assets["vectors"][items]
  return model.news(assets, items, train=train)


def _user(model, assets, batch, *, train: bool) -> Array:
  history = batch["history"]
  vectors = _news(model, assets, history, train=train)
  return model.user(vectors, history != PAD, batch["user"], train=train)


def _scores(model, assets, batch, *, train: bool) -> Array:
  """[B, C] of the candidates; histories and candidates are read together."""
  history, shown = batch["history"], batch["candidates"]
  vectors = _news(model, assets, jnp.concatenate([history, shown], axis=1), train=train)
  met, offered = jnp.split(vectors, [history.shape[1]], axis=1)
  user = model.user(met, history != PAD, batch["user"], train=train)
  return jnp.einsum("bd,bcd->bc", user, offered).astype(jnp.float32)
