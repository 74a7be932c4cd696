"""NPA: each user attends to words and to news by a query of their own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.systems.news import npa

TITLES = np.array([[0, 0, 0], [2, 3, 0], [3, 4, 5], [6, 0, 0], [7, 8, 2], [5, 5, 6]])
CFG = npa.Config(
  6, 4, 9, title=3, word_dim=4, user_dim=3, filters=5, query=4, dropout=0.0, masked=0.0
)
BATCH = {
  "user": jnp.array([1, 2, 0]), "history": jnp.array([[0, 2, 3]] * 3),
  "candidates": jnp.array([[1, 4, 5]] * 3), "labels": jnp.array([[0.0, 1, 0]] * 3),
  "weight": jnp.ones(3),
}  # fmt: skip


@pytest.fixture(scope="module")
def made():
  system, assets = npa.make(CFG), npa.assets(CFG, TITLES)
  params = jax.jit(system.init)(jax.random.key(0), assets, BATCH)
  wide = {"words": 8 * params["words"], "users": 20 * params["users"]}
  return system._replace(score=jax.jit(system.score)), assets, params | wide


def pooled(p, x, own):
  query = np.maximum(own @ p["preference"]["kernel"] + p["preference"]["bias"], 0)
  query = np.tanh(query @ p["query"]["kernel"] + p["query"]["bias"])
  weight = np.exp(x @ query)
  return weight @ x / weight.sum()


def seen(p, ids):
  """A window of three words at each place of a title, zeros beyond both ends."""
  x = np.pad(p["words"][ids[ids > 0]], ((1, 1), (0, 0)))
  kernel, bias = (p["convolved"]["filters"][name] for name in ("kernel", "bias"))
  every = [np.einsum("we,wed->d", x[i : i + 3], kernel) + bias for i in range(len(x) - 2)]
  return np.maximum(every, 0)


def test_a_news_is_read_by_the_query_of_its_user(made):
  system, assets, params = made
  p, got = jax.tree.map(np.asarray, params), system.score(params, assets, BATCH)
  for row, own in enumerate((p["users"][1], p["users"][2], np.zeros(3))):
    news = [pooled(p["of_words"], seen(p, ids), own) for ids in TITLES[1:]]
    user = pooled(p["of_news"], np.stack([news[1], news[2]]), own)
    wanted = [user @ news[i - 1] for i in (1, 4, 5)]
    np.testing.assert_allclose(got[row], wanted, rtol=1e-4, atol=1e-6)
  assert np.abs(got[0] - got[1]).max() > 1e-3  # users differ


def test_the_catalogue_is_scored_as_candidates_are(made):
  system, assets, params = made
  every = system.score(params, assets, {n: BATCH[n] for n in ("user", "history")})
  assert every.shape == (3, 6)
  np.testing.assert_allclose(
    every[:, jnp.array([1, 4, 5])], system.score(params, assets, BATCH), rtol=1e-4, atol=1e-6
  )


def test_a_masked_row_teaches_what_an_unknown_users_would(made):
  _, assets, params = made
  system = npa.make(dataclasses.replace(CFG, masked=0.999))
  key = jax.random.key(0)
  rows = (BATCH, BATCH | {"user": jnp.zeros(3, jnp.int32)})
  loss = jax.jit(system.loss)
  a, b = (loss(params, assets, x, key).sum for x in rows)
  np.testing.assert_allclose(a, b, rtol=1e-6)
  known = npa.make(CFG).loss(params, assets, BATCH, key).sum
  assert abs(known - a) > 1e-4


def test_what_does_not_fit_is_told():
  with pytest.raises(ValueError, match="masked=1"):
    dataclasses.replace(CFG, masked=1.0)
  with pytest.raises(ValueError, match="3 words of each"):
    npa.assets(CFG, TITLES[:, :2])
