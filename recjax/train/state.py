"""What changes while a model trains, as one value: a step takes it and returns the next."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from recjax.types import Array, Assets, Batch, Params, System


class State(NamedTuple):
  step: Array  # [] int32, batches consumed: also the loader's position
  params: Params
  opt_state: optax.OptState
  key: Array  # [2] uint32, the run's key; each step folds its number in
  ema: Params = ()  # the running mean of params, where one is kept
  skipped: Array | tuple = ()  # [] int32, updates left out because they were not finite


def create(
  system: System,
  optimizer: optax.GradientTransformation,
  assets: Assets,
  batch: Batch,
  key: Array,
  *,
  ema: bool = False,
) -> State:
  """A fresh state. Pure, so that it can be jitted with sharded outputs: no host holds it whole."""
  init_key, run_key = jax.random.split(key)
  params = system.init(init_key, assets, batch)
  return State(
    step=jnp.int32(0),
    params=params,
    opt_state=optimizer.init(params),
    key=jax.random.key_data(run_key),
    ema=jax.tree.map(jnp.copy, params) if ema else (),
    skipped=jnp.int32(0),
  )


def answering(state: State) -> Params:
  """The parameters to evaluate and to serve: the running mean where one is kept."""
  return state.ema or state.params
