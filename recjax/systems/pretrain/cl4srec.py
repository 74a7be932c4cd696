"""CL4SRec (Xie et al., ICDE 2022), https://arxiv.org/abs/2010.14395.

SASRec learns the next item and, beside it, to know a user again: of each history two views are
made, each by an augmentation drawn from crop, mask and reorder, and a user's vector (the state at
the last place) of one view must be nearer to that of the other than to both views of all other
users of the batch. What hides an item is a row of its own, the table's last, never recommended.

The contrast couples the rows of a batch: all of them, whatever the devices, but those of one
micro-batch where gradients are accumulated.

Unlike the paper: the softmax over all items, not one negative, and SASRec as `sasrec` has it; each
item is masked with a probability, where the paper masks a share, rounded down. The paper tunes the
three shares from .1 to .9: the defaults, of sizes too, are those of the re-implementation that
DuoRec's authors compare with, which draws two augmentations that differ; here they may be alike.

B batch, T history (left-padded with PAD), D width, I items (PAD included), A augmentations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from recjax import losses
from recjax.data import transforms
from recjax.systems.sequential import sasrec
from recjax.types import PAD, Array, Batch, Key, Loss, Params, System, unpacked


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  max_len: int = 50  # the longest history
  dim: int = 64  # D
  heads: int = 2
  layers: int = 2
  ff: int = 256
  dropout: float = 0.5
  crop: float = 0.6  # share of a history that a crop keeps
  mask: float = 0.3  # share of items that a mask hides
  reorder: float = 0.6  # share of a history that is shuffled
  weight: float = 0.1  # of the contrast, beside the next item
  temperature: float = 1.0

  def __post_init__(self):
    check_shares(self, ("crop", "mask", "reorder"))
    check_contrast(self)


def check_shares(cfg: Config, names: Sequence[str]) -> None:
  for name in names:
    if not 0 <= getattr(cfg, name) <= 1:
      raise ValueError(f"{name}={getattr(cfg, name)} is a share of a history: from 0 to 1")


def check_contrast(cfg: Config) -> None:
  if cfg.temperature <= 0:
    raise ValueError(f"temperature={cfg.temperature} divides similarities: it must be above 0")
  if cfg.weight < 0:
    raise ValueError(f"weight={cfg.weight} would push the views of a user apart: 0 or more")


def network(cfg: Config) -> sasrec.SASRec:
  """Of one row more than there are items: id I hides an item."""
  return sasrec.SASRec(
    sasrec.Config(
      cfg.num_items + 1, cfg.max_len, cfg.dim, cfg.heads, cfg.layers, cfg.ff, cfg.dropout
    )
  )


def one_of(key: Key, views: Sequence[Array], where: Array | None = None) -> Array:
  """[B, T]: of each row one of A `views`, alike likely among those `where` [A, B] allows."""
  shape = (len(views), len(views[0]))
  odds = jnp.zeros(shape) if where is None else jnp.where(where, 0.0, -jnp.inf)
  which = jax.random.categorical(key, odds, axis=0)  # [B]
  return jnp.take_along_axis(jnp.stack(views), which[None, :, None], axis=0)[0]


def view(cfg: Config, key: Key, history: Array) -> Array:
  """[B, T] the histories, each augmented in one way."""
  crop, mask, reorder, which = jax.random.split(key, 4)
  views = [
    transforms.crop(crop, history, keep=cfg.crop),
    transforms.mask(mask, history, rate=cfg.mask, mask_id=cfg.num_items)[0],
    transforms.reorder(reorder, history, ratio=cfg.reorder),
  ]
  return one_of(which, views)


def make(cfg: Config) -> System:
  model = network(cfg)

  def loss(params, assets, batch, key):
    unpacked(batch)
    *keys, one, other = jax.random.split(key, 4)
    views = jnp.stack([view(cfg, k, batch["history"]) for k in (one, other)], axis=1)
    return joint(model, cfg, params, batch, views, keys=keys)

  return sasrec.answering(model, cfg.num_items)._replace(loss=loss)


def joint(
  model: sasrec.SASRec,
  cfg: Config,
  params: Params,
  batch: Batch,
  views: Array,
  *,
  keys: Sequence[Key],
) -> Loss:
  """The next item at each place, and the contrast of `views` [B, 2, T], each a mean."""
  total, count = sasrec.next_items(model, params, batch, keys[0], cfg.num_items)
  users = model.apply(
    {"params": params},
    views.reshape(-1, views.shape[-1]),
    train=True,
    last=True,
    rngs={"dropout": keys[1]},
  ).reshape(len(views), 2, -1)
  # A row without a history is like any other such row: none of them is asked.
  some = (batch["weight"] > 0) & (batch["history"] != PAD).any(1)
  contrast, rows = losses.nt_xent(users[:, 0], users[:, 1], some, temperature=cfg.temperature)
  # Two means of their own, weighed, where the runtime divides once.
  whole = total + cfg.weight * count * contrast / jnp.maximum(rows, 1)
  return Loss(whole, count, {"next": (total, count), "contrast": (contrast, rows)})
