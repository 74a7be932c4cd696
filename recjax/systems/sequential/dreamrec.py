"""DreamRec (Yang et al., "Generate What You Prefer: Reshaping Sequential Recommendation via Guided
Diffusion", NeurIPS 2023), https://arxiv.org/abs/2310.20453.

A causal Transformer makes guidance of the history; a diffusion learns the vector of the item that
comes next under it, now and then without it. Asked, it denoises pure noise step by step, led away
from the unguided answer (classifier-free guidance), and recommends the items nearest to the vector
that comes out. No negatives are drawn: as in the authors' code only their start, unit normal draws,
keeps item vectors apart, and the gradient flows to the target's vector too.

Without a key all rows meet the same fixed noise, so an answer depends on its history alone; with a
key each row meets its own.

Unlike the paper: all places of a history are learned at once, each with a step and noise of its
own; the steps are those of the continuous schedule, exactly (the authors' "exp" within a step); an
empty history is unguided. The authors' code ranks by inner products, not by distance.

B batch, T history (left-padded with PAD), D width, I items (PAD included), N steps.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from recjax import losses
from recjax.decode import topk
from recjax.nn import attention, diffusion, dropout, transformer
from recjax.types import PAD, Array, Loss, System, unpacked


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  max_len: int = 50  # the longest history
  dim: int = 64  # D
  heads: int = 1
  layers: int = 1
  ff: int = 64
  dropout: float = 0.1
  hidden: int = 0  # width of the denoiser's hidden layer; 0: one linear map, as the authors run it
  steps: int = 500  # N; the paper tunes it up to 2,000
  beta_min: float = 0.1  # how fast noise comes at the beginning
  beta_max: float = 10.0  # and at the end
  dropped: float = 0.1  # share of places that are learned without guidance
  strength: float = 2.0  # w, of the guidance; 0: the guided answer as it is

  def __post_init__(self):
    if self.dim < 4 or self.dim % 2:
      raise ValueError(f"dim={self.dim}: the sines and cosines of a step need an even width from 4")
    if not 0 <= self.dropped < 1:
      raise ValueError(f"dropped={self.dropped}: a share in [0, 1), or no guidance is learned")
    if not 0 <= self.strength < math.inf:
      raise ValueError(f"strength={self.strength} leads away from the unguided answer: 0 or more")


class DreamRec(nn.Module):
  cfg: Config

  def setup(self):
    cfg, normal = self.cfg, nn.initializers.normal(1.0)
    self.items = self.param("items", normal, (cfg.num_items, cfg.dim))
    self.positions = self.param("positions", normal, (cfg.max_len, cfg.dim))
    self.none = self.param("none", normal, (cfg.dim,))
    self.encoder = transformer.Encoder(cfg.layers, cfg.heads, cfg.ff, cfg.dropout)
    self.dropout = dropout.Dropout(cfg.dropout)
    self.time = nn.Sequential([nn.Dense(2 * cfg.dim), nn.gelu, nn.Dense(cfg.dim)])
    hidden = [nn.Dense(cfg.hidden), nn.gelu] if cfg.hidden else []
    self.denoiser = nn.Sequential([*hidden, nn.Dense(cfg.dim)])

  def __call__(self, history: Array, *, train: bool) -> Array:
    guidance = self.guide(history, train=train)
    return self.denoise(guidance, guidance, jnp.zeros(history.shape, jnp.int32))

  def guide(self, history: Array, *, train: bool, last: bool = False) -> Array:
    """[B, T, D] of what each place has seen, that of no guidance where it is PAD; or the last."""
    length = history.shape[1]
    if length > self.cfg.max_len:
      raise ValueError(
        f"a history of {length} is longer than max_len {self.cfg.max_len}: cut it in the loader,"
        " or raise max_len"
      )
    there = (history != PAD)[..., None]
    x = self.items[history] + self.positions[:length][::-1][None]
    x = self.dropout(jnp.where(there, x, 0), train=train)
    where = attention.causal(length) & attention.as_mask(there[..., 0])
    x = self.encoder(x, where, train=train, last=last)
    return jnp.where(there[:, -1:] if last else there, x, self.none[None, None])

  def denoise(self, noisy: Array, guidance: Array, step: Array) -> Array:
    """The clean vectors [..., D], from noisy ones [..., D] at steps [...] under guidance."""
    half = self.cfg.dim // 2
    rate = jnp.exp(-math.log(10_000) / (half - 1) * jnp.arange(half))
    angle = step[..., None] * rate.reshape((1,) * step.ndim + (half,))
    time = self.time(jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1))
    return self.denoiser(jnp.concatenate([noisy, guidance, time], axis=-1))


def make(cfg: Config) -> System:
  model, plan = DreamRec(cfg), diffusion.schedule(cfg.steps, cfg.beta_min, cfg.beta_max)

  def init(key, assets, batch):
    return model.init(key, batch["history"], train=False)["params"]

  def denoise(params, *args):
    return model.apply({"params": params}, *args, method=DreamRec.denoise)

  def loss(params, assets, batch, key):
    unpacked(batch)
    target = batch["next"]
    where = (target != PAD) & (batch["weight"] > 0)[:, None]
    encoder_key, guidance_key, step_key, noise_key = jax.random.split(key, 4)
    guidance = model.apply(
      {"params": params},
      batch["history"],
      train=True,
      rngs={"dropout": encoder_key},
      method=DreamRec.guide,
    )  # [B, T, D]
    kept = dropout.keep(target.shape, cfg.dropped, guidance_key)[..., None]
    guidance = jnp.where(kept, guidance, params["none"][None, None])
    clean = losses.possible(params["items"][target], target[..., None], cfg.num_items)
    step = jax.random.randint(step_key, target.shape, 0, cfg.steps)
    noisy = diffusion.forward(plan, clean, step, jax.random.normal(noise_key, clean.shape))
    return Loss(*losses.squared(denoise(params, noisy, guidance, step), clean, where))

  def dreamt(params, batch, key=None):
    """[B, D]: the vector of the item that would please most."""
    guidance = model.apply(
      {"params": params}, batch["history"], train=False, last=True, method=DreamRec.guide
    )[:, 0]
    none = jnp.broadcast_to(params["none"][None], guidance.shape)

    def led(noisy, n):
      step = jnp.full(len(noisy), n)
      guided, free = (denoise(params, noisy, by, step) for by in (guidance, none))
      return (1 + cfg.strength) * guided - cfg.strength * free

    def draw(of):
      rows = 1 if key is None else len(guidance)
      return jnp.broadcast_to(jax.random.normal(of, (rows, cfg.dim)), guidance.shape)

    return diffusion.reverse(plan, led, draw, jax.random.key(0) if key is None else key)

  def every(params, batch, key=None):
    x, table = dreamt(params, batch, key), params["items"]
    size = jnp.square(x).sum(1, keepdims=True) + jnp.square(table).sum(1)[None]
    return 2 * x @ table.T - size  # [B, I], less the squared distance

  def score(params, assets, batch):
    return topk.scores(every(params, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, batch, key), batch, k=k)

  def embed(params, assets, batch):
    return dreamt(params, batch)

  return System(init, loss, recommend=recommend, score=score, embed=embed)
