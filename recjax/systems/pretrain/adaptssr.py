"""AdaptSSR (Yu et al., NeurIPS 2023), https://arxiv.org/abs/2310.09706.

A user model is pretrained to rank readings of a history, not to take all of them for the same. Of
each history two views are made and each is read twice, under dropout masks of its own: a reading
must be nearer to the other of its view than to both of the other view, and nearer to these than to
any reading of another user. Where the views are still alike the second half counts, where an
augmentation has changed much the first: the weight is 1 less the mean similarity of the views.

`make_pretrain` and `make` are the two systems; SHARED says that the second takes all parameters of
the first, and learns the next item at all places of a history as `sasrec` does. The ranking couples
the rows of a batch: all of them, whatever the devices, but those of one micro-batch where gradients
are accumulated.

Unlike the paper, the user model is a causal Transformer's last state (there an attention pool over
BERT4Rec's states or another encoder's), nothing is masked and guessed in a stage before, and each
item is masked with a probability, where the paper hides a share. The weight is of each user, as in
the paper (its code takes one for the batch).

B batch, T history (left-padded with PAD), D width, I items (PAD included).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from recjax import losses
from recjax.losses import Total
from recjax.systems.pretrain import cl4srec
from recjax.systems.sequential import sasrec
from recjax.types import PAD, Array, Loss, System, unpacked

SHARED = {"": ""}  # ours -> theirs, for `Stage.init_from`


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  max_len: int = 50  # the longest history
  dim: int = 64  # D
  heads: int = 2
  layers: int = 2
  ff: int = 256
  dropout: float = 0.1
  crop: float = 0.6  # share of a history that a crop keeps
  mask: float = 0.3  # share of items that a mask hides
  reorder: float = 0.6  # share of a history that is shuffled

  def __post_init__(self):
    cl4srec.check_shares(self, ("crop", "mask", "reorder"))


def ranked(readings: Array, where: Array) -> Total:
  """The loss of `readings` [B, 2, 2, D], two of either view, in the rows that count."""
  length = jnp.square(readings).sum(-1, keepdims=True)  # of a row without a history 0
  users = readings * jax.lax.rsqrt(jnp.maximum(length, 1e-16))
  everybody = users.reshape(-1, users.shape[-1])  # [4 B, D]
  others = jnp.repeat(where[None] & ~jnp.eye(len(where), dtype=bool), 4, axis=1)  # [B, 4 B]
  across = jnp.einsum("bid,bjd->bij", users[:, 0], users[:, 1])  # [B, 2, 2]
  weight = jax.lax.stop_gradient(1 - jnp.maximum(across, 0).mean((1, 2)))
  total = count = 0.0
  for view, middle in ((0, across[:, 0]), (1, across[:, :, 0])):
    own, twin = users[:, view, 0], users[:, view, 1]
    close, far = (own * twin).sum(-1), own @ everybody.T
    found = losses.multiple_pairwise_ranking(
      close, middle, far, where, weight=weight, far_where=others
    )
    total, count = total + found[0] / 2, found[1]
  return total, count


def make_pretrain(cfg: Config) -> System:
  if not cfg.dropout:
    raise ValueError("dropout=0 makes both readings of a view the same: set it above 0")
  model = cl4srec.network(cfg)

  def loss(params, assets, batch, key):
    unpacked(batch)
    history = batch["history"]
    *keys, dropout_key = jax.random.split(key, 3)
    views = jnp.stack([cl4srec.view(cfg, k, history) for k in keys], axis=1)  # [B, 2, T]
    users = model.apply(
      {"params": params},
      jnp.repeat(views, 2, axis=1).reshape(-1, history.shape[1]),
      train=True,
      last=True,
      rngs={"dropout": dropout_key},  # each row of [4 B, T] under a mask of its own
    )
    where = (batch["weight"] > 0) & (history != PAD).any(1)
    return Loss(*ranked(users.reshape(len(history), 2, 2, -1), where))

  return sasrec.answering(model, cfg.num_items)._replace(loss=loss, recommend=None, score=None)


def make(cfg: Config) -> System:
  model = cl4srec.network(cfg)

  def loss(params, assets, batch, key):
    unpacked(batch)
    return Loss(*sasrec.next_items(model, params, batch, key, cfg.num_items))

  return sasrec.answering(model, cfg.num_items)._replace(loss=loss)
