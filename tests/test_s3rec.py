"""S3-Rec: the four losses by hand, what is hidden, whose segments are negatives, the hand-over."""

import dataclasses
import functools

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from hypothesis import given

from recjax.data import examples, loader
from recjax.systems.sequential import s3rec
from recjax.train import loop, mesh, optim, stages

ITEMS = 12
CFG = s3rec.Config(
  num_items=ITEMS, num_attributes=5, max_len=8, dim=8, heads=2, layers=1, ff=16, dropout=0.0
)
OWNED = [[], *([1 + i % 4, 1 + (i + 1) % 4][: i % 3] for i in range(1, ITEMS))]


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def batch(rows=6, seed=0, weight=None):
  rng = np.random.default_rng(seed)
  whole = rng.integers(1, ITEMS, (rows, 7))
  whole[np.arange(7)[None] < rng.integers(0, 6, rows)[:, None]] = 0
  return {
    "user": jnp.arange(rows) + 1,
    "history": jnp.asarray(whole[:, :-1]),
    "next": jnp.asarray(np.where(whole[:, :-1] == 0, 0, whole[:, 1:])),
    "weight": jnp.ones(rows) if weight is None else jnp.asarray(weight, jnp.float32),
  }


@functools.cache
def pretraining(**changes):
  system = s3rec.make_pretrain(dataclasses.replace(CFG, **changes))
  return system._replace(loss=jax.jit(system.loss))


@pytest.fixture(scope="module")
def made():
  system, assets = pretraining(), s3rec.assets(CFG, OWNED)
  params = system.init(jax.random.key(0), assets, batch())
  params = {**params, "pretrain": jax.tree.map(lambda x: 10 * x, params["pretrain"])}
  return system, assets, params


STATES = np.array([[1.0, 2.0], [-1.0, 0.5], [3.0, 1.0]])
BILINEAR = np.array([[0.5, -1.0], [0.0, 2.0]])  # the states become (.5, 3) (-.5, 2) (1.5, -1)


@pytest.mark.parametrize("loss", [s3rec.associated_attributes, s3rec.masked_attributes])
def test_attributes_are_predicted_by_binary_cross_entropy(loss):
  attributes = np.array([[9.0, 9.0], [1.0, 0.0], [0.0, 1.0], [1.0, -1.0]])
  owned = np.array([[1, 3], [2, 0], [0, 0]])
  # Products with attributes 1, 2, 3: of the first state .5, 3, -2.5, of the second -.5, 2, -2.5.
  first = -np.log(sigmoid(0.5)) - np.log(1 - sigmoid(3.0)) - np.log(sigmoid(-2.5))
  second = -np.log(1 - sigmoid(-0.5)) - np.log(sigmoid(2.0)) - np.log(1 - sigmoid(-2.5))
  where = jnp.array([True, True, False])
  arrays = (jnp.asarray(x, jnp.float32) for x in (STATES, BILINEAR, attributes))
  total, weight = loss(*arrays, jnp.asarray(owned), where)
  np.testing.assert_allclose(total, first + second, rtol=1e-6)
  assert weight == 2


@pytest.mark.parametrize("loss", [s3rec.masked_items, s3rec.segments])
def test_items_and_segments_are_compared_with_one_negative(loss):
  positive = np.array([[2.0, 1.0], [0.0, 0.0], [5.0, 5.0]])
  negative = np.array([[1.0, 0.0], [2.0, 1.0], [1.0, 1.0]])
  # First 4 against .5, second 0 against 1; the third does not count.
  wanted = -np.log(sigmoid(4.0 - 0.5)) - np.log(sigmoid(0.0 - 1.0))
  arrays = (jnp.asarray(x, jnp.float32) for x in (STATES, BILINEAR, positive, negative))
  total, weight = loss(*arrays, jnp.array([True, True, False]))
  np.testing.assert_allclose(total, wanted, rtol=1e-6)
  assert weight == 2


def test_the_loss_is_the_weighted_sum_of_the_four(made):
  system, assets, params = made
  key, weights = jax.random.key(3), (0.2, 1.0, 1.0, 0.5)
  out = system.loss(params, assets, batch(), key)
  parts = [out.metrics[name][0] for name in ("aap", "mip", "map", "sp")]
  assert all(part > 0 for part in parts)
  np.testing.assert_allclose(out.sum, np.dot(weights, parts), rtol=1e-6)
  assert out.weight == 6
  out = pretraining(aap=0.0, mip=0.0, map=0.0, sp=3.0).loss(params, assets, batch(), key)
  np.testing.assert_allclose(out.sum, 3 * parts[3], rtol=1e-6)


