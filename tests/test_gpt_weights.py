"""GPT-2 and the LLaMA family against transformers on random models, in, out and generating."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax import losses
from recjax.data.errors import DataError
from recjax.decode import generate
from recjax.nn import gpt, t5
from recjax.text import gpt_weights, weights

LLAMA = {
  "vocab_size": 31, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
  "initializer_range": 0.4, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0,
}  # fmt: skip
GPT2 = {
  "vocab_size": 31, "n_embd": 12, "n_head": 3, "n_layer": 2, "n_positions": 32, "n_inner": 20,
  "initializer_range": 0.4, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0,
}  # fmt: skip
LONGER = {
  "rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0,
  "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
KINDS = {
  "gpt2": ("GPT2", GPT2),
  "llama": ("Llama", LLAMA),
  "llama of other options": (
    "Llama",
    LLAMA
    | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 6}
    | {"num_key_value_heads": 4, "rope_parameters": LONGER},
  ),
  "qwen2": ("Qwen2", LLAMA | {"tie_word_embeddings": True}),
}

rng = np.random.default_rng(0)
TOKENS = rng.integers(4, 31, (3, 9)).astype(np.int32)
REAL = np.arange(9) < np.array([[9], [6], [4]])
PROMPTS, ASKED = TOKENS[:, ::-1].copy(), REAL[:, ::-1]  # padded at the left


@pytest.fixture(scope="module")
def peer():
  pytest.importorskip("torch", reason="pip install recjax[parity]")
  return pytest.importorskip("transformers", reason="pip install recjax[parity]")


def their_model(transformers, kind):
  """Random, with biases and norms that matter."""
  import torch

  name, told = KINDS[kind]
  torch.manual_seed(0)
  model = getattr(transformers, f"{name}ForCausalLM" if name != "GPT2" else "GPT2LMHeadModel")(
    getattr(transformers, f"{name}Config")(**told)
  ).eval()
  with torch.no_grad():
    for p in model.parameters():
      p.add_(0.2 * torch.randn_like(p))
  return model


@pytest.fixture(scope="module", params=KINDS)
def pair(request, peer, tmp_path_factory):
  """Their model, and ours from the folder they saved."""
  folder = tmp_path_factory.mktemp("gpt")
  model = their_model(peer, request.param)
  model.save_pretrained(folder)
  return model, *gpt_weights.load(folder)


def test_logits_and_gradients_are_those_of_transformers(pair):
  import torch

  model, cfg, params = pair
  there = REAL[:, 1:]
  labels = torch.tensor(np.where(REAL, TOKENS, -100), dtype=torch.long)
  tokens = torch.tensor(TOKENS, dtype=torch.long)
  model.zero_grad()
  out = model(input_ids=tokens, attention_mask=torch.tensor(REAL).long(), labels=labels)
  out.loss.backward()

  @jax.jit
  def ours(params):
    def loss(params):
      found = gpt.logits(params, cfg, TOKENS, mask=jnp.asarray(REAL))
      total, weight = losses.softmax_xent(found[:, :-1], TOKENS[:, 1:], there)
      return total / weight, found

    return jax.value_and_grad(loss, has_aux=True)(params)

  (value, found), grads = ours(params)
  np.testing.assert_allclose(found[REAL], out.logits.detach().numpy()[REAL], atol=1e-4)
  np.testing.assert_allclose(value, out.loss.item(), rtol=1e-5)
  expected = {name: p.grad.numpy() for name, p in model.named_parameters()}
  grads = gpt_weights.tensors(cfg, grads)
  assert grads.keys() == expected.keys()
  for name, gradient in expected.items():
    np.testing.assert_allclose(grads[name], gradient, atol=1e-4, err_msg=name)


def test_what_is_saved_is_what_was_loaded_and_transformers_reads_it(pair, peer, tmp_path):
  import torch

  model, cfg, params = pair
  gpt_weights.save(tmp_path, cfg, params, entries={"eos_token_id": 3})
  again, loaded = gpt_weights.load(tmp_path)
  assert again == cfg
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  theirs = type(model).from_pretrained(tmp_path).eval()
  tokens = torch.tensor(TOKENS, dtype=torch.long)
  assert torch.equal(theirs(tokens).logits, model(tokens).logits)
  assert theirs.config.eos_token_id == 3


def generated(cfg, params, **how):
  @jax.jit
  def run(params):
    beams = how.get("beams", 1)
    begun = gpt.begin(params, cfg, PROMPTS, mask=jnp.asarray(ASKED), beams=beams, length=7)
    step = functools.partial(gpt.step, params, cfg)
    if beams > 1:
      return generate.beam(
        step, begun[1], begun[0], beams=beams, length=7, eos=3, reorder=t5.reorder
      )
    return generate.greedy(step, begun[1], begun[0][:, None], length=7, eos=3)

  return run(params)


def theirs(model, **how):
  import torch

  out = model.generate(
    input_ids=torch.tensor(PROMPTS, dtype=torch.long),
    attention_mask=torch.tensor(ASKED.copy()).long(),
    max_new_tokens=7,
    do_sample=False,
    pad_token_id=0,
    eos_token_id=3,
    **how,
  ).numpy()[:, 9:]
  return np.pad(out, ((0, 0), (0, 7 - out.shape[1])))


def test_greedy_generation_is_that_of_transformers_token_by_token(pair):
  model, cfg, params = pair
  np.testing.assert_array_equal(generated(cfg, params).tokens[:, 0], theirs(model))


def test_beams_are_those_of_transformers(peer, tmp_path):
  model = their_model(peer, "llama")
  model.save_pretrained(tmp_path)
  found = generated(*gpt_weights.load(tmp_path), beams=3).tokens
  expected = theirs(model, num_beams=3, num_return_sequences=3)
  np.testing.assert_array_equal(found, expected.reshape(3, 3, 7))


def test_shards_and_other_widths_are_read(peer, tmp_path):
  model = their_model(peer, "llama")
  model.save_pretrained(tmp_path / "whole")
  model.save_pretrained(tmp_path / "shards", max_shard_size="8KB")
  assert (tmp_path / "shards" / weights.INDEX).exists()
  whole, shards = (gpt_weights.load(tmp_path / name) for name in ("whole", "shards"))
  assert whole[0] == shards[0]
  jax.tree.map(np.testing.assert_array_equal, whole[1], shards[1])
  model.bfloat16().save_pretrained(tmp_path / "half")
  cfg, half = gpt_weights.load(tmp_path / "half", dtype="bfloat16")
  assert cfg == dataclasses.replace(whole[0], dtype="bfloat16")
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), half, whole[1])


# Without transformers.

OURS = {
  "gpt2": gpt.Config(vocab=31, dim=12, heads=3, ff=20, layers=1, max_len=8),
  "llama": dataclasses.replace(
    gpt.LLAMA, vocab=31, dim=12, heads=4, kv_heads=2, head_dim=4, ff=20, layers=1
  ),
}


@functools.cache
def drawn(kind):
  cfg, noise = OURS[kind], np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: gpt.init(jax.random.key(0), cfg))
  return jax.tree.map(lambda x: noise.normal(size=x.shape).astype(np.float32), shapes)


@pytest.fixture(params=OURS)
def saved(request, tmp_path):
  """(kind, folder, entries, tensors) of a small model."""
  gpt_weights.save(tmp_path, OURS[request.param], drawn(request.param))
  return request.param, tmp_path, *weights.read(tmp_path)


def test_tensors_that_do_not_fit_are_all_named(saved):
  kind, folder, entries, tensors = saved
  last = {"gpt2": "transformer.h.0.attn.c_attn.weight", "llama": "model.norm.weight"}[kind]
  first = {"gpt2": "transformer.h.0.mlp.c_fc.bias", "llama": "lm_head.weight"}[kind]
  tensors[last] = tensors[last][:-1]
  del tensors[first]
  weights.write(folder, entries, tensors | {"surplus.weight": np.zeros(2, np.float32)})
  with pytest.raises(DataError) as caught:
    gpt_weights.load(folder)
  message = str(caught.value)
  for name in (last, first, "surplus.weight"):
    assert name.removeprefix("transformer.") in message
  assert "missing: " in message and "unknown: " in message


def test_names_without_a_prefix_old_buffers_and_a_copied_head_are_read(saved):
  kind, folder, entries, tensors = saved
  mask = np.ones((1, 1, 8, 8), np.float32)
  if kind == "gpt2":
    tensors = {name.removeprefix("transformer."): x for name, x in tensors.items()}
    tensors |= {"h.0.attn.bias": mask, "h.0.attn.masked_bias": np.float32(-1e4)}
    tensors["lm_head.weight"] = tensors["wte.weight"]
  else:
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = mask[0, 0, 0, :2]
  weights.write(folder, entries, tensors)
  cfg, params = gpt_weights.load(folder)
  assert cfg == OURS[kind]
  jax.tree.map(np.testing.assert_array_equal, params, drawn(kind))


@pytest.mark.parametrize(
  "kind, wrong, message",
  [
    ("gpt2", {"model_type": "gptj"}, "model_type is 'gptj'; known are gpt2, llama, qwen2"),
    ("gpt2", {"activation_function": "relu"}, "activation_function .* 'relu', not 'gelu_new' or"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ("gpt2", {"embd_pdrop": 0.3}, "embd_pdrop and resid_pdrop"),
    ("gpt2", {"n_embd": None}, "does not say 'n_embd'"),
    ("gpt2", {"n_embd": "12"}, "n_embd of config.json is '12'"),
    ("gpt2", {"n_head": 5}, "width of 12 does not divide into 5 heads"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act of config.json is 'gelu', not 'silu'"),
    ("llama", {"num_key_value_heads": 3}, "4 heads do not share 3"),
    ("llama", {"num_hidden_layers": 0}, "num_hidden_layers of config.json is 0"),
    ("llama", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type of config.json is 'yarn'"),
    ("llama", {"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "'linear', not"),
    ("llama", {"rope_parameters": {"rope_type": "llama3"}}, "does not say 'factor'"),
    ("llama", {"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window"),
  ],
)
def test_a_field_that_cannot_be_computed_is_named(kind, wrong, message):
  entries = gpt_weights.to_entries(OURS[kind]) | wrong
  with pytest.raises(DataError, match=message):
    gpt_weights.config(entries, {})


def test_old_and_new_ways_to_tell_the_wave_lengths_agree():
  entries = gpt_weights.to_entries(OURS["llama"])
  old = entries | {"rope_parameters": None, "rope_theta": 5e5}
  new = entries | {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
  assert gpt_weights.config(old, {}) == gpt_weights.config(new, {})
  assert gpt_weights.config(new, {}).theta == 5e5


def test_what_no_family_has_cannot_be_saved():
  for cfg in (
    dataclasses.replace(OURS["gpt2"], kv_heads=1),
    dataclasses.replace(OURS["gpt2"], rms=True),
    dataclasses.replace(OURS["llama"], gated=False),
    dataclasses.replace(OURS["llama"], out_bias=True),
    dataclasses.replace(OURS["llama"], dropout=0.1),
  ):
    with pytest.raises(ValueError, match="has|have|is rotary"):
      gpt_weights.to_entries(cfg)
