"""Caser: its filters are NumPy's, its window is fixed, and the user counts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from recjax.systems.sequential import caser

B, ITEMS, USERS, L, D = 3, 20, 6, 4, 5
CFG = caser.Config(
  num_items=ITEMS, num_users=USERS, length=L, dim=D, horizontal=3, vertical=2, dropout=0.0
)


def batch_of(width=6):
  rng = np.random.default_rng(0)
  history = rng.integers(1, ITEMS, (B, width))
  history[1, :-2] = 0
  return {
    "user": jnp.array([1, 2, 5]),
    "history": jnp.asarray(history, jnp.int32),
    "target": jnp.array([4, 9, 9]),
    "weight": jnp.array([1.0, 1.0, 0.0]),
  }


def made(**changes):
  cfg = dataclasses.replace(CFG, **changes)
  system = caser.make(cfg)
  params = system.init(jax.random.key(0), (), batch_of())
  params = jax.tree.map(
    lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params
  )
  return cfg, system, params


def state_by_numpy(params, user, history):
  """One example: every filter at every place, by loops."""
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  image = np.stack([p["items"][i] if i else np.zeros(D) for i in history[-L:]])  # [L, D]
  found = []
  for height in range(1, L + 1):
    conv = p[f"horizontal_{height}"]
    for n in range(3):
      at = [
        (image[top : top + height] * conv["kernel"][:, :, n]).sum() + conv["bias"][n]
        for top in range(L - height + 1)
      ]
      found.append(max(max(at), 0))
  for n in range(2):
    found.extend(sum(p["vertical"][row, n] * image[row] for row in range(L)))
  x = np.maximum(np.array(found) @ p["dense"]["kernel"] + p["dense"]["bias"], 0)
  return np.concatenate([x, p["users"][user]])


def test_filters_are_a_convolution_by_hand():
  _, system, params = made()
  batch = batch_of()
  got = system.embed(params, (), batch)
  for b in range(B):
    wanted = state_by_numpy(params, int(batch["user"][b]), np.asarray(batch["history"][b]))
    np.testing.assert_allclose(got[b], wanted, rtol=1e-4, atol=1e-5)


def test_the_window_is_fixed_whatever_the_width():
  _, system, params = made()
  batch = batch_of(width=L)
  scores = system.score(params, (), batch)
  for history in (
    jnp.pad(batch["history"], ((0, 0), (5, 0))),
    jnp.pad(batch["history"], ((0, 0), (5, 0)), constant_values=7),  # items before the window
  ):
    other = system.score(params, (), batch | {"history": history})
    np.testing.assert_array_equal(scores, other)
  short = {**batch, "history": batch["history"][1:2, -2:], "user": batch["user"][1:2]}
  np.testing.assert_allclose(system.score(params, (), short)[0], scores[1], rtol=1e-6)


def test_the_user_is_half_of_the_state():
  _, system, params = made()
  batch = batch_of()
  a, b = (system.embed(params, (), batch | {"user": jnp.full(B, u)}) for u in (1, 2))
  np.testing.assert_array_equal(a[:, :D], b[:, :D])
  assert np.all(a[:, D:] != b[:, D:])


def test_an_unknown_user_is_the_zero_vector():
  users = np.asarray(caser.make(CFG).init(jax.random.key(0), (), batch_of())["users"])
  assert (users[0] == 0).all() and (users[1:] != 0).all()


def test_the_loss_is_binary_cross_entropy_over_the_negatives():
  _, system, params = made()
  batch = batch_of() | {"candidates": jnp.array([[1, 2, 3]] * B)}
  scores = np.asarray(system.score(params, (), {k: batch[k] for k in ("user", "history")}))
  wanted = 0.0
  for b in range(2):
    wanted += np.log1p(np.exp(-scores[b, batch["target"][b]]))
    wanted += np.log1p(np.exp(scores[b, 1:4])).sum()
  out = system.loss(params, (), batch, jax.random.key(0))
  np.testing.assert_allclose(out.sum, wanted, rtol=1e-5)
  assert out.weight == 2


def test_without_negatives_it_is_the_softmax_over_all_items():
  _, system, params = made(negatives=0)
  batch = batch_of()
  question = {k: batch[k] for k in ("user", "history")}
  scores = np.asarray(system.score(params, (), question), np.float64)[:, 1:]
  log_p = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
  out = system.loss(params, (), batch, jax.random.key(0))
  np.testing.assert_allclose(out.sum, -log_p[0, 3] - log_p[1, 8], rtol=1e-5)