def test_every_item_is_either_hidden_or_seen_and_the_newest_is_hidden(made):
  system, assets, params = made
  b = batch(40)
  items = int((b["history"] != 0).sum()) + 40  # and the last one of each row
  out = pretraining(masked=0.0).loss(params, assets, b, jax.random.key(0))
  assert out.metrics["mip"][1] == out.metrics["map"][1] == 40
  assert out.metrics["aap"][1] == items - 40
  out = system.loss(params, assets, b, jax.random.key(0))
  hidden = float(out.metrics["mip"][1])
  assert out.metrics["aap"][1] == items - hidden
  assert abs((hidden - 40) / (items - 40) - CFG.masked) < 0.1


def test_a_hidden_item_is_not_read(made):
  """With only the newest item hidden, no other state than its own task depends on which it is."""
  _, assets, params = made
  b = batch(40)
  other = {**b, "next": b["next"].at[:, -1].set(b["next"][:, -1] % (ITEMS - 1) + 1)}
  system, key = pretraining(masked=0.0), jax.random.key(0)
  one, two = (system.loss(params, assets, x, key).metrics for x in (b, other))
  chex.assert_trees_all_close(one["aap"], two["aap"], rtol=1e-6)
  assert one["mip"][0] != two["mip"][0]


def test_a_prefix_and_its_target_are_read_as_the_whole_sequence_is(made):
  system, assets, params = made
  b = batch()
  prefix = {k: v for k, v in b.items() if k != "next"} | {"target": b["next"][:, -1]}
  one, two = (system.loss(params, assets, x, jax.random.key(0)) for x in (b, prefix))
  chex.assert_trees_all_equal(one, two)


def test_the_row_before_is_the_nearest_real_one_and_wraps():
  real = jnp.array([False, True, False, True, True, False])
  np.testing.assert_array_equal(s3rec.row_before(real), [4, 4, 1, 1, 3, 4])
  np.testing.assert_array_equal(s3rec.row_before(jnp.array([False, True])), [1, -1])
  np.testing.assert_array_equal(s3rec.row_before(jnp.zeros(2, bool)), [-1, -1])


@given(st.lists(st.booleans(), min_size=1, max_size=9))
def test_the_row_before_is_what_a_walk_backwards_finds(real):
  n, wanted = len(real), []
  for row in range(n):
    walk = [(row - step) % n for step in range(1, n)]
    wanted.append(next((r for r in walk if real[r]), -1))
  got = s3rec.row_before(jnp.array(real)).tolist()
  assert [g for g, r in zip(got, real, strict=True) if r] == [
    w for w, r in zip(wanted, real, strict=True) if r
  ]


