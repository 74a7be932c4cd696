"""The GRU: torch's arithmetic, padding that passes the state on, and no look ahead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from recjax.nn import recurrent

B, T, D, H = 3, 5, 4, 6


def made(seed=0):
  model = recurrent.GRU(H)
  x = jax.random.normal(jax.random.key(seed), (B, T, D))
  params = model.init(jax.random.key(1), x, jnp.ones((B, T), bool))
  # Biases start at zero; any values show that they are used.
  params = jax.tree.map(
    lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params
  )
  return model, params, x


def by_numpy(params, x, where):
  """The equations of the paper, a row and a step at a time."""
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])
  out = np.zeros((*where.shape, H))
  for b in range(len(x)):
    h = np.zeros(H)
    for t in range(x.shape[1]):
      if where[b, t]:
        given = np.asarray(x[b, t], np.float64) @ p["input"]["kernel"] + p["input"]["bias"]
        own = h @ p["state_kernel"] + p["state_bias"]
        r, z = np.split(scipy.special.expit((given + own)[: 2 * H]), 2)
        n = np.tanh(given[2 * H :] + r * own[2 * H :])
        h = z * h + (1 - z) * n
      out[b, t] = h
  return out


def test_states_follow_the_equations():
  model, params, x = made()
  where = np.arange(T)[None] >= np.array([[0], [2], [4]])
  got = model.apply(params, x, jnp.asarray(where))
  np.testing.assert_allclose(got, by_numpy(params, x, where), atol=1e-5)


def test_states_are_those_of_torch():
  torch = pytest.importorskip("torch", reason="the peer")
  model, params, x = made()
  p = jax.tree.map(np.asarray, params["params"])
  peer = torch.nn.GRU(D, H, batch_first=True)
  weights = {
    "weight_ih_l0": p["input"]["kernel"].T,
    "bias_ih_l0": p["input"]["bias"],
    "weight_hh_l0": p["state_kernel"].T,
    "bias_hh_l0": p["state_bias"],
  }
  peer.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})
  with torch.no_grad():
    wanted = peer(torch.tensor(np.asarray(x)))[0].numpy()
  got = model.apply(params, x, jnp.ones((B, T), bool))
  np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_padding_at_the_left_changes_nothing_and_its_states_are_zero():
  model, params, x = made()
  plain = model.apply(params, x, jnp.ones((B, T), bool))
  wide = jnp.concatenate([jnp.full((B, 3, D), 7.0), x], axis=1)
  where = jnp.arange(T + 3)[None] >= jnp.full((B, 1), 3)
  padded = model.apply(params, wide, where)
  np.testing.assert_allclose(padded[:, 3:], plain, atol=1e-6)
  assert not np.any(padded[:, :3])


def test_a_gap_passes_the_state_on():
  model, params, x = made()
  where = jnp.ones((B, T), bool).at[:, 2].set(False)
  states = model.apply(params, x, where)
  np.testing.assert_array_equal(states[:, 2], states[:, 1])
  short = model.apply(params, jnp.delete(x, 2, axis=1), jnp.ones((B, T - 1), bool))
  np.testing.assert_allclose(states[:, -1], short[:, -1], atol=1e-6)


def test_a_state_depends_on_no_later_input_and_on_all_before():
  model, params, x = made()

  @jax.jit
  @jax.jacrev
  def moved(x):
    return model.apply(params, x, jnp.ones((B, T), bool))[0].sum(-1)  # [T]

  at = np.abs(moved(x)).sum(-1)  # [T, B, T]
  np.testing.assert_array_equal(at[:, 0] > 0, np.tri(T))
  assert not np.any(at[:, 1:])


def test_gradients_pass_no_nan_from_padding():
  model, params, x = made()
  where = jnp.zeros((B, T), bool)
  grads = jax.grad(lambda p: model.apply(p, x, where).sum())(params)
  assert all(np.all(g == 0) for g in jax.tree.leaves(grads))
