"""ACVAE: each player learns by its own gradient alone; latents are of the past, and their rows'."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax import losses
from recjax.systems.sequential import acvae
from recjax.train import mesh

ITEMS, T = 9, 4
CFG = acvae.Config(
  num_items=ITEMS, dim=6, state=5, latent=3, hidden=4, kernel=2, dropout=0.0, alpha=0.7, beta=0.4
)
BATCH = {
  "history": jnp.array([[0, 0, 1, 2], [3, 4, 5, 1], [1, 1, 1, 1]]),
  "next": jnp.array([[0, 0, 2, 5], [4, 5, 1, 2], [3, 3, 3, 3]]),
  "weight": jnp.array([1.0, 1.0, 0.0]),
}
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def params():
  """Wide, so that the parts of the loss differ by more than rounding."""
  found = jax.jit(acvae.make(CFG).init)(KEY, (), BATCH)
  return found | {"vae": found["vae"] | {n: 20 * found["vae"][n] for n in ("items", "output")}}


@functools.cache
def compiled(**changes):
  system = acvae.make(dataclasses.replace(CFG, **changes))

  def step(params, batch):
    out = system.loss(params, (), batch, KEY)
    return out.sum, out

  return jax.jit(jax.grad(step, has_aux=True))


def learned(params, batch=BATCH, **changes):
  """The loss and its gradient."""
  grads, out = compiled(**changes)(params, batch)
  return out, grads


def different(a, b):
  return any(np.abs(x - y).max() > 1e-6 for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_each_player_moves_by_its_own_gradient(params):
  """The adversary's is of its own error, the autoencoder's of all else."""
  out, grads = learned(params)
  without, plain = learned(params, alpha=0.0, beta=0.0)
  # No weight of the autoencoder's loss changes what the adversary learns, nor the other way round:
  # without the weights the autoencoder learns by reconstruction alone.
  jax.tree.map(np.testing.assert_array_equal, grads["adversary"], plain["adversary"])
  assert different(grads["vae"], plain["vae"]) and not any(
    np.any(x) for x in jax.tree.leaves(plain["critic"])
  )

  def told(own):
    def apply(*args, **more):
      return acvae.Autoencoder(CFG).apply({"params": own}, *args, **more)

    noise_key = jax.random.split(KEY, 3)[1]
    noise = jax.random.normal(noise_key, (2, 3, T, CFG.state))
    logits = apply(BATCH["history"], noise, train=False) @ own["output"].T + own["bias"]
    where = (BATCH["next"] != 0) & (BATCH["weight"] > 0)[:, None]
    return losses.softmax_xent(logits[..., 1:], BATCH["next"] - 1, where)[0]

  with jax.numpy_rank_promotion("allow"):
    wanted, gradient = jax.jit(jax.value_and_grad(told))(params["vae"])
  np.testing.assert_allclose(out.metrics["told"][0], wanted, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), plain["vae"], gradient)
  parts = {name: float(part[0]) for name, part in out.metrics.items()}
  total = parts["told"] + 0.7 * parts["kl"] + 0.4 * parts["contrast"] + parts["adversary"]
  np.testing.assert_allclose(out.sum, total, rtol=1e-5)


def test_a_small_step_of_a_player_is_down_what_it_plays_for(params):
  out, grads = learned(params)
  rate, weights = 1e-3, {"told": 1.0, "kl": CFG.alpha, "contrast": CFG.beta}
  for player, played in (("adversary", {"adversary": 1.0}), ("vae", weights)):
    moved = jax.tree.map(lambda x, g: x - rate * g, params[player], grads[player])
    after, _ = learned(params | {player: moved})
    fell = sum(w * (out.metrics[n][0] - after.metrics[n][0]) for n, w in played.items())
    square = sum(np.square(g).sum() for g in jax.tree.leaves(grads[player]))
    np.testing.assert_allclose(fell, rate * square, rtol=0.1)


def test_the_best_judge_says_the_log_ratio_whose_mean_is_the_divergence():
  own, other = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
  said = np.linspace(-3, 3, 6001)
  best = [
    said[(p * (a := acvae.told_apart(said, said))[0] + q * a[1]).argmin()]
    for p, q in zip(own, other, strict=True)
  ]
  np.testing.assert_allclose(best, np.log(own / other), atol=2e-3)
  np.testing.assert_allclose(own @ np.array(best), (own * np.log(own / other)).sum(), atol=2e-3)


def test_latents_of_zero_and_silent_judges_lose_what_guessing_does(params):
  blank = jax.tree.map(jnp.zeros_like, params)
  out, _ = learned(blank)
  places, pairs = 6, 2 * 2  # two rows that lend to each other where both have items
  assert out.weight == places
  np.testing.assert_allclose(out.metrics["told"][0], places * math.log(ITEMS - 1), rtol=1e-5)
  np.testing.assert_allclose(out.metrics["contrast"][0], (places + pairs) * math.log(2), rtol=1e-5)
  assert out.metrics["kl"][0] == 0
  prior = jax.random.normal(jax.random.split(KEY, 3)[2], (3, T, CFG.latent))
  where = (BATCH["next"] != 0) & (BATCH["weight"] > 0)[:, None]
  wanted = (math.log(2) + np.log1p(np.exp(np.square(prior) / 2))).mean(-1)[where].sum()
  np.testing.assert_allclose(out.metrics["adversary"][0], wanted, rtol=1e-5)


def test_a_row_alone_is_compared_with_nobody(params):
  blank = jax.tree.map(jnp.zeros_like, params)
  out, grads = learned(blank, BATCH | {"weight": jnp.array([1.0, 0.0, 0.0])})
  np.testing.assert_allclose(out.metrics["contrast"][0], 2 * math.log(2), rtol=1e-5)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.slow  # compiling for eight
def test_the_loss_is_the_same_on_any_number_of_devices(params):
  eight = {name: np.concatenate([x, x[:1], x[1:], x[:2]]) for name, x in BATCH.items()}
  spread = mesh.put_batch(eight, mesh.make_mesh())
  assert len(spread["history"].sharding.device_set) == 8
  alone, out = (learned(params, batch) for batch in (eight, spread))
  chex.assert_trees_all_close(*map(jax.device_get, (alone, out)), rtol=1e-4, atol=1e-5)


def test_a_latent_depends_on_no_later_item(params):
  noise = jax.random.normal(KEY, (2, 1, T, CFG.state))
  history = jnp.array([[1, 2, 3, 4]])
  encode = jax.jit(
    lambda x: acvae.Autoencoder(CFG).apply(
      {"params": params["vae"]}, x, noise, train=False, method=acvae.Autoencoder.encode
    )
  )
  moved = np.abs(encode(history) - encode(history.at[0, 2].set(8))).max(-1)[0]
  assert (moved[:2] == 0).all() and (moved[2:] > 1e-4).all()


def test_only_a_key_brings_noise_to_an_answer(params):
  system = acvae.make(CFG)
  answer = jax.jit(lambda key=None: system.recommend(params, (), BATCH, k=5, key=key).scores)
  np.testing.assert_array_equal(answer(), answer())
  first, again, other = (answer(jax.random.key(n)) for n in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 1e-3 and np.abs(first - answer()).max() > 1e-3


def test_bad_settings_are_errors():
  with pytest.raises(ValueError, match="beta=-1"):
    dataclasses.replace(CFG, beta=-1)
  with pytest.raises(ValueError, match="one place at least"):
    dataclasses.replace(CFG, kernel=0)
