"""LightGCN's scores, loss and penalty against dense algebra; on any number of devices."""

import blocks
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data import examples, interactions
from recjax.systems.collaborative import lightgcn
from recjax.train import mesh

USERS, ITEMS, DIM = 7, 6, 4


def log():
  rng = np.random.default_rng(0)
  user = np.concatenate([np.arange(6), rng.integers(0, 6, 12)])
  item = np.concatenate([np.arange(6) % 5, rng.integers(0, 5, 12)])
  return interactions.from_columns(user, item)


def made(layers=3, penalty=1e-4, **more):
  cfg = lightgcn.Config(USERS, ITEMS, DIM, layers, penalty, **more)
  x = log()
  assert (x.num_users, x.num_items) == (USERS, ITEMS)
  system, assets = lightgcn.make(cfg), lightgcn.assets(cfg, x)
  params = system.init(jax.random.key(0), assets, {})
  return system, assets, params


def tables(params, layers):
  """The mean over powers of the normalised adjacency, by dense algebra."""
  x = log()
  met = np.zeros((USERS, ITEMS))
  met[x.user, x.item] = 1
  by_user, by_item = met.sum(1, keepdims=True), met.sum(0, keepdims=True)
  norm = met / np.sqrt(np.maximum(by_user * by_item, 1))
  user, item = np.asarray(params["users"], float), np.asarray(params["items"], float)
  total_user, total_item = user, item
  for _ in range(layers):
    user, item = norm @ item, norm.T @ user  # eq. 3, both from the layer before
    total_user, total_item = total_user + user, total_item + item
  return total_user / (layers + 1), total_item / (layers + 1)


def batch():
  columns = {
    "user": [1, 3, 6, 2],
    "target": [2, 5, 1, 4],
    "weight": [1.0, 1.0, 1.0, 0.0],
    "candidates": [[3], [1], [4], [5]],
  }
  return {k: jnp.asarray(v) for k, v in columns.items()}


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_scores_are_inner_products_of_the_mean_over_matrix_powers(layers):
  system, assets, params = made(layers)
  users, items = tables(params, layers)
  scores = system.score(params, assets, {"user": jnp.arange(1, USERS)})
  np.testing.assert_allclose(scores[:, 1:], (users @ items.T)[1:, 1:], atol=1e-6)


def test_answers_are_the_same_with_and_without_the_index():
  system, assets, params = made()
  indexed = system.index(params, assets)
  assert indexed["items"].shape == (ITEMS, DIM)
  few = {"user": jnp.array([1, 4])}
  np.testing.assert_allclose(
    system.score(params, assets, few), system.score(params, indexed, few), atol=1e-6
  )
  # With the index there is no propagation left: only its tables are read.
  chex.assert_trees_all_equal(
    system.embed(params, {"users": indexed["users"], "items": indexed["items"]}, few),
    indexed["users"][few["user"]],
  )


def test_an_unknown_user_is_the_mean_of_those_who_met_something():
  cfg, x = lightgcn.Config(USERS, ITEMS, DIM), log()
  # User 3 meets nothing; a filled graph has no more users with edges.
  system, assets = lightgcn.make(cfg), lightgcn.assets(cfg, x.take(x.user != 3), capacity=50)
  params = system.init(jax.random.key(0), assets, {})
  for given in (assets, system.index(params, assets)):
    scores = np.asarray(system.score(params, given, {"user": jnp.arange(USERS)}))[:, 1:]
    wanted = scores[[1, 2, 4, 5, 6]].mean(0)
    np.testing.assert_allclose(scores[[0, 3]], np.stack([wanted, wanted]), atol=1e-6)
    assert np.abs(scores[1] - wanted).max() > 1e-3


def test_an_old_index_is_not_indexed_again_nor_learned_from():
  system, assets, params = made()
  old = system.index(params, assets)
  new = jax.tree.map(lambda p: 2 * p, params)
  chex.assert_trees_all_close(system.index(new, old), system.index(new, assets))
  assert system.loss(new, old, batch(), None).sum == system.loss(new, assets, batch(), None).sum


def test_the_loss_is_bpr_of_propagated_and_the_penalty_of_plain_embeddings():
  system, assets, params = made(penalty=0.5)
  users, items = tables(params, 3)
  wanted = 0.0
  for u, i, j in ((1, 2, 3), (3, 5, 1), (6, 1, 4)):  # the row of weight 0 does not count
    wanted += np.log1p(np.exp(users[u] @ items[j] - users[u] @ items[i]))
    plain = (params["users"][u], params["items"][i], params["items"][j])
    wanted += 0.5 * sum(float((p**2).sum()) for p in plain) / 2
  out = system.loss(params, assets, batch(), None)
  np.testing.assert_allclose(out.sum, wanted, rtol=1e-5)
  assert out.weight == 3


