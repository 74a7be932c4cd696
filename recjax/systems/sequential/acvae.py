"""ACVAE (Xie et al., "Adversarial and Contrastive Variational Autoencoder for Sequential
Recommendation", WWW 2021), https://arxiv.org/abs/2103.10693.

A GRU and a causal convolution read the history and noise; the latent vector of each place, drawn in
this way, is decoded to the item that comes next. As its density is unknown, an adversary that tells
latents from normal draws stands in for the KL divergence to the prior (adversarial variational
Bayes), and a critic that tells a sequence's own latents from another's makes them its own.

The game is one loss: the adversary's error, of latents that pass no gradient, and that of the
autoencoder, with an adversary that takes none; so one step moves each player by its own gradient
alone. Labels `vae`, `adversary` and `critic` give them rates of their own (`group_rates`). The
other sequence is the nearest real row before in the batch, from the last on round: rows are
coupled, over the whole batch whatever the devices, but in one micro-batch where gradients are
accumulated.

As the authors' code the adversary judges each latent dimension, from half its square upwards, and
what it says is averaged. Without a key an answer takes noise of zero. Unlike the code: sums are by
place, not by row; the adversary's verdict moves no item vector but through the latents; neither
judge has dropout, and the adversary's blocks are of one linear map, not two; two sequences are
compared where both have items.

B batch, T history (left-padded with PAD), E width of items, W of states, L of latents, I items.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from recjax import losses
from recjax.decode import topk
from recjax.nn import recurrent
from recjax.nn.dropout import Dropout
from recjax.systems.sequential import s3rec
from recjax.types import PAD, Array, Loss, System, unpacked


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  dim: int = 128  # E
  state: int = 100  # W
  latent: int = 64  # L
  kernel: int = 5  # places that the convolution sees
  dropout: float = 0.5
  hidden: int = 128  # width of adversary and critic
  alpha: float = 0.05  # weight of the stand-in for KL
  beta: float = 0.1  # and of the contrast

  def __post_init__(self):
    for name in ("alpha", "beta"):
      if not 0 <= getattr(self, name) < math.inf:
        raise ValueError(f"{name}={getattr(self, name)} weighs a part of the loss: 0 or more")
    if self.kernel < 1:
      raise ValueError(f"kernel={self.kernel}: the convolution sees one place at least")


class Autoencoder(nn.Module):
  cfg: Config

  def setup(self):
    cfg, normal = self.cfg, nn.initializers.normal(0.02)
    self.items = self.param("items", normal, (cfg.num_items, cfg.dim))
    self.output = self.param("output", normal, (cfg.num_items, cfg.dim))
    self.bias = self.param("bias", nn.initializers.zeros, (cfg.num_items,))
    self.gru = recurrent.GRU(cfg.state)
    self.shake = nn.Dense(cfg.state)
    self.before, self.after = nn.Dense(cfg.state), nn.Dense(cfg.state)
    self.local = nn.Conv(2 * cfg.state, (cfg.kernel,), padding="CAUSAL")
    self.to_latent, self.from_latent = nn.Dense(cfg.latent), nn.Dense(cfg.dim)
    self.dropout = Dropout(cfg.dropout)

  def __call__(self, history: Array, noise: Array, *, train: bool) -> Array:
    return self.decode(self.encode(history, noise, train=train))

  def encode(self, history: Array, noise: Array, *, train: bool) -> Array:
    """Latents [B, T, L], each of the history up to there; noise [2, B or 1, T or 1, W]."""
    there = history != PAD
    x = self.gru(self.dropout(self.items[history], train=train), there)  # [B, T, W]
    first, second = jnp.tanh(self.shake(noise))
    y = nn.softplus(self.before(x + first)) + second
    y = nn.softplus(self.local(jnp.where(there[..., None], y, 0)))
    y = x + nn.softplus(self.after(y))
    return self.to_latent(self.dropout(y, train=train))

  def decode(self, latent: Array) -> Array:
    """[..., E], whose products with the rows of `output` are the scores, less the bias."""
    return jnp.tanh(self.from_latent(latent))


class Adversary(nn.Module):
  cfg: Config

  @nn.compact
  def __call__(self, items: Array, latent: Array) -> Array:
    """[..., L]: how much likelier each dimension is the autoencoder's than a normal draw, a log."""
    x = nn.Dense(self.cfg.hidden)(jnp.concatenate([items, latent], axis=-1))
    for _ in range(2):
      x = nn.elu(x + nn.Dense(self.cfg.hidden)(x))
    return nn.Dense(self.cfg.latent)(x) + 0.5 * jnp.square(latent)


