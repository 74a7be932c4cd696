"""GMF, the MLP and NeuMF by NumPy; their fusion; the loss; blocks learned."""

import blocks
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data import examples
from recjax.systems.collaborative import neumf
from recjax.train import stages

CFG = neumf.Config(num_users=6, num_items=8, factors=4, tower=(12, 8, 4))


def started(make, seed=0):
  """Its system and parameters, large and everywhere other than 0."""
  system = make(CFG)
  params = system.init(jax.random.key(seed), (), {})
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
  made = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
  return system, jax.tree.unflatten(tree, made)


def halves(params, u, i):
  """The last layers of GMF and of the tower, by NumPy."""
  p = jax.tree.map(np.asarray, params)
  found = []
  if "gmf" in p:
    found.append(p["gmf"]["users"]["embedding"][u] * p["gmf"]["items"]["embedding"][i])
  if "mlp" in p:
    m = p["mlp"]
    x = np.append(m["users"]["embedding"][u], m["items"]["embedding"][i])
    for n in range(2):
      x = np.maximum(x @ m[f"layer_{n}"]["kernel"] + m[f"layer_{n}"]["bias"], 0)
    found.append(x)
  return np.concatenate(found) @ p["output"]["kernel"][:, 0] + p["output"]["bias"][0]


MAKES = {"gmf": neumf.make_gmf, "mlp": neumf.make_mlp, "neumf": neumf.make}


@pytest.mark.parametrize("name", MAKES)
def test_logits_are_the_paper_s(name):
  system, params = started(MAKES[name])
  every = system.score(params, (), {"user": jnp.array([1, 5])})
  wanted = [[halves(params, u, i) for i in range(1, CFG.num_items)] for u in (1, 5)]
  np.testing.assert_allclose(every[:, 1:], wanted, rtol=1e-4, atol=1e-4)
  asked = {"user": jnp.array([1, 5]), "candidates": jnp.array([[3, 3], [7, 1]])}
  wanted = [[halves(params, 1, 3)] * 2, [halves(params, 5, 7), halves(params, 5, 1)]]
  np.testing.assert_allclose(system.score(params, (), asked), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_the_fusion_starts_as_the_weighted_mean_of_its_halves(alpha):
  (gmf, first), (mlp, second) = started(neumf.make_gmf), started(neumf.make_mlp, 7)
  both = neumf.make(CFG)
  params = neumf.fuse(first, second, alpha)
  chex.assert_trees_all_equal_shapes(params, both.init(jax.random.key(0), (), {}))
  asked = {"user": jnp.arange(1, 6), "candidates": jnp.tile(jnp.arange(1, 8)[None], (5, 1))}
  wanted = alpha * gmf.score(first, (), asked) + (1 - alpha) * mlp.score(second, (), asked)
  np.testing.assert_allclose(both.score(params, (), asked), wanted, atol=1e-4)


def test_pretraining_is_that_of_both_halves_and_hands_on_their_fusion():
  system = neumf.make_pretrain(CFG)
  params = {"gmf": started(neumf.make_gmf)[1], "mlp": started(neumf.make_mlp, 7)[1]}
  chex.assert_trees_all_equal_shapes(params, system.init(jax.random.key(0), (), {}))
  given = {
    "user": jnp.array([1, 4]),
    "target": jnp.array([2, 3]),
    "candidates": jnp.array([[4, 5], [6, 1]]),
    "weight": jnp.ones(2),
  }
  apart = [
    make(CFG).loss(params[name], (), given, jax.random.key(0))
    for name, make in (("gmf", neumf.make_gmf), ("mlp", neumf.make_mlp))
  ]
  both = system.loss(params, (), given, jax.random.key(0))
  np.testing.assert_allclose(both.sum, sum(half.sum for half in apart), rtol=1e-6)
  assert both.weight == apart[0].weight == 6
  start = neumf.make(CFG).init(jax.random.key(1), (), {})
  moved = stages.transfer(start, params, neumf.SHARED)
  chex.assert_trees_all_equal(moved, neumf.fuse(params["gmf"], params["mlp"]))
  after, asked = neumf.make(CFG), {"user": jnp.array([1, 5])}
  np.testing.assert_array_equal(system.score(params, (), asked), after.score(moved, (), asked))
  lists = [f.recommend(x, (), asked, k=3) for f, x in ((system, params), (after, moved))]
  chex.assert_trees_all_equal(*lists)


def test_halves_in_the_wrong_order_are_refused():
  (_, first), (_, second) = started(neumf.make_gmf), started(neumf.make_mlp)
  with pytest.raises(ValueError, match=r"parameters of GMF and of MLP, not \['mlp'"):
    neumf.fuse(second, first)


def test_the_loss_is_the_cross_entropy_of_the_target_and_the_drawn():
  system, params = started(neumf.make)
  given = {
    "user": jnp.array([1, 4, 2]),
    "target": jnp.array([2, 3, 1]),
    "candidates": jnp.array([[4, 5], [6, 1], [2, 3]]),
    "weight": jnp.array([1.0, 1.0, 0.0]),
  }
  wanted = 0.0
  for u, i, drawn in ((1, 2, (4, 5)), (4, 3, (6, 1))):
    wanted += np.log1p(np.exp(-halves(params, u, i)))
    wanted += sum(np.log1p(np.exp(halves(params, u, j))) for j in drawn)
  out = system.loss(params, (), given, None)
  np.testing.assert_allclose(out.sum, wanted, rtol=1e-5)
  assert out.weight == 6  # two rows of one positive and two negatives


def test_four_negatives_are_drawn_and_never_the_target():
  cfg = neumf.Config(
    num_users=3, num_items=3, factors=4, tower=(8, 4)
  )  # 2 is all that can be drawn
  system = neumf.make(cfg)
  params = system.init(jax.random.key(0), (), {})
  plain = {"user": jnp.array([1, 2]), "target": jnp.array([1, 1]), "weight": jnp.ones(2)}
  drawn = system.loss(params, (), plain, jax.random.key(3))
  given = system.loss(params, (), plain | {"candidates": jnp.full((2, 4), 2)}, None)
  np.testing.assert_allclose(drawn.sum, given.sum, rtol=1e-6)
  assert drawn.weight == 10


def test_an_unknown_user_is_the_zero_vector_and_stays_it():
  train, _ = blocks.log()
  cfg = neumf.Config(train.num_users, train.num_items, factors=8, tower=(32, 16, 8))
  system = neumf.make(cfg)
  params = blocks.learned(system, (), examples.events(train), steps=8)  # the last rows only fill
  for half in ("gmf", "mlp"):
    users = np.asarray(params[half]["users"]["embedding"])
    assert (users[0] == 0).all() and (users[1:] != 0).any(1).all()


def test_without_negatives_there_is_nothing_to_learn():
  with pytest.raises(ValueError, match="negatives is 0: without any, every item learns to score 1"):
    neumf.Config(num_users=3, num_items=3, negatives=0)


def test_a_tower_must_end_in_the_predictive_factors():
  with pytest.raises(ValueError, match="end with the 8 predictive factors"):
    neumf.Config(num_users=3, num_items=3, factors=8, tower=(32, 16))


@pytest.mark.parametrize("name", ["gmf", "neumf"])
def test_it_finds_what_was_withheld_of_a_block(name):
  train, _ = blocks.log()
  cfg = neumf.Config(train.num_users, train.num_items, factors=8, tower=(32, 16, 8))
  system = MAKES[name](cfg)
  params = blocks.learned(system, (), examples.events(train), steps=500)
  assert blocks.found(system, (), params) > 0.9
