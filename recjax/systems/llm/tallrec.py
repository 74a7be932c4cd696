"""TALLRec (Bao et al., RecSys 2023), https://arxiv.org/abs/2305.00447.

A decoder-only language model is asked in words whether a user who liked these titles, and not
those, will like another, and learns by LoRA to answer "Yes." or "No.". The score of an item is the
log-odds of these two words at the place of the answer.

Unlike the paper: only the first token of an answer is learned, which decides it, not the prompt's
tokens nor the full stop. The first of the two tunings there, on general instructions, is done where
the base was made. With `adapt=False` the model itself is learned: one that is new, with random
kernels, would have nothing to adapt.

A batch: source [B, S] the prompt, padded at the right; length [B] how much of it is real, for 0 may
be a token too; labels [B, 1] (see `text.yes_no`). Answers labels and nothing else.

B batch, S source, D width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import dataclasses

import jax
import jax.numpy as jnp

from recjax import losses
from recjax.nn import gpt, lora
from recjax.types import Array, Loss, Params, System


@dataclasses.dataclass(frozen=True)
class Config:
  """The paper's base is `gpt.LLAMA`."""

  yes: int  # the tokens that answers begin with, see `yes_no.answers`
  no: int
  lm: gpt.Config = dataclasses.field(default_factory=gpt.Config)
  lora: lora.Config = dataclasses.field(default_factory=lora.Config)
  adapt: bool = True  # the base is frozen; False: all of it is learned, without LoRA

  def __post_init__(self):
    if self.yes == self.no or not all(0 <= x < self.lm.vocab for x in (self.yes, self.no)):
      raise ValueError(
        f"yes and no must be two tokens of 0..{self.lm.vocab - 1}, they are {self.yes}, {self.no}"
      )


def make(cfg: Config) -> System:
  """Params: `base`, a `gpt`, and with `adapt` its `lora`."""

  def init(key, assets, batch):
    base_key, lora_key = jax.random.split(key)
    base = gpt.init(base_key, cfg.lm)
    if not cfg.adapt:
      return {"base": base}
    return {"base": base, "lora": lora.init(lora_key, base, cfg.lora)}

  def answering(params, batch, key=None) -> Array:
    """[B, D] the state that the answer's first token is read from."""
    source, length = batch["source"], batch["length"]
    keys = (None, None) if key is None else jax.random.split(key)
    mask = jnp.arange(source.shape[1])[None] < length[:, None]
    with _adapted(cfg, params, keys[0]):
      states = gpt.states(params["base"], cfg.lm, source, mask=mask, key=keys[1])
    last = jnp.maximum(length - 1, 0)[:, None, None]
    return jnp.take_along_axis(states, last, axis=1)[:, 0]

  def odds(params, state) -> Array:
    """[B, 1] log p(yes) - log p(no)."""
    table = gpt.head(params["base"], cfg.lm)
    return (state @ (table[cfg.yes] - table[cfg.no]))[:, None]

  def loss(params, assets, batch, key):
    state, liked = answering(params, batch, key), batch["labels"][:, 0] > 0.5
    where = batch["weight"]
    answer = jnp.where(liked, cfg.yes, cfg.no)
    total, weight = losses.linear_softmax_xent(
      state, gpt.head(params["base"], cfg.lm), answer, where
    )
    right = ((odds(params, state)[:, 0] > 0) == liked) & (where > 0)
    return Loss(total, weight, {"accuracy": ((right * where).sum(), weight)})

  def score(params, assets, batch):
    return odds(params, answering(params, batch))

  return System(init, loss, score=score, trainable=lora.trainable if cfg.adapt else None)


def from_gpt(fresh: Params, base: Params) -> Params:
  """Fresh parameters around a pretrained model, for `loop.fit(init_from=)`."""
  shapes, theirs = (jax.tree.map(jnp.shape, tree) for tree in (fresh["base"], base))
  if shapes != theirs:
    raise ValueError("the pretrained model is of other sizes than `lm`: take its own config there")
  return {**fresh, "base": base}


def _adapted(cfg: Config, params: Params, key):
  if not cfg.adapt:
    return contextlib.nullcontext()
  return lora.adapted(params["lora"], cfg.lora, key=key)
