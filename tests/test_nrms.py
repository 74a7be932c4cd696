"""NRMS, and what all readers of news share: an impression's candidates told by their words."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.nn.pool import AdditivePool
from recjax.systems.news import nrms

ITEMS, WORDS, TITLE = 9, 12, 4
CFG = nrms.Config(ITEMS, WORDS, title=TITLE, word_dim=6, heads=2, head_dim=3, query=5, dropout=0.0)


def titles():
  """[I, S] with one word and up to all four."""
  rng = np.random.default_rng(0)
  return rng.integers(2, WORDS, (ITEMS, TITLE)) * (
    np.arange(TITLE) <= np.arange(ITEMS)[:, None] % 4
  )


def batch_of(rows=3):
  """Histories of none, of two, and of three; the last row only fills."""
  return {
    "user": jnp.zeros(rows, jnp.int32),
    "history": jnp.array([[0, 0, 0], [0, 4, 7], [1, 5, 3]]),
    "candidates": jnp.array([[1, 2, 3], [4, 5, 0], [6, 7, 8]]),
    "labels": jnp.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "weight": jnp.array([1.0, 1, 0]),
  }


@pytest.fixture(scope="module")
def made():
  """(system, assets, params), the word table wide so that scores differ."""
  system, assets = nrms.make(CFG), nrms.assets(CFG, titles())
  params = jax.jit(system.init)(jax.random.key(0), assets, batch_of())
  made = {name: jax.jit(getattr(system, name)) for name in ("score", "loss", "index")}
  return system._replace(**made), assets, params | {"words": 8 * params["words"]}


def test_the_pool_is_the_mean_weighed_by_a_softmax():
  """One hidden unit of weight 1 and a query of 1: weights e^tanh(x)."""
  x = jnp.array([[[0.0], [2.0], [9.0]]])
  where = jnp.array([[True, True, False]])
  params = {"hidden": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)},
            "query": {"kernel": jnp.ones((1, 1))}}  # fmt: skip
  got = AdditivePool(1).apply({"params": params}, x, where)
  e = np.exp(np.tanh(2.0))
  np.testing.assert_allclose(got, [[2 * e / (1 + e)]], rtol=1e-6)
  assert AdditivePool(1).apply({"params": params}, x, where & False) == 0


def attended(p, x, heads):
  """A title of the words x [S, E] in NumPy, head by head."""
  related = []
  for at in range(heads):
    q, k, v = (np.split(x @ p[n]["kernel"], heads, axis=1)[at] for n in ("query", "key", "value"))
    weight = np.exp(q @ k.T / np.sqrt(q.shape[1]))
    related.append(weight / weight.sum(1, keepdims=True) @ v)
  related = np.concatenate(related, axis=1)
  hidden = np.tanh(related @ p["pool"]["hidden"]["kernel"] + p["pool"]["hidden"]["bias"])
  weight = np.exp(hidden @ p["pool"]["query"]["kernel"])
  return (related * weight / weight.sum()).sum(0)


def test_a_score_is_the_product_of_attended_words_and_attended_news(made):
  system, assets, params = made
  p = jax.tree.map(np.asarray, params)
  news = [attended(p["of_words"], p["words"][row[row > 0]], 2) for row in titles()[1:]]
  user = attended(p["of_news"], np.stack([news[4 - 1], news[7 - 1]]), 2)
  got = system.score(params, assets, batch_of())
  np.testing.assert_allclose(got[1, :2], [user @ news[3], user @ news[4]], rtol=1e-4)
  np.testing.assert_array_equal(got[0], 0)  # nothing is known of the first


def test_the_loss_is_of_each_click_against_what_was_left(made):
  system, assets, params = made
  scores = np.asarray(system.score(params, assets, batch_of()))
  wanted = np.log(3) + np.log1p(np.exp(scores[1, 0] - scores[1, 1]))
  out = system.loss(params, assets, batch_of(), jax.random.key(0))
  np.testing.assert_allclose([out.sum, out.weight], [wanted, 2], rtol=1e-5)


def test_the_order_of_candidates_does_not_matter(made):
  system, assets, params = made
  batch, turned = batch_of(), jnp.array([2, 0, 1])
  other = batch | {name: batch[name][:, turned] for name in ("candidates", "labels")}
  a, b = (system.score(params, assets, x) for x in (batch, other))
  np.testing.assert_allclose(a[:, turned], b, rtol=1e-5)
  chex.assert_trees_all_close(
    *(system.loss(params, assets, x, jax.random.key(0)) for x in (batch, other)), rtol=1e-5
  )


def test_news_kept_by_the_index_score_as_news_read_anew(made):
  system, assets, params = made
  indexed = system.index(params, assets)
  assert indexed["vectors"].shape == (ITEMS, 6)
  for batch in (batch_of(), {k: v for k, v in batch_of().items() if k != "candidates"}):
    a, b = (system.score(params, given, batch) for given in (assets, indexed))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  nothing = indexed | {"titles": jnp.zeros_like(assets["titles"])}  # they are not read again
  np.testing.assert_array_equal(
    system.score(params, nothing, batch_of()), system.score(params, indexed, batch_of())
  )


def test_word_vectors_of_the_assets_are_where_learning_starts():
  vectors = np.arange(WORDS * 6, dtype=np.float32).reshape(WORDS, 6)
  assets = nrms.assets(CFG, titles(), vectors)
  params = nrms.make(CFG).init(jax.random.key(0), assets, batch_of())
  np.testing.assert_array_equal(params["words"], vectors)


def test_titles_and_vectors_that_do_not_fit_are_told():
  with pytest.raises(ValueError, match="reads 4 words"):
    nrms.assets(CFG, titles()[:, :3])
  with pytest.raises(ValueError, match="9, PAD included"):
    nrms.assets(CFG, titles()[:8])
  with pytest.raises(ValueError, match="config has 12"):
    nrms.assets(CFG, titles() + 5)
  with pytest.raises(ValueError, match=r"\(12, 6\)"):
    nrms.assets(CFG, titles(), np.zeros((WORDS, 5)))
