"""Caser (Tang & Wang, WSDM 2018), https://arxiv.org/abs/1809.07426.

The last L items are an image of L x D: horizontal filters of every height find patterns of
consecutive items wherever they stand, vertical ones weigh the items. What they find and the
user's own vector score the next item.

Unlike the paper: one target an example (the next item), not several; binary cross-entropy with
`negatives` drawn among all items but the target, or with none the softmax over all items. PAD, the
unknown user, has the zero vector and keeps it: the history alone ranks.

B batch, T history (left-padded with PAD), L window, D width, N filters, I items (PAD included).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from recjax import losses
from recjax.data import negatives
from recjax.decode import topk
from recjax.nn.dropout import Dropout
from recjax.types import PAD, Array, Loss, System, known


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  num_users: int
  length: int = 5  # L, the last items that are read
  dim: int = 50  # D
  horizontal: int = 16  # filters of each height 1 .. L
  vertical: int = 4  # filters
  dropout: float = 0.5
  negatives: int = 3  # 0: the softmax over all items


class Caser(nn.Module):
  cfg: Config

  @nn.compact
  def __call__(self, user: Array, history: Array, *, train: bool) -> Array:
    """[B, 2 D]: what was found in the history, and the user."""
    cfg = self.cfg
    normal = nn.initializers.normal(1 / cfg.dim)
    users = self.param(
      "users", lambda *given: normal(*given).at[PAD].set(0), (cfg.num_users, cfg.dim)
    )
    items = self.param("items", normal, (cfg.num_items, cfg.dim))
    # Made here though the caller reads them, so that all parameters come from one place.
    self.param("output", normal, (cfg.num_items, 2 * cfg.dim))
    self.param("bias", nn.initializers.zeros, (cfg.num_items,))
    window = jnp.pad(history, ((0, 0), (cfg.length, 0)))[:, -cfg.length :]
    image = jnp.where((window != PAD)[..., None], items[window], 0)  # [B, L, D]
    found = []
    for height in range(1, cfg.length + 1):
      conv = nn.Conv(cfg.horizontal, (height,), padding="VALID", name=f"horizontal_{height}")
      found.append(jax.nn.relu(conv(image)).max(axis=1))  # [B, N]
    down = self.param("vertical", nn.initializers.lecun_normal(), (cfg.length, cfg.vertical))
    found.append(jnp.einsum("bld,ln->bnd", image, down).reshape(len(window), -1))
    x = Dropout(cfg.dropout)(jnp.concatenate(found, axis=1), train=train)
    x = jax.nn.relu(nn.Dense(cfg.dim, name="dense")(x))
    return jnp.concatenate([x, users[known(user, cfg.num_users)]], axis=1)


def make(cfg: Config) -> System:
  model = Caser(cfg)

  def states(params, batch, key=None):
    rngs = None if key is None else {"dropout": key}
    return model.apply(
      {"params": params}, batch["user"], batch["history"], train=key is not None, rngs=rngs
    )

  def init(key, assets, batch):
    return model.init(key, batch["user"], batch["history"], train=False)["params"]

  def loss(params, assets, batch, key):
    dropout_key, key = jax.random.split(key)
    target, table, bias = batch["target"], params["output"], params["bias"]
    where = (target != PAD) & (batch["weight"] > 0)
    x = states(params, batch, dropout_key)  # [B, 2 D]
    x = losses.possible(x, batch["user"][:, None], cfg.num_users)
    if not cfg.negatives and "candidates" not in batch:
      return Loss(*losses.linear_softmax_xent(x, table[1:], target - 1, where, bias=bias[1:]))
    others = batch.get("candidates")  # [B, N]
    if others is None:
      others = negatives.other(key, target, cfg.negatives, cfg.num_items)
    positive = (x * table[target]).sum(-1) + bias[target]
    positive = losses.possible(positive, target, cfg.num_items)
    negative = jnp.einsum("bd,bnd->bn", x, table[others]) + bias[others]
    # Generalised BCE with t = 0 is the plain one.
    how = {"num_items": cfg.num_items - 2, "t": 0.0, "negatives_where": others != PAD}
    return Loss(*losses.gbce(positive, negative, where, **how))

  def every(params, batch):
    return states(params, batch) @ params["output"].T + params["bias"][None]  # [B, I]

  def score(params, assets, batch):
    return topk.scores(every(params, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, batch), batch, k=k)

  def embed(params, assets, batch):
    return states(params, batch)

  return System(init, loss, recommend=recommend, score=score, embed=embed)
