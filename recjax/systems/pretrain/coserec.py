"""CoSeRec (Liu et al., 2021), https://arxiv.org/abs/2108.06479.

CL4SRec with two augmentations that know which items go together: substitute puts in an item's
place one that is correlated with it, insert puts one before it. Short histories, which a crop or a
shuffle would leave with little, draw from substitute, insert and mask alone. Two items are
correlated by the users who met both, one of n items counting 1 / log(1 + n), over the root of the
numbers that met each.

The paper goes over to a hybrid when training has warmed up: the better of the item that co-occurs
most and the one whose learned vector is nearest by product, each similarity put to 0..1. `assets`
makes it of the vectors (`params["items"]`) that a stage before has learned: that is once a stage,
where the authors look anew each epoch.

The contrast couples the rows of a batch: all of them, whatever the devices, but those of one
micro-batch where gradients are accumulated.

Unlike the paper: the softmax over all items, not one negative, and SASRec as `sasrec` has it; users
are compared by the state at the last place, where the authors' code lays the states of all places
side by side; items are masked, substituted and preceded each with a probability, where the paper
does so to a number of them; a co-occurrence of nobody is 0 (there the least of all pairs is).
Defaults are the authors' code's.

B batch, T history (left-padded with PAD), D width, I items (PAD included), M similar items of each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from recjax.data import transforms
from recjax.data.interactions import Interactions
from recjax.systems.collaborative import neighbours
from recjax.systems.pretrain import cl4srec
from recjax.systems.sequential import sasrec
from recjax.types import PAD, Array, Key, System, unpacked

_BLOCK = 1024  # items whose products with all are held at once


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  max_len: int = 50  # the longest history
  dim: int = 64  # D
  heads: int = 2
  layers: int = 2
  ff: int = 256
  dropout: float = 0.5
  crop: float = 0.2  # share of a history that a crop keeps
  mask: float = 0.7  # share of items that a mask hides
  reorder: float = 0.2  # share of a history that is shuffled
  substitute: float = 0.1  # share of items that give way to similar ones
  insert: float = 0.4  # share of items that one similar to them is put before
  similar: int = 1  # M, to draw from
  short: int = 4  # up to so many items a history is neither cropped nor shuffled
  weight: float = 0.1  # of the contrast, beside the next item
  temperature: float = 1.0

  def __post_init__(self):
    cl4srec.check_shares(self, ("crop", "mask", "reorder", "substitute", "insert"))
    cl4srec.check_contrast(self)
    if self.similar < 1:
      raise ValueError(f"similar={self.similar} items leave nothing to put in: at least 1")


def assets(
  cfg: Config, interactions: Interactions, vectors: np.ndarray | None = None
) -> Mapping[str, Array]:
  """`similar` [I, M], PAD where an item has fewer; of `vectors` [I or more, D] too: the hybrid."""
  ids, sims = co_occurring(neighbours.counts(interactions, cfg.num_items), cfg.similar)
  if vectors is not None:
    if len(vectors) < cfg.num_items:
      raise ValueError(f"{len(vectors)} vectors are not one for each of {cfg.num_items} items")
    more = nearest(np.asarray(vectors, np.float32)[: cfg.num_items], cfg.similar)
    sims /= max(sims.max(), 1e-12)
    ids, sims = (np.concatenate(both, axis=1) for both in zip((ids, sims), more, strict=True))
    best = np.argsort(-sims, axis=1, kind="stable")[:, : cfg.similar]
    ids, sims = (np.take_along_axis(x, best, axis=1) for x in (ids, sims))
  return {"similar": jnp.asarray(np.where(sims > 0, ids, PAD), jnp.int32)}


def co_occurring(met: scipy.sparse.csr_array, k: int) -> tuple[np.ndarray, np.ndarray]:
  """The k items most correlated with each, and how much, [I, k], of counts [U, I]."""
  met = (met > 0).astype(float)
  of_user, of_item = (np.maximum(met.sum(axis=axis), 1) for axis in (1, 0))
  scaled = scipy.sparse.diags_array(of_item**-0.5) @ met.T
  scaled = scaled @ scipy.sparse.diags_array(np.log1p(of_user) ** -0.5)
  return neighbours.most_similar(scaled.tocsr(), k, unit=False, shrink=0.0)


def nearest(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
  """The k items of the greatest product with each, and that from 0, the least of all, to 1."""
  size, k = len(vectors), min(k, len(vectors) - 2)
  ids, sims = np.zeros((size, k), np.int32), np.zeros((size, k), np.float32)
  low, high = np.inf, -np.inf
  for start in range(PAD + 1, size, _BLOCK):
    rows = np.arange(start, min(start + _BLOCK, size))
    dot = vectors[rows] @ vectors.T
    low, high = min(low, dot[:, PAD + 1 :].min()), max(high, dot[:, PAD + 1 :].max())
    dot[:, PAD] = dot[np.arange(len(rows)), rows] = -np.inf  # nothing is like itself
    ids[rows] = np.argpartition(-dot, k - 1, axis=1)[:, :k]
    sims[rows] = np.take_along_axis(dot, ids[rows], axis=1)
  return ids, np.where(ids == PAD, 0, (sims - low) / max(high - low, 1e-12))


def view(cfg: Config, key: Key, history: Array, similar: Array) -> Array:
  """[B, T] the histories, each augmented in one way."""
  crop, reorder, mask, substitute, insert, which = jax.random.split(key, 6)
  views = [
    transforms.crop(crop, history, keep=cfg.crop),
    transforms.reorder(reorder, history, ratio=cfg.reorder),
    transforms.mask(mask, history, rate=cfg.mask, mask_id=cfg.num_items)[0],
    transforms.substitute(substitute, history, rate=cfg.substitute, similar=similar),
    transforms.insert(insert, history, rate=cfg.insert, similar=similar),
  ]
  long = (history != PAD).sum(1) > cfg.short  # [B]
  always = jnp.ones_like(long)
  return cl4srec.one_of(which, views, jnp.stack([long, long, always, always, always]))


def make(cfg: Config) -> System:
  model = cl4srec.network(cfg)

  def loss(params, assets, batch, key):
    unpacked(batch)
    *keys, one, other = jax.random.split(key, 4)
    views = [view(cfg, k, batch["history"], assets["similar"]) for k in (one, other)]
    return cl4srec.joint(model, cfg, params, batch, jnp.stack(views, axis=1), keys=keys)

  return sasrec.answering(model, cfg.num_items)._replace(loss=loss)
