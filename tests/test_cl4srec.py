"""CL4SRec: what its views are, the contrast by hand, an item's mask that nobody is recommended."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from recjax.systems.pretrain import cl4srec
from recjax.systems.sequential import sasrec
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


def made(**changes):
  system = cl4srec.make(dataclasses.replace(CFG, **changes))
  params = jax.jit(system.init)(jax.random.key(0), (), batch())
  return system, params | {"items": 8 * params["items"]}  # users that differ


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
  """Views that change nothing: a user's two vectors are what `embed` answers."""
  system, params = made(crop=1.0, mask=0.0, reorder=0.0, weight=0.3, temperature=2.0)
  b, key = batch(), jax.random.key(1)
  out = jax.jit(system.loss)(params, (), b, key)
  user = np.asarray(jax.jit(system.embed)(params, (), b), np.float64)
  assert np.abs(user - user[:1]).max() > 0.1
  real = [0, 1, 2, 3, 5, 6, 7]
  logits = user @ user.T / 2
  wanted = sum(
    scipy.special.logsumexp([logits[i, i], *[logits[i, j] for j in real if j != i] * 2])
    - logits[i, i]
    for i in real
    for _ in range(2)
  )
  np.testing.assert_allclose(out.metrics["contrast"], (wanted, 14), rtol=1e-5)
  plain = sasrec.make(sasrec.Config(ITEMS, T, dim=8, heads=2, layers=1, ff=16, dropout=0.0))
  alone = jax.jit(plain.loss)(params | {"items": params["items"][:ITEMS]}, (), b, key)
  np.testing.assert_allclose(out.metrics["next"], alone[:2], rtol=1e-5)
  np.testing.assert_allclose(out.sum / out.weight, alone.sum / alone.weight + 0.3 * wanted / 14)


def test_the_mask_is_learned_and_never_recommended():
  system, params = made(mask=0.9)
  b = batch()

  @jax.jit
  @jax.value_and_grad
  def loss(params, b):
    return system.loss(params, (), b, jax.random.key(0)).sum

  grads = loss(params, b)[1]["items"]
  assert grads.shape == (ITEMS + 1, CFG.dim) and np.any(grads[MASK])
  loud = params | {"items": params["items"].at[MASK].set(100.0)}
  ids, scores = jax.jit(lambda p: (system.recommend(p, (), b, k=ITEMS - 1).ids,
                                   system.score(p, (), b)))(loud)  # fmt: skip
  assert scores.shape == (8, ITEMS)
  np.testing.assert_array_equal(np.sort(ids, axis=1), np.tile(np.arange(1, ITEMS), (8, 1)))
  wrong = b | {"next": jnp.where(b["next"] == 0, 0, MASK)}
  assert np.isnan(loss(params, wrong)[0])


def test_the_contrast_is_over_the_whole_batch_on_any_number_of_devices():
  system, params = made(dropout=0.2)
  loss, b = jax.jit(system.loss), batch()
  alone = loss(params, (), b, jax.random.key(5))
  spread = mesh.put_batch(jax.tree.map(np.asarray, b), mesh.make_mesh())
  assert len(spread["history"].sharding.device_set) == 8
  out = loss(params, (), spread, jax.random.key(5))
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
