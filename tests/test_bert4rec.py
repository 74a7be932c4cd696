"""BERT4Rec: it reads both sides, never what it must fill in, and answers at a mask behind."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from recjax.systems.sequential import bert4rec

B, T, ITEMS = 3, 6, 30
CFG = bert4rec.Config(num_items=ITEMS, max_len=9, dim=16, heads=2, layers=2, ff=32, dropout=0.0)
MASK = ITEMS


def batch_of():
  rng = np.random.default_rng(0)
  events = rng.integers(1, ITEMS, (B, T + 1))
  events[1, :3] = 0
  following = np.where(events[:, :-1] == 0, 0, events[:, 1:])
  return {
    "history": jnp.asarray(events[:, :-1], jnp.int32),
    "next": jnp.asarray(following, jnp.int32),
    "weight": jnp.array([1.0, 1.0, 0.0]),
  }


def made(**changes):
  cfg = dataclasses.replace(CFG, **changes)
  system = bert4rec.make(cfg)
  params = system.init(jax.random.key(0), (), batch_of())
  params = jax.tree.map(
    lambda p: p * 4 + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params
  )
  return cfg, system, params


def states(cfg, params, tokens):
  return bert4rec.Bert4Rec(cfg).apply({"params": params}, tokens, train=False)


def test_a_masked_place_reads_both_sides_and_never_its_own_item():
  cfg, _, params = made()
  whole = jnp.arange(1, T + 1)[None]  # each place an item of its own, to differentiate by
  weight = jnp.linspace(-1, 2, cfg.dim)

  @jax.jit
  @jax.grad
  def gradient(items, at):
    tokens = whole.at[0, at].set(MASK)
    return states(cfg, params | {"items": items}, tokens)[0, at] @ weight

  for at in range(T):
    moved = np.abs(gradient(params["items"], at)).sum(-1)
    np.testing.assert_array_equal(moved[1 : T + 1] > 0, np.arange(T) != at)
    assert moved[MASK] > 0


def test_masks_lie_on_real_places_and_are_as_many_as_asked():
  cfg = dataclasses.replace(CFG, mask_share=0.5, last_share=0.0)
  tokens = jnp.tile(jnp.array([[0, 0, 3, 4, 5, 6], [0, 0, 0, 0, 0, 9]]), (200, 1))
  masked, where = bert4rec.cloze(cfg, tokens, jax.random.key(0))
  np.testing.assert_array_equal(masked, np.where(where, MASK, tokens))
  assert not np.any(where & (tokens == 0))
  np.testing.assert_array_equal(where.sum(1), np.tile([2, 1], 200))  # at least one
  often = np.asarray(where[::2, 2:]).mean(0)
  np.testing.assert_allclose(often, 0.5, atol=0.15)  # 200 draws: 4 standard deviations


def test_a_share_of_the_examples_is_masked_at_the_last_place_alone():
  tokens = jnp.tile(jnp.arange(1, 11)[None], (2000, 1))
  cfg = dataclasses.replace(CFG, mask_share=0.4, last_share=0.3)
  _, where = bert4rec.cloze(cfg, tokens, jax.random.key(1))
  alone = np.asarray(where[:, -1] & (where.sum(1) == 1))
  assert abs(alone.mean() - 0.3) < 0.05
  assert set(np.unique(where.sum(1))) == {1, 4}
  _, where = bert4rec.cloze(dataclasses.replace(cfg, last_share=1.0), tokens, jax.random.key(1))
  assert where[:, -1].all() and where.sum() == 2000


def test_the_loss_fills_the_masks_from_the_whole_catalogue():
  """With every example masked at its last place, the loss is that of the question asked."""
  cfg, system, params = made(last_share=1.0)
  batch = batch_of()
  scores = np.asarray(system.score(params, (), {"history": batch["history"]}))
  assert scores.shape == (B, ITEMS)
  wanted = sum(
    scipy.special.logsumexp(scores[b, 1:]) - scores[b, batch["next"][b, -1]] for b in range(2)
  )
  out = system.loss(params, (), batch, jax.random.key(0))
  np.testing.assert_allclose(out.sum, wanted, rtol=1e-5)
  assert out.weight == 2


def test_a_full_history_loses_nothing_to_the_mask():
  cfg, system, params = made()
  full = jnp.arange(1, 10)[None]  # as long as max_len
  other = full.at[0, 0].set(20)
  a, b = (system.score(params, (), {"history": h})[:, 1:] for h in (full, other))
  assert np.abs(a - b).max() > 1e-3
  with pytest.raises(ValueError, match="longer than max_len"):
    system.score(params, (), {"history": jnp.ones((1, 10), jnp.int32)})


def test_a_share_beyond_one_is_an_error():
  with pytest.raises(ValueError, match="mask_share is a share"):
    bert4rec.Config(num_items=5, mask_share=20)
