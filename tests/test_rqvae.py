"""RQ-VAE: loss and gradients by hand, initialisation, restarts, running means, devices."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recjax.data import examples, loader
from recjax.data.errors import DataError
from recjax.semid import report, rqvae
from recjax.train import loop, mesh, optim, state, step
from recjax.types import FROZEN

KEY = jax.random.key(0)
SMALL = rqvae.Config(dim=12, hidden=(24,), latent=4, codes=(8, 8), memory=0.9)


def vectors(count=400, dim=12, seed=0):
  """Eight groups of four clusters each, and a little noise."""
  rng = np.random.default_rng(seed)
  group, cluster = rng.integers(8, size=count), rng.integers(4, size=count)
  x = 3 * rng.normal(size=(8, dim))[group] + rng.normal(size=(4, dim))[cluster]
  return (x + 0.1 * rng.normal(size=x.shape)).astype(np.float32)


def batches(x, size=64):
  source = examples.Examples({"vector": x})
  return loader.Batches(source, size, max_len=1, seed=0, epochs=None)


def train(cfg, x, steps=60, *, devices=1, rate=3e-3, accumulate=1):
  return loop.fit(
    rqvae.make(cfg),
    (),
    batches(x),
    loop.Config(
      steps=steps,
      optimizer=optim.Config(
        rate=rate,
        schedule="linear",
        group_rates={} if cfg.ema else {"codebooks": 5.0},
      ),
      accumulate=accumulate,
    ),
    mesh=mesh.make_mesh(devices=jax.devices()[:devices]),
    init_from=lambda params: rqvae.initialize(
      params, x, KEY, mesh=mesh.make_mesh(devices=jax.devices()[:devices])
    ),
  )


def by_hand(**options):
  """A model without layers to speak of: encoder and decoder are the identity of two numbers."""
  cfg = rqvae.Config(dim=2, hidden=(), latent=2, codes=(2, 2), restart=0.0, **options)
  one = ({"kernel": jnp.eye(2), "bias": jnp.zeros(2)},)
  books = (jnp.float32([[4, 0], [0, 4]]), jnp.float32([[1, 0], [0, -1]]))
  use = (jnp.full(2, 0.5),) * 2
  params = {
    "shift": jnp.zeros(2),
    "scale": jnp.ones(()),
    "encoder": one,
    "decoder": one,
    "codebooks": books,
    "use": use,
    "sums": tuple(0.5 * b for b in books) if cfg.ema else (),
  }
  return cfg, params


BATCH = {"vector": jnp.float32([[5, 1], [1, 3], [70, 70]]), "weight": jnp.float32([1, 1, 0])}
# (5, 1): code 0 of level 1 leaves (1, 1), code 0 of level 2 leaves (0, 1).
# (1, 3): code 1 leaves (1, -1); both codes of level 2 are 1 away, the tie goes to code 0: (0, -1).


def test_the_loss_is_hand_arithmetic():
  cfg, params = by_hand(beta=0.25)
  found = rqvae.make(cfg).loss(params, (), BATCH, KEY)
  error = 1 + 1  # what is left after both levels
  commit = (2 + 1) + (2 + 1)  # |(1, 1)|^2 + |(0, 1)|^2, |(1, -1)|^2 + |(0, -1)|^2
  assert found.weight == 2
  np.testing.assert_allclose(found.sum, error + (1 + 0.25) * commit, rtol=1e-6)
  assert found.metrics["reconstruction"] == (error, 2)
  assert found.metrics["quantization"] == (commit, 2)
  np.testing.assert_array_equal(found.stats[0]["count"], [1, 1])
  np.testing.assert_array_equal(found.stats[1]["count"], [2, 0])
  np.testing.assert_array_equal(found.stats[1]["error"], [2, 0])


def test_the_gradients_are_those_derived_by_hand():
  cfg, params = by_hand(beta=0.25)
  gradient = jax.grad(lambda p: rqvae.make(cfg).loss(p, (), BATCH, KEY).sum)(params)
  # A code is pulled to what its level was given: 2 (e - r), summed over those that took it.
  np.testing.assert_allclose(gradient["codebooks"][0], [[-2, -2], [-2, 2]], rtol=1e-6)
  np.testing.assert_allclose(gradient["codebooks"][1], [[0, 0], [0, 0]], atol=1e-6)
  # The encoder's bias sees, through the identity decoder, 2 (quantised - x) straight through, and
  # 2 beta (r - e) of both levels. For (5, 1): quantised (5, 0), so (0, -2), and 0.5 ((1, 1) +
  # (0, 1)); for (1, 3): quantised (1, 4), so (0, 2), and 0.5 ((1, -1) + (0, -1)).
  np.testing.assert_allclose(gradient["encoder"][0]["bias"], [1, 0], atol=1e-6)
  # The decoder's bias: 2 (quantised - x) alone.
  np.testing.assert_allclose(gradient["decoder"][0]["bias"], [0, 0], atol=1e-6)
  held = jax.grad(lambda p: rqvae.make(by_hand(beta=0.0)[0]).loss(p, (), BATCH, KEY).sum)(params)
  np.testing.assert_allclose(held["encoder"][0]["bias"], [0, 0], atol=1e-6)


def test_running_means_by_hand():
  cfg, params = by_hand(ema=0.75)
  system = rqvae.make(cfg)
  found = system.loss(params, (), BATCH, KEY)
  np.testing.assert_allclose(found.sum, 2 + 0.25 * 6, rtol=1e-6)  # codes are not in the loss
  assert system.trainable(params)["codebooks"] == (FROZEN, FROZEN)
  new = system.update(params, (), found.stats, KEY)
  # Level 1: half takes each code, as before, so a code is 3/4 of itself and 1/4 of its vector.
  np.testing.assert_allclose(
    new["codebooks"][0], [[0.75 * 4 + 0.25 * 5, 0.25], [0.25, 0.75 * 4 + 0.75]], rtol=1e-6
  )
  # Level 2: all take code 0, whose use goes to 0.75 / 2 + 0.25; code 1 stays where it is.
  np.testing.assert_allclose(new["use"][1], [0.625, 0.375], rtol=1e-6)
  np.testing.assert_allclose(
    new["codebooks"][1], [[(0.375 * 1 + 0.25 * 1) / 0.625, 0], [0, -1]], atol=1e-6
  )
  nothing = jax.tree.map(jnp.zeros_like, found.stats)
  chex.assert_trees_all_close(system.update(params, (), nothing, KEY), params)


def test_initialisation_is_k_means_on_the_real_residuals_of_each_level():
  x, system = vectors(), rqvae.make(SMALL)
  params = rqvae.initialize(system.init(KEY, (), {"vector": x}), x, KEY)
  z = np.asarray(system.embed(params, (), {"vector": x}))
  made = rqvae.quantizer(params)
  codes = made.encode(x)
  left = z
  for level, book in enumerate(made.codebooks):
    code = np.square(left[:, None] - book[None]).sum(-1).argmin(1)
    np.testing.assert_array_equal(codes[:, level], code)
    share = np.bincount(code, minlength=len(book)) / len(x)
    np.testing.assert_allclose(params["use"][level], share, atol=0.01)
    assert params["sums"] == ()  # kept for running means alone
    means = np.stack([left[code == k].mean(0) for k in range(len(book))])
    # Lloyd's had all but converged on exactly these residuals.
    assert np.square(means - book).sum() < 0.02 * np.square(book).sum()
    left = left - book[code]


@pytest.mark.parametrize(
  "options",
  [{}, {"ema": 0.9}, {"rotation": True, "sinkhorn": 0.05, "codes": (8, 4, 3)}],
  ids=str,
)
def test_training_lowers_the_reconstruction_error_and_uses_every_code(options):
  x, cfg = vectors(), dataclasses.replace(SMALL, **options)
  fresh = rqvae.initialize(rqvae.make(cfg).init(KEY, (), {"vector": x}), x, KEY)
  params = train(cfg, x, steps=150).params
  after = rqvae.quantizer(params)
  # What standardises the input is kept with the parameters and not trained.
  np.testing.assert_allclose(params["shift"], x.mean(0), rtol=1e-5)
  np.testing.assert_allclose(params["scale"], np.sqrt(x.var(0).mean()), rtol=1e-5)

  def error(made):
    return report.reconstruction(x, made.decode(made.encode(x)))

  assert error(after) < 0.5 * error(rqvae.quantizer(fresh)) and error(after) < 0.35
  codes = after.encode(x)
  assert [len(np.unique(c)) for c in codes.T] == list(cfg.codes)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_restarts_leave_no_dead_code_on_planted_clusters(ema):
  rng = np.random.default_rng(0)
  centers = rng.normal(size=(8, 12)) * 3
  x = (centers[np.arange(512) % 8] + 0.05 * rng.normal(size=(512, 12))).astype(np.float32)
  cfg = dataclasses.replace(SMALL, codes=(8,), ema=ema, memory=0.8, restart=0.1)

  # Codes faster than layers: they must keep up with latents that move.
  rates = optim.Config(rate=3e-3, schedule="linear", group_rates={} if ema else {"codebooks": 10.0})

  def used(cfg):
    system, data = rqvae.make(cfg), batches(x)
    optimizer = optim.make(rates, 300, system)
    s = state.create(system, optimizer, (), data[0], KEY)
    # All codes but the first so far away that no vector takes them.
    book = s.params["codebooks"][0].at[1:].add(1e3)
    sums = (book / 8,) if ema else ()
    s = s._replace(params={**s.params, "codebooks": (book,), "sums": sums})
    one = jax.jit(step.make_step(system, optimizer))
    for i in range(300):
      s, _ = one(s, (), data[i])
    return len(np.unique(rqvae.quantizer(s.params).encode(x)))

  if not ema:
    assert used(dataclasses.replace(cfg, restart=0.0)) == 1
  assert used(cfg) == 8


def test_a_restart_takes_half_of_the_worst_served_code():
  cfg = rqvae.Config(restart=0.5)
  book = jnp.float32([[0, 0], [10, 0], [99, 99], [0, 10]])
  use = jnp.float32([0.4, 0.2, 0.0, 0.4])
  seen = {"count": jnp.float32([4, 2, 0, 4]), "error": jnp.float32([1, 8, 0, 2])}
  new, share = rqvae._restart(book, use, seen, cfg, KEY)
  np.testing.assert_allclose(share, [0.4, 0.1, 0.1, 0.4], rtol=1e-6)
  np.testing.assert_array_equal(new[jnp.array([0, 1, 3])], book[jnp.array([0, 1, 3])])
  gap = np.linalg.norm(new[2] - book[1])
  assert 0 < gap < 0.1 * np.sqrt(8 / 2) * 4  # a tenth of a spread of 2, within four deviations


def test_micro_batches_and_devices_change_nothing():
  x, cfg = vectors(), dataclasses.replace(SMALL, ema=0.9)
  system = rqvae.make(cfg)
  start = rqvae.initialize(system.init(KEY, (), {"vector": x}), x, KEY)
  batch = batches(x[:100])[1]  # with rows that only fill
  assert 0 < batch["weight"].sum() < 64

  def after(accumulate, count):
    devices = mesh.make_mesh(devices=jax.devices()[:count])
    optimizer = optax.sgd(1e-2)
    s = state.State(jnp.int32(0), start, optimizer.init(start), jax.random.key_data(KEY))
    one = jax.jit(step.make_step(system, optimizer, accumulate=accumulate))
    return one(mesh.put(s, devices), (), mesh.put_batch(batch, devices))[0].params

  whole = jax.device_get(after(1, 1))
  chex.assert_trees_all_close(jax.device_get(after(4, 1)), whole, rtol=1e-4, atol=1e-5)
  chex.assert_trees_all_close(jax.device_get(after(1, 8)), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_run_gives_the_same_bits_again():
  x = vectors(200)
  chex.assert_trees_all_equal(*(train(SMALL, x, steps=8).params for _ in range(2)))


def test_bad_input_is_named():
  system, x = rqvae.make(SMALL), vectors(50)
  params = system.init(KEY, (), {"vector": x})
  broken = x.copy()
  broken[7, 3] = np.nan
  with pytest.raises(DataError, match="vector 7 is not finite"):
    rqvae.initialize(params, broken, KEY)
  with pytest.raises(DataError, match="all 50 vectors are the same"):
    rqvae.initialize(params, np.ones((50, 12), np.float32), KEY)
  with pytest.raises(DataError, match="level 0: 8 codes need .* 5 among 5"):
    rqvae.initialize(params, x[:5], KEY)
  with pytest.raises(DataError, match=r"vectors \[N, 12\] are needed"):
    rqvae.initialize(params, x[:, :3], KEY)
  with pytest.raises(ValueError, match="12 wide, the config says 768"):
    rqvae.make(rqvae.Config()).init(KEY, (), {"vector": x})
  with pytest.raises(ValueError, match="at least 2 codes"):
    rqvae.Config(codes=(256, 1))
  for name, value in (("ema", 1.0), ("beta", -1.0), ("memory", 1.0), ("restart", 2.0)):
    with pytest.raises(ValueError, match=f"{name} must lie in"):
      rqvae.Config(**{name: value})
  with pytest.raises(ValueError, match="widths must be positive"):
    rqvae.Config(latent=0)


def test_the_standardisation_has_no_gradient_for_any_loop():
  system, x = rqvae.make(SMALL), vectors(50)
  params = system.init(KEY, (), {"vector": x})
  batch = {"vector": jnp.asarray(x), "weight": jnp.ones(50)}
  found = jax.grad(lambda p: system.loss(p, (), batch, KEY).sum)(params)
  assert not found["shift"].any() and not found["scale"].any()
  assert np.abs(found["encoder"][0]["kernel"]).max() > 0


def test_the_defaults_are_tigers():
  shapes = jax.eval_shape(rqvae.make(rqvae.Config()).init, KEY, (), {"vector": jnp.zeros((1, 768))})
  widths = [layer["kernel"].shape for layer in shapes["encoder"]]
  assert widths == [(768, 512), (512, 256), (256, 128), (128, 32)]
  assert [b.shape for b in shapes["codebooks"]] == [(256, 32)] * 3
  assert rqvae.Config().beta == 0.25
