"""BERT against transformers, its weights in and out, and what padding must not do."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from recjax.data.errors import DataError
from recjax.nn import bert
from recjax.text import bert_weights

TINY = bert.Config(vocab=37, dim=12, heads=3, ff=20, layers=2, max_len=11, types=2)
TOKENS = np.array([[2, 5, 36, 3, 0, 0, 0], [2, 8, 9, 10, 11, 12, 3], [2, 3, 0, 0, 0, 0, 0]])
encode = jax.jit(bert.encode, static_argnums=1)


@pytest.fixture(scope="module")
def params():
  return wide(bert.init(jax.random.key(0), TINY))


def wide(params, seed=0):
  """Params drawn wider than at the start, biases and norms too, so that each of them matters."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(x + rng.normal(0, 0.3, x.shape), jnp.float32), params)


def reference(cfg, **more):
  torch = pytest.importorskip("torch", reason="the reference runs on it")
  transformers = pytest.importorskip("transformers", reason="the reference")
  torch.manual_seed(0)
  config = transformers.BertConfig(
    vocab_size=cfg.vocab,
    hidden_size=cfg.dim,
    num_hidden_layers=cfg.layers,
    num_attention_heads=cfg.heads,
    intermediate_size=cfg.ff,
    max_position_embeddings=cfg.max_len,
    type_vocab_size=cfg.types,
    initializer_range=0.3,
    **more,
  )
  model = transformers.BertModel(config, add_pooling_layer=cfg.pooler).eval()
  with torch.no_grad():  # biases start at zero, which would hide a lost one
    for parameter in model.parameters():
      parameter.add_(torch.randn_like(parameter) * 0.1)
  return torch, transformers, model


@pytest.mark.parametrize(
  "cfg",
  [
    TINY,
    dataclasses.replace(TINY, pooler=False, layers=1),
    bert.Config(vocab=101, dim=15, heads=5, ff=7, layers=3, max_len=17, types=3),
  ],
  ids=["tiny", "no pooler", "odd"],
)
def test_states_are_those_of_transformers(cfg, tmp_path):
  torch, _, model = reference(cfg)
  model.save_pretrained(tmp_path)
  loaded, params = bert_weights.load(tmp_path)
  assert loaded == dataclasses.replace(cfg, dropout=0.1)
  types = np.tril(np.ones_like(TOKENS))
  ours = encode(params, loaded, TOKENS, types=types)
  with torch.no_grad():
    theirs = model(
      torch.tensor(TOKENS),
      attention_mask=torch.tensor(TOKENS != 0),
      token_type_ids=torch.tensor(types),
    )
  where = TOKENS != 0
  expected = theirs.last_hidden_state.numpy()
  assert np.abs(expected[where]).max() > 0.5
  np.testing.assert_allclose(np.asarray(ours.states)[where], expected[where], atol=1e-4)
  if cfg.pooler:
    np.testing.assert_allclose(ours.pooled, theirs.pooler_output.numpy(), atol=1e-4)
  else:
    assert ours.pooled is None and "pooler" not in params


def test_gradients_are_those_of_transformers(tmp_path):
  """Of a squared sum of the real states, for every parameter."""
  torch, _, model = reference(TINY)
  model.save_pretrained(tmp_path)
  cfg, params = bert_weights.load(tmp_path)
  where = TOKENS != 0

  def loss(params):
    states, pooled = encode(params, cfg, TOKENS)
    weights = jnp.linspace(0, 1, cfg.dim)[None, None]
    return jnp.sum((states * weights) ** 2 * where[:, :, None]) + jnp.sum(pooled[:, :5])

  ours = bert_weights.tensors(cfg, jax.grad(loss)(params))
  out = model(torch.tensor(TOKENS), attention_mask=torch.tensor(where))
  weights = torch.linspace(0, 1, cfg.dim)
  total = ((out.last_hidden_state * weights) ** 2 * torch.tensor(where)[:, :, None]).sum()
  (total + out.pooler_output[:, :5].sum()).backward()
  theirs = {name: p.grad.numpy() for name, p in model.named_parameters()}
  assert ours.keys() == theirs.keys()
  for name, expected in theirs.items():
    np.testing.assert_allclose(ours[name], expected, atol=1e-4, rtol=1e-3, err_msg=name)


def test_a_saved_folder_loads_in_transformers_and_here(params, tmp_path):
  torch, transformers, _ = reference(TINY)
  bert_weights.save(tmp_path, TINY, params)
  cfg, again = bert_weights.load(tmp_path)
  assert cfg == TINY
  chex.assert_trees_all_equal(again, params)
  model, report = transformers.BertModel.from_pretrained(
    tmp_path, local_files_only=True, output_loading_info=True
  )
  assert not report["missing_keys"] and not report["unexpected_keys"]
  with torch.no_grad():
    theirs = model.eval()(torch.tensor(TOKENS), attention_mask=torch.tensor(TOKENS != 0))
  ours = encode(params, TINY, TOKENS)
  np.testing.assert_allclose(ours.pooled, theirs.pooler_output.numpy(), atol=1e-4)


