"""User-kNN: brute force by NumPy, unseen users, and the same on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_item_knn import log, similarities, table

from recjax.systems.collaborative import user_knn
from recjax.train import mesh as meshes


def made(found, **options):
  system = user_knn.make(user_knn.Config(num_items=found.shape[1], **options))
  return system, system.fit((), log(found))


def histories(found, users):
  width = int(found.sum(1).max())
  rows = [np.repeat(np.arange(found.shape[1]), found[u]) for u in users]
  return jnp.asarray(np.stack([np.pad(r, (width - len(r), 0)) for r in rows]))


@pytest.mark.parametrize("name", ["cosine", "tfidf", "bm25"])
@pytest.mark.parametrize("shrink", [0.0, 3.0])
def test_scores_are_those_of_brute_force(name, shrink):
  found = table(0)
  system, params = made(found, weighting=name, shrink=shrink, neighbours=7)
  users = np.arange(1, len(found))
  batch = {"history": histories(found, users), "user": jnp.asarray(users)}
  scores = np.asarray(jax.jit(system.score)(params, (), batch))
  sims = similarities(found, name, shrink)
  for user in users:
    near = np.argsort(-sims[user], kind="stable")[:7]
    wanted = sims[user, near] @ (found[near] > 0)
    told = wanted > 1e-9
    np.testing.assert_allclose(scores[user - 1][told], wanted[told], rtol=1e-4)
    assert told.any() and (scores[user - 1][~told] < 0).all()


def test_a_user_is_the_set_of_its_items_so_an_unseen_one_is_answered_alike():
  found = table(1)
  system, params = made(found, neighbours=5)
  history = histories(found, [3, 4])
  unseen = system.score(params, (), {"history": history})
  as_pad = system.score(params, (), {"history": history, "user": jnp.array([0, 0])})
  beyond = system.score(params, (), {"history": history, "user": jnp.array([900, 901])})
  np.testing.assert_array_equal(unseen, as_pad)
  np.testing.assert_array_equal(unseen, beyond)
  # Its twin in the training data is the nearest of all, and speaks for the items that both met.
  own = found[3] > 0
  assert (np.asarray(unseen)[0, own] >= 0.999).all()
  known = system.score(params, (), {"history": history, "user": jnp.array([3, 4])})
  assert np.asarray(known)[0, own].min() < 0.999
  backwards = system.score(params, (), {"history": history[:, ::-1]})
  np.testing.assert_array_equal(unseen, backwards)


def test_an_empty_history_is_answered_by_popularity_and_a_cold_item_is_finite():
  found = np.zeros((6, 6), int)
  found[1, [1, 2]], found[2:5, 3], found[5, 4] = 1, 1, 1  # nobody met 5
  for name in ("cosine", "tfidf", "bm25"):
    system, params = made(found, weighting=name)
    scores = np.asarray(system.score(params, (), {"history": jnp.array([[0, 0], [5, 5], [0, 1]])}))
    np.testing.assert_array_equal(np.argsort(-scores[0], kind="stable"), [3, 1, 2, 4, 5, 0])
    np.testing.assert_array_equal(scores[0], scores[1])  # nobody is like a user of 5 alone
    assert np.isfinite(scores[:, 1:]).all() and scores[2, 2] > 0 > scores[2, 3]


def test_a_batch_split_over_devices_has_the_same_answers():
  found = table(2)
  system, params = made(found, neighbours=6, shrink=1.0)
  users = np.arange(1, 17)
  batch = {"history": np.asarray(histories(found, users)), "user": users}
  answers = []
  for count in (1, 4):
    mesh = meshes.make_mesh(devices=jax.devices()[:count])
    placed = meshes.put(params, mesh)
    answers.append(jax.jit(system.score)(placed, (), meshes.put_batch(batch, mesh)))
  assert len(answers[1].sharding.device_set) == 4
  np.testing.assert_allclose(*map(np.asarray, answers), rtol=1e-6)


def test_more_neighbours_than_users_are_all_of_them():
  found = table(3)
  scores = []
  for count in (len(found), 1000):
    system, params = made(found, neighbours=count)
    scores.append(system.score(params, (), {"history": jnp.array([[1, 2, 3]])}))
  np.testing.assert_array_equal(*scores)
