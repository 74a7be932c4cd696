"""NeuMF (He et al., WWW 2017), https://arxiv.org/abs/1708.05031, and its halves, GMF and MLP.

GMF weighs the elementwise product of a user's and an item's vector; the MLP reads two further
vectors side by side through a narrowing tower. NeuMF puts both last layers under one weight vector.
All three learn by binary cross-entropy against 4 drawn negatives a positive; the paper trains GMF
and MLP first (Adam) and starts NeuMF from both (`fuse`; then plain SGD): `make_pretrain` is the
system of the two side by side, and SHARED, for `Stage.init_from`, says what NeuMF makes of them.

As in the paper: all vectors and kernels start from N(0, 0.01^2), but for the tower's, which start
as LeCun has it (the authors' code too leaves that distribution to its framework). Unlike it: a
negative may be an item that the user met, unless the batch brings exact `candidates`.

PAD, the unknown user, has zero vectors and keeps them: the tower ranks by the item's half alone,
and GMF says the same of every item. A user without training events keeps the vectors drawn at the
start, which tell nothing: ask for one as PAD.

B batch, F predictive factors, U users, I items (both with PAD), N items of a row, K results.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from recjax import losses
from recjax.data import negatives
from recjax.decode import topk
from recjax.types import PAD, Array, Key, Loss, Params, System, known


@dataclasses.dataclass(frozen=True)
class Config:
  num_users: int  # U
  num_items: int  # I
  factors: int = 64  # F: GMF's width and that of the tower's last layer
  tower: tuple[int, ...] = (256, 256, 128, 64)  # both vectors side by side, then the layers
  negatives: int = 4  # drawn a positive

  def __post_init__(self):
    if self.negatives < 1:
      raise ValueError(
        f"negatives is {self.negatives}: without any, every item learns to score 1; draw 1 or more"
      )
    if self.tower[0] % 2 or self.tower[-1] != self.factors:
      raise ValueError(
        f"the tower {self.tower} must begin with an even width (two vectors) and end with the "
        f"{self.factors} predictive factors"
      )


class GMF(nn.Module):
  cfg: Config

  @nn.compact
  def __call__(self, user: Array, items: Array) -> Array:
    cfg = self.cfg
    users = _table(cfg.num_users, cfg.factors, "users")(user)[:, None]  # [B, 1, F]
    return users * _table(cfg.num_items, cfg.factors, "items")(items)  # [B, N, F]


class MLP(nn.Module):
  cfg: Config

  @nn.compact
  def __call__(self, user: Array, items: Array) -> Array:
    cfg, half = self.cfg, self.cfg.tower[0] // 2
    items = _table(cfg.num_items, half, "items")(items)  # [B, N, half]
    users = _table(cfg.num_users, half, "users")(user)[:, None]
    x = jnp.concatenate([jnp.broadcast_to(users, items.shape), items], axis=-1)
    for n, width in enumerate(cfg.tower[1:]):
      x = nn.relu(nn.Dense(width, name=f"layer_{n}")(x))
    return x  # [B, N, F]


class NeuMF(nn.Module):
  """Logits [B, N] from the halves that are there."""

  cfg: Config
  halves: tuple[str, ...]

  @nn.compact
  def __call__(self, user: Array, items: Array) -> Array:
    made = {"gmf": GMF, "mlp": MLP}
    found = [made[name](self.cfg, name=name)(user, items) for name in self.halves]
    small = nn.initializers.normal(0.01)
    return nn.Dense(1, kernel_init=small, name="output")(jnp.concatenate(found, -1))[..., 0]


def fuse(gmf: Params, mlp: Params, alpha: float = 0.5) -> Params:
  """NeuMF's start from trained halves: its logits are alpha GMF + (1 - alpha) MLP (eq. 13)."""
  if "gmf" not in gmf or "mlp" not in mlp:
    raise ValueError(f"fuse takes the parameters of GMF and of MLP, not {[*gmf]} and {[*mlp]}")
  first = jax.tree.map(lambda x: alpha * x, gmf["output"])
  second = jax.tree.map(lambda x: (1 - alpha) * x, mlp["output"])
  output = {
    "kernel": jnp.concatenate([first["kernel"], second["kernel"]]),
    "bias": first["bias"] + second["bias"],
  }
  return {"gmf": gmf["gmf"], "mlp": mlp["mlp"], "output": output}


def make(cfg: Config) -> System:
  return _system(cfg, NeuMF(cfg, ("gmf", "mlp")))


def make_gmf(cfg: Config) -> System:
  return _system(cfg, NeuMF(cfg, ("gmf",)))


def make_mlp(cfg: Config) -> System:
  return _system(cfg, NeuMF(cfg, ("mlp",)))


def make_pretrain(cfg: Config) -> System:
  """GMF and the MLP at once, on the same negatives; only clipping would join them.

  Asked for items or scores it answers as the NeuMF that starts from it.
  """
  whole = make(cfg)
  halves = {"gmf": make_gmf(cfg), "mlp": make_mlp(cfg)}

  def init(key, assets, batch):
    return {name: half.init(key, assets, batch) for name, half in halves.items()}

  def loss(params, assets, batch, key):
    found = {name: half.loss(params[name], assets, batch, key) for name, half in halves.items()}
    metrics = {name: (own.sum, own.weight) for name, own in found.items()}
    return Loss(found["gmf"].sum + found["mlp"].sum, found["gmf"].weight, metrics)

  def score(params, assets, batch):
    return whole.score(_fused(params), assets, batch)

  def recommend(params, assets, batch, *, k, key=None):
    return whole.recommend(_fused(params), assets, batch, k=k)

  return System(init, loss, recommend=recommend, score=score)


def _fused(halves: Params) -> Params:
  return fuse(halves["gmf"], halves["mlp"])


SHARED = _fused


def _system(cfg: Config, model: NeuMF) -> System:
  def init(key, assets, batch):
    return model.init(key, jnp.ones(1, int), jnp.ones((1, 1), int))["params"]

  def logits(params, user, items):
    return model.apply({"params": params}, user, items)

  def loss(params, assets, batch, key):
    target = batch["target"]
    drawn = batch.get("candidates")
    if drawn is None:
      drawn = negatives.other(key, target, cfg.negatives, cfg.num_items)
    items = jnp.concatenate([target[:, None], drawn], axis=1)
    found = logits(params, batch["user"], items)
    labels = jnp.broadcast_to((jnp.arange(found.shape[1]) == 0)[None], found.shape)
    where = (target != PAD) & (batch["weight"] > 0)
    where = where[:, None] & (items != PAD)  # each of 1 + N terms counts
    return Loss(*losses.bce(found, labels, where))

  def every(params, batch):
    items = jnp.arange(cfg.num_items)[None]
    # User by user: the tower's layers of a whole batch and catalogue would not fit.
    users = known(batch["user"], cfg.num_users)
    return jax.lax.map(lambda user: logits(params, user[None], items)[0], users)

  def score(params, assets, batch):
    if "candidates" in batch:
      return logits(params, known(batch["user"], cfg.num_users), batch["candidates"])
    return topk.scores(every(params, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, batch), batch, k=k)

  return System(init, loss, recommend=recommend, score=score)


def _table(rows: int, width: int, name: str) -> nn.Embed:
  return nn.Embed(rows, width, embedding_init=_small, name=name)


def _small(key: Key, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
  """N(0, 0.01^2); PAD's row is 0, and nothing moves it."""
  return nn.initializers.normal(0.01)(key, shape, dtype).at[PAD].set(0)
