"""Optimisers and learning-rate schedules from optax, chosen by name at the edge of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from recjax.types import FROZEN, Params, System


@dataclasses.dataclass(frozen=True)
class Config:
  """An optimiser. Group labels come from `System.trainable`; without it all is one group."""

  name: str = "adamw"  # adamw adafactor lion muon sgd
  rate: float = 1e-3  # the peak of the schedule
  schedule: str = "constant"  # constant cosine rsqrt linear
  warmup: int = 0  # steps from 0 up to the peak
  final: float = 0.0  # cosine and linear end at this share of the peak
  b1: float = 0.9  # decay of the mean gradient
  b2: float = 0.999  # of the mean square of it
  eps: float = 1e-8  # beside its root
  weight_decay: float = 0.0  # not on vectors and scalars: norms and biases
  clip: float | None = 1.0  # the global norm of the gradient; None or 0: as it is
  group_rates: dict[str, float] = dataclasses.field(default_factory=dict)  # label -> times rate


def schedule(cfg: Config, steps: int) -> optax.Schedule:
  """The learning rate at each step; `steps` is the length of the run."""
  rest, warmup = max(steps - cfg.warmup, 1), max(cfg.warmup, 1)

  def rsqrt(step):  # T5's: falls with 1 / sqrt(step) past the warm-up
    return cfg.rate * jnp.sqrt(warmup / (step + warmup))

  after = {
    "constant": optax.constant_schedule(cfg.rate),
    "cosine": optax.cosine_decay_schedule(cfg.rate, rest, cfg.final),
    "linear": optax.linear_schedule(cfg.rate, cfg.rate * cfg.final, rest),
    "rsqrt": rsqrt,
  }
  rate = _pick("schedule", cfg.schedule, after)
  if not cfg.warmup:
    return rate
  return optax.join_schedules(
    [optax.linear_schedule(0.0, cfg.rate, cfg.warmup), rate], [cfg.warmup]
  )


def make(cfg: Config, steps: int, system: System) -> optax.GradientTransformation:
  """The transformation of a run: clip, then one optimiser a group, frozen parameters left alone."""
  rate = schedule(cfg, steps)
  if system.trainable is None:
    if cfg.group_rates:
      raise ValueError(f"the system has no groups of parameters: group_rates {cfg.group_rates}?")
    return _clipped(cfg, _optimizer(cfg, rate))

  def grouped(params):
    labels = system.trainable(params)
    found = sorted(set(jax.tree.leaves(labels)))
    unknown = set(cfg.group_rates) - set(found)
    if unknown:
      raise ValueError(f"no parameters are labelled {sorted(unknown)}; the labels are {found}")
    groups = {
      label: optax.set_to_zero()
      if label == FROZEN
      else _optimizer(cfg, _scaled(rate, cfg.group_rates.get(label, 1.0)))
      for label in found
    }
    return optax.multi_transform(groups, labels)

  # The labels are known once there are parameters, so the transformation is built with them.
  def init(params):
    return grouped(params).init(params)

  def update(updates, state, params=None):
    return grouped(params).update(updates, state, params)

  return _clipped(cfg, optax.GradientTransformation(init, update))


def _clipped(cfg: Config, tx: optax.GradientTransformation) -> optax.GradientTransformation:
  return tx if not cfg.clip else optax.chain(optax.clip_by_global_norm(cfg.clip), tx)


def _optimizer(cfg: Config, rate: optax.Schedule) -> optax.GradientTransformation:
  decay = {"weight_decay": cfg.weight_decay, "mask": _matrices}
  made: dict[str, Callable[[], optax.GradientTransformation]] = {
    "adamw": lambda: optax.adamw(rate, cfg.b1, cfg.b2, cfg.eps, **decay),
    "adafactor": lambda: _decayed(optax.adafactor(rate), cfg, rate),  # its own decays without rate
    "lion": lambda: optax.lion(rate, cfg.b1, cfg.b2, **decay),
    # Its own decay leaves out what it hands to Adam: kernels of more than two axes.
    "muon": lambda: _decayed(optax.contrib.muon(rate, adam_b1=cfg.b1, adam_b2=cfg.b2), cfg, rate),
    "sgd": lambda: optax.chain(
      optax.add_decayed_weights(cfg.weight_decay, _matrices), optax.sgd(rate, cfg.b1)
    ),
  }
  return _pick("optimiser", cfg.name, made)()


def _decayed(
  tx: optax.GradientTransformation, cfg: Config, rate: optax.Schedule
) -> optax.GradientTransformation:
  """With AdamW's decay of matrices: by the rate times `weight_decay`."""
  if not cfg.weight_decay:
    return tx
  fall = optax.add_decayed_weights(lambda step: -cfg.weight_decay * rate(step), _matrices)
  return optax.chain(tx, fall)


def _matrices(params: Params):
  return jax.tree.map(lambda p: p.ndim > 1, params)


def _scaled(rate: optax.Schedule, by: float) -> optax.Schedule:
  return lambda step: by * rate(step)


def _pick(kind: str, name: str, known: dict):
  if name not in known:
    raise ValueError(f"no {kind} {name!r}; there is {', '.join(known)}")
  return known[name]
