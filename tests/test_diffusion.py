"""Diffusion: closed forms are those of the single steps; a perfect model brings a vector back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.nn import diffusion

STEPS, LOW, HIGH = 8, 0.1, 10.0


def rates():
  """[N] share of variance that each step replaces: the rate's integral over a step, by sums."""
  fine = 10_000
  time = (np.arange(STEPS * fine) + 0.5) / (STEPS * fine)
  return 1 - np.exp(-(LOW + (HIGH - LOW) * time).reshape(STEPS, fine).mean(1) / STEPS)


def test_many_steps_at_once_are_the_steps_one_by_one():
  plan, mean, variance = diffusion.schedule(STEPS, LOW, HIGH), 1.0, 0.0
  for n, rate in enumerate(rates()):
    mean, variance = mean * np.sqrt(1 - rate), variance * (1 - rate) + rate
    np.testing.assert_allclose([plan.signal[n], plan.noise[n] ** 2], [mean, variance], rtol=1e-5)
  assert plan.signal[-1] < 0.1 and all(x.dtype == np.float32 for x in plan)


def test_noisy_vectors_have_the_closed_forms_mean_and_variance():
  plan, clean = diffusion.schedule(STEPS, LOW, HIGH), np.array([3.0, -1.0], np.float32)
  noise = np.random.default_rng(0).normal(size=(50_000, 2)).astype(np.float32)
  step = jnp.full(len(noise), 2)
  found = np.asarray(diffusion.forward(plan, jnp.tile(clean, (len(noise), 1)), step, noise))
  kept = np.prod(1 - rates()[:3])
  np.testing.assert_allclose(found.mean(0), np.sqrt(kept) * clean, atol=0.01)
  np.testing.assert_allclose(found.var(0), 1 - kept, rtol=0.02)


def test_a_step_back_is_by_bayes_rule():
  """Of two Gaussians: where the vector was before, and what the step made of it."""
  plan, rate = diffusion.schedule(STEPS, LOW, HIGH), rates()
  for n in range(1, STEPS):
    prior, likely = 1 / plan.noise[n - 1] ** 2, (1 - rate[n]) / rate[n]  # precisions
    spread = 1 / (prior + likely)
    np.testing.assert_allclose(plan.spread[n] ** 2, spread, rtol=1e-4)
    np.testing.assert_allclose(plan.clean[n], spread * prior * plan.signal[n - 1], rtol=1e-4)
    np.testing.assert_allclose(plan.noisy[n], spread * np.sqrt(1 - rate[n]) / rate[n], rtol=1e-4)
  np.testing.assert_allclose([plan.clean[0], plan.noisy[0], plan.spread[0]], [1, 0, 0], atol=1e-6)


@pytest.mark.parametrize("steps", [1, STEPS])
def test_a_perfect_model_brings_the_vector_back(steps):
  plan, wanted = diffusion.schedule(steps, LOW, HIGH), jnp.array([[1.0, -2.0], [0.5, 7.0]])
  found = diffusion.reverse(
    plan, lambda noisy, n: wanted, lambda key: jax.random.normal(key, (2, 2)), jax.random.key(0)
  )
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_each_step_back_mixes_what_came_with_what_is_told_and_adds_noise():
  """Told half of what came: the variance follows by hand, from one."""
  plan = diffusion.schedule(STEPS, LOW, HIGH)
  found = diffusion.reverse(
    plan, lambda x, n: x * 0.5, lambda key: jax.random.normal(key, (50_000,)), jax.random.key(1)
  )
  variance = 1.0
  for n in range(STEPS - 1, -1, -1):
    variance = variance * (0.5 * plan.clean[n] + plan.noisy[n]) ** 2 + plan.spread[n] ** 2
  np.testing.assert_allclose(np.var(found), variance, rtol=0.03)


def test_bad_settings_are_errors():
  with pytest.raises(ValueError, match="one step at least"):
    diffusion.schedule(0, LOW, HIGH)
  with pytest.raises(ValueError, match="0 < beta_min <= beta_max"):
    diffusion.schedule(5, 3.0, 1.0)
