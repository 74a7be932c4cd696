"""Flan-T5 for ratings (Kang et al., 2023, "Do LLMs Understand User Preferences?"),
https://arxiv.org/abs/2305.06474.

A T5 reads what a user is asked to rate, as text, and a linear head on its state says how many
stars: a class for each rating there is, learned by cross-entropy, or one number, learned by squared
error. The state is the decoder's at its first place; of an encoder alone, the mean over tokens.

Unlike the paper: a class model answers with the mean of the ratings by their probabilities, which
is what the squared error asks for; a regression's answer is kept within the scale.

A batch: source [B, S], ratings [B] (see `text.asked.rated`); a rating counts as the nearest class.

B batch, S source, D width, R ratings.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from recjax import losses
from recjax.nn import attention, t5
from recjax.types import PAD, Array, Loss, System

START = PAD  # the decoder's first input, as in T5


@dataclasses.dataclass(frozen=True)
class Config:
  """Flan-T5-base; `make` takes other T5s by their own config."""

  vocab: int  # V
  values: tuple[float, ...]  # the ratings there are, ascending
  regression: bool = False  # one number, not a class for each rating
  dim: int = 768
  heads: int = 12
  head_dim: int = 64
  ff: int = 2048
  layers: int = 12
  decoder_layers: int = 12  # 0: an encoder alone
  gated: bool = True  # as in v1.1 and Flan
  dropout: float = 0.1
  dtype: str = "float32"

  def __post_init__(self):
    if len(self.values) < 2 or list(self.values) != sorted(set(self.values)):
      raise ValueError(
        f"the ratings must be two or more and ascending, they are {self.values}: take a source "
        "whose events have some"
      )

  @property
  def t5(self) -> t5.Config:
    names = "vocab dim heads head_dim ff layers decoder_layers gated dropout dtype".split()
    # No token is written, so there is no head over the vocabulary to have apart.
    return t5.Config(**{name: getattr(self, name) for name in names})


def make(cfg: Config) -> System:
  """Answers ratings: `score` [B, 1]."""
  values = np.float32(cfg.values)
  middle, most = float(values[0] + values[-1]) / 2, float(values[-1] - values[0]) / 2
  head = nn.Dense(1 if cfg.regression else len(values))

  def init(key, assets, batch):
    t5_key, head_key = jax.random.split(key)
    state = jnp.zeros((1, cfg.dim))
    return {"t5": t5.init(t5_key, cfg.t5), "head": head.init(head_key, state)["params"]}

  def said(params, batch, key=None):
    """[B, R] logits, or [B, 1] half-widths of the scale from its middle; float32."""
    keys = (None, None) if key is None else jax.random.split(key)
    source = batch["source"]
    mask = source != PAD  # [B, S]
    states = t5.encode(params["t5"], cfg.t5, source, mask=mask, key=keys[0])
    if cfg.decoder_layers:
      state = _first_state(params["t5"], cfg.t5, states, mask, keys[1])
    else:
      count = jnp.maximum(mask.sum(1), 1)[:, None]
      state = jnp.sum(states, axis=1, where=mask[..., None]) / count
    return head.apply({"params": params["head"]}, state.astype(jnp.float32))

  def loss(params, assets, batch, key):
    out, ratings, where = said(params, batch, key), batch["ratings"], batch["weight"]
    if cfg.regression:
      return Loss(*losses.squared(out[:, 0] * most + middle, ratings, where))
    nearest = jnp.abs(ratings[:, None] - values[None]).argmin(1)
    hits = jnp.sum((out.argmax(1) == nearest) * where)
    total, weight = losses.softmax_xent(out, nearest, where)
    return Loss(total, weight, {"accuracy": (hits, weight)})

  def score(params, assets, batch):
    out = said(params, batch)
    if cfg.regression:
      return jnp.clip(out * most + middle, values[0], values[-1])
    return (jax.nn.softmax(out) @ values)[:, None]

  return System(init, loss, score=score)


def _first_state(params, cfg: t5.Config, states: Array, mask: Array, key) -> Array:
  """[B, D] what the decoder makes of START and the source."""

  def decoded(model: t5.T5, tokens, states, where):
    return model.decoder(model.embed(tokens), attention.causal(1), states, (where, None))

  tokens = jnp.full((len(states), 1), START, jnp.int32)
  rngs = {} if key is None else {"dropout": key}
  where = attention.as_mask(mask)
  return t5.T5(cfg).apply({"params": params}, tokens, states, where, rngs=rngs, method=decoded)[
    :, 0
  ]