class Critic(nn.Module):
  cfg: Config

  @nn.compact
  def __call__(self, items: Array, latent: Array, where: Array) -> Array:
    """[B, T]: whether these latents are these items' own, a logit."""
    x = recurrent.GRU(self.cfg.hidden)(jnp.concatenate([items, latent], axis=-1), where)
    return nn.Dense(1)(nn.gelu(x))[..., 0]


def told_apart(own: Array, other: Array) -> tuple[Array, Array]:
  """What a judge loses by its logits of its own kind, and of the other: binary cross-entropy.

  It loses least where a logit is log(own density / other density), whose mean over its own kind is
  the KL divergence.
  """
  return jax.nn.softplus(-own), jax.nn.softplus(other)


def make(cfg: Config) -> System:
  vae, adversary, critic = Autoencoder(cfg), Adversary(cfg), Critic(cfg)

  def init(key, assets, batch):
    history = batch["history"]
    items, latent = (jnp.zeros((*history.shape, width)) for width in (cfg.dim, cfg.latent))
    keys = jax.random.split(key, 3)
    return {
      "vae": vae.init(keys[0], history, _still(cfg), train=False)["params"],
      "adversary": adversary.init(keys[1], items, latent)["params"],
      "critic": critic.init(keys[2], items, latent, history != PAD)["params"],
    }

  def loss(params, assets, batch, key):
    unpacked(batch)
    history, target, own = batch["history"], batch["next"], params["vae"]
    where = (target != PAD) & (batch["weight"] > 0)[:, None]
    dropout_key, noise_key, prior_key = jax.random.split(key, 3)
    noise = jax.random.normal(noise_key, (2, *history.shape, cfg.state))
    latent = vae.apply(
      {"params": own},
      history,
      noise,
      train=True,
      rngs={"dropout": dropout_key},
      method=Autoencoder.encode,
    )  # [B, T, L]
    x = vae.apply({"params": own}, latent, method=Autoencoder.decode)  # [B, T, E]
    table, bias = own["output"][1:], own["bias"][1:]
    told = losses.linear_softmax_xent(x, table, target - 1, where, bias=bias)

    items, fixed = own["items"][history], jax.lax.stop_gradient
    judge = {"params": fixed(params["adversary"])}
    kl = losses.total(adversary.apply(judge, fixed(items), latent).mean(-1), where)
    prior = jax.random.normal(prior_key, latent.shape)
    judged = (
      adversary.apply({"params": params["adversary"]}, fixed(items), fixed(z))
      for z in (latent, prior)
    )
    game = losses.total(sum(told_apart(*judged)).mean(-1), where)

    before = s3rec.row_before(where.any(1))
    both = where & where[before] & (before >= 0)[:, None]
    logits = (
      critic.apply({"params": params["critic"]}, items, z, seen)
      for z, seen in ((latent, where), (latent[before], both))
    )
    mine, others = told_apart(*logits)
    contrast = losses.total(others, both)[0] + losses.total(mine, where)[0], told[1]

    parts = {"told": told, "kl": kl, "contrast": contrast, "adversary": game}
    total = told[0] + cfg.alpha * kl[0] + cfg.beta * contrast[0] + game[0]
    return Loss(total, told[1], parts)

  def newest(params, batch, key=None):
    """[B, L]."""
    noise, history = _still(cfg), batch["history"]
    if key is not None:
      noise = jax.random.normal(key, (2, *history.shape, cfg.state))
    own = {"params": params["vae"]}
    return vae.apply(own, history, noise, train=False, method=Autoencoder.encode)[:, -1]

  def every(params, batch, key=None):
    own = params["vae"]
    x = vae.apply({"params": own}, newest(params, batch, key), method=Autoencoder.decode)
    return x @ own["output"].T + own["bias"][None]  # [B, I]

  def score(params, assets, batch):
    return topk.scores(every(params, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, batch, key), batch, k=k)

  def embed(params, assets, batch):
    return newest(params, batch)

  def trainable(params):
    return {name: jax.tree.map(lambda _, name=name: name, part) for name, part in params.items()}

  return System(init, loss, recommend=recommend, score=score, embed=embed, trainable=trainable)


def _still(cfg: Config) -> Array:
  """Noise of zero, the same at every place."""
  return jnp.zeros((2, 1, 1, cfg.state))
