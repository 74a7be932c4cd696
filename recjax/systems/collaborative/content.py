"""Content-based recommendation (Lops, de Gemmis & Semeraro, 2011), by vectors of the items' texts.
https://doi.org/10.1007/978-0-387-85820-3_3

A user is a summary of the history's text vectors, and items are ranked by their cosine with it: the
mean of the history, a mean that forgets (an item's weight halves every `half_life` items), or, for
users of several tastes, the greatest cosine with any item of the history. Nothing is learned but
popularity, which answers where a history is empty or has no text; an item without text has cosine
0 with everything, and a new item is ranked as soon as it has a vector.

The items of the history are the most similar to it: ask with `deny` where none comes twice.

B batch, T history, D width, I items (PAD included), K results.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from recjax.decode import topk
from recjax.systems.collaborative import neighbours
from recjax.types import PAD, Array, System


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I; a catalogue that grew has rows without an item too, their fallback is -inf
  summary: str = "recent"  # mean, recent, nearest
  half_life: float = 3.0  # of recent, in items

  def __post_init__(self):
    if self.half_life <= 0:
      raise ValueError(f"half_life must be positive, it is {self.half_life}")


def assets(cfg: Config, vectors: np.ndarray) -> dict[str, Array]:
  """The items' vectors [I, D] at length one; zeros for PAD and for items without text."""
  return {"vectors": jnp.asarray(unit(vectors, cfg.num_items))}


def unit(vectors: np.ndarray, num_items: int) -> np.ndarray:
  """[I, D] float32, each row at length one or zero; row PAD is zero."""
  vectors = np.array(vectors, np.float32)
  if vectors.ndim != 2 or len(vectors) != num_items:
    raise ValueError(
      f"item vectors of shape {vectors.shape} are not a row for each of {num_items} items, PAD"
      " included"
    )
  good = np.isfinite(vectors).all(1)
  if not good.all():
    raise ValueError(f"the vector of item {int(np.argmin(good))} is not finite")
  vectors[PAD] = 0
  length = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
  return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0, casting="unsafe")


def make(cfg: Config) -> System:
  length = {"mean": np.inf, "recent": cfg.half_life}

  def fit(assets, interactions):
    return {"fallback": neighbours.fallback(neighbours.counts(interactions, cfg.num_items))}

  def profile(vectors, history):
    """The weighted mean of a history [B, D], at length one or zero."""
    age = np.arange(history.shape[1])[::-1].astype(np.float32)  # [T]
    weight = jnp.where(history != PAD, 0.5 ** (age / length[cfg.summary])[None], 0)  # [B, T]
    total = jnp.einsum("bt,btd->bd", weight, vectors[history])
    return total / jnp.maximum(jnp.linalg.norm(total, axis=1, keepdims=True), 1e-12)

  def nearest(vectors, history):
    """The greatest cosine of each item with one of the history [B, I], an item at a time."""

    def one(best, item):  # [B]
      return jnp.where(
        (item != PAD)[:, None], jnp.maximum(best, vectors[item] @ vectors.T), best
      ), None

    worst = jnp.full((len(history), cfg.num_items), -1.0)
    return jax.lax.scan(one, worst, history.T)[0]

  def every(params, assets, batch):
    vectors, history = assets["vectors"], batch["history"]
    if cfg.summary == "nearest":
      scores = nearest(vectors, history)
      told = (vectors[history] != 0).any((1, 2))
    else:
      user = profile(vectors, history)
      scores, told = user @ vectors.T, (user != 0).any(1)
    fallback = params["fallback"][None]
    return jnp.where(told[:, None] & (fallback > -jnp.inf), scores, fallback)

  def score(params, assets, batch):
    return topk.scores(every(params, assets, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, assets, batch), batch, k=k)

  if cfg.summary not in (*length, "nearest"):
    raise ValueError(f"no summary {cfg.summary!r}; there is {', '.join((*length, 'nearest'))}")
  return System(fit=fit, score=score, recommend=recommend)