def test_a_checkpoint_with_a_task_head_gives_its_encoder(tmp_path):
  torch, transformers, _ = reference(TINY)
  cfg = transformers.BertConfig(
    vocab_size=37, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20
  )
  model = transformers.BertForMaskedLM(cfg).eval()
  model.save_pretrained(tmp_path)
  loaded, params = bert_weights.load(tmp_path)
  assert not loaded.pooler
  with torch.no_grad():
    theirs = model.bert(torch.tensor(TOKENS[1:2])).last_hidden_state.numpy()
  ours = encode(params, loaded, TOKENS[1:2]).states
  np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_padding_changes_no_state(params):
  """Other ids under the mask, and more of them, leave the states of real tokens as they are."""
  where = TOKENS != 0
  expected = np.asarray(encode(params, TINY, TOKENS).states)[where]
  noise = np.where(where, TOKENS, 7)
  states = np.asarray(encode(params, TINY, noise, mask=where).states)
  np.testing.assert_array_equal(states[where], expected)
  wider = np.pad(TOKENS, ((0, 0), (0, 4)))
  states = np.asarray(encode(params, TINY, wider).states)[:, :7]
  np.testing.assert_allclose(states[where], expected, atol=1e-6)


def test_no_gradient_flows_from_padding(params):
  where = jnp.asarray(TOKENS != 0)

  def real(words):
    changed = params | {"words": {"embedding": words}}
    return (encode(changed, TINY, noise, mask=where).states ** 2 * where[:, :, None]).sum()

  noise = np.where(where, TOKENS, 7)  # word 7 stands nowhere but under the mask
  grads = jax.grad(real)(params["words"]["embedding"])
  np.testing.assert_array_equal(grads[7], 0)
  assert np.abs(grads[5]).max() > 0


def test_rows_of_padding_alone_are_finite(params):
  states, pooled = encode(params, TINY, np.zeros((2, 4), int))
  assert np.isfinite(states).all() and np.isfinite(pooled).all()


def test_dropout_is_on_where_a_key_is_given(params):
  plain = encode(params, TINY, TOKENS).states
  one, same = (encode(params, TINY, TOKENS, key=jax.random.key(1)).states for _ in range(2))
  other = encode(params, TINY, TOKENS, key=jax.random.key(2)).states
  np.testing.assert_array_equal(one, same)
  assert not np.allclose(one, plain) and not np.allclose(one, other)
  none = dataclasses.replace(TINY, dropout=0.0, attention_dropout=0.0)
  off = encode(params, none, TOKENS, key=jax.random.key(1)).states
  np.testing.assert_array_equal(off, plain)


def test_bfloat16_activations_stay_near(params):
  low = encode(params, dataclasses.replace(TINY, dtype="bfloat16"), TOKENS)
  assert low.states.dtype == jnp.bfloat16
  high = encode(params, TINY, TOKENS)
  where = TOKENS != 0
  apart = np.abs(np.asarray(low.states, np.float32) - high.states)[where]
  assert 0 < apart.mean() < 0.03


def test_too_many_tokens_and_odd_heads_are_errors(params):
  with pytest.raises(ValueError, match="12 tokens, but 11 positions"):
    encode(params, TINY, np.ones((1, 12), int))
  with pytest.raises(ValueError, match="does not divide"):
    bert.Config(dim=10, heads=3)


def edit(folder, change=None, **config):
  """Change a saved folder's tensors or config."""
  path = folder / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  if change:
    change(tensors)
  safetensors.numpy.save_file(tensors, path)
  told = json.loads((folder / "config.json").read_text()) | config
  (folder / "config.json").write_text(json.dumps({k: v for k, v in told.items() if v is not ...}))


def test_every_tensor_that_does_not_fit_is_named(params, tmp_path):
  bert_weights.save(tmp_path, TINY, params)

  def change(tensors):
    del tensors["encoder.layer.1.output.dense.bias"]
    tensors["encoder.layer.0.intermediate.dense.weight"] = np.zeros((20, 11), np.float32)
    tensors["encoder.layer.2.output.dense.bias"] = np.zeros(12, np.float32)
    tensors["embeddings.position_ids"] = np.arange(11)[None]  # old files have it: no problem

  edit(tmp_path, change)
  with pytest.raises(DataError) as error:
    bert_weights.load(tmp_path)
  told = str(error.value)
  assert "3 problems" in told
  assert "missing: encoder.layer.1.output.dense.bias (12,)" in told
  assert "encoder.layer.0.intermediate.dense.weight is (20, 11), expected (20, 12)" in told
  assert "unknown: encoder.layer.2.output.dense.bias (12,)" in told


@pytest.mark.parametrize(
  ("config", "told"),
  [
    ({"model_type": "roberta"}, "type 'roberta'"),
    ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ({"position_embedding_type": "relative_key"}, "relative_key"),
    ({"hidden_size": ...}, "does not say 'hidden_size'"),
  ],
)
def test_an_architecture_it_does_not_know_is_refused(params, tmp_path, config, told):
  bert_weights.save(tmp_path, TINY, params)
  edit(tmp_path, **config)
  with pytest.raises(DataError, match=told):
    bert_weights.load(tmp_path)
