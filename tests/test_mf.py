"""Matrix factorisation: scores, losses and the penalty by NumPy; ratings and blocks learned."""

import blocks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data import examples, interactions
from recjax.systems.collaborative import mf

USERS, ITEMS, DIM = 6, 7, 3


def made(**fields):
  cfg = mf.Config(USERS, ITEMS, DIM, **fields)
  rng = np.random.default_rng(0)
  shapes = {"users": (USERS, DIM), "items": (ITEMS, DIM), "user_bias": USERS, "item_bias": ITEMS}
  params = {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}
  return mf.make(cfg), params


def score(params, u, i, mean=0.0):
  p = jax.tree.map(np.asarray, params)
  return p["users"][u] @ p["items"][i] + p["user_bias"][u] + p["item_bias"][i] + mean


def squares(params, u, items):
  p = jax.tree.map(np.asarray, params)
  total = (p["users"][u] ** 2).sum() + p["user_bias"][u] ** 2
  return total + sum((p["items"][i] ** 2).sum() + p["item_bias"][i] ** 2 for i in items)


def batch(**more):
  columns = {"user": [1, 5, 2], "target": [6, 2, 3], "weight": [1.0, 1.0, 0.0], **more}
  return {k: jnp.asarray(v) for k, v in columns.items()}


def test_scores_are_inner_products_biases_and_the_mean():
  system, params = made()
  user = jnp.array([1, 4])
  every = system.score(params, {"mean": jnp.float32(3.5)}, {"user": user})
  wanted = [[score(params, u, i, 3.5) for i in range(1, ITEMS)] for u in (1, 4)]
  np.testing.assert_allclose(every[:, 1:], wanted, rtol=1e-5)
  some = system.score(params, (), {"user": user, "candidates": jnp.array([[2, 6], [1, 1]])})
  wanted = [[score(params, 1, 2), score(params, 1, 6)], [score(params, 4, 1)] * 2]
  np.testing.assert_allclose(some, wanted, rtol=1e-5)


def test_bpr_and_its_penalty_by_hand():
  system, params = made(penalty=0.1)
  given = batch(candidates=[[1, 2], [4, 5], [1, 1]])
  wanted = 0.0
  for u, i, drawn in ((1, 6, (1, 2)), (5, 2, (4, 5))):
    margins = [score(params, u, i) - score(params, u, j) for j in drawn]
    wanted += np.mean([np.log1p(np.exp(-m)) for m in margins])
    wanted += 0.1 * squares(params, u, (i, *drawn))
  out = system.loss(params, (), given, None)
  np.testing.assert_allclose(out.sum, wanted, rtol=1e-5)
  assert out.weight == 2


def test_the_squared_loss_weighs_what_was_drawn():
  system, params = made(unobserved=0.25)
  given = batch(candidates=[[1], [4], [1]])
  wanted = 0.0
  for u, i, j in ((1, 6, 1), (5, 2, 4)):
    wanted += (score(params, u, i) - 1) ** 2 + 0.25 * score(params, u, j) ** 2
  np.testing.assert_allclose(system.loss(params, (), given, None).sum, wanted, rtol=1e-5)


def test_ratings_are_learned_by_their_squared_error_from_the_mean():
  system, params = made(penalty=0.1)
  given = batch(ratings=[4.0, 2.0, 1.0])
  wanted = 0.0
  for u, i, r in ((1, 6, 4.0), (5, 2, 2.0)):
    wanted += (score(params, u, i, 3.0) - r) ** 2 + 0.1 * squares(params, u, (i,))
  out = system.loss(params, {"mean": jnp.float32(3.0)}, given, None)
  np.testing.assert_allclose(out.sum, wanted, rtol=1e-5)


def test_ratings_without_their_mean_are_refused():
  system, params = made()
  with pytest.raises(ValueError, match=r"give `mf.assets\(cfg, interactions\)`"):
    system.loss(params, (), batch(ratings=[4.0, 2.0, 1.0]), None)
  x = interactions.from_columns(["a"], ["b"])
  with pytest.raises(ValueError, match="no ratings"):
    mf.assets(mf.Config(2, 2), x)
  x = interactions.from_columns(["a", "a"], ["b", "c"], rating=[1.0, np.nan])
  with pytest.raises(ValueError, match="1 ratings are not finite"):
    mf.assets(mf.Config(2, 3), x)


def test_planted_ratings_of_pairs_never_seen_are_predicted():
  rng = np.random.default_rng(0)
  users, items = 60, 40
  taste, kind = rng.choice([-1.0, 1.0], users), rng.choice([-1.0, 1.0], items)
  kindness = rng.normal(0, 0.5, users)
  user, item = np.divmod(rng.permutation(users * items), items)
  rating = 3 + taste[user] * kind[item] + kindness[user]
  x = interactions.from_columns(user, item, rating=rating)
  known = np.arange(len(x)) < len(x) // 2
  train, held = x.take(known), x.take(~known)
  cfg = mf.Config(x.num_users, x.num_items, 4, penalty=0.01)
  system, assets = mf.make(cfg), mf.assets(cfg, train)
  params = blocks.learned(system, assets, examples.events(train), steps=400)
  asked = {"user": jnp.asarray(held.user), "candidates": jnp.asarray(held.item)[:, None]}
  error = system.score(params, assets, asked)[:, 0] - held.rating
  assert np.sqrt((held.rating - assets["mean"]).var()) > 1
  assert np.sqrt(np.square(error).mean()) < 0.25


def test_an_unknown_user_is_answered_by_the_biases_of_the_items():
  train, _ = blocks.log()
  system = mf.make(mf.Config(train.num_users, train.num_items, 8, penalty=0.01))
  params = blocks.learned(system, (), examples.events(train), steps=8)  # the last rows only fill
  scores = system.score(params, (), {"user": jnp.array([0])})
  assert np.ptp(params["item_bias"][1:]) > 0
  np.testing.assert_array_equal(scores[0, 1:], params["item_bias"][1:])


@pytest.mark.parametrize("fields", [{}, {"unobserved": 1.0}])
def test_it_finds_what_was_withheld_of_a_block(fields):
  train, _ = blocks.log()
  system = mf.make(mf.Config(train.num_users, train.num_items, 8, penalty=0.01, **fields))
  params = blocks.learned(system, (), examples.events(train), steps=600)
  assert blocks.found(system, (), params) > 0.9
