"""CoSeRec: which items are correlated, what short and long histories turn into, the hybrid."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data import interactions
from recjax.systems.pretrain import coserec

T = 6
ITEMS = 2 * T + 1
CFG = coserec.Config(num_items=ITEMS, max_len=T, dim=8, heads=2, layers=1, ff=16, dropout=0.0)
MASK = ITEMS  # the id that hides an item


def log():
  rng = np.random.default_rng(1)
  user = np.repeat(np.arange(15), rng.integers(1, 7, 15))
  return interactions.from_columns(user, rng.integers(0, ITEMS - 1, len(user)))


def correlation(x):
  """[I, I] by the paper's sum over users, one at a time; an item met twice is met."""
  met = {u: set(x.item[x.user == u].tolist()) for u in np.unique(x.user).tolist()}
  count = [sum(i in items for items in met.values()) for i in range(x.num_items)]
  found = np.zeros((x.num_items, x.num_items))
  for items in met.values():
    for i in items:
      for j in items - {i}:
        found[i, j] += 1 / math.log(1 + len(items)) / math.sqrt(count[i] * count[j])
  return found


def test_similar_items_are_the_most_correlated_by_the_papers_sum():
  x = log()
  wanted = correlation(x)
  cfg = dataclasses.replace(CFG, num_items=x.num_items, similar=3)
  similar = np.asarray(coserec.assets(cfg, x)["similar"])
  assert similar.shape == (x.num_items, 3)
  for item, row in enumerate(similar):
    best = np.sort(wanted[item])[::-1][:3]
    np.testing.assert_array_equal(row != 0, best > 0)
    np.testing.assert_allclose(wanted[item, row[row != 0]], best[best > 0], rtol=1e-5)
  assert (similar == 0).any()  # who has fewer than three


def test_with_learned_vectors_the_better_of_both_similarities_decides():
  x = log()
  items = x.num_items
  vectors = np.random.default_rng(2).normal(size=(items + 1, 4)).astype(np.float32)
  product = (vectors @ vectors.T)[1:items, 1:items]
  learned = np.zeros((items, items))
  learned[1:, 1:] = (product - product.min()) / (product.max() - product.min())
  np.fill_diagonal(learned, 0)
  seen = correlation(x) / correlation(x).max()
  wanted = np.where(
    seen.max(1) >= learned.max(1), seen.argmax(1), learned.argmax(1)
  )  # of the one most similar by either
  taken = (seen.max(1) >= learned.max(1))[1:]
  assert taken.any() and not taken.all()
  cfg = dataclasses.replace(CFG, num_items=items)
  similar = np.asarray(coserec.assets(cfg, x, vectors)["similar"])[:, 0]
  np.testing.assert_array_equal(similar[1:][~taken], wanted[1:][~taken])
  alone = np.asarray(coserec.assets(cfg, x)["similar"])[:, 0]
  np.testing.assert_array_equal(similar[1:][taken], alone[1:][taken])
  with pytest.raises(ValueError, match="3 vectors are not one for each"):
    coserec.assets(cfg, x, vectors[:3])


def test_short_histories_are_neither_cropped_nor_shuffled_and_similar_items_come_in():
  cfg = dataclasses.replace(
    CFG, short=4, crop=0.5, reorder=1.0, mask=1.0, substitute=1.0, insert=1.0
  )
  similar = jnp.asarray([0, *range(T + 1, 2 * T + 1), *[0] * T])[:, None]  # i is like i + T
  history = np.stack([[1, 2, 3, 4, 5, 6], [0, 0, 3, 1, 6, 2]])
  changed = {
    "mask": [[MASK] * 6, [0, 0, *[MASK] * 4]],
    "substitute": [[7, 8, 9, 10, 11, 12], [0, 0, 9, 7, 12, 8]],
    "insert": [[10, 4, 11, 5, 12, 6], [7, 1, 12, 6, 8, 2]],
  }
  keys = jax.random.split(jax.random.key(0), 400)
  draw = jax.vmap(lambda key: coserec.view(cfg, key, jnp.asarray(history), similar))
  kinds = [[], []]
  for views in np.asarray(jax.jit(draw)(keys)):
    for row, seen in enumerate(views):
      kind = next((k for k, rows in changed.items() if seen.tolist() == rows[row]), None)
      if kind is None and sorted(seen) == sorted(history[row]):
        kind = "reorder"
      if kind is None:
        left = seen[seen != 0]
        assert len(left) == 3 and (np.diff(left) == 1).all()  # of 1..6, half
        kind = "crop"
      kinds[row].append(kind)
  for found, wanted in zip(kinds, ({*changed, "reorder", "crop"}, set(changed)), strict=True):
    assert set(found) == wanted
    for kind in wanted:
      assert abs(found.count(kind) / len(found) - 1 / len(wanted)) < 0.1, kind


def test_similar_items_change_the_contrast_and_not_the_next_item():
  system = coserec.make(dataclasses.replace(CFG, short=T, mask=0.0, substitute=0.5))
  rng = np.random.default_rng(0)
  events = jnp.asarray(rng.integers(1, ITEMS, (4, T + 1)))
  b = {"history": events[:, :-1], "next": events[:, 1:], "weight": jnp.ones(4)}
  params = jax.jit(system.init)(jax.random.key(0), (), b)
  params |= {"items": 8 * params["items"]}
  loss = jax.jit(lambda similar: system.loss(params, {"similar": similar}, b, jax.random.key(1)))
  none, some = (loss(jnp.full((ITEMS, 1), item)) for item in (0, 5))
  assert none.metrics["next"] == some.metrics["next"]
  assert abs(none.metrics["contrast"][0] - some.metrics["contrast"][0]) > 0.1


def test_bad_settings_are_errors():
  for changes, said in (
    ({"similar": 0}, "similar=0 items leave nothing"),
    ({"insert": 1.2}, "insert=1.2 is a share"),
    ({"temperature": -1.0}, "temperature=-1.0 divides"),
  ):
    with pytest.raises(ValueError, match=said):
      dataclasses.replace(CFG, **changes)
  with pytest.raises(ValueError, match="the events know"):
    coserec.assets(dataclasses.replace(CFG, num_items=3), log())
