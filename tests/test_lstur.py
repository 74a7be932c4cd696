"""LSTUR: the user's own vector starts the GRU, or stands beside it, and is masked in training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.recommender import Recommender
from recjax.systems.news import lstur

ITEMS, USERS = 7, 5
CFG = lstur.Config(
  ITEMS, USERS, 9, 3, 4, title=3, word_dim=4, category_dim=2, filters=4, query=3, dropout=0.0
)
ROWS = 64
BATCH = {
  "user": jnp.arange(ROWS) % (USERS - 1) + 1,
  "history": jnp.tile(jnp.array([[0, 2, 3]]), (ROWS, 1)),
  "candidates": jnp.tile(jnp.array([[1, 4, 5]]), (ROWS, 1)),
  "labels": jnp.tile(jnp.array([[0.0, 1, 0]]), (ROWS, 1)),
  "weight": jnp.ones(ROWS),
}


def made(**changes):
  cfg = dataclasses.replace(CFG, **changes)
  titles = np.random.default_rng(0).integers(2, 9, (ITEMS, 3))
  assets = lstur.assets(cfg, titles, np.arange(ITEMS) % 3, np.arange(ITEMS) % 4)
  system = lstur.make(cfg)
  params = jax.jit(system.init)(jax.random.key(0), assets, BATCH)
  system = system._replace(embed=jax.jit(system.embed), index=jax.jit(system.index))
  return system, assets, params | {"users": 20 * params["users"], "words": 8 * params["words"]}


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def read(p, x, state):
  """A GRU as Cho et al. have it, the reset gate on the projected state, in NumPy."""
  for given in x:
    of_input = given @ p["input"]["kernel"] + p["input"]["bias"]
    of_state = state @ p["state_kernel"] + p["state_bias"]
    (r, z, n), (hr, hz, hn) = np.split(of_input, 3), np.split(of_state, 3)
    r, z = sigmoid(r + hr), sigmoid(z + hz)
    state = z * state + (1 - z) * np.tanh(n + r * hn)
  return state


@pytest.mark.parametrize("joined", [False, True])
def test_a_users_own_vector_starts_the_reading_or_stands_beside_it(joined):
  system, assets, params = made(joined=joined)
  news = np.asarray(system.index(params, assets)["vectors"])
  assert news.shape == (ITEMS, 8)
  got, p = system.embed(params, assets, BATCH), jax.tree.map(np.asarray, params)
  for row in range(2):
    own = p["users"][row + 1]
    start = np.zeros(4) if joined else own
    wanted = read(p["short_term"], news[[2, 3]], start)
    wanted = np.concatenate([wanted, own]) if joined else wanted
    np.testing.assert_allclose(got[row], wanted, rtol=1e-4, atol=1e-5)


def test_a_news_is_its_title_beside_its_two_categories():
  system, assets, params = made()
  news = np.asarray(system.index(params, assets)["vectors"])
  for item in range(1, ITEMS):
    for at, name, kind in ((4, "categories", item % 3), (6, "subcategories", item % 4)):
      wanted = params[name][kind] if kind else np.zeros(2)
      np.testing.assert_array_equal(news[item, at : at + 2], wanted)


def test_in_training_users_are_masked_at_the_rate_and_only_then():
  def moved(masked):
    """[U, D] what of the users' vectors a step moves, one key."""
    system, assets, params = made(masked=masked)
    batch = BATCH | {"user": jnp.arange(ROWS) + 1}
    users = 0.1 * jax.random.normal(jax.random.key(1), (ROWS + 1, 8))
    cfg = dataclasses.replace(CFG, masked=masked, num_users=ROWS + 1)
    loss, key = lstur.make(cfg).loss, jax.random.key(2)
    grad = jax.grad(lambda u: loss(params | {"users": u}, assets, batch, key).sum)
    return jax.jit(grad)(users)[1:]

  assert np.abs(moved(0.0)).sum(1).all()
  share = (np.abs(moved(0.5)).sum(1) > 0).mean()
  assert 0.25 < share < 0.75  # four standard deviations


def test_without_a_history_the_long_term_alone_scores():
  system, assets, params = made()
  nothing = BATCH | {"history": jnp.zeros((ROWS, 3), jnp.int32)}
  np.testing.assert_allclose(
    system.embed(params, assets, nothing)[:4], params["users"][1:5], rtol=1e-6
  )
  unknown = nothing | {"user": jnp.zeros(ROWS, jnp.int32)}
  np.testing.assert_array_equal(system.embed(params, assets, unknown), 0)


def test_sizes_that_do_not_fit_are_told():
  with pytest.raises(ValueError, match="make it even"):
    dataclasses.replace(CFG, joined=True, filters=3)
  with pytest.raises(ValueError, match="masked=1.0"):
    dataclasses.replace(CFG, masked=1.0)


def test_a_recommender_answers_a_new_user_by_the_clicks():
  _, assets, params = made()
  items, users = (np.array(["", *map(str, range(1, n))]) for n in (ITEMS, USERS))
  held = Recommender("lstur", CFG, params, assets, items, items, users, max_len=3)
  histories = [["2", "3"], ["4"]]
  new, known = held.recommend(histories, k=6), held.recommend(histories, k=6, users=["1", "1"])
  assert np.isfinite(new.scores).all() and not np.allclose(new.scores[0], new.scores[1])
  assert not np.allclose(new.scores, known.scores)
