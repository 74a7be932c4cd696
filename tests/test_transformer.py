"""Transformer blocks: torch's arithmetic, masks that hold, norms where they belong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.nn import attention, transformer

B, T, D, H, F = 2, 5, 8, 2, 12


def made(*, layers=2, norm_first=True, dropout=0.0, **more):
  model = transformer.Encoder(layers, H, F, dropout, norm_first=norm_first, **more)
  x = jax.random.normal(jax.random.key(0), (B, T, D))
  params = model.init(jax.random.key(1), x, jnp.ones((B, 1, 1, T), bool), train=False)
  # Biases start at 0 and scales at 1; other values show that they are used.
  params = jax.tree.map(
    lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params
  )
  return model, params, x


def seen(**masked):
  """[B, 1, 1, T]: row b does not see its first masked[b] places."""
  first = jnp.array([masked.get("first", 0), masked.get("second", 0)])
  return (jnp.arange(T)[None] >= first[:, None])[:, None, None]


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_block_is_that_of_torch(norm_first):
  torch = pytest.importorskip("torch", reason="the peer")
  model, params, x = made(layers=1, norm_first=norm_first, activation=jax.nn.relu, eps=1e-5)
  peer = torch.nn.TransformerEncoderLayer(
    D, H, F, 0.0, "relu", norm_first=norm_first, batch_first=True
  ).eval()
  p = jax.tree.map(np.asarray, params["params"]["block_0"])
  three = [p[name] for name in ("query", "key", "value")]
  weights = {
    "self_attn.in_proj_weight": np.concatenate([a["kernel"].T for a in three]),
    "self_attn.in_proj_bias": np.concatenate([a["bias"] for a in three]),
    "self_attn.out_proj.weight": p["out"]["kernel"].T,
    "self_attn.out_proj.bias": p["out"]["bias"],
    "linear1.weight": p["wide"]["kernel"].T,
    "linear1.bias": p["wide"]["bias"],
    "linear2.weight": p["narrow"]["kernel"].T,
    "linear2.bias": p["narrow"]["bias"],
    "norm1.weight": p["attention_norm"]["scale"],
    "norm1.bias": p["attention_norm"]["bias"],
    "norm2.weight": p["ff_norm"]["scale"],
    "norm2.bias": p["ff_norm"]["bias"],
  }
  peer.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})
  where = seen(second=2)
  hidden = torch.tensor(~np.asarray(where)[:, 0, 0])
  with torch.no_grad():
    wanted = peer(torch.tensor(np.asarray(x)), src_key_padding_mask=hidden)
    if norm_first:  # the encoder's last norm
      last = jax.tree.map(lambda a: torch.tensor(np.asarray(a)), params["params"]["norm"])
      wanted = torch.nn.functional.layer_norm(wanted, (D,), last["scale"], last["bias"], 1e-5)
  got = model.apply(params, x, where, train=False)
  np.testing.assert_allclose(got, wanted.numpy(), atol=2e-5)


@pytest.mark.parametrize("norm_first", [False, True])
def test_masked_places_change_no_other_state(norm_first):
  model, params, x = made(norm_first=norm_first)
  states = model.apply(params, x, seen(second=2), train=False)
  other = model.apply(params, x.at[1, :2].set(9.0), seen(second=2), train=False)
  np.testing.assert_allclose(states[1, 2:], other[1, 2:], atol=1e-6)
  cut = model.apply(params, x[1:, 2:], jnp.ones((1, 1, 1, T - 2), bool), train=False)
  np.testing.assert_allclose(states[1:, 2:], cut, atol=1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_a_state_reads_what_its_mask_shows_and_nothing_else(norm_first, causal):
  model, params, x = made(norm_first=norm_first)
  where = seen(first=1) & (attention.causal(T) if causal else True)
  weight = jnp.linspace(-1, 2, D)  # a LayerNorm's output has a fixed sum

  @jax.jit
  @jax.jacrev
  def moved(x):
    return model.apply(params, x, where, train=False)[0] @ weight  # [T]

  at = np.abs(moved(x)).sum(-1)  # [T, B, T]
  wanted = np.tri(T) if causal else np.ones((T, T))
  wanted[:, 0] = 0
  np.testing.assert_array_equal(at[1:, 0] > 0, wanted[1:])
  assert not np.any(at[1:, 1])


@pytest.mark.parametrize("norm_first", [False, True])
def test_where_the_norm_stands(norm_first):
  """With every inner weight zero, a block that norms first adds nothing; the other norms twice."""
  model, params, x = made(layers=1, norm_first=norm_first)
  inner = jax.tree.map(jnp.zeros_like, params["params"]["block_0"])
  norms = {
    name: {"scale": jnp.ones(D), "bias": jnp.zeros(D)} for name in ("attention_norm", "ff_norm")
  }
  plain = {"params": {**params["params"], "block_0": inner | norms}}
  if norm_first:
    plain["params"]["norm"] = {"scale": jnp.full(D, 2.0), "bias": jnp.ones(D)}
  got = model.apply(plain, x, seen(), train=False)
  normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(got, 2 * normed + 1 if norm_first else normed, atol=1e-4)
  assert ("norm" in params["params"]) == norm_first


def test_a_place_that_sees_nothing_is_finite():
  model, params, x = made()
  grad = jax.grad(lambda x: model.apply(params, x, seen(first=T), train=False).sum())(x)
  assert np.isfinite(grad).all()


def test_dropout_acts_in_training_alone_and_follows_the_key():
  model, params, x = made(dropout=0.5)

  def run(key, train=True):
    rngs = {"dropout": jax.random.key(key)}
    return np.asarray(model.apply(params, x, seen(), train=train, rngs=rngs))

  np.testing.assert_array_equal(run(0), run(0))
  assert np.abs(run(0) - run(1)).max() > 0.1
  np.testing.assert_array_equal(run(0, train=False), run(1, train=False))


def test_a_width_that_does_not_divide_is_named():
  with pytest.raises(ValueError, match="a width of 8 does not divide into 3 heads"):
    transformer.Encoder(1, 3, F, 0.0).init(
      jax.random.key(0), jnp.ones((1, 2, D)), jnp.ones((1, 1, 1, 2), bool), train=False
    )


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_last_place_alone_is_that_of_all(norm_first):
  model, params, x = made(norm_first=norm_first)
  where = seen(second=2) & attention.causal(T)
  every = model.apply(params, x, where, train=False)
  last = model.apply(params, x, where, train=False, last=True)
  assert last.shape == (B, 1, D)
  np.testing.assert_allclose(last, every[:, -1:], atol=1e-5)
