"""LoRA over a small language model: merged, adapted, learned, and in PEFT's format."""

import dataclasses
import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

from recjax.data.errors import DataError
from recjax.nn import gpt, lora, t5
from recjax.text import gpt_weights, lora_weights
from recjax.train import optim
from recjax.types import FROZEN, Loss, System

MODEL = dataclasses.replace(
  gpt.LLAMA, vocab=19, dim=12, heads=4, kv_heads=2, head_dim=4, ff=20, layers=2
)
CFG = lora.Config(rank=2, alpha=3.0, dropout=0.5, targets=("*/query/kernel", "layer_1/ff/*/kernel"))
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 19, (3, 7)), jnp.int32)
PATHS = [
  "layer_0/attention/query/kernel", "layer_1/attention/query/kernel", "layer_1/ff/gate/kernel",
  "layer_1/ff/narrow/kernel", "layer_1/ff/wide/kernel",
]  # fmt: skip


@functools.cache
def base():
  return jax.jit(gpt.init, static_argnums=1)(jax.random.key(0), MODEL)


@functools.cache
def changes():
  """With a B that matters."""
  noise, params = np.random.default_rng(1), base()  # made here, not within the trace
  shapes = jax.eval_shape(lambda: lora.init(jax.random.key(1), params, CFG))
  return jax.tree.map(lambda x: jnp.asarray(0.5 * noise.normal(size=x.shape), jnp.float32), shapes)


@functools.partial(jax.jit, static_argnums=0)
def adapted(cfg, params, changes, key=None):
  with lora.adapted(changes, CFG, key=key):
    return gpt.logits(params, cfg, TOKENS)


plain = jax.jit(lambda params: gpt.logits(params, MODEL, TOKENS))


def flat(tree):
  return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves(tree)}


def leaves(tree):
  return jax.tree_util.tree_leaves_with_path(tree)


def test_targets_choose_kernels_and_shapes_follow_from_them():
  found = lora.init(jax.random.key(0), base(), CFG)
  shapes = {path: x.shape for path, x in flat(found).items()}
  assert sorted({path.rpartition("/")[0] for path in shapes}) == PATHS
  assert shapes["layer_0/attention/query/kernel/a"] == (12, 2)
  assert shapes["layer_0/attention/query/kernel/b"] == (2, 16)
  first = found["layer_0"]["attention"]["query"]["kernel"]["a"]
  assert abs(first).max() <= 12**-0.5 and abs(first).max() > 0.1
  assert not np.array_equal(first, found["layer_1"]["attention"]["query"]["kernel"]["a"])
  shaped = jax.eval_shape(lambda: base())  # shapes are enough
  chex.assert_trees_all_equal(lora.init(jax.random.key(0), shaped, CFG), found)


def test_a_target_that_names_no_kernel_is_told():
  wrong = dataclasses.replace(CFG, targets=("*/query/kernel", "*/qeury/kernel"))
  with pytest.raises(ValueError, match=r"no kernel is named '\*/qeury/kernel'; there are .*query"):
    lora.init(jax.random.key(0), base(), wrong)
  with pytest.raises(ValueError, match="norm"):  # a norm's scale is no kernel
    lora.init(jax.random.key(0), base(), dataclasses.replace(CFG, targets=("norm/scale",)))
  with pytest.raises(ValueError, match="rank 0"):
    lora.Config(rank=0)


def test_a_new_lora_changes_nothing_to_the_last_bit():
  fresh = lora.init(jax.random.key(0), base(), CFG)
  chex.assert_trees_all_equal(lora.merged(base(), fresh, CFG), base())
  np.testing.assert_array_equal(adapted(MODEL, base(), fresh), plain(base()))


def test_merging_adds_the_scaled_product_and_keeps_the_base_to_the_last_bit():
  before = jax.tree.map(np.array, base())
  found, expected = flat(lora.merged(base(), changes(), CFG)), flat(before)
  pairs = flat(changes())
  for path, x in expected.items():
    a, b = (np.asarray(pairs.get(f"{path}/{s}", np.zeros((1, 1))), np.float64) for s in "ab")
    wanted = x + 1.5 * (a @ b) if path in PATHS else x  # alpha 3 over rank 2
    np.testing.assert_allclose(found[path], wanted, atol=1e-6, err_msg=path)
    assert np.array_equal(found[path], x) == (path not in PATHS)
  chex.assert_trees_all_equal(base(), before)


