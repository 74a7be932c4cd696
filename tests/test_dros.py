"""DROS: its term is the worst case over a ball of distributions, the rest is the backbone's."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.systems.sequential import dros, sasrec

ITEMS, T = 6, 4
COUNTS = np.array([0, 7, 0, 3, 1, 24])
SIZES = {"num_items": ITEMS, "max_len": T, "dim": 8, "layers": 1, "ff": 16, "dropout": 0.0}
BATCH = {
  "history": jnp.array([[0, 0, 1, 2], [3, 4, 5, 1], [1, 1, 1, 1]]),
  "next": jnp.array([[0, 0, 2, 5], [4, 5, 1, 2], [3, 3, 3, 3]]),
  "weight": jnp.array([1.0, 1.0, 0.0]),
}


def made(**changes):
  cfg = dros.Config(**SIZES, **changes)
  assets = dros.assets(cfg, COUNTS)
  params = jax.jit(dros.make(cfg).init)(jax.random.key(0), assets, BATCH)
  # A wide table, so that scores differ by more than rounding.
  return cfg, dros.make(cfg), assets, params | {"items": 20 * params["items"]}


def simplex(steps):
  """[N, 4] every distribution over four items whose shares are multiples of 1 / steps."""
  grid = np.stack(np.meshgrid(*[np.arange(steps + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
  grid = grid[grid.sum(1) <= steps]
  return np.concatenate([grid, steps - grid.sum(1, keepdims=True)], axis=1) / steps


def kl(p, q):
  return (p * np.log(np.where(p > 0, p, 1) / q)).sum(-1)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_the_term_is_the_worst_mean_error_in_a_ball(temperature):
  nominal, error = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.9, 0.1, 0.6, 0.3])
  every = simplex(100)
  far, mean = kl(every, nominal), every @ error
  term = float(dros.worst_case(jnp.array(error), jnp.log(jnp.array(nominal)), temperature))
  penalised = mean - temperature * far
  assert penalised.max() <= term + 1e-6
  np.testing.assert_allclose(term, penalised.max(), atol=1e-3)
  # The same ball by its radius: no distribution within it is worse.
  radius = far[penalised.argmax()]
  worst = mean[far <= radius].max()
  np.testing.assert_allclose(term + temperature * radius, worst, atol=1e-3)
  assert worst > nominal @ error + 0.01


def test_a_high_temperature_leaves_the_nominal_mean_and_a_low_one_the_greatest_error():
  log_nominal, error = jnp.log(jnp.array([0.25, 0.75])), jnp.array([[0.8, 0.4]])
  np.testing.assert_allclose(dros.worst_case(error, log_nominal, 1e3), [0.5], atol=1e-3)
  np.testing.assert_allclose(dros.worst_case(error, log_nominal, 1e-3), [0.8], atol=2e-3)


def test_shares_go_by_smoothed_counts_and_pad_has_none():
  shares = np.exp(dros.assets(dros.Config(**SIZES), COUNTS)["log_nominal"])
  root = np.sqrt([8, 1, 4, 2, 25])
  np.testing.assert_allclose(shares, np.concatenate([[0], root / root.sum()]), rtol=1e-6)


def test_the_loss_is_the_backbones_and_alpha_times_the_term():
  cfg, system, assets, params = made(alpha=0.3, temperature=0.5)
  key = jax.random.key(0)
  own = jax.jit(sasrec.make(sasrec.Config(**SIZES)).loss)(params, (), BATCH, key)
  states = sasrec.SASRec(cfg).apply({"params": params}, BATCH["history"], train=False)
  scores = np.asarray(states @ params["items"].T, np.float64)
  shares, wanted = np.exp(np.asarray(assets["log_nominal"], np.float64)), 0.0
  for b in range(2):
    for t in range(T):
      if BATCH["next"][b, t]:
        missed = 1 / (1 + np.exp(-scores[b, t]))
        missed[BATCH["next"][b, t]] -= 1
        wanted += 0.5 * np.log((shares * np.exp(missed**2 / 0.5)).sum())
  out = jax.jit(system.loss)(params, assets, BATCH, key)
  assert out.weight == own.weight == 2 + 4
  np.testing.assert_allclose(out.sum - own.sum, 0.3 * wanted, rtol=1e-4)
  np.testing.assert_allclose(out.metrics["robust"][0], wanted, rtol=1e-5)


@pytest.mark.parametrize("negatives", [0, 2])
def test_without_weight_the_loss_is_the_backbones(negatives):
  _, system, assets, params = made(alpha=0.0, negatives=negatives)
  own = sasrec.make(sasrec.Config(**SIZES, negatives=negatives))
  found = (jax.jit(s.loss)(params, assets, BATCH, jax.random.key(3)) for s in (system, own))
  chex.assert_trees_all_equal(*found)


def test_bad_settings_are_errors():
  with pytest.raises(ValueError, match="alpha=-1"):
    dros.Config(num_items=5, alpha=-1)
  with pytest.raises(ValueError, match="temperature=0 must be above 0"):
    dros.Config(num_items=5, temperature=0)
  with pytest.raises(ValueError, match="which needs negatives"):
    dros.Config(num_items=5, t=0.5)
  with pytest.raises(ValueError, match="there are 6 items"):
    dros.assets(dros.Config(**SIZES), COUNTS[1:])
  with pytest.raises(ValueError, match="not negative"):
    dros.assets(dros.Config(**SIZES), -COUNTS)
  with pytest.raises(ValueError, match="give `assets"):
    dros.make(dros.Config(**SIZES)).init(jax.random.key(0), (), BATCH)
