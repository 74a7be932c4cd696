"""GraphRec: absent neighbours are nobody, and the rating predicted is never read."""

import functools

import blocks
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data import examples, interactions
from recjax.data.readers import edges
from recjax.systems.collaborative import graphrec

LEVELS = (1.0, 2.0, 3.0, 4.0, 5.0)


def log(users=8, items=6, count=26, seed=0):
  """Ratings of distinct pairs; user 1 rates item 1 at least, and users trust the next."""
  rng = np.random.default_rng(seed)
  pair = np.append(0, 1 + rng.choice(users * items - 1, count - 1, replace=False))
  user, item = np.divmod(pair, items)
  x = interactions.from_columns(user, item, rating=rng.choice(LEVELS, count))
  row = np.arange(1, x.num_users)
  return x, interactions.Links(row, np.roll(row, -1), x.users)


@functools.cache
def made(**fields):
  x, links = log()
  sizes = {"dim": 8, "neighbours": 8, "friends": 3}
  cfg = graphrec.Config(x.num_users, x.num_items, **{**sizes, **fields})
  system, assets = graphrec.make(cfg), graphrec.assets(cfg, x, links)
  params = system.init(jax.random.key(1), assets, {})
  return system._replace(score=jax.jit(system.score)), assets, params


def rated(system, assets, params, user, item):
  asked = {"user": jnp.array([user]), "candidates": jnp.array([[item]])}
  return float(system.score(params, assets, asked)[0, 0])


def reopined(assets, user, item):
  """The same tables, but the user's opinion of the item is another (level 0 <-> 4, 1 <-> 3 ...)."""
  made = dict(assets)
  for near, levels, own, other in (
    ("user_items", "user_levels", user, item),
    ("item_users", "item_levels", item, user),
  ):
    here = assets[near][own] == other
    assert here.sum() == 1
    new = (assets[levels][own] + 1) % len(LEVELS)
    made[levels] = assets[levels].at[own].set(jnp.where(here, new, assets[levels][own]))
  return made


def test_the_rating_predicted_is_not_read_but_others_are():
  system, assets, params = made()
  x, _ = log()
  user, item = int(x.user[0]), int(x.item[0])
  changed = reopined(assets, user, item)
  before, after = (rated(system, a, params, user, item) for a in (assets, changed))
  assert before == after
  # The same opinion is read where another rating of the user, or of the item, is predicted.
  other_item = next(i for i in range(1, x.num_items) if i != item)
  before, after = (rated(system, a, params, user, other_item) for a in (assets, changed))
  assert before != after
  other_user = next(u for u in range(1, x.num_users) if u != user)
  before, after = (rated(system, a, params, other_user, item) for a in (assets, changed))
  assert before != after


def test_no_learning_step_reads_the_rating_that_it_predicts():
  system, assets, params = made(dropout=0.0)
  x, _ = log()
  one = {"user": x.user[:1], "target": x.item[:1], "ratings": x.rating[:1], "weight": np.ones(1)}
  batch = jax.tree.map(jnp.asarray, one)
  grad = jax.jit(jax.value_and_grad(lambda p, a: system.loss(p, a, batch, jax.random.key(0)).sum))
  changed = reopined(assets, int(x.user[0]), int(x.item[0]))
  chex.assert_trees_all_equal(grad(params, assets), grad(params, changed))


def test_a_rating_predicted_is_as_if_its_edge_were_not_there():
  system, assets, params = made()
  x, links = log()
  user, item = int(x.user[0]), int(x.item[0])
  cfg = graphrec.Config(x.num_users, x.num_items, dim=8, neighbours=8, friends=3)
  without = graphrec.assets(cfg, x.take(np.arange(len(x)) > 0), links)
  without["mean"] = assets["mean"]
  wanted = rated(system, without, params, user, item)
  np.testing.assert_allclose(rated(system, assets, params, user, item), wanted, atol=1e-5)


def test_absent_neighbours_are_nobody():
  system, assets, params = made()
  wider = dict(assets)
  for near, levels in (("user_items", "user_levels"), ("item_users", "item_levels")):
    wider[near] = jnp.pad(assets[near], ((0, 0), (2, 3)))
    wider[levels] = jnp.pad(assets[levels], ((0, 0), (2, 3)), constant_values=4)
  wider["friends"] = jnp.pad(assets["friends"], ((0, 0), (1, 2)))
  few = {"user": jnp.arange(1, 9)}
  np.testing.assert_allclose(
    system.score(params, assets, few), system.score(params, wider, few), atol=1e-5
  )


def test_someone_without_ratings_or_friends_gets_a_finite_answer_and_gradient():
  system, assets, params = made()
  empty = {k: v if k == "mean" else jnp.zeros_like(v) for k, v in assets.items()}
  columns = {"user": [1, 2], "target": [1, 3], "ratings": [3.0, 4.0], "weight": [1.0, 1.0]}
  batch = {k: jnp.asarray(v) for k, v in columns.items()}
  gradient = jax.jit(jax.grad(lambda p: system.loss(p, empty, batch, jax.random.key(0)).sum))
  grad = gradient(params)
  chex.assert_tree_all_finite((grad, system.score(params, empty, {"user": batch["user"]})[:, 1:]))


