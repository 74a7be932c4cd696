"""AdaptSSR: the ranking by hand, who counts, and what the second stage takes over."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.systems.pretrain import adaptssr
from recjax.train import mesh, stages

ITEMS, T, B = 20, 10, 8
CFG = adaptssr.Config(num_items=ITEMS, max_len=T, dim=8, heads=2, layers=1, ff=16, dropout=0.2)


def batch(weight=(1,) * B):
  rng = np.random.default_rng(0)
  history = np.stack([rng.permutation(ITEMS - 1)[:T] + 1 for _ in weight])
  history[np.arange(T)[None] < rng.integers(0, T - 2, len(weight))[:, None]] = 0
  return {
    "history": jnp.asarray(history),
    "next": jnp.asarray(np.where(history == 0, 0, np.roll(history, -1, 1))),
    "weight": jnp.asarray(weight, jnp.float32),
  }


def by_hand(readings, counts):
  """The paper's loss of readings [B, 2, 2, D], one user, view and reading after the other."""
  u = readings / np.linalg.norm(readings, axis=-1, keepdims=True)
  total = 0.0
  for i in np.flatnonzero(counts):
    across = [u[i, 0, a] @ u[i, 1, b] for a in (0, 1) for b in (0, 1)]
    weight = 1 - np.mean([max(s, 0) for s in across])
    for view in (0, 1):
      own = u[i, view, 0]
      close = own @ u[i, view, 1]
      middle = [own @ u[i, 1 - view, b] for b in (0, 1)]
      far = [
        own @ u[j, v, r] for j in np.flatnonzero(counts) if j != i for v in (0, 1) for r in (0, 1)
      ]
      margin = weight * (close - max(middle)) + (1 - weight) * (min(middle) - max(far))
      total += np.log1p(np.exp(-margin)) / 2
  return total


def test_the_ranking_is_the_papers_in_the_rows_that_count():
  readings = np.random.default_rng(1).normal(size=(5, 2, 2, 3))
  readings[3] = readings[3, :1, :1] + 0.1 * readings[3]  # a user whose views are nearly the same
  counts = np.array([True, True, False, True, True])
  total, count = jax.jit(adaptssr.ranked)(jnp.asarray(readings, jnp.float32), jnp.asarray(counts))
  np.testing.assert_allclose(total, by_hand(readings, counts), rtol=1e-5)
  assert count == 4


def test_the_weight_between_the_halves_is_no_way_to_lower_the_loss():
  """One user's views, moved apart, would raise the weight of the half that is already won."""
  readings = jnp.asarray(np.random.default_rng(2).normal(size=(1, 2, 2, 3)), jnp.float32)
  where = jnp.array([True])
  got = jax.grad(lambda x: adaptssr.ranked(x, where)[0])(readings)

  def held(x):
    u, v = (y / jnp.linalg.norm(y, axis=-1, keepdims=True) for y in (x, readings))
    across = jnp.einsum("bid,bjd->bij", v[:, 0], v[:, 1])[0]
    weight = 1 - jnp.maximum(across, 0).mean()
    total = 0.0
    for view in (0, 1):  # nobody else is there: the first half alone
      own = u[0, view, 0]
      middle = jnp.maximum(own @ u[0, 1 - view, 0], own @ u[0, 1 - view, 1])
      total += jax.nn.softplus(-weight * (own @ u[0, view, 1] - middle)) / 2
    return total

  np.testing.assert_allclose(got, jax.grad(held)(readings), atol=1e-5)
  assert np.abs(got).max() > 0.01


def test_rows_that_only_fill_are_nobodys_others():
  system, key = adaptssr.make_pretrain(CFG), jax.random.key(3)
  params = system.init(key, (), batch())
  loss = jax.jit(lambda params, x: system.loss(params, (), x, key)[:2])
  some = batch((1, 1, 1, 1, 1, 0, 0, 0))
  other = some | {"history": some["history"].at[5:].set(some["history"][:3])}
  chex.assert_trees_all_close(loss(params, some), loss(params, other), rtol=1e-6)
  empty = batch() | {"history": batch()["history"].at[5:].set(0)}  # so are those of no history
  assert loss(params, empty)[1] == 5
  grads = jax.jit(jax.grad(lambda params: system.loss(params, (), empty, key).sum))(params)
  chex.assert_tree_all_finite(grads)


def test_pretraining_sees_all_rows_whatever_the_devices():
  system, key = adaptssr.make_pretrain(CFG), jax.random.key(3)
  params = system.init(key, (), batch())
  found = []
  for devices in (1, 8):
    where = mesh.make_mesh(devices=jax.devices()[:devices])
    with where:
      x = jax.device_put(batch(), mesh.batch_sharding(where))
      found.append(jax.jit(lambda params, x: system.loss(params, (), x, key)[:2])(params, x))
  chex.assert_trees_all_close(*(jax.device_get(f) for f in found), rtol=1e-5)


def test_the_second_stage_starts_from_all_that_the_first_has_learned():
  first, second = adaptssr.make_pretrain(CFG), adaptssr.make(CFG)
  ours, theirs = (s.init(jax.random.key(n), (), batch()) for n, s in enumerate((second, first)))
  taken = stages.transfer(ours, theirs, adaptssr.SHARED)
  chex.assert_trees_all_equal(taken, theirs)
  embedded = [s.embed(theirs, (), batch()) for s in (first, second)]
  np.testing.assert_array_equal(*embedded)
  assert first.recommend is None and second.recommend is not None


def test_readings_that_could_not_differ_are_refused():
  with pytest.raises(ValueError, match="dropout=0 makes both readings of a view the same"):
    adaptssr.make_pretrain(dataclasses.replace(CFG, dropout=0.0))
  with pytest.raises(ValueError, match="crop=1.5 is a share of a history"):
    dataclasses.replace(CFG, crop=1.5)
