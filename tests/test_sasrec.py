"""SASRec: it reads only the past, places count from the right end, its losses are the papers'."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from recjax.data import examples, interactions, loader
from recjax.systems.sequential import sasrec

B, T, ITEMS = 3, 6, 30
CFG = sasrec.Config(num_items=ITEMS, max_len=10, dim=16, heads=2, layers=2, ff=32, dropout=0.0)


def batch_of(seed=0):
  """A full history, one with padding, and a row that only fills."""
  rng = np.random.default_rng(seed)
  events = rng.integers(1, ITEMS, (B, T + 1))
  events[1, :3] = 0
  following = np.where(events[:, :-1] == 0, 0, events[:, 1:])
  columns = {"history": events[:, :-1], "next": following, "weight": np.float32([1, 1, 0])}
  return {name: jnp.asarray(x, jnp.float32 if name == "weight" else jnp.int32)
          for name, x in columns.items()}  # fmt: skip


def made(**changes):
  cfg = dataclasses.replace(CFG, **changes)
  system = sasrec.make(cfg)
  params = system.init(jax.random.key(0), (), batch_of())
  # Wide tables, so that scores differ by more than rounding.
  return cfg, system, params | {name: 8 * params[name] for name in ("items", "positions")}


def states(cfg, params, history):
  return sasrec.SASRec(cfg).apply({"params": params}, history, train=False)


def every_logit(cfg, params, batch):
  """[B, T, I] in float64, PAD left out by -inf."""
  logits = np.asarray(states(cfg, params, batch["history"]) @ params["items"].T, np.float64)
  logits[..., 0] = -np.inf
  return logits


def test_histories_that_share_a_row_are_learned_as_alone():
  rng = np.random.default_rng(0)
  user = np.repeat(np.arange(9), [2, 3, 4, 2, 8, 3, 14, 5, 2])
  x = interactions.from_columns(user, rng.integers(0, ITEMS - 1, len(user)))
  found = examples.rows(x, 10), examples.sequences(x, 10, stride=10)
  shared, apart = (loader.Batches(one, len(one), max_len=10)[0] for one in found)
  assert len(shared["next"]) < len(apart["next"]) and shared["segment"].max() > 1
  _, system, params = made()

  def learned(batch):
    return jax.value_and_grad(lambda p: system.loss(p, (), batch, jax.random.key(0)).sum)(params)

  chex.assert_trees_all_close(learned(shared), learned(apart), rtol=2e-4, atol=1e-5)


def test_a_state_depends_on_no_later_item():
  cfg, _, params = made()
  # Each place of the history is an item of its own, to differentiate by. A LayerNorm's output
  # has a fixed sum, so its channels are weighed.
  history, weight = jnp.arange(1, T + 1)[None], jnp.linspace(-1, 2, cfg.dim)

  @jax.jit
  @jax.jacrev
  def moved(items):
    return states(cfg, params | {"items": items}, history)[0] @ weight  # [T]

  at = np.abs(moved(params["items"])).sum(-1)[:, 1 : T + 1]
  np.testing.assert_array_equal(at != 0, np.tri(T))


def test_padding_changes_no_state_to_its_right():
  cfg, _, params = made()
  history = batch_of()["history"]
  wide = jnp.pad(history, ((0, 0), (4, 0)))
  np.testing.assert_allclose(
    states(cfg, params, wide)[1, 7:], states(cfg, params, history)[1, 3:], atol=1e-5
  )


def test_the_order_of_the_history_matters():
  cfg, system, params = made()
  batch = {"history": jnp.array([[1, 2, 3, 4], [2, 1, 3, 4]])}
  scores = system.score(params, (), batch)
  assert np.abs(scores[0, 1:] - scores[1, 1:]).max() > 1e-3


def test_the_default_loss_is_the_softmax_over_all_items_but_pad():
  cfg, system, params = made()
  batch = batch_of()
  logits, target = every_logit(cfg, params, batch), np.asarray(batch["next"])
  wanted = [
    scipy.special.logsumexp(logits[b, t]) - logits[b, t, target[b, t]]
    for b in range(2)
    for t in range(T)
    if target[b, t]
  ]
  out = system.loss(params, (), batch, jax.random.key(0))
  assert out.weight == len(wanted) == T + T - 3
  np.testing.assert_allclose(out.sum, sum(wanted), rtol=1e-5)


def test_one_negative_at_t_zero_is_binary_cross_entropy():
  """The negatives are handed in, so the sum can be made by hand."""
  cfg, system, params = made(negatives=1, t=0.0)
  batch = batch_of()
  batch["candidates"] = jnp.array([[29], [28], [27]])
  assert not (batch["next"] == batch["candidates"]).any()
  logits, target = every_logit(cfg, params, batch), np.asarray(batch["next"])
  wanted = 0.0
  for b in range(2):
    for t in range(T):
      if target[b, t]:
        negative = logits[b, t, int(batch["candidates"][b, 0])]
        wanted += np.log1p(np.exp(-logits[b, t, target[b, t]])) + np.log1p(np.exp(negative))
  np.testing.assert_allclose(system.loss(params, (), batch, jax.random.key(0)).sum, wanted, 1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_the_sampled_softmax_tends_to_the_full_one(shared):
  cfg, full, params = made()
  _, sampled, _ = made(negatives=4000, shared=shared)
  batch = batch_of()
  a, b = (s.loss(params, (), batch, jax.random.key(1)) for s in (full, sampled))
  np.testing.assert_allclose(b.sum / b.weight, a.sum / a.weight, rtol=0.02)


@pytest.mark.parametrize("t", [None, 0.75])
def test_a_draw_of_the_target_itself_is_no_negative(t):
  _, system, params = made(negatives=3, t=t)
  batch = batch_of()
  batch["next"] = jnp.where(batch["next"] != 0, 7, 0)
  own = batch | {"candidates": jnp.array([[5, 7, 9]] * B)}
  pad = batch | {"candidates": jnp.array([[5, 0, 9]] * B)}
  losses = [system.loss(params, (), b, jax.random.key(0)) for b in (own, pad)]
  chex.assert_trees_all_close(losses[0], losses[1], rtol=1e-6)


@pytest.mark.parametrize("changes", [{"negatives": 8}, {"negatives": 8, "t": 0.75, "shared": True}])
def test_gradients_of_sampled_losses_are_finite(changes):
  _, system, params = made(dropout=0.5, **changes)
  loss = jax.jit(lambda p: system.loss(p, (), batch_of(), jax.random.key(0)).sum)
  grads = jax.grad(loss)(params)
  chex.assert_tree_all_finite(grads)
  assert not np.any(grads["items"][0])  # PAD learns nothing


def test_bad_settings_are_errors():
  with pytest.raises(ValueError, match="from 0, plain BCE, to 1"):
    sasrec.Config(num_items=5, negatives=3, t=1.5)
  with pytest.raises(ValueError, match="needs negatives"):
    sasrec.Config(num_items=5, t=0.5)
  with pytest.raises(ValueError, match="shared=True shares out a draw"):
    sasrec.Config(num_items=5, shared=True)
  _, system, params = made()
  with pytest.raises(ValueError, match="longer than max_len"):
    system.score(params, (), {"history": jnp.ones((1, 11), jnp.int32)})
