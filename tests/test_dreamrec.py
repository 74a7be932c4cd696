"""DreamRec: guidance of the past alone, learned with and without it; noise becomes an item."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.systems.sequential import dreamrec

ITEMS, T = 12, 4
CFG = dreamrec.Config(num_items=ITEMS, max_len=T, dim=8, ff=16, dropout=0.0, steps=3)
BATCH = {
  "history": jnp.array([[0, 0, 1, 2], [3, 4, 5, 1], [1, 1, 1, 1]]),
  "next": jnp.array([[0, 0, 2, 5], [4, 5, 1, 2], [3, 3, 3, 3]]),
  "weight": jnp.array([1.0, 1.0, 0.0]),
}
KEY = jax.random.key(0)


def made(**changes):
  cfg = dataclasses.replace(CFG, **changes)
  system = dreamrec.make(cfg)
  return cfg, system, jax.jit(system.init)(KEY, (), BATCH)


def applied(cfg, params, method, *args, **more):
  return dreamrec.DreamRec(cfg).apply({"params": params}, *args, method=method, **more)


def test_guidance_depends_on_no_later_item():
  cfg, _, params = made()
  history = jnp.array([[1, 2, 3, 4]])
  guide = jax.jit(lambda x: applied(cfg, params, dreamrec.DreamRec.guide, x, train=False))
  same = np.abs(guide(history) - guide(history.at[0, 2].set(9))).max(-1)[0]
  assert (same[:2] == 0).all() and (same[2:] > 1e-3).all()


def test_the_loss_is_the_mean_square_of_what_the_denoiser_misses():
  """A denoiser that says zero misses the targets' own vectors."""
  cfg, system, params = made()
  params["denoiser"] = jax.tree.map(jnp.zeros_like, params["denoiser"])
  targets = np.asarray(params["items"])[np.array([2, 5, 4, 5, 1, 2])]
  out = jax.jit(system.loss)(params, (), BATCH, KEY)
  assert out.weight == targets.size
  np.testing.assert_allclose(out.sum, np.square(targets).sum(), rtol=1e-5)


def test_no_item_outside_the_batch_learns():
  _, system, params = made()
  gradient = jax.jit(jax.grad(lambda p: system.loss(p, (), BATCH, KEY).sum))(params)["items"]
  np.testing.assert_array_equal(gradient.any(1), np.isin(np.arange(ITEMS), [1, 2, 3, 4, 5]))


def test_without_guidance_the_history_means_nothing():
  other = BATCH | {"history": jnp.where(BATCH["history"] == 0, 0, 7)}
  for dropped, same in ((0.9999999, True), (0.0, False)):
    _, system, params = made(dropped=dropped)
    loss = jax.jit(lambda batch, s=system, p=params: s.loss(p, (), batch, KEY).sum)
    assert (loss(BATCH) == loss(other)) == same


@pytest.mark.parametrize("strength", [0.0, 2.0])
def test_one_step_back_leads_away_from_the_unguided_answer(strength):
  cfg, system, params = made(strength=strength, steps=1)
  found = jax.jit(lambda b: system.embed(params, (), b))(BATCH)
  start = jax.random.normal(jax.random.fold_in(KEY, 1), (1, cfg.dim))
  start = jnp.broadcast_to(start, found.shape)
  guidance = applied(cfg, params, dreamrec.DreamRec.guide, BATCH["history"], train=False)[:, -1]
  none = jnp.broadcast_to(params["none"][None], guidance.shape)
  guided, free = (
    np.asarray(applied(cfg, params, dreamrec.DreamRec.denoise, start, by, jnp.zeros(3, jnp.int32)))
    for by in (guidance, none)
  )
  np.testing.assert_allclose(found, guided + strength * (guided - free), rtol=1e-4, atol=1e-5)


def test_of_an_empty_history_any_strength_gives_the_unguided_answer():
  empty = {"history": jnp.array([[0, 0, 0, 0], [0, 0, 1, 2]])}
  _, _, params = made()
  none, some = (
    jax.jit(dreamrec.make(dataclasses.replace(CFG, strength=w)).embed)(params, (), empty)
    for w in (0.0, 3.0)
  )
  np.testing.assert_allclose(none[0], some[0], rtol=1e-3, atol=1e-4)
  assert np.abs(none[1] - some[1]).max() > 0.01


def test_the_nearest_item_comes_first():
  """A denoiser that says one vector, by its bias, dreams of that vector."""
  _, system, params = made()
  params["denoiser"] = jax.tree.map(jnp.zeros_like, params["denoiser"])
  wanted = params["items"][7] + 0.1
  (name,) = params["denoiser"]
  params["denoiser"][name]["bias"] = wanted
  ranked = jax.jit(lambda b: system.recommend(params, (), b, k=ITEMS - 1))(BATCH)
  far = np.linalg.norm(np.asarray(params["items"])[1:] - np.asarray(wanted), axis=1)
  np.testing.assert_array_equal(ranked.ids, np.tile(1 + np.argsort(far), (3, 1)))
  np.testing.assert_allclose(ranked.scores[0], -(np.sort(far) ** 2), rtol=1e-3, atol=1e-4)


def test_without_a_key_an_answer_depends_on_its_history_alone():
  _, system, params = made()
  answer = jax.jit(lambda b, key=None: system.recommend(params, (), b, k=5, key=key))
  twice = {"history": jnp.concatenate([BATCH["history"]] * 2)[1:]}
  first, again = answer(BATCH).scores, answer(twice).scores
  np.testing.assert_allclose(again[2:], first, rtol=1e-4, atol=1e-5)
  drawn = [answer(twice, jax.random.key(n)).scores for n in (1, 1, 2)]
  np.testing.assert_array_equal(drawn[0], drawn[1])
  assert np.abs(drawn[0] - drawn[2]).max() > 0.01
  assert np.abs(drawn[0][0] - drawn[0][3]).max() > 0.01  # the same history, another row


def test_bad_settings_are_errors():
  for changes, told in (
    ({"dim": 7}, "an even width from 4"),
    ({"dropped": 1.0}, "or no guidance is learned"),
    ({"strength": -1.0}, "strength=-1.0"),
  ):
    with pytest.raises(ValueError, match=told):
      dataclasses.replace(CFG, **changes)
  with pytest.raises(ValueError, match="steps=0"):
    dreamrec.make(dataclasses.replace(CFG, steps=0))
  _, system, params = made()
  with pytest.raises(ValueError, match="longer than max_len"):
    system.score(params, (), {"history": jnp.ones((1, T + 1), jnp.int32)})