def test_segments_are_runs_of_at_most_half_a_row_and_as_long_a_run_of_the_other():
  lengths = np.array([8, 7, 5, 4, 3, 2, 1, 8])
  others = np.array([8, 2, 8, 1, 5, 3, 6, 7])
  column = np.arange(8)[None]
  sequence = np.where(column >= 8 - lengths[:, None], column + 1, 0)
  other = np.where(column >= 8 - others[:, None], column - 8 + others[:, None] + 100, 0)
  sizes, starts = set(), set()
  keys = jax.random.split(jax.random.key(0), 400)
  draws = jax.vmap(lambda key: s3rec.draw_segments(key, jnp.asarray(sequence), jnp.asarray(other)))
  for inside, negative in zip(*map(np.asarray, jax.jit(draws)(keys)), strict=True):
    for row in range(8):
      at = np.flatnonzero(inside[row])
      assert 1 <= len(at) <= max(lengths[row] // 2, 1)
      assert (np.diff(at) == 1).all() and (sequence[row, at] > 0).all()
      found = negative[row, at] - 100
      assert ((0 <= found) & (found < others[row])).all()
      np.testing.assert_array_equal(found, (found[0] + np.arange(len(at))) % others[row])
      if len(at) <= others[row]:  # only a shorter one goes round
        assert found[-1] == found[0] + len(at) - 1
    sizes.add(int(inside[0].sum()))
    starts.add(int(np.argmax(inside[0])))
  assert sizes == {1, 2, 3, 4} and starts == set(range(8))


def test_rows_that_only_fill_neither_count_nor_lend_a_segment(made):
  system, assets, params = made
  weight = [1, 1, 1, 0, 1, 0]
  b, other = batch(weight=weight), batch(seed=9)
  fill = (jnp.asarray(weight) == 0)[:, None]
  changed = {k: jnp.where(fill, other[k], b[k]) for k in ("history", "next")} | {
    k: b[k] for k in ("user", "weight")
  }
  one, two = (system.loss(params, assets, x, jax.random.key(1)) for x in (b, changed))
  chex.assert_trees_all_close(one, two, rtol=1e-6)
  assert one.weight == 4 and one.metrics["sp"][1] <= 4


def test_a_row_alone_has_no_negative_segment(made):
  system, assets, params = made
  out = system.loss(params, assets, batch(6, weight=[0, 1, 0, 0, 0, 0]), jax.random.key(0))
  assert out.metrics["sp"] == (0.0, 0.0) and out.weight == 1


def test_pretraining_is_finite_reaches_every_parameter_and_is_the_same_compiled(made):
  system, assets, params = made

  def loss(params):
    out = system.loss(params, assets, batch(), jax.random.key(0))
    return out.sum, out

  grads, out = jax.jit(jax.grad(loss, has_aux=True))(params)
  chex.assert_tree_all_finite((grads, out))
  flat = jax.tree_util.tree_leaves_with_path(grads)
  assert all(np.any(g) for _, g in flat), [jax.tree_util.keystr(p) for p, g in flat if not g.any()]
  eager = system.loss.__wrapped__(params, assets, batch(), jax.random.key(0))
  chex.assert_trees_all_close(eager, out, rtol=1e-5)


def test_the_row_before_is_the_same_on_any_number_of_devices(made):
  system, assets, params = made
  b = batch(8)
  alone = system.loss(params, assets, b, jax.random.key(5))
  spread = mesh.put_batch(jax.tree.map(np.asarray, b), mesh.make_mesh())
  assert len(spread["history"].sharding.device_set) == 8
  out = system.loss(params, assets, spread, jax.random.key(5))
  chex.assert_trees_all_close(jax.device_get(out), jax.device_get(alone), rtol=1e-5)


def test_pretraining_looks_both_ways_and_fine_tuning_back():
  encoder = s3rec.Encoder(CFG)
  x = jax.random.normal(jax.random.key(0), (1, 5, CFG.dim))
  there = jnp.ones((1, 5), bool)
  variables = encoder.init(jax.random.key(1), x, there, causal=True, train=False)

  def seen(causal):
    """[T, T] whether the state of a place depends on the item of another."""
    f = jax.jacobian(lambda x: encoder.apply(variables, x, there, causal=causal, train=False)[0])
    return np.abs(jax.jit(f)(x)[:, :, 0]).sum((1, 3)) > 0

  np.testing.assert_array_equal(seen(True), np.tril(np.ones((5, 5), bool)))
  assert seen(False).all()


def test_fine_tuning_starts_from_what_is_shared_and_leaves_the_rest():
  x = toy.log(users=40, items=ITEMS - 1)
  train = loader.Batches(examples.sequences(x, 7), 16, max_len=7, seed=0, epochs=None)
  one = mesh.make_mesh(devices=jax.devices()[:1])
  assets = s3rec.assets(CFG, OWNED)

  def stage(name, system, steps, rate, **more):
    cfg = loop.Config(steps=steps, optimizer=optim.Config(rate=rate))
    return stages.Stage(name, system, assets, train, cfg, **more)

  results = stages.run(
    [
      stage("pretrain", s3rec.make_pretrain(CFG), 5, 1e-2),
      stage("tune", s3rec.make(CFG), 1, 1e-9, init_from=("pretrain", s3rec.SHARED)),
    ],
    mesh=one,
  )
  first, second = results["pretrain"].params, results["tune"].params
  assert set(first) == {"items", "encoder", "pretrain"} and set(second) == {"items", "encoder"}
  chex.assert_trees_all_close(second, {k: first[k] for k in second}, atol=1e-6)


def test_pretraining_learns():
  x = toy.log(users=80, items=ITEMS - 1)
  train = loader.Batches(examples.sequences(x, 7), 40, max_len=7, seed=0, epochs=None)
  system, assets = pretraining(), s3rec.assets(CFG, OWNED)
  one = mesh.make_mesh(devices=jax.devices()[:1])
  cfg = loop.Config(steps=300, optimizer=optim.Config(rate=1e-2))
  fresh = system.init(jax.random.key(0), assets, jax.tree.map(jnp.asarray, train[0]))
  learned = loop.fit(system, assets, train, cfg, mesh=one).params
  before, after = (
    system.loss(p, assets, train[0], jax.random.key(7)).metrics for p in (fresh, learned)
  )
  for task, (total, weight) in after.items():
    assert total / weight < 0.6 * before[task][0] / before[task][1], task
