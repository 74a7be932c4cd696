"""DuoRec (Qiu et al., WSDM 2022), https://arxiv.org/abs/2110.05730.

SASRec learns the item after a history and, beside it, spreads users out: a history is read a second
time under another dropout mask, and must be nearer to another user's history before the same target
than to what is read of all other rows of the batch. That history, `alike` [B, T], is drawn anew for
each batch by `draws.same_target`; where nobody else has the target it is one's own, under a third
mask. Rows with the same target are not each other's negatives.

The contrast couples the rows of a batch: all of them, whatever the devices, but those of one
micro-batch where gradients are accumulated.

Unlike the authors' code, rows with the same target are left out of the negatives; SASRec is as
`sasrec` has it (there LayerNorm comes after each sum, and positions count from the oldest item).

B batch, T history (left-padded with PAD), D width, I items (PAD included).
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from recjax import losses
from recjax.systems.pretrain import cl4srec
from recjax.systems.sequential import sasrec
from recjax.types import PAD, Loss, System


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  max_len: int = 50  # the longest history
  dim: int = 64  # D
  heads: int = 2
  layers: int = 2
  ff: int = 256
  dropout: float = 0.5
  weight: float = 0.1  # of the contrast, beside the next item
  temperature: float = 1.0

  def __post_init__(self):
    cl4srec.check_contrast(self)


def make(cfg: Config) -> System:
  sizes = cfg.num_items, cfg.max_len, cfg.dim, cfg.heads, cfg.layers, cfg.ff, cfg.dropout
  model = sasrec.SASRec(sasrec.Config(*sizes))

  def loss(params, assets, batch, key):
    if "alike" not in batch:
      raise ValueError(
        "these batches have no `alike`, histories before the same targets: give the loader "
        "transforms=[draws.same_target(examples)], or a config examples='alike'"
      )
    history, target = batch["history"], batch["target"]
    readings = jnp.stack([history, history, batch["alike"]], axis=1)  # [B, 3, T]
    users = model.apply(
      {"params": params},
      readings.reshape(-1, history.shape[1]),
      train=True,
      last=True,
      rngs={"dropout": key},
    ).reshape(len(history), 3, -1)  # a mask of its own each
    where = (batch["weight"] > 0) & (target != PAD)
    total, count = losses.linear_softmax_xent(users[:, 0], params["items"][1:], target - 1, where)
    contrast, rows = losses.nt_xent(
      users[:, 1],
      users[:, 2],
      where & (history != PAD).any(1),
      temperature=cfg.temperature,
      collide=target[:, None] == target[None],
    )
    # Two means of their own, weighed, where the runtime divides once.
    whole = total + cfg.weight * count * contrast / jnp.maximum(rows, 1)
    return Loss(whole, count, {"next": (total, count), "contrast": (contrast, rows)})

  return sasrec.answering(model, cfg.num_items)._replace(loss=loss)
