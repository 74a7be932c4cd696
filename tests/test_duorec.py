"""DuoRec: whose histories are positives, the contrast by hand, one's own under other masks."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from experiments import settings, tasks
from recjax.data import draws, examples, interactions, loader
from recjax.systems.pretrain import duorec
from recjax.train import mesh

ITEMS, T = 20, 6
CFG = duorec.Config(num_items=ITEMS, max_len=T, dim=8, heads=2, layers=1, ff=16, dropout=0.0)


def batch(weight=(1, 1, 1, 0, 1, 1, 1, 1), target=(3, 4, 3, 5, 6, 7, 3, 8)):
  rng = np.random.default_rng(0)
  own, other = rng.integers(1, ITEMS, (2, len(weight), T))
  for x in (own, other):
    x[np.arange(T)[None] < rng.integers(0, T, len(weight))[:, None]] = 0
  columns = {"history": own, "alike": other, "target": np.array(target)}
  return {
    **{name: jnp.asarray(x) for name, x in columns.items()},
    "weight": jnp.asarray(weight, jnp.float32),
  }


@functools.cache
def started():
  params = jax.jit(duorec.make(CFG).init)(jax.random.key(0), (), batch())
  return params | {"items": 8 * params["items"]}  # users that differ


@functools.cache
def loss_of(**changes):
  return jax.jit(duorec.make(dataclasses.replace(CFG, **changes)).loss)


def test_the_loss_is_the_target_and_the_weighed_contrast_of_same_target_histories():
  b, params = batch(), started()
  out = loss_of(weight=0.3, temperature=2.0)(params, (), b, jax.random.key(0))
  embed = jax.jit(duorec.make(CFG).embed)
  user, other = (
    np.asarray(embed(params, (), {"history": b[name]}), np.float64) for name in ("history", "alike")
  )
  logits = user @ np.asarray(params["items"], np.float64)[1:].T
  target, real = np.asarray(b["target"]), [0, 1, 2, 4, 5, 6, 7]
  wanted = sum(scipy.special.logsumexp(logits[i]) - logits[i, target[i] - 1] for i in real)
  np.testing.assert_allclose(out.metrics["next"], (wanted, 7), rtol=1e-5)
  contrast = 0.0
  for one, two in ((user, other), (other, user)):
    for i in real:
      others = [j for j in real if target[j] != target[i]]
      assert len(others) == (4 if target[i] == 3 else 6)
      among = np.array([two[i], *one[others], *two[others]]) @ one[i] / 2
      contrast += scipy.special.logsumexp(among) - among[0]
  np.testing.assert_allclose(out.metrics["contrast"], (contrast, 14), rtol=1e-5)
  np.testing.assert_allclose(out.sum / out.weight, wanted / 7 + 0.3 * contrast / 14, rtol=1e-5)


def test_a_history_that_is_its_own_positive_is_read_under_two_dropout_masks():
  """States have a length of sqrt(D): read twice alike, a history would be nearest to itself."""
  b = batch(target=range(1, 9))
  b["alike"] = b["history"]
  out = loss_of(dropout=0.5, temperature=0.01)(started(), (), b, jax.random.key(0))
  assert out.metrics["contrast"][0] > 1


def test_the_contrast_is_over_the_whole_batch_on_any_number_of_devices():
  loss, b = loss_of(dropout=0.5, temperature=0.01), batch()
  alone = loss(started(), (), b, jax.random.key(5))
  spread = mesh.put_batch(jax.tree.map(np.asarray, b), mesh.make_mesh())
  assert len(spread["history"].sharding.device_set) == 8
  out = loss(started(), (), spread, jax.random.key(5))
  chex.assert_trees_all_close(jax.device_get(out), jax.device_get(alone), rtol=1e-4)


def test_same_target_draws_every_history_of_other_users_before_the_target_and_no_other():
  rng = np.random.default_rng(0)
  user = np.repeat(np.arange(9), rng.integers(2, 6, 9))
  item = rng.integers(0, 8, len(user))
  item[-1] = 8  # of the last user alone
  x = interactions.from_columns(user, item, timestamp=np.arange(len(user)))
  found = examples.prefixes(x)
  history = found.left["history"].left_padded(np.arange(len(found)), 4)
  wanted, seen = {}, {}
  for row, (u, target) in enumerate(
    zip(*(found.dense[n] for n in ("user", "target")), strict=True)
  ):
    others = (found.dense["target"] == target) & (found.dense["user"] != u)
    wanted[row] = set(map(tuple, history[others] if others.any() else history[row : row + 1]))
  of_row = {(u, tuple(history[row])): row for row, u in enumerate(found.dense["user"])}
  made = loader.Batches(
    found, 8, max_len=4, seed=0, epochs=None, transforms=[draws.same_target(found)]
  )
  for i in range(200):
    b = made[i]
    for u, own, alike in zip(b["user"], b["history"], b["alike"], strict=True):
      seen.setdefault(of_row[u, tuple(own)], set()).add(tuple(alike))
  assert seen == wanted
  assert any(len(w) > 2 for w in wanted.values())
  met = np.stack([found.dense["user"], found.dense["target"]], axis=1)
  assert len(np.unique(met, axis=0)) < len(met)  # someone met an item twice


def test_a_config_of_examples_alike_draws_them_and_a_batch_without_is_refused():
  x = interactions.from_columns(list("aabb"), list("wxyx"), timestamp=np.arange(4))
  found = tasks.EXAMPLES["alike"](x, T)
  (drawn,) = tasks.drawn("alike", settings.Data(), x)
  b = loader.Batches(found, 2, max_len=T, transforms=[drawn])[0]
  np.testing.assert_array_equal(b["alike"], b["history"][::-1])  # before x, each the other's
  with pytest.raises(ValueError, match="no `alike`.*draws.same_target"):
    duorec.make(CFG).loss({}, (), {k: v for k, v in b.items() if k != "alike"}, jax.random.key(0))
  with pytest.raises(ValueError, match="temperature=0 divides"):
    dataclasses.replace(CFG, temperature=0)