def test_a_friend_s_own_ratings_are_read_and_a_stranger_s_are_not():
  system, assets, params = made()
  x, links = log()
  user = 1
  friend = int(links.friend[links.user == user][0])
  rows = assets["user_levels"]

  def changed(of):
    return {**assets, "user_levels": rows.at[of].set((rows[of] + 1) % len(LEVELS))}

  strangers = [u for u in range(1, x.num_users) if u not in (user, friend)]
  before = rated(system, assets, params, user, 2)
  assert rated(system, changed(friend), params, user, 2) != before
  for stranger in strangers:
    assert rated(system, changed(stranger), params, user, 2) == before


def test_tables_hold_each_neighbour_with_the_opinion_up_to_the_width():
  x, links = log()
  cfg = graphrec.Config(x.num_users, x.num_items, neighbours=2, friends=2)
  both = interactions.Links(np.append(links.user, 1), np.append(links.friend, 1), x.users)
  assets = jax.tree.map(np.asarray, graphrec.assets(cfg, x, both))
  rating = {(u, i): r for u, i, r in zip(x.user, x.item, x.rating, strict=True)}
  for user in range(x.num_users):
    near, level = assets["user_items"][user], assets["user_levels"][user]
    there = near != 0
    assert there.sum() == min((x.user == user).sum(), 2)
    assert len(set(near[there])) == there.sum()
    for i, r in zip(near[there], level[there], strict=True):
      assert rating[user, i] == LEVELS[r]
  for item in range(x.num_items):
    near, level = assets["item_users"][item], assets["item_levels"][item]
    for u, r in zip(near[near != 0], level[near != 0], strict=True):
      assert rating[u, item] == LEVELS[r]
  wanted = [[0, 0], *([int(links.friend[links.user == u][0]), 0] for u in range(1, x.num_users))]
  np.testing.assert_array_equal(assets["friends"], wanted)  # nobody is their own friend
  np.testing.assert_allclose(assets["mean"], x.rating.mean(), rtol=1e-6)


def test_bad_tables_are_named():
  x, links = log()
  cfg = graphrec.Config(x.num_users, x.num_items)
  with pytest.raises(ValueError, match="rating 2.5 is not among the levels"):
    graphrec.assets(cfg, interactions.replace(x, rating=np.full(len(x), 2.5, np.float32)), links)
  with pytest.raises(ValueError, match="the interactions have none"):
    graphrec.assets(cfg, interactions.replace(x, rating=None), links)
  with pytest.raises(ValueError, match="number users differently"):
    graphrec.assets(cfg, x, interactions.Links(links.user, links.friend, links.users[::-1]))
  with pytest.raises(ValueError, match="beyond the 3 that the config tells of"):
    graphrec.assets(graphrec.Config(3, x.num_items), x, links)
  system, assets, params = made()
  with pytest.raises(ValueError, match="the batch has none"):
    system.loss(params, assets, {"user": x.user, "target": x.item}, None)


def error(system, assets, params, held):
  score = jax.jit(system.score)
  asked = {"user": jnp.asarray(held.user), "candidates": jnp.asarray(held.item)[:, None]}
  return float(np.sqrt(np.square(score(params, assets, asked)[:, 0] - held.rating).mean()))


def test_kind_users_and_good_items_are_told_by_their_ratings():
  rng = np.random.default_rng(0)
  user, item = np.divmod(rng.permutation(40 * 20), 20)
  rating = 1.0 + 2 * (user % 2) + 2 * (item % 2)
  x = interactions.from_columns(user, item, rating=rating)
  train, held = x.take(np.arange(800) < 600), x.take(np.arange(800) >= 600)
  links = interactions.Links(np.array([1]), np.array([2]), x.users)
  cfg = graphrec.Config(x.num_users, x.num_items, dim=16, neighbours=10, friends=1, dropout=0.0)
  system, assets = graphrec.make(cfg), graphrec.assets(cfg, train, links)
  params = blocks.learned(system, assets, examples.events(train), steps=200, rate=3e-3)
  # The mean's error is 2 ** 0.5, that of the item's or the user's mean alone is 1.
  assert error(system, assets, params, held) < 0.7


@pytest.mark.slow
def test_toy_data_are_predicted_better_than_by_the_mean(real_data):
  train, test, social = edges.graphrec(real_data / "social" / "graphrec_toy.json.gz")
  levels = tuple(np.unique(train.rating).tolist())
  cfg = graphrec.Config(train.num_users, train.num_items, levels, neighbours=20, friends=10)
  system, assets = graphrec.make(cfg), graphrec.assets(cfg, train, social)
  batch = {"steps": 1000, "rate": 1e-3, "batch_size": 128}
  params = blocks.learned(system, assets, examples.events(train), **batch)
  mean = float(np.sqrt(np.square(test.rating - train.rating.mean()).mean()))
  assert error(system, assets, params, test) < 0.95 * mean
