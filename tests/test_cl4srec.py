"""CL4SRec: what its views are, the contrast by hand, an item's mask that nobody is recommended."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from recjax.systems.pretrain import cl4srec
from recjax.train import mesh

ITEMS, T = 20, 10
CFG = cl4srec.Config(num_items=ITEMS, max_len=T, dim=8, heads=2, layers=1, ff=16, dropout=0.0)
MASK = ITEMS  # the id that hides an item


def batch(weight=(1, 1, 1, 1, 0, 1, 1, 1)):
  rng = np.random.default_rng(0)
  events = np.stack([rng.permutation(ITEMS - 1)[: T + 1] + 1 for _ in weight])
  events[np.arange(T + 1)[None] < rng.integers(0, T - 2, len(weight))[:, None]] = 0
  history = events[:, :-1]
  return {
    "history": jnp.asarray(history),
    "next": jnp.asarray(np.where(history == 0, 0, events[:, 1:])),
    "weight": jnp.asarray(weight, jnp.float32),
  }


@functools.cache
def started():
  params = jax.jit(cl4srec.make(CFG).init)(jax.random.key(0), (), batch())
  return params | {"items": 8 * params["items"]}  # users that differ


@functools.cache
def compiled(**changes):
  """The loss and all answers of a system."""
  system = cl4srec.make(dataclasses.replace(CFG, **changes))

  def answers(params, b):
    ids = system.recommend(params, (), b, k=ITEMS - 1).ids
    return system.embed(params, (), b), system.score(params, (), b), ids

  return jax.jit(system.loss), jax.jit(answers)


def test_a_view_is_a_crop_a_mask_or_a_shuffle_of_its_own_history():
  history = np.stack([np.roll(np.arange(1, T + 1), r) for r in range(T)])
  keys = jax.random.split(jax.random.key(0), 30)
  views = jax.jit(jax.vmap(lambda key: cl4srec.view(CFG, key, jnp.asarray(history))))(keys)
  kinds = []
  for drawn in np.asarray(views):
    for own, seen in zip(history, drawn, strict=True):
      left = seen[seen != 0]
      if len(left) == 6:  # .6 of 10, from one place on
        start = own.tolist().index(left[0])
        np.testing.assert_array_equal(left, own[start : start + 6])
        kinds.append("crop")
      elif sorted(seen) == sorted(own):
        moved = np.flatnonzero(seen != own)
        assert not len(moved) or moved[-1] - moved[0] < 6
        kinds.append("reorder")
      else:
        assert ((seen == own) | (seen == MASK)).all()
        kinds.append("mask")
  for kind in ("crop", "mask", "reorder"):
    share = kinds.count(kind) / len(kinds)  # of 300; nothing masked (.7^10) passes as reorder
    assert abs(share - 1 / 3) < 0.1, kind


def test_the_loss_is_the_next_items_and_the_weighed_contrast_of_users():
  """Views that change nothing, a next item at the last place alone: `embed` tells all states."""
  b, params = batch(), started()
  b["next"] = b["next"].at[:, :-1].set(0)
  loss, answers = compiled(crop=1.0, mask=0.0, reorder=0.0, weight=0.3, temperature=2.0)
  out = loss(params, (), b, jax.random.key(1))
  user = np.asarray(answers(params, b)[0], np.float64)
  assert np.abs(user - user[:1]).max() > 0.1
  real = [0, 1, 2, 3, 5, 6, 7]
  among = user @ np.asarray(params["items"], np.float64)[1:ITEMS].T
  wanted = sum(scipy.special.logsumexp(among[i]) - among[i, b["next"][i, -1] - 1] for i in real)
  np.testing.assert_allclose(out.metrics["next"], (wanted, 7), rtol=1e-5)
  logits = user @ user.T / 2
  contrast = sum(
    scipy.special.logsumexp([logits[i, i], *[logits[i, j] for j in real if j != i] * 2])
    - logits[i, i]
    for i in real
    for _ in range(2)
  )
  np.testing.assert_allclose(out.metrics["contrast"], (contrast, 14), rtol=1e-5)
  np.testing.assert_allclose(out.sum / out.weight, wanted / 7 + 0.3 * contrast / 14, rtol=1e-5)


def test_the_mask_is_read_in_views_alone_and_never_recommended():
  b, params = batch(), started()
  assert params["items"].shape == (ITEMS + 1, CFG.dim)
  other = params | {"items": params["items"].at[MASK].set(100.0)}
  loss, _ = compiled(temperature=0.01)
  one, two = (loss(p, (), b, jax.random.key(0)).metrics for p in (params, other))
  assert one["next"] == two["next"] and one["contrast"][0] != two["contrast"][0]
  assert one["next"][1] == int((b["next"][b["weight"] > 0] != 0).sum())
  _, answers = compiled(crop=1.0, mask=0.0, reorder=0.0, weight=0.3, temperature=2.0)
  _, scores, ids = answers(other, b)
  assert scores.shape == (8, ITEMS)
  np.testing.assert_array_equal(np.sort(ids, axis=1), np.tile(np.arange(1, ITEMS), (8, 1)))
  wrong = b | {"next": jnp.where(b["next"] == 0, 0, MASK)}
  assert np.isnan(loss(params, (), wrong, jax.random.key(0)).sum)


def test_the_two_views_of_a_history_are_drawn_apart():
  """States have a length of sqrt(D): with no dropout, two views alike are nearest to each other."""
  out = compiled(temperature=0.01)[0](started(), (), batch(), jax.random.key(0))
  assert out.metrics["contrast"][0] > 1


def test_the_contrast_is_over_the_whole_batch_on_any_number_of_devices():
  loss, b = compiled(temperature=0.01)[0], batch()
  alone = loss(started(), (), b, jax.random.key(5))
  spread = mesh.put_batch(jax.tree.map(np.asarray, b), mesh.make_mesh())
  assert len(spread["history"].sharding.device_set) == 8
  out = loss(started(), (), spread, jax.random.key(5))
  chex.assert_trees_all_close(jax.device_get(out), jax.device_get(alone), rtol=1e-5)


@pytest.mark.parametrize(
  "changes, said",
  [
    ({"crop": 1.5}, "crop=1.5 is a share"),
    ({"reorder": -0.1}, "reorder=-0.1 is a share"),
    ({"temperature": 0.0}, "temperature=0.0 divides"),
    ({"weight": -1.0}, "weight=-1.0 would push"),
  ],
)
def test_bad_settings_are_errors(changes, said):
  with pytest.raises(ValueError, match=said):
    dataclasses.replace(CFG, **changes)
