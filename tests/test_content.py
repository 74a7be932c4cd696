"""Content: cosines with a summary of the history, against NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from test_item_knn import log, table

from recjax.systems.collaborative import content
from recjax.types import PAD

ITEMS, T = 25, 6


def vectors(seed=0):
  found = np.random.default_rng(seed).standard_normal((ITEMS, 8)).astype(np.float32) * 3
  found[[PAD, 9]] = 0  # 9 has no text
  return found


def scores(history, given=None, **options):
  cfg = content.Config(num_items=ITEMS, **options)
  system = content.make(cfg)
  assets = content.assets(cfg, vectors() if given is None else given)
  params = system.fit(assets, log(table()))
  return np.asarray(system.score(params, assets, {"history": jnp.asarray(history)}))


def unit(x):
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


HISTORY = np.array([[0, 0, 0, 4, 9, 7], [1, 2, 3, 4, 5, 6]])


@pytest.mark.parametrize("summary, half_life", [("mean", 3.0), ("recent", 3.0), ("recent", 0.5)])
def test_scores_are_cosines_with_the_weighted_mean(summary, half_life):
  got = scores(HISTORY, summary=summary, half_life=half_life)
  every = unit(vectors())
  for row, history in zip(got, HISTORY, strict=True):
    user = np.zeros(8)
    for age, item in enumerate(history[::-1]):
      weight = 1.0 if summary == "mean" else 2 ** (-age / half_life)
      user += weight * every[item]  # PAD and 9 are zero
    np.testing.assert_allclose(row[1:], (every @ unit(user))[1:], atol=1e-5)


def test_of_several_tastes_the_nearest_item_counts():
  got = scores(HISTORY, summary="nearest")
  cosines = unit(vectors()) @ unit(vectors()).T
  np.testing.assert_allclose(got[1, 1:], cosines[1:, 1:7].max(1), atol=1e-5)
  # 9 has no text: its cosine with everything is 0, and that may be the greatest.
  np.testing.assert_allclose(got[0, 1:], cosines[1:, [4, 9, 7]].max(1), atol=1e-5)


@pytest.mark.parametrize("summary", ["mean", "recent", "nearest"])
def test_histories_without_text_are_answered_by_popularity(summary):
  got = scores([[0] * T, [0] * 5 + [9], [0] * 5 + [4]], summary=summary)
  count = table().sum(0)
  np.testing.assert_array_equal(
    np.argsort(-got[0, 1:], kind="stable"), np.argsort(-count[1:], kind="stable")
  )
  np.testing.assert_array_equal(got[0], got[1])
  assert np.isfinite(got[:, 1:]).all() and got[2, 9] == 0


def test_a_new_item_is_ranked_by_its_text():
  given = vectors()
  given[24] = 5 * given[4]  # nothing was learned of 24
  got = scores([[0] * 5 + [4]], given)[0]
  np.testing.assert_allclose(got[24], 1, atol=1e-5)
  np.testing.assert_array_equal(np.sort(np.argsort(-got)[:2]), [4, 24])


def test_vectors_of_any_length_are_made_one():
  unit = content.unit(np.array([[9, 9], [1e30, 1e30], [3e-30, 4e-30], [0, 0]]), 4)
  np.testing.assert_allclose(unit, [[0, 0], [0.5**0.5] * 2, [0.6, 0.8], [0, 0]], rtol=1e-6)
  assert unit.dtype == np.float32


def test_bad_vectors_and_settings_are_named():
  cfg = content.Config(num_items=ITEMS)
  with pytest.raises(ValueError, match=r"shape \(24, 8\) are not a row for each of 25 items"):
    content.assets(cfg, vectors()[1:])
  bad = vectors()
  bad[7, 0] = np.nan
  with pytest.raises(ValueError, match="the vector of item 7 is not finite"):
    content.assets(cfg, bad)
  with pytest.raises(ValueError, match="no summary 'median'; there is mean, recent, nearest"):
    content.make(content.Config(num_items=ITEMS, summary="median"))
  with pytest.raises(ValueError, match="half_life must be positive"):
    content.Config(num_items=ITEMS, half_life=0.0)