@pytest.mark.parametrize("remat", [False, True])
def test_adapted_without_dropout_is_merged(remat):
  cfg = dataclasses.replace(MODEL, remat=remat)
  expected = plain(lora.merged(base(), changes(), CFG))
  assert abs(expected - plain(base())).max() > 1e-3
  np.testing.assert_allclose(adapted(cfg, base(), changes()), expected, atol=1e-5)

  def loss(how):
    return lambda tree: (how(tree)[..., 0] ** 2).sum()

  found = jax.grad(loss(lambda tree: adapted(cfg, base(), tree)))(changes())
  wanted = jax.grad(loss(lambda tree: plain(lora.merged(base(), tree, CFG))))(changes())
  chex.assert_trees_all_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_dropout_is_of_what_a_reads_and_follows_the_key():
  fresh = lora.init(jax.random.key(0), base(), CFG)  # B is zero: what A reads does not matter
  key = jax.random.key(5)
  np.testing.assert_array_equal(adapted(MODEL, base(), fresh, key), plain(base()))
  a, again, b = (
    adapted(MODEL, base(), changes(), k) for k in (key, jax.random.key(5), jax.random.key(6))
  )
  np.testing.assert_array_equal(a, again)
  assert abs(a - b).max() > 1e-3


def test_a_change_that_the_model_would_not_see_is_told():
  other = {"layer_9": changes()["layer_0"]}
  for use in (lambda: lora.merged(base(), other, CFG), lambda: adapted(MODEL, base(), other)):
    with pytest.raises(ValueError, match="layer_9/attention/query/kernel.*does not have"):
      use()


def test_training_moves_the_changes_and_leaves_the_base():
  params = {"base": base(), "lora": lora.init(jax.random.key(0), base(), CFG)}

  def loss(params, assets, batch, key):
    with lora.adapted(params["lora"], CFG, key=key):
      found = gpt.logits(params["base"], MODEL, batch["source"])
    return Loss(-jax.nn.log_softmax(found)[..., 3].sum(), jnp.float32(found[..., 0].size))

  system = System(lambda *_: params, loss, trainable=lora.trainable)
  assert set(jax.tree.leaves(system.trainable(params))) == {FROZEN, "lora"}
  tx = optim.make(optim.Config(rate=0.01, weight_decay=0.1), 10, system)

  @jax.jit
  def stepped(params, state):
    grads = jax.grad(lambda p: loss(p, (), {"source": TOKENS}, jax.random.key(0)).sum)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  found, state = params, tx.init(params)
  for _ in range(2):
    found, state = stepped(found, state)
  chex.assert_trees_all_equal(found["base"], params["base"])
  assert all(
    (a != b).any()
    for (_, a), (_, b) in zip(leaves(found["lora"]), leaves(params["lora"]), strict=True)
  )


def test_the_format_is_that_of_peft(tmp_path):
  """Against arithmetic by the names and shapes that its documentation gives."""
  rules = gpt_weights.rules(MODEL)
  lora_weights.save(tmp_path, changes(), CFG, rules, base="some/base")
  told = json.loads((tmp_path / "adapter_config.json").read_text())
  assert (told["peft_type"], told["r"], told["lora_alpha"]) == ("LORA", 2, 3.0)
  assert told["base_model_name_or_path"] == "some/base"
  # All queries are changed, but the feed-forward of one layer only: names are whole.
  assert told["target_modules"] == [
    "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj",
    "model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj", "model.layers.1.self_attn.q_proj",
  ]  # fmt: skip
  tensors = safetensors.numpy.load_file(tmp_path / "adapter_model.safetensors")
  assert len(tensors) == 2 * len(PATHS)
  name = "base_model.model.model.layers.1.mlp.down_proj.lora_{}.weight"
  a, b = (tensors[name.format(side)] for side in "AB")
  assert (a.shape, b.shape) == ((2, 20), (12, 2))
  # A torch Linear keeps [out, in], and PEFT's change of it is (alpha / r) B A.
  before, after = (x["layer_1"]["ff"]["narrow"]["kernel"].T for x in (base(), merged_()))
  np.testing.assert_allclose(after, before + 3.0 / 2 * b @ a, atol=1e-6)


def merged_():
  return lora.merged(base(), changes(), CFG)


