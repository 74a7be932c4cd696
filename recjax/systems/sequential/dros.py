"""DROS (Yang et al., "A Generic Learning Framework for Sequential Recommendation with Distribution
Shifts", SIGIR 2023), https://doi.org/10.1145/3539618.3591624.

What comes next may be distributed otherwise tomorrow. To a sequential recommender's own loss comes
its worst expected error over all distributions of items near a nominal one, that of smoothed
popularity. Near is a ball of KL divergence, so the worst has a closed form, a log of a mean of
exponentials; the backbone is `sasrec`, to the letter, whose options choose the first loss.

The radius is given by its multiplier, `temperature`, as in the paper: the greater, the smaller
the ball. The error at an item is the square of what the sigmoid of its score misses, 1 for the
next item and 0 for all others.

Unlike the authors' code, as the closed form and others' code for it want: scores pass the sigmoid,
and a share weighs the exponential, not the exponent; the shares sum to one, so that the term is a
mean, and it is multiplied by the temperature, as an expectation is, so that `alpha` here is theirs
over the temperature. Unlike the paper, the backbone's default is the softmax over all items.

B batch, T history (left-padded with PAD), D width, I items (PAD included).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from recjax import losses
from recjax.systems.sequential import sasrec
from recjax.types import PAD, Array, Loss, System

SEGMENTS = True  # a row of a batch may hold several histories


@dataclasses.dataclass(frozen=True)
class Config(sasrec.Config):
  alpha: float = 0.1  # weight of the robust term; the paper tunes it
  temperature: float = 1.0  # beta_0 of the paper
  power: float = 0.5  # nominal shares go by (count + 1)^power; 0: all items alike

  def __post_init__(self):
    super().__post_init__()
    if not (math.isfinite(self.alpha) and self.alpha >= 0):
      raise ValueError(f"alpha={self.alpha} weighs the robust term: from 0, the backbone alone, up")
    if not (math.isfinite(self.temperature) and self.temperature > 0):
      raise ValueError(f"temperature={self.temperature} must be above 0; less is more robust")


def assets(cfg: Config, counts: np.ndarray) -> Mapping[str, Array]:
  """The nominal distribution, from how often each item [I] was met in training: log shares [I]."""
  counts = np.asarray(counts, np.float64)
  if counts.shape != (cfg.num_items,):
    raise ValueError(f"counts has shape {counts.shape}, there are {cfg.num_items} items")
  if not (np.isfinite(counts) & (counts >= 0)).all():
    raise ValueError("counts must be finite and not negative")
  shares = np.where(np.arange(cfg.num_items) == PAD, 0.0, (counts + 1) ** cfg.power)
  with np.errstate(divide="ignore"):  # PAD is no item: -inf
    return {"log_nominal": jnp.asarray(np.log(shares / shares.sum()), jnp.float32)}


def errors(scores: Array, target: Array) -> Array:
  """[..., I] from scores [..., I] of every item and the item [...] that comes next."""
  own = jax.lax.broadcasted_iota(target.dtype, scores.shape, scores.ndim - 1) == target[..., None]
  return jnp.square(jax.nn.sigmoid(jnp.where(own, -scores, scores)))


def worst_case(error: Array, log_nominal: Array, temperature: float) -> Array:
  """temperature x log of the nominal mean of exp(error / temperature), [...] from [..., I].

  It is the greatest mean error less temperature x KL(p || nominal) over all distributions p. Where
  that p is as far from the nominal one as the radius allows, it is the greatest in the ball, less
  temperature x radius, which no parameter changes.
  """
  shares = log_nominal.reshape((1,) * (error.ndim - 1) + (-1,))
  return temperature * jax.nn.logsumexp(error / temperature + shares, axis=-1)


def make(cfg: Config) -> System:
  backbone, model = sasrec.make(cfg), sasrec.SASRec(cfg)

  def init(key, assets, batch):
    if cfg.alpha and not assets:
      raise ValueError("the robust term reads the nominal shares: give `assets(cfg, counts)`")
    return backbone.init(key, assets, batch)

  def loss(params, assets, batch, key):
    own = backbone.loss(params, assets, batch, key)
    if not cfg.alpha:
      return own
    dropout_key, _ = jax.random.split(key)  # as the backbone does: both terms are of one state
    x, where = sasrec.states(model, params, batch, dropout_key)
    missed = errors(x @ params["items"].T, batch["next"])  # [B, T, I]
    robust = losses.total(worst_case(missed, assets["log_nominal"], cfg.temperature), where)
    return Loss(own.sum + cfg.alpha * robust[0], own.weight, {"robust": robust})

  return backbone._replace(init=init, loss=loss)
