"""GRU4Rec: it never looks ahead, its negatives are the batch's, and its losses the papers'."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from recjax import losses
from recjax.systems.sequential import gru4rec

B, T, ITEMS = 4, 5, 20
CFG = gru4rec.Config(num_items=ITEMS, dim=8, dropout=0.0)


def batch_of():
  """Two users, one with padding, and two rows that only fill."""
  rng = np.random.default_rng(0)
  events = rng.integers(1, 10, (B, T + 1))
  events[1, :2] = 0
  following = np.where(events[:, :-1] == 0, 0, events[:, 1:])
  return {
    "history": jnp.asarray(events[:, :-1], jnp.int32),
    "next": jnp.asarray(following, jnp.int32),
    "weight": jnp.array([1.0, 1.0, 0.0, 0.0]),
  }


def made(assets=(), **changes):
  cfg = dataclasses.replace(CFG, **changes)
  system = gru4rec.make(cfg)
  params = system.init(jax.random.key(0), assets, batch_of())
  bias = jax.random.normal(jax.random.key(1), (ITEMS,))
  return cfg, system, params | {"bias": bias}


def states(cfg, params, history):
  return gru4rec.GRU4Rec(cfg).apply({"params": params}, history, train=False)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_state_depends_on_no_later_item_and_on_all_before(layers):
  cfg, _, params = made(layers=layers)
  history = jnp.arange(1, T + 1)[None]  # each place an item of its own, to differentiate by

  @jax.jit
  @jax.jacrev
  def moved(items):
    return states(cfg, params | {"items": items}, history)[0].sum(-1)  # [T]

  at = np.abs(moved(params["items"])).sum(-1)[:, 1 : T + 1]
  np.testing.assert_array_equal(at > 0, np.tri(T))


@pytest.mark.parametrize("tied", [False, True])
def test_cross_entropy_is_over_all_items_but_pad(tied):
  cfg, system, params = made(tied=tied)
  assert ("output" in params) == (not tied)
  batch = batch_of()
  table = params["items" if tied else "output"]
  logits = np.asarray(states(cfg, params, batch["history"]) @ table.T + params["bias"][None, None])
  wanted = count = 0
  for b, t in np.argwhere(np.asarray(batch["next"][:2]) != 0):
    wanted += scipy.special.logsumexp(logits[b, t, 1:]) - logits[b, t, batch["next"][b, t]]
    count += 1
  out = system.loss(params, (), batch, jax.random.key(0))
  np.testing.assert_allclose(out.sum, wanted, rtol=1e-5)
  assert out.weight == count


@pytest.mark.parametrize("name", ["cross_entropy", "bpr_max", "top1_max"])
def test_negatives_are_the_last_targets_of_the_other_rows(name):
  """And neither a place's own target nor, at earlier places, the own row's."""
  samples = 0 if name != "cross_entropy" else 1
  cfg, system, params = made(loss=name, samples=samples)
  if samples:
    # The drawn item is a certain one, whose logit is hopeless: what is left is the batch's.
    params["bias"] = params["bias"].at[10:].set(-1e9)
    key = next(
      k for k in map(jax.random.key, range(99))
      if gru4rec._sample(cfg, (), jax.random.split(k)[1])[0] >= 10
    )  # fmt: skip
  else:
    key = jax.random.key(0)
  batch = batch_of()
  batch["history"] = jnp.array([[1, 2, 3, 4, 5], [0, 0, 2, 7, 9], [0, 0, 0, 1, 2], [3] * 5])
  batch["next"] = jnp.array([[2, 3, 4, 5, 6], [0, 0, 7, 9, 8], [0, 0, 0, 2, 4], [3] * 5])
  batch["weight"] = jnp.array([1.0, 1.0, 1.0, 0.0])
  last = [6, 8, 4]  # of the rows that count
  logits = states(cfg, params, batch["history"]) @ params["items"].T + params["bias"][None, None]
  compare = {
    "cross_entropy": losses.sampled_softmax_xent,
    "bpr_max": losses.bpr_max,
    "top1_max": losses.top1_max,
  }[name]
  wanted = 0.0
  for b, t in np.argwhere(np.asarray(batch["next"][:3]) != 0):
    own = int(batch["next"][b, t])
    others = jnp.array([i for row, i in enumerate(last) if row != b and i != own])
    wanted += compare(logits[b, t, own][None], logits[b, t, others][None])[0]
  out = system.loss(params, (), batch, key)
  np.testing.assert_allclose(out.sum, wanted, rtol=1e-5)


def test_samples_follow_the_counts():
  cfg = dataclasses.replace(CFG, samples=40_000, alpha=0.5)
  counts = np.zeros(ITEMS)
  counts[[0, 3, 7, 19]] = 50, 1, 4, 9  # PAD's count means nothing
  drawn = np.asarray(gru4rec._sample(cfg, gru4rec.assets(cfg, counts), jax.random.key(0)))
  share = np.bincount(drawn, minlength=ITEMS) / len(drawn)
  wanted = np.zeros(ITEMS)
  wanted[[3, 7, 19]] = np.array([1, 2, 3]) / 6
  np.testing.assert_allclose(share, wanted, atol=0.01)
  even = np.asarray(gru4rec._sample(dataclasses.replace(cfg, alpha=0.0), (), jax.random.key(0)))
  np.testing.assert_allclose(np.bincount(even, minlength=ITEMS)[1:] / 40_000, 1 / 19, atol=0.01)


@pytest.mark.parametrize("name", ["cross_entropy", "bpr_max", "top1_max"])
def test_gradients_are_finite_when_every_negative_is_the_target(name):
  _, system, params = made(loss=name, samples=2)
  one = jnp.full((B, T), 1)
  batch = {"history": one, "next": one, "weight": jnp.ones(B)}
  params = params | {"bias": jnp.zeros(ITEMS)}
  loss = jax.jit(lambda p: system.loss(p, (), batch, jax.random.key(0)).sum)
  grads = jax.grad(loss)(params)
  chex.assert_tree_all_finite(grads)


def test_bad_settings_are_errors():
  with pytest.raises(ValueError, match="no loss 'bpr'; there is cross_entropy"):
    gru4rec.Config(num_items=5, loss="bpr")
  with pytest.raises(ValueError, match="alpha=0.5 says how samples are drawn"):
    gru4rec.Config(num_items=5, alpha=0.5)
  cfg = dataclasses.replace(CFG, loss="bpr_max", samples=4, alpha=0.5)
  with pytest.raises(ValueError, match="give `assets"):
    gru4rec.make(cfg).init(jax.random.key(0), (), batch_of())
  with pytest.raises(ValueError, match=r"counts has shape \(3,\)"):
    gru4rec.assets(cfg, np.ones(3))
  with pytest.raises(ValueError, match="not all 0"):
    gru4rec.assets(cfg, np.zeros(ITEMS))
