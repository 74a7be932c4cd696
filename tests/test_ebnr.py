"""EBNR: codes of sets of words, triplets of categories, pairs of a click and what was left."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.systems.news import ebnr
from recjax.types import FROZEN

TITLES = np.array([[0, 0, 0], [2, 3, 2], [3, 4, 5], [6, 0, 0], [7, 8, 2], [5, 5, 5], [4, 0, 0]])
KINDS = np.array([0, 1, 2, 1, 0, 2, 3])
CFG = ebnr.Config(7, 9, 4, title=3, dim=4)
BATCH = {
  "user": jnp.zeros(2, jnp.int32), "history": jnp.array([[0, 2, 3], [0, 0, 0]]),
  "candidates": jnp.array([[1, 4, 5], [3, 2, 0]]), "labels": jnp.array([[0.0, 1, 0], [1, 0, 0]]),
  "weight": jnp.ones(2),
}  # fmt: skip


def made(cfg=CFG):
  system, assets = ebnr.make(cfg), ebnr.assets(cfg, TITLES, KINDS)
  params = jax.jit(system.init)(jax.random.key(0), assets, BATCH)
  more = {"words": 8 * params["articles"]["words"], "bias": jnp.arange(4.0)}
  return system, assets, params | {"articles": more}


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def test_an_article_is_the_code_of_its_set_of_words_shrunk_as_it_was_corrupted():
  system, assets, params = made()
  vectors = jax.jit(system.index)(params, assets)["vectors"]
  words, bias = (np.asarray(params["articles"][name]) for name in ("words", "bias"))
  wanted = sigmoid(0.7 * (words[2] + words[3]) + bias) - sigmoid(bias)  # 2 stands there twice
  np.testing.assert_allclose(vectors[1], wanted, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(vectors[5], sigmoid(0.7 * words[5] + bias) - sigmoid(bias), rtol=1e-4)
  np.testing.assert_array_equal(vectors[0], 0)


def test_a_triplet_is_an_article_one_of_its_category_and_one_of_another():
  _, assets, _ = made()
  drawn = np.asarray(ebnr.triplets(jax.random.key(0), assets, 2000))
  assert set(drawn[:, 0]) == set(range(1, 7))
  told = drawn[KINDS[drawn[:, 0]] > 0]
  assert (KINDS[told[:, 0]] == KINDS[told[:, 1]]).all()
  assert (KINDS[told[:, 0]] != KINDS[told[:, 2]]).all()
  assert set(map(tuple, told[told[:, 0] == 1][:, 1:])) == {
    (same, other) for same in (1, 3) for other in (2, 5, 6)
  }  # fmt: skip


def test_pretraining_is_reconstruction_and_triplets_by_hand():
  cfg = dataclasses.replace(CFG, corruption=0.0, alpha=2.0)
  system, assets = ebnr.make_pretrain(cfg), ebnr.assets(cfg, TITLES, KINDS)
  params = jax.jit(system.init)(jax.random.key(0), assets, BATCH)
  batch, key = {"weight": jnp.array([1.0, 1, 1, 0])}, jax.random.key(3)
  out = jax.jit(system.loss)(params, assets, batch, key)
  items = np.asarray(ebnr.triplets(jax.random.split(key)[0], assets, 4))
  table, decoder = np.asarray(params["articles"]["words"]), params["decoder"]
  wanted = 0
  for row in items[:3]:
    codes = []
    for item in row:
      had = sorted(set(TITLES[item]) - {0})
      code = sigmoid(table[had].sum(0)) - 0.5
      p = sigmoid(code @ decoder["kernel"] + decoder["bias"])
      told = np.isin(np.arange(9), had)
      wanted -= np.log(np.where(told, p, 1 - p))[1:].sum()
      codes.append(code)
    if KINDS[row[0]]:
      wanted += 2 * np.log1p(np.exp(codes[0] @ codes[2] - codes[0] @ codes[1]))
  assert out.weight == 3
  np.testing.assert_allclose(out.sum, wanted, rtol=1e-4)


def test_users_learn_in_pairs_and_articles_stay():
  system, assets, params = made()
  scores = np.asarray(system.score(params, assets, BATCH), np.float64)
  wanted = np.mean([np.log1p(np.exp(scores[0, j] - scores[0, 1])) for j in (0, 2)]) + np.log(2)
  out = system.loss(params, assets, BATCH, jax.random.key(0))
  np.testing.assert_allclose([out.sum, out.weight], [wanted, 2], rtol=1e-5)
  labels = system.trainable(params)
  assert jax.tree.structure(labels) == jax.tree.structure(params)
  assert set(jax.tree.leaves(labels["articles"])) == {FROZEN}
  assert FROZEN not in jax.tree.leaves(labels["reader"])
  assert ebnr.make(dataclasses.replace(CFG, tuned=True)).trainable is None
  first = ebnr.make_pretrain(CFG).init(jax.random.key(0), assets, BATCH)
  shapes = (
    jax.tree.map(jnp.shape, x[name])
    for x, name in ((first, "articles"), (params, ebnr.SHARED["articles"]))
  )
  assert next(shapes) == next(shapes)


def test_what_does_not_fit_is_told():
  with pytest.raises(ValueError, match="fewer than two"):
    ebnr.assets(CFG, TITLES, np.minimum(KINDS, 1))
  with pytest.raises(ValueError, match="corruption=1"):
    dataclasses.replace(CFG, corruption=1.0)
