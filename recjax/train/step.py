"""One update as a pure function of (state, assets, batch): sums first, one division at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from recjax.train.state import State
from recjax.types import FROZEN, Array, Assets, Batch, Loss, Params, System

Step = Callable[[State, Assets, Batch], tuple[State, Mapping[str, tuple[Array, Array]]]]


def make_step(
  system: System,
  optimizer: optax.GradientTransformation,
  *,
  accumulate: int = 1,
  ema: float = 0.0,
  compute_dtype: str | None = None,  # "bfloat16": the loss sees parameters in it, the master stays
  skip_bad: bool = False,  # leave out an update that is not finite or exploded, and count it
  max_loss: float = math.inf,  # beyond it, `skip_bad` takes a mean loss to have exploded
) -> Step:
  """The update of a system; its metrics are (sum, weight) pairs, `loss` and `grad_norm` among them.

  Micro-batches add their sums, weights and gradients, so accumulation changes no mean under
  uneven masks. A loss that couples examples sees one micro-batch at a time.
  """

  def loss(params: Params, assets: Assets, batch: Batch, key: Array) -> tuple[Array, Loss]:
    out = system.loss(_cast(_held(system, params), compute_dtype), assets, batch, key)
    return out.sum, out

  grad = jax.grad(loss, has_aux=True)

  def gradients(params, assets, batch, key):
    if accumulate == 1:
      return grad(params, assets, batch, key)

    def add(carry, micro):
      nth, batch = micro
      new = grad(params, assets, batch, jax.random.fold_in(key, nth))
      return jax.tree.map(jnp.add, carry, new), None

    micro = (jnp.arange(accumulate), _split(batch, accumulate))
    one = jax.eval_shape(grad, params, assets, jax.tree.map(lambda x: x[0], micro[1]), key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), one)
    return jax.lax.scan(add, zeros, micro)[0]

  def step(state: State, assets: Assets, batch: Batch):
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    loss_key, update_key = jax.random.split(key)
    grads, out = gradients(state.params, assets, batch, loss_key)
    scale = jnp.where(out.weight > 0, 1 / jnp.where(out.weight > 0, out.weight, 1), 0.0)
    grads = jax.tree.map(lambda g: g * scale, grads)
    norm = optax.tree.norm(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    if system.update is not None:
      params = system.update(params, assets, out.stats, update_key)
    mean = state.ema
    if ema:
      mean = jax.tree.map(lambda m, p: m + (1 - ema) * (p - m), state.ema, params)
    new = State(state.step + 1, params, opt_state, state.key, mean, state.skipped)
    if skip_bad:
      good = jnp.isfinite(norm) & (jnp.abs(out.sum * scale) <= max_loss)  # NaN is not
      kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state)
      new = kept._replace(step=new.step, skipped=state.skipped + ~good)
      # Left out of the log too: one bad batch must not make the mean of a hundred NaN.
      out = jax.tree.map(lambda x: jnp.where(good, x, jnp.zeros_like(x)), out)
      norm = jnp.where(good, norm, 0.0)
    counted = good.astype(jnp.float32) if skip_bad else jnp.float32(1)
    metrics = {"loss": (out.sum, out.weight), "grad_norm": (norm, counted), **out.metrics}
    return new, metrics

  return step


def fuse(step: Step) -> Step:
  """Steps over batches stacked on a new leading axis, in one call; metrics are stacked too."""

  def steps(state: State, assets: Assets, batches: Batch):
    return jax.lax.scan(lambda s, batch: step(s, assets, batch), state, batches)

  return steps


def _split(batch: Batch, parts: int) -> Batch:
  """[B, ...] -> [parts, B / parts, ...]; rows are dealt out, so that each device keeps its own."""

  def deal(x):
    if x.shape[0] % parts:
      raise ValueError(f"a batch of {x.shape[0]} does not split into {parts} micro-batches")
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

  return jax.tree.map(deal, dict(batch))


def _held(system: System, params: Params) -> Params:
  """Frozen parameters as constants: no gradient is computed for them, none enters the norm."""
  if system.trainable is None:
    return params
  return jax.tree.map(
    lambda p, label: jax.lax.stop_gradient(p) if label == FROZEN else p,
    params,
    system.trainable(params),
  )


def _cast(params: Params, dtype: str | None) -> Params:
  if dtype is None:
    return params
  return jax.tree.map(
    lambda p: p.astype(dtype) if jnp.issubdtype(p.dtype, jnp.floating) else p, params
  )