def test_with_a_temperature_a_row_is_the_softmax_loss_of_all_that_its_user_met():
  system, assets, params = made(penalty=0.5, temperature=0.2, length=0.3)
  given = {name: x for name, x in batch().items() if name != "candidates"}
  given["target"] = given["target"].at[1].set(4)  # which user 3 never met
  users, items = tables(params, 3)
  users = users / np.linalg.norm(users, axis=1, keepdims=True)
  items = items * np.linalg.norm(items, axis=1, keepdims=True) ** (0.3 - 1)
  x, wanted = log(), 0.0
  for u, i in ((1, 2), (3, 4), (6, 1)):  # the row of weight 0 does not count
    logits = users[u] @ items[1:].T / 0.2
    log_p = logits - np.log(np.exp(logits).sum())
    wanted -= log_p[np.unique(x.item[x.user == u]) - 1].mean()
    plain = (params["users"][u], params["items"][i])
    wanted += 0.5 * sum(float((p**2).sum()) for p in plain) / 2
  out = system.loss(params, assets, given, None)
  np.testing.assert_allclose(out.sum, wanted, rtol=1e-5)
  assert out.weight == 3
  np.testing.assert_allclose(
    system.score(params, assets, given)[:, 1:], (users @ items.T)[given["user"], 1:], atol=1e-5
  )
  with pytest.raises(ValueError, match="candidates"):
    system.loss(params, assets, batch(), None)


def test_a_softmax_learns_a_user_without_edges_by_the_target():
  x = log()
  cfg = lightgcn.Config(USERS, ITEMS, DIM, 3, 0.0, temperature=0.2)
  system, assets = lightgcn.make(cfg), lightgcn.assets(cfg, x.take(x.user != 3), capacity=50)
  params = system.init(jax.random.key(0), assets, {})
  given = {"user": jnp.array([3]), "target": jnp.array([5]), "weight": jnp.ones(1)}
  indexed = assets | {"users": system.index(params, assets)["users"]}
  items = system.index(params, assets)["items"]
  own = params["users"][3] / jnp.linalg.norm(params["users"][3])
  wanted = -jax.nn.log_softmax(own @ items[1:].T / 0.2)[4]
  np.testing.assert_allclose(system.loss(params, indexed, given, None).sum, wanted, rtol=1e-5)


@pytest.mark.parametrize("wrong", [-1.0, float("nan")])
def test_a_temperature_below_nothing_is_refused(wrong):
  with pytest.raises(ValueError, match="temperature must be 0"):
    made(temperature=wrong)


def test_the_gradient_reaches_nodes_three_edges_away():
  # The path user 1 - item 1 - user 2 - item 2: item 2 is three edges from user 1.
  x = interactions.from_columns(np.array([1, 2, 2]), np.array([1, 1, 2]))
  given = {
    "user": jnp.array([1]),
    "target": jnp.array([1]),
    "candidates": jnp.array([[1]]),
    "weight": jnp.ones(1),
  }
  for layers, reaches in ((2, False), (3, True)):
    cfg = lightgcn.Config(3, 3, 2, layers, 0.0)
    system, assets = lightgcn.make(cfg), lightgcn.assets(cfg, x)
    params = system.init(jax.random.key(0), assets, {})
    grad = jax.grad(lambda p, s=system, a=assets: s.embed(p, a, given).sum())(params)
    assert bool(np.any(grad["items"][2])) == reaches


def test_negatives_drawn_inside_are_never_the_target():
  x = interactions.from_columns(np.array([1]), np.array([1]))
  cfg = lightgcn.Config(2, 3, 2)  # items 1 and 2: the only negative of 1 is 2
  system = lightgcn.make(cfg)
  assets = lightgcn.assets(cfg, x) if x.num_items == 2 else None
  params = system.init(jax.random.key(0), assets, {})
  plain = {"user": jnp.ones(8, int), "target": jnp.ones(8, int), "weight": jnp.ones(8)}
  drawn = system.loss(params, assets, plain, jax.random.key(1))
  given = system.loss(params, assets, plain | {"candidates": jnp.full((8, 1), 2)}, None)
  np.testing.assert_allclose(drawn.sum, given.sum, rtol=1e-6)


@pytest.mark.parametrize(("temperature", "atol"), [(0.0, 1e-7), (0.1, 1e-5)])
def test_a_batch_over_eight_devices_gives_the_loss_and_gradient_of_one(temperature, atol):
  system, assets, params = made(temperature=temperature)
  rows = np.arange(16)
  columns = {"user": 1 + rows % 6, "target": 1 + rows % 5, "weight": np.float32(rows < 13)}
  if not temperature:
    columns["candidates"] = 1 + (rows[:, None] + 2) % 5
  key = jax.random.key(0)

  def measured(devices):
    where = mesh.make_mesh(devices=jax.devices()[:devices])
    placed = mesh.put(params, where), mesh.put(assets, where), mesh.put_batch(columns, where)
    grad = jax.value_and_grad(lambda p, a, b: system.loss(p, a, b, key).sum)
    return jax.device_get(jax.jit(grad)(*placed))

  chex.assert_trees_all_close(measured(1), measured(8), rtol=1e-5, atol=atol)


def test_no_interactions_make_no_graph():
  x = log().take(np.zeros(0, int))
  with pytest.raises(ValueError, match="no interactions"):
    lightgcn.assets(lightgcn.Config(USERS, ITEMS), x)


@pytest.mark.parametrize("temperature", [0.0, 0.2])
def test_it_finds_what_was_withheld_of_a_block(temperature):
  train, _ = blocks.log()
  cfg = lightgcn.Config(train.num_users, train.num_items, 16, temperature=temperature)
  system, assets = lightgcn.make(cfg), lightgcn.assets(cfg, train)
  params = blocks.learned(system, assets, examples.events(train), steps=60)
  assert blocks.found(system, system.index(params, assets), params) > 0.9
