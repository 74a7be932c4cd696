"""NAML: four views of a news, weighed; what a news lacks takes no part."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.systems.news import naml

ITEMS, WORDS = 6, 9
CFG = naml.Config(
  ITEMS, WORDS, 3, 4, title=3, abstract=5, word_dim=4, category_dim=3, dim=5, query=4, dropout=0.0
)
TITLES = np.array([[0, 0, 0], [2, 3, 0], [3, 4, 5], [6, 0, 0], [7, 8, 2], [5, 0, 0]])
ABSTRACTS = np.pad(TITLES[::-1], ((0, 0), (0, 2)))
CATEGORIES, SUBCATEGORIES = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 1, 2, 3, 0, 1])
BATCH = {
  "user": jnp.zeros(1, jnp.int32), "history": jnp.array([[0, 2, 3]]),
  "candidates": jnp.array([[1, 4, 5]]),
}  # fmt: skip


def made(cfg=CFG, titles=TITLES, abstracts=ABSTRACTS):
  system = naml.make(cfg)
  assets = naml.assets(cfg, titles, abstracts, CATEGORIES, SUBCATEGORIES)
  params = jax.jit(system.init)(jax.random.key(0), assets, BATCH)
  return (
    system._replace(score=jax.jit(system.score)),
    assets,
    params | {"words": 8 * params["words"]},
  )


def pooled(p, x):
  weight = np.exp(np.tanh(x @ p["hidden"]["kernel"] + p["hidden"]["bias"]) @ p["query"]["kernel"])
  return (x * weight / weight.sum()).sum(0)


def text(p, x):
  """A window of three words at each place, zeros beyond both ends."""
  padded = np.pad(x, ((1, 1), (0, 0)))
  filters = p["convolved"]["filters"]
  seen = [
    np.einsum("we,wed->d", padded[i : i + 3], filters["kernel"]) + filters["bias"]
    for i in range(len(x))
  ]
  return pooled(p["pool"], np.maximum(seen, 0))


def test_a_news_is_the_attended_mean_of_the_views_it_has():
  system, assets, params = made()
  p = jax.tree.map(np.asarray, params)

  def news(i):
    views = []
    for ids, name in ((TITLES[i], "of_title"), (ABSTRACTS[i], "of_abstract")):
      if ids.any():
        views.append(text(p[name], p["words"][ids[ids > 0]]))
    for kind, table, name in (
      (CATEGORIES[i], "categories", "of_category"),
      (SUBCATEGORIES[i], "subcategories", "of_subcategory"),
    ):
      if kind:
        views.append(np.maximum(p[table][kind] @ p[name]["kernel"] + p[name]["bias"], 0))
    return pooled(p["of_views"], np.stack(views))

  assert not ABSTRACTS[5].any() and not CATEGORIES[3]  # two views are missing somewhere
  user = pooled(p["of_news"], np.stack([news(2), news(3)]))
  wanted = [user @ news(i) for i in (1, 4, 5)]
  np.testing.assert_allclose(system.score(params, assets, BATCH)[0], wanted, rtol=1e-4, atol=1e-6)


def test_more_padding_of_a_text_changes_nothing():
  system, assets, params = made()
  wide = dataclasses.replace(CFG, title=6, abstract=7)
  titles, abstracts = np.pad(TITLES, ((0, 0), (0, 3))), np.pad(ABSTRACTS, ((0, 0), (0, 2)))
  other, padded, _ = made(wide, titles, abstracts)
  a, b = (s.score(params, given, BATCH) for s, given in ((system, assets), (other, padded)))
  np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_told():
  with pytest.raises(ValueError, match="abstracts .* 5 words of each"):
    made(abstracts=ABSTRACTS[:, :4])
  with pytest.raises(ValueError, match="categories: ids of 0..2, and the config has 2"):
    made(dataclasses.replace(CFG, num_categories=2))
  with pytest.raises(ValueError, match="at least one word"):
    dataclasses.replace(CFG, abstract=0)
