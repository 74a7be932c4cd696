"""Diffusion of vectors (Ho et al., NeurIPS 2020, https://arxiv.org/abs/2006.11239): noise comes in
N small steps and is taken away in as many, by a model of the clean vector.

The steps are those of the variance-preserving process whose rate of noise grows linearly (Song et
al., ICLR 2021), exactly; all numbers of them are made once, on the host.

N steps, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax.types import Array, Key


class Schedule(NamedTuple):
  """Float32 [N] each; step n, from 0, is the (n + 1)-th that adds noise."""

  signal: np.ndarray  # share of the clean vector in the noisy one
  noise: np.ndarray  # and of a unit normal draw
  clean: np.ndarray  # of the clean vector in the mean of the step before, the noisy one known
  noisy: np.ndarray  # and of the noisy one
  spread: np.ndarray  # standard deviation about that mean; 0 at the first step


def schedule(steps: int, beta_min: float, beta_max: float) -> Schedule:
  """The rate of noise grows from `beta_min` to `beta_max` in a time of one."""
  if steps < 1:
    raise ValueError(f"steps={steps}: noise comes in one step at least")
  if not 0 < beta_min <= beta_max < float("inf"):
    raise ValueError(f"0 < beta_min <= beta_max, not {beta_min} and {beta_max}")
  time = np.arange(steps + 1) / steps
  log_left = -(beta_min * time + 0.5 * (beta_max - beta_min) * time**2)  # of the signal's variance
  left, gone = np.exp(log_left), -np.expm1(log_left)
  added = -np.expm1(np.diff(log_left))
  found = Schedule(
    signal=np.sqrt(left[1:]),
    noise=np.sqrt(gone[1:]),
    clean=added * np.sqrt(left[:-1]) / gone[1:],
    noisy=gone[:-1] * np.sqrt(1 - added) / gone[1:],
    spread=np.sqrt(added * gone[:-1] / gone[1:]),
  )
  return Schedule(*(x.astype(np.float32) for x in found))


def forward(plan: Schedule, clean: Array, step: Array, noise: Array) -> Array:
  """The noisy vectors [..., D] after steps [...], from clean ones and unit normal draws."""
  signal, share = (jnp.asarray(x)[step][..., None] for x in (plan.signal, plan.noise))
  return signal * clean + share * noise


def reverse(
  plan: Schedule, denoise: Callable[[Array, Array], Array], draw: Callable[[Key], Array], key: Key
) -> Array:
  """A vector [..., D] from noise, by `denoise(noisy, step) -> clean` and `draw(key) -> noise`."""
  clean, noisy, spread = (jnp.asarray(x) for x in (plan.clean, plan.noisy, plan.spread))
  last = len(plan.signal) - 1

  def back(i, x):
    n = last - i
    mean = clean[n] * denoise(x, n) + noisy[n] * x
    return mean + spread[n] * draw(jax.random.fold_in(key, n))

  return jax.lax.fori_loop(0, last + 1, back, draw(jax.random.fold_in(key, last + 1)))