def test_peft_answers_the_same_and_saves_what_was_loaded(tmp_path):
  torch = pytest.importorskip("torch", reason="pip install recjax[parity]")
  transformers = pytest.importorskip("transformers", reason="pip install recjax[parity]")
  peft = pytest.importorskip("peft", reason="pip install recjax[parity]")
  own, adapter, again = (tmp_path / name for name in ("base", "adapter", "again"))
  gpt_weights.save(own, MODEL, base())
  lora_weights.save(adapter, changes(), CFG, gpt_weights.rules(MODEL), base=str(own))
  theirs = transformers.AutoModelForCausalLM.from_pretrained(own)
  theirs = peft.PeftModel.from_pretrained(theirs, str(adapter)).eval()
  with torch.no_grad():
    wanted = theirs(torch.tensor(np.asarray(TOKENS))).logits.numpy()
  merged = lora.merged(base(), changes(), CFG)
  np.testing.assert_allclose(gpt.logits(merged, MODEL, TOKENS), wanted, atol=1e-5)
  assert abs(gpt.logits(base(), MODEL, TOKENS) - wanted).max() > 0.1
  theirs.save_pretrained(again)
  cfg, found = lora_weights.load(again, gpt_weights.rules(MODEL), base())
  chex.assert_trees_all_equal(found, changes())
  assert (cfg.rank, cfg.alpha) == (CFG.rank, CFG.alpha)


def test_what_is_saved_is_what_is_loaded(tmp_path):
  rules = gpt_weights.rules(MODEL)
  lora_weights.save(tmp_path, changes(), CFG, rules)
  cfg, found = lora_weights.load(tmp_path, rules, base())
  chex.assert_trees_all_equal(found, jax.tree.map(np.asarray, changes()))
  assert dataclasses.replace(cfg, targets=CFG.targets) == CFG and sorted(cfg.targets) == PATHS
  fresh = lora.init(jax.random.key(0), base(), cfg)  # its targets make the same places
  chex.assert_trees_all_equal_shapes(fresh, changes())
  every = dataclasses.replace(CFG, targets=("*/query/kernel", "*/value/kernel"))
  lora_weights.save(tmp_path, lora.init(jax.random.key(0), base(), every), every, rules)
  told = json.loads((tmp_path / "adapter_config.json").read_text())
  assert told["target_modules"] == ["q_proj", "v_proj"]


def test_a_folder_that_does_not_fit_is_told(tmp_path):
  rules = gpt_weights.rules(MODEL)
  lora_weights.save(tmp_path, changes(), CFG, rules)
  about, file = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
  told, tensors = json.loads(about.read_text()), safetensors.numpy.load_file(file)
  for wrong, message in (
    ({"use_dora": True}, "use_dora is True"),
    ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
    ({"r": None}, "r is None"),
    ({"r": 3}, r"mis-shaped: .*q_proj.lora_A.weight is \(2, 12\), expected \(3, 12\)"),
  ):
    about.write_text(json.dumps(told | wrong))
    with pytest.raises(DataError, match=message):
      lora_weights.load(tmp_path, rules, base())
  about.write_text(json.dumps(told))
  first = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
  tensors[first + "C.weight"] = tensors.pop(first + "B.weight")
  safetensors.numpy.save_file(tensors, file)
  with pytest.raises(DataError, match=r"missing: .*lora_B.weight(.|\n)*unknown: .*lora_C.weight"):
    lora_weights.load(tmp_path, rules, base())
  file.unlink()
  with pytest.raises(DataError, match="no adapter_model.safetensors"):
    lora_weights.load(tmp_path, rules, base())
  gpt2 = gpt_weights.rules(gpt.Config(layers=2))
  with pytest.raises(ValueError, match="no single Linear layer.*merge"):
    lora_weights.save(tmp_path, changes(), CFG, gpt2)


def test_it_adapts_a_t5_too():
  cfg = t5.Config(vocab=19, dim=8, heads=2, head_dim=4, ff=12, layers=1, decoder_layers=0)
  params = jax.jit(t5.init, static_argnums=1)(jax.random.key(0), cfg)
  some = lora.Config(rank=1, alpha=2.0, targets=("encoder/*/query/kernel",))
  tree = jax.tree.map(jnp.ones_like, lora.init(jax.random.key(1), params, some))

  @jax.jit
  def both():
    with lora.adapted(tree, some):
      found = t5.encode(params, cfg, TOKENS)
    return found, t5.encode(lora.merged(params, tree, some), cfg, TOKENS)

  np.testing.assert_allclose(*both(), atol=1e-5)
