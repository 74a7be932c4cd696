"""One update: sums and weights, accumulation, groups, schedules, skipped steps, devices."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from jax.sharding import PartitionSpec as P

from recjax.train import loop, mesh, optim, state, step
from recjax.types import FROZEN, Loss, System


def linear(**more):
  """loss = sum over examples of w * x, so the gradient of w is the weighted mean of x."""

  def loss(params, assets, batch, key):
    return Loss((params["w"] * batch["x"] * batch["weight"]).sum(), batch["weight"].sum())

  return System(lambda key, assets, batch: {"w": jnp.ones(())}, loss, **more)


def take(system, optimizer, batch, count=1, **options):
  s = state.create(system, optimizer, (), batch, jax.random.key(0), ema=bool(options.get("ema")))
  one = jax.jit(step.make_step(system, optimizer, **options))
  for _ in range(count):
    s, metrics = one(s, (), batch)
  return s, metrics


def test_a_step_divides_the_sum_by_the_weight_once():
  batch = {"x": jnp.array([1.0, 2.0, 9.0, 9.0]), "weight": jnp.array([1.0, 1.0, 0.0, 0.0])}
  s, metrics = take(linear(), optax.sgd(0.1), batch)
  np.testing.assert_allclose(s.params["w"], 1 - 0.1 * 1.5, rtol=1e-6)
  assert metrics["loss"] == (3.0, 2.0) and s.step == 1
  np.testing.assert_allclose(metrics["grad_norm"][0], 1.5, rtol=1e-6)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_under_uneven_masks_is_the_whole_batch(parts):
  batch = {"x": jnp.arange(8.0), "weight": jnp.array([1.0, 1, 0, 0, 0, 0, 0, 1])}
  whole, metrics = take(linear(), optax.sgd(0.1), batch)
  dealt, dealt_metrics = take(linear(), optax.sgd(0.1), batch, accumulate=parts)
  chex.assert_trees_all_close((whole, metrics), (dealt, dealt_metrics), rtol=1e-6)


def test_a_batch_that_does_not_split_is_refused():
  batch = {"x": jnp.ones(6), "weight": jnp.ones(6)}
  with pytest.raises(ValueError, match="6 does not split into 4"):
    take(linear(), optax.sgd(0.1), batch, accumulate=4)


def test_nothing_that_counts_changes_nothing():
  batch = {"x": jnp.ones(4), "weight": jnp.zeros(4)}
  s, _ = take(linear(), optax.sgd(0.1), batch)
  assert s.params["w"] == 1


def test_the_running_mean_follows_by_its_decay():
  batch = {"x": jnp.ones(2), "weight": jnp.ones(2)}
  s, _ = take(linear(), optax.sgd(0.5), batch, count=2, ema=0.9)
  first = 0.9 * 1 + 0.1 * 0.5
  np.testing.assert_allclose(s.ema["w"], 0.9 * first + 0.1 * 0.0, rtol=1e-6)
  assert state.answering(s) is s.ema and state.answering(s._replace(ema=())) is s.params


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_bad_update_is_left_out_and_counted(bad):
  good = {"x": jnp.ones(2), "weight": jnp.ones(2)}
  optimizer = optax.adam(0.1)
  one = jax.jit(step.make_step(linear(), optimizer, skip_bad=True, ema=0.5))
  s = state.create(linear(), optimizer, (), good, jax.random.key(0), ema=True)
  s, _ = one(s, (), good)
  after, metrics = one(s, (), {**good, "x": jnp.array([1.0, bad])})
  assert after.step == 2 and after.skipped == 1
  chex.assert_trees_all_equal(after._replace(step=s.step, skipped=s.skipped), s)
  assert metrics["loss"] == (0.0, 0.0)


def test_update_sees_the_statistics_and_runs_after_the_optimiser():
  def loss(params, assets, batch, key):
    return Loss(params["w"] * 0, jnp.float32(1), stats=batch["x"].sum())

  def update(params, assets, stats, key):
    return {"w": params["w"] + stats}

  system = System(lambda *_: {"w": jnp.zeros(())}, loss, update=update)
  batch = {"x": jnp.arange(4.0)}
  assert take(system, optax.sgd(0.1), batch)[0].params["w"] == 6
  assert take(system, optax.sgd(0.1), batch, accumulate=2)[0].params["w"] == 6


def two_towers():
  def loss(params, assets, batch, key):
    return Loss(sum(p.sum() for p in params.values()), jnp.float32(1))

  def trainable(params):
    return {"lm": FROZEN, "adapter": "adapter", "head": "head"}

  params = {name: jnp.ones((2, 2)) for name in ("lm", "adapter", "head")}
  return System(lambda *_: params, loss, trainable=trainable)


def test_frozen_parameters_stay_and_groups_have_their_rates():
  cfg = optim.Config(name="sgd", rate=0.1, b1=0.0, clip=None, group_rates={"head": 10.0})
  system = two_towers()
  s, metrics = take(system, optim.make(cfg, 10, system), {"x": jnp.ones(1)})
  np.testing.assert_array_equal(s.params["lm"], 1)
  np.testing.assert_allclose(s.params["adapter"], 0.9, rtol=1e-6)
  np.testing.assert_allclose(s.params["head"], 0.0, atol=1e-6)
  # the frozen part has no gradient, so it neither enters the norm nor tightens the clipping
  np.testing.assert_allclose(metrics["grad_norm"][0], np.sqrt(8), rtol=1e-6)
  with pytest.raises(ValueError, match=r"labelled \['nose'\]"):
    cfg = dataclasses.replace(cfg, group_rates={"nose": 2.0})
    take(system, optim.make(cfg, 10, system), {"x": jnp.ones(1)})


def test_frozen_parameters_have_no_moments():
  system = two_towers()
  s, _ = take(system, optim.make(optim.Config(), 10, system), {"x": jnp.ones(1)})
  moments = [x for x in jax.tree.leaves(s.opt_state) if x.shape == (2, 2)]
  assert len(moments) == 4  # two groups, two moments each


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "muon", "sgd"])
def test_every_optimiser_learns(name):
  x = toy.log()
  system, batches = toy.make(x.num_items, rate=0.0), toy.batches(x)
  rate = {"sgd": 1.0, "lion": 3e-3, "adafactor": 0.1, "muon": 0.05}.get(name, 1e-2)
  cfg = optim.Config(name=name, rate=rate, weight_decay=1e-4)
  optimizer = optim.make(cfg, 60, system)
  s = state.create(system, optimizer, (), batches[0], jax.random.key(0))
  one = jax.jit(step.make_step(system, optimizer))
  costs = []
  for i in range(60):
    s, metrics = one(s, (), batches[i])
    costs.append(float(metrics["loss"][0] / metrics["loss"][1]))
  assert costs[-1] < 0.75 * costs[0]


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "muon", "sgd"])
def test_decay_is_the_rate_times_its_share_of_matrices_alone(name):
  b1 = 0.0 if name == "sgd" else 0.9  # a momentum would hold the decay of steps before
  cfg = optim.Config(name=name, rate=1e-3, schedule="linear", weight_decay=0.01, b1=b1)
  params = {"w": jnp.ones((8, 4)), "kernel": jnp.ones((2, 3, 4)), "bias": jnp.ones(4)}
  optimizer = optim.make(cfg, 10, toy.make(3))
  kept = optimizer.init(params)
  zero = jax.tree.map(jnp.zeros_like, params)
  for rate in (1e-3, 0.9e-3):
    change, kept = optimizer.update(zero, kept, params)
    np.testing.assert_allclose(change["w"], -0.01 * rate, rtol=1e-5)
    np.testing.assert_allclose(change["kernel"], -0.01 * rate, rtol=1e-5)
    np.testing.assert_allclose(change["bias"], 0, atol=1e-9)


def test_rates_of_groups_that_there_are_not_are_refused():
  with pytest.raises(ValueError, match="no groups"):
    optim.make(optim.Config(group_rates={"head": 9.0}), 10, toy.make(3))


def test_schedules_by_hand():
  def at(steps, **options):
    f = optim.schedule(optim.Config(rate=2.0, **options), 100)
    return [float(f(n)) for n in steps]

  np.testing.assert_allclose(at([0, 5, 10, 99], warmup=10), [0, 1, 2, 2])
  cosine = at([0, 10, 55, 100], warmup=10, schedule="cosine", final=0.1)
  np.testing.assert_allclose(cosine, [0, 2, 1.1, 0.2], rtol=1e-5)
  np.testing.assert_allclose(at([0, 50, 100], schedule="linear"), [2, 1, 0], atol=1e-6)
  rsqrt = at([10, 40, 90], warmup=10, schedule="rsqrt")
  np.testing.assert_allclose(rsqrt, [2, 1, 2 / 3], rtol=1e-5)
  with pytest.raises(ValueError, match="no schedule 'step'; there is constant"):
    at([0], schedule="step")
  with pytest.raises(ValueError, match="no optimiser 'adam'; there is adamw"):
    optim.make(optim.Config(name="adam"), 10, linear())


def test_bfloat16_compute_keeps_a_float32_master():
  def loss(params, assets, batch, key):
    assert params["w"].dtype == jnp.bfloat16
    return Loss((params["w"] * batch["x"]).astype(jnp.float32).sum(), jnp.float32(2))

  system = System(lambda *_: {"w": jnp.ones(2)}, loss)
  s, _ = take(system, optax.sgd(1e-4), {"x": jnp.ones(2)}, compute_dtype="bfloat16")
  assert s.params["w"].dtype == jnp.float32 and (s.params["w"] < 1).all()  # 1 - 5e-5 in float32


def curve(devices, rules=(), count=20, fused=1, **axes):
  """The loss of each step on a mesh, with dropout and uneven masks."""
  x = toy.log()
  system, batches = toy.make(x.num_items + 7), toy.batches(x)  # 32 rows: they split 8 ways
  grid = mesh.make_mesh(devices=jax.devices()[:devices], **axes)
  cfg = loop.Config(steps=count, optimizer=optim.Config(rate=1e-2, weight_decay=0.01))
  optimizer = optim.make(cfg.optimizer, count, system)
  s = loop.fresh(system, optimizer, (), mesh.put_batch(batches[0], grid), cfg, grid, rules)
  one = step.make_step(system, optimizer)
  run = jax.jit(step.fuse(one) if fused > 1 else one)
  costs = []
  for i in range(0, count, fused):
    if fused > 1:
      group = {k: np.stack([batches[i + j][k] for j in range(fused)]) for k in batches[i]}
      s, metrics = run(s, (), mesh.put_batch(group, grid, stacked=True))
    else:
      s, metrics = run(s, (), mesh.put_batch(batches[i], grid))
    costs += np.ravel(metrics["loss"][0] / metrics["loss"][1]).tolist()
  return np.array(costs), s


TENSOR = (
  ("items/embedding", P("model", None)),
  ("up/kernel", P(None, "model")),
  ("down/kernel", P("model", None)),
)


@pytest.mark.parametrize(
  ("axes", "rules"),
  [
    ({}, ()),
    ({"fsdp": 8}, (("kernel|embedding", P("fsdp")),)),
    ({"fsdp": 2, "model": 2}, TENSOR),
    ({"model": 8}, TENSOR),
  ],
)
def test_the_loss_curve_is_that_of_one_device(axes, rules):
  alone, _ = curve(1)
  many, s = curve(8, rules, **axes)
  np.testing.assert_allclose(many, alone, rtol=0, atol=1e-5)
  assert alone[-1] < alone[0]
  if "model" in axes:
    placed = s.opt_state[1][0].mu["items"]["embedding"].sharding.spec
    assert placed[0] == "model"  # the moments lie where their table lies


def test_fused_steps_are_the_same_steps():
  np.testing.assert_allclose(curve(1, fused=5)[0], curve(1)[0], rtol=0, atol=1e-5)


def test_large_parameters_are_sharded_without_a_rule():
  grid = mesh.make_mesh(fsdp=4, data=2)
  shapes = {"big": jax.ShapeDtypeStruct((64, 1024), jnp.float32), "small": jnp.zeros(8)}
  placed = mesh.shardings(shapes, grid)
  assert placed["big"].spec == P(None, "fsdp") and placed["small"].spec == P()


def test_a_mesh_or_a_table_that_does_not_fit_is_named():
  with pytest.raises(ValueError, match="8 devices do not form a mesh"):
    mesh.make_mesh(fsdp=3)
  grid = mesh.make_mesh(model=8)
  with pytest.raises(ValueError, match=r"items of shape \(9, 4\) does not split 8 ways.*Pad"):
    mesh.shardings({"items": jnp.zeros((9, 4))}, grid, [("items", P("model"))])
  with pytest.raises(ValueError, match="a batch of 73 does not split over 8 devices"):
    mesh.put_batch({"history": np.zeros((73, 20))}, mesh.make_mesh())
