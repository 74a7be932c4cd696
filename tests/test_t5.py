"""T5 against transformers on random models, and against itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from recjax.data.errors import DataError
from recjax.nn import t5
from recjax.text import objectives, t5_weights, weights

SMALL = t5.Config(
  vocab=31, dim=12, heads=3, head_dim=5, ff=20, layers=1, decoder_layers=2, buckets=8,
  max_distance=9, dropout=0.1,
)  # fmt: skip
V11 = dataclasses.replace(SMALL, gated=True, tied=False, scaled=False)

rng = np.random.default_rng(0)
SOURCE = rng.integers(2, 31, (3, 14)).astype(np.int32)
SOURCE[0, 9:] = 0
SOURCE[2, 4:] = 0
TARGET = rng.integers(2, 31, (3, 7)).astype(np.int32)
TARGET[1, 5:] = 0


# Compiled whole, once a config and shape: faster here than one operation at a time.
encode = jax.jit(t5.encode, static_argnums=1)
decode = jax.jit(t5.decode, static_argnums=1, static_argnames="states")
step = jax.jit(t5.decode_step, static_argnums=1)
start_cache = jax.jit(t5.start_cache, static_argnums=1, static_argnames=("beams", "length"))


def lively(cfg, key=1):
  """Random params of which every part matters, the norms and distances too."""
  params = jax.eval_shape(lambda: t5.init(jax.random.key(key), cfg))
  noise = np.random.default_rng(key)
  return jax.tree.map(
    lambda x: ((1.0 if x.ndim == 1 else 0.0) + 0.4 * noise.normal(size=x.shape)).astype(np.float32),
    params,
  )


def logits_of(params, cfg, source, target, mask=None, **more):
  mask = source != 0 if mask is None else mask
  encoded = encode(params, cfg, source, mask=mask)
  return decode(params, cfg, target, encoded, source_mask=mask, **more)


# Against transformers.


@pytest.fixture(scope="module")
def peer():
  pytest.importorskip("torch", reason="pip install recjax[parity]")
  return pytest.importorskip("transformers", reason="pip install recjax[parity]")


KINDS = {
  "v1.0": {"sizes": (12, 5, 3, 20, 2, 3)},
  "v1.0 of odd sizes": {"sizes": (7, 3, 2, 11, 1, 2), "buckets": (10, 13)},
  "v1.0 untied": {"sizes": (12, 5, 3, 20, 2, 2), "head": True},
  "v1.1": {"sizes": (12, 5, 3, 20, 2, 3), "gated": True, "head": True},
  "v1.1 tied": {"sizes": (12, 4, 3, 17, 3, 1), "gated": True},
}


def their_model(transformers, sizes, buckets=(32, 128), gated=False, head=False, seed=0):
  import torch

  torch.manual_seed(seed)
  dim, head_dim, heads, ff, layers, decoder_layers = sizes
  config = transformers.T5Config(
    vocab_size=31,
    d_model=dim,
    d_kv=head_dim,
    num_heads=heads,
    d_ff=ff,
    num_layers=layers,
    num_decoder_layers=decoder_layers,
    relative_attention_num_buckets=buckets[0],
    relative_attention_max_distance=buckets[1],
    feed_forward_proj="gated-gelu" if gated else "relu",
    tie_word_embeddings=not gated,
    decoder_start_token_id=0,
    initializer_factor=0.5 if gated else 1.0,
  )
  model = transformers.T5ForConditionalGeneration(config).eval()
  if head:
    model.lm_head.weight = torch.nn.Parameter(torch.randn(31, dim) * 0.5)
  return model


SLOW = {"v1.1 tied"}


@pytest.fixture(
  scope="module", params=[pytest.param(k, marks=[pytest.mark.slow] * (k in SLOW)) for k in KINDS]
)
def pair(request, peer, tmp_path_factory):
  """Their model, and ours from the folder they saved."""
  folder = tmp_path_factory.mktemp("t5")
  model = their_model(peer, **KINDS[request.param])
  model.save_pretrained(folder)
  return model, *t5_weights.load(folder)


def theirs(model, source, target, labels=None):
  import torch

  source, target = torch.tensor(source, dtype=torch.long), torch.tensor(target, dtype=torch.long)
  labels = None if labels is None else torch.tensor(labels, dtype=torch.long)
  out = model(
    input_ids=source,
    attention_mask=(source != 0).long(),
    decoder_input_ids=target,
    labels=labels,
    use_cache=False,
  )
  return out.encoder_last_hidden_state.detach().numpy(), out.logits.detach().numpy(), out.loss


def test_states_and_logits_are_those_of_transformers(pair):
  model, cfg, params = pair
  states, logits, _ = theirs(model, SOURCE, TARGET)
  ours = encode(params, cfg, SOURCE)
  real = SOURCE != 0
  np.testing.assert_allclose(np.asarray(ours)[real], states[real], atol=1e-4)
  np.testing.assert_allclose(logits_of(params, cfg, SOURCE, TARGET), logits, atol=1e-4)


def test_loss_and_gradients_are_those_of_transformers(pair):
  model, cfg, params = pair
  labels = np.where(TARGET == 0, -100, TARGET)
  read = np.asarray(objectives.shift_right(TARGET))
  model.zero_grad()
  loss = theirs(model, SOURCE, read, labels)[2]
  loss.backward()

  def ours(params):
    out = objectives.text_to_text(params, cfg, {"source": SOURCE, "target": TARGET})
    return out.sum / out.weight

  value, grads = jax.jit(jax.value_and_grad(ours))(params)
  np.testing.assert_allclose(value, loss.item(), atol=1e-4)
  expected = {name: p.grad.numpy() for name, p in model.named_parameters()}
  found = weights.empty(t5_weights.rules(cfg), grads)
  assert found.keys() == expected.keys()
  for name, grad in found.items():
    np.testing.assert_allclose(grad, expected[name], atol=1e-4, err_msg=name)


def test_a_folder_saved_here_gives_transformers_the_same_logits(pair, peer, tmp_path):
  _, cfg, params = pair
  t5_weights.save(tmp_path, cfg, params)
  model, report = peer.T5ForConditionalGeneration.from_pretrained(
    tmp_path, output_loading_info=True
  )
  assert not report["unexpected_keys"] and not report["mismatched_keys"]
  logits = theirs(model.eval(), SOURCE, TARGET)[1]
  np.testing.assert_allclose(logits_of(params, cfg, SOURCE, TARGET), logits, atol=1e-4)
  again, same = t5_weights.load(tmp_path)
  assert again == cfg
  jax.tree.map(np.testing.assert_array_equal, same, params)


def test_an_encoder_alone_goes_both_ways(peer, tmp_path):
  whole = their_model(peer, (12, 5, 3, 20, 2, 3))
  whole.save_pretrained(tmp_path / "whole")
  model = peer.T5EncoderModel.from_pretrained(tmp_path / "whole").eval()
  model.save_pretrained(tmp_path / "theirs")
  cfg, params = t5_weights.load(tmp_path / "theirs")
  assert cfg.decoder_layers == 0 and "decoder" not in params
  from_whole = t5_weights.load(tmp_path / "whole", encoder_only=True)
  jax.tree.map(np.testing.assert_array_equal, from_whole[1], params)
  t5_weights.save(tmp_path / "ours", cfg, params)
  assert t5_weights.load(tmp_path / "ours")[0] == cfg
  import torch

  tokens = torch.tensor(SOURCE, dtype=torch.long)
  model = peer.T5EncoderModel.from_pretrained(tmp_path / "ours").eval()
  states = model(input_ids=tokens, attention_mask=(tokens != 0).long()).last_hidden_state
  real = SOURCE != 0
  ours = np.asarray(encode(params, cfg, SOURCE))
  np.testing.assert_allclose(ours[real], states.detach().numpy()[real], atol=1e-4)


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize("sizes", [(32, 128), (8, 9), (10, 13), (32, 1000), (16, 64), (4, 5)])
def test_buckets_are_those_of_transformers(peer, sizes, both_ways):
  import torch
  from transformers.models.t5.modeling_t5 import T5Attention

  distance = np.arange(-sizes[1], sizes[1] + 1)
  expected = T5Attention._relative_position_bucket(torch.tensor(distance), both_ways, *sizes)
  found = t5._buckets(*sizes, both_ways=both_ways)
  np.testing.assert_array_equal(found, expected.numpy())
  # Beyond the table all is as at its ends, so clipping a distance loses nothing.
  for far in (-5000, 5000):
    end = T5Attention._relative_position_bucket(torch.tensor([far]), both_ways, *sizes)
    assert found[0 if far < 0 else -1] == end.item()


def test_too_few_buckets_are_an_error():
  with pytest.raises(ValueError, match="do not reach"):
    t5._buckets(2, 128, both_ways=True)


def test_buckets_by_hand():
  # 8 buckets both ways: 4 a direction, 2 of them exact; then log(d / 2) / log(9 / 2) * 2:
  # 2..4 are below 1, 5 is above.
  expected = [3, 3, 3, 3, 3, 2, 2, 2, 1, 0, 5, 6, 6, 6, 7, 7, 7, 7, 7]
  np.testing.assert_array_equal(t5._buckets(8, 9, both_ways=True), expected)


# Against itself.


@pytest.mark.parametrize("cfg", [SMALL, V11], ids=["v1.0", "v1.1"])
def test_decode_step_is_decode_at_every_place(cfg):
  params = lively(cfg)
  expected = logits_of(params, cfg, SOURCE, TARGET)
  mask = SOURCE != 0
  encoded = encode(params, cfg, SOURCE)
  cache = start_cache(params, cfg, encoded, source_mask=mask, length=7)
  for t in range(7):
    logits, cache = step(params, cfg, TARGET[:, t : t + 1], cache)
    np.testing.assert_allclose(logits[:, 0], expected[:, t], atol=1e-5)
  assert cache.at == 7


@pytest.mark.parametrize("cfg", [SMALL, V11], ids=["v1.0", "v1.1"])
def test_a_step_may_score_some_tokens_alone(cfg):
  params, mask, among = lively(cfg), SOURCE != 0, jnp.array([7, 2, 5])
  cache = start_cache(params, cfg, encode(params, cfg, SOURCE), source_mask=mask, length=1)
  every, few = (step(params, cfg, TARGET[:, :1], cache, x)[0] for x in (None, among))
  assert few.shape == (len(SOURCE), 1, 3) and few.dtype == every.dtype
  np.testing.assert_allclose(few, every[..., among], atol=1e-5)


@pytest.mark.parametrize("kind", ["padding", "each place", "each head"])
def test_few_queries_read_the_source_as_many_do(kind):
  # Three tokens take the order of products without keys, thirty the one with them.
  params, encoded = lively(SMALL), encode(lively(SMALL), SMALL, SOURCE)
  target = np.pad(TARGET, ((0, 0), (0, 23)), constant_values=3)
  mask = jnp.asarray(SOURCE != 0)
  if kind != "padding":
    heads = 3 if kind == "each head" else 1
    mask = jnp.asarray(np.random.default_rng(1).random((3, heads, 30, 14)) < 0.7)
  many = decode(params, SMALL, target, encoded, source_mask=mask)
  some = mask if kind == "padding" else mask[:, :, :3]
  few = decode(params, SMALL, target[:, :3], encoded, source_mask=some)
  np.testing.assert_allclose(few, many[:, :3], atol=1e-5)


def test_beams_share_the_keys_of_one_source_and_keep_their_own_tokens():
  params, beams = lively(SMALL), 4
  mask = SOURCE != 0
  encoded = encode(params, SMALL, SOURCE)
  cache = start_cache(params, SMALL, encoded, source_mask=mask, beams=beams, length=5)
  assert {k.shape for layer in cache.source for k in layer} == {(3, 3, 14, 5)}  # [B, H, S, D]
  tokens = rng.integers(2, 31, (3, beams, 5)).astype(np.int32)
  for t in range(5):
    logits, cache = step(params, SMALL, tokens[:, :, t], cache)
  for k in range(beams):
    alone = decode(params, SMALL, tokens[:, k], encoded, source_mask=mask)[:, -1]
    np.testing.assert_allclose(logits[:, k], alone, atol=1e-5)


def test_reorder_continues_the_parents():
  params = lively(SMALL)
  mask, encoded = SOURCE != 0, encode(params, SMALL, SOURCE)
  cache = start_cache(params, SMALL, encoded, source_mask=mask, beams=2, length=2)
  first, second = np.array([[3, 4], [5, 6], [7, 8]]), np.array([[9, 10], [11, 12], [13, 14]])
  parents = np.array([[1, 0], [0, 0], [1, 1]])
  _, cache = step(params, SMALL, first, cache)
  logits, _ = step(params, SMALL, second, t5.reorder(cache, parents))
  for k in range(2):
    parent = np.take_along_axis(first, parents, 1)[:, k]
    told = np.stack([parent, second[:, k]], 1)
    alone = decode(params, SMALL, told, encoded, source_mask=mask)[:, -1]
    np.testing.assert_allclose(logits[:, k], alone, atol=1e-5)


def test_logits_ignore_the_future():
  params = lively(SMALL)
  encoded = encode(params, SMALL, SOURCE)
  x = params["embed"]["embedding"][TARGET]

  def at(x, t):
    logits = decode(params, SMALL, TARGET, encoded, source_mask=SOURCE != 0, embeds=x)
    return jnp.square(logits[:, t]).sum()

  grad_at = jax.jit(jax.grad(at))
  grad = np.stack([grad_at(x, t) for t in (0, 3, 6)])
  reached = np.abs(grad).sum((1, 3))  # of place s from the logits of place t
  for row, t in zip(reached, (0, 3, 6), strict=True):
    assert (row[: t + 1] > 0).all() and (row[t + 1 :] == 0).all()


def test_states_see_both_ways_but_no_padding():
  params = lively(SMALL)
  x = params["embed"]["embedding"][SOURCE]
  mask = SOURCE != 0

  def middle(x):
    return jnp.square(encode(params, SMALL, embeds=x, mask=mask)[:, 2]).sum()

  reached = np.abs(jax.jit(jax.grad(middle))(x)).sum(-1)
  np.testing.assert_array_equal(reached > 0, mask)


def test_padding_changes_nothing():
  params = lively(SMALL)
  expected = logits_of(params, SMALL, SOURCE, TARGET)
  wide = np.pad(SOURCE, ((0, 0), (0, 9)))
  long = np.pad(TARGET, ((0, 0), (0, 4)))
  np.testing.assert_allclose(logits_of(params, SMALL, wide, long)[:, :7], expected, atol=1e-5)
  junk = np.where(SOURCE == 0, 17, SOURCE)
  junked = logits_of(params, SMALL, junk, TARGET, mask=SOURCE != 0)
  np.testing.assert_array_equal(junked, expected)


def test_an_empty_source_is_finite_and_knows_no_padding():
  params = lively(SMALL)
  empty = [np.zeros((1, n), np.int32) for n in (3, 8)]
  a, b = (logits_of(params, SMALL, source, TARGET[:1]) for source in empty)
  assert jnp.isfinite(a).all()
  np.testing.assert_allclose(a, b, atol=1e-5)


def test_left_padding_is_as_good_as_right():
  params = lively(SMALL)
  left = np.stack([np.roll(row, (row == 0).sum()) for row in SOURCE])
  expected = logits_of(params, SMALL, SOURCE, TARGET)
  np.testing.assert_allclose(logits_of(params, SMALL, left, TARGET), expected, atol=1e-5)


def test_embeddings_may_stand_for_tokens():
  params = lively(SMALL)
  table = params["embed"]["embedding"]
  mask = SOURCE != 0
  encoded = encode(params, SMALL, embeds=table[SOURCE], mask=mask)
  np.testing.assert_allclose(encoded, encode(params, SMALL, SOURCE), atol=1e-6)
  with pytest.raises(ValueError, match="either"):
    t5.encode(params, SMALL)


@pytest.mark.parametrize("cfg", [SMALL, V11, dataclasses.replace(V11, scaled=True)])
def test_states_meet_the_head_as_logits_do(cfg):
  params = lively(cfg)
  states = logits_of(params, cfg, SOURCE, TARGET, states=True)
  assert states.shape == (*TARGET.shape, cfg.dim)
  logits = logits_of(params, cfg, SOURCE, TARGET)
  np.testing.assert_allclose(states @ t5.head(params, cfg).T, logits, rtol=1e-5, atol=1e-5)


def test_scan_and_remat_change_the_program_and_nothing_else():
  params, batch = lively(SMALL), {"source": SOURCE, "target": TARGET}

  def grads(params, cfg):
    return jax.jit(jax.grad(lambda p: objectives.text_to_text(p, cfg, batch).sum))(params)

  expected = grads(params, SMALL)
  stacked, cfg = t5.stack(params, SMALL)
  assert cfg.scan
  init = jax.eval_shape(lambda: t5.init(jax.random.key(0), cfg))
  assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(lambda x: x.shape, init)
  found, _ = t5.unstack(grads(stacked, dataclasses.replace(cfg, remat=True)), cfg)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)
  again, plain = t5.unstack(stacked, cfg)
  assert plain == SMALL
  jax.tree.map(np.testing.assert_array_equal, again, params)
  mask, encoded = SOURCE != 0, encode(stacked, cfg, SOURCE)
  cache = start_cache(stacked, cfg, encoded, source_mask=mask, length=1)
  logits, _ = step(stacked, cfg, TARGET[:, :1], cache)
  expected = logits_of(params, SMALL, SOURCE, TARGET)[:, :1]
  np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_bfloat16_is_close_and_its_logits_are_float32():
  cfg, params = V11, lively(V11)
  half = dataclasses.replace(cfg, dtype="bfloat16")
  logits = logits_of(params, half, SOURCE, TARGET)
  assert logits.dtype == jnp.float32
  assert encode(params, half, SOURCE).dtype == jnp.bfloat16
  expected = logits_of(params, cfg, SOURCE, TARGET)
  assert jnp.abs(logits - expected).max() < 0.1 * jnp.abs(expected).max()
  encoded = encode(params, half, SOURCE)
  cache = start_cache(params, half, encoded, source_mask=SOURCE != 0, length=7)
  stepped, cache = step(params, half, TARGET[:, :1], cache)
  assert stepped.dtype == jnp.float32 and cache.beams[0][0].dtype == jnp.bfloat16


def test_dropout_is_on_where_there_is_a_key_and_differs_by_layer_and_key():
  cfg = dataclasses.replace(SMALL, dropout=0.5)
  params = lively(cfg)
  plain = encode(params, cfg, SOURCE)
  a, b = (encode(params, cfg, SOURCE, key=jax.random.key(k)) for k in (0, 1))
  assert (plain != a).any() and (a != b).any()
  np.testing.assert_array_equal(a, encode(params, cfg, SOURCE, key=jax.random.key(0)))
  off = encode(params, dataclasses.replace(cfg, dropout=0.0), SOURCE, key=jax.random.key(0))
  np.testing.assert_allclose(off, plain, atol=1e-6)


def test_a_training_step_does_not_depend_on_the_devices():
  cfg = dataclasses.replace(SMALL, dropout=0.3)
  params, key = lively(cfg), jax.random.key(3)
  batch = {"source": np.tile(SOURCE, (4, 1))[:8], "target": np.tile(TARGET, (4, 1))[:8]}

  def loss(params, batch):
    return objectives.text_to_text(params, cfg, batch, key).sum

  expected = jax.jit(jax.grad(loss))(params, batch)
  mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
  split = PartitionSpec("data")
  sharded = jax.jit(jax.grad(loss))(params, jax.device_put(batch, NamedSharding(mesh, split)))
  # Of parameters that every device holds, shard_map's gradient is the sum over devices.
  specs = {"mesh": mesh, "in_specs": (PartitionSpec(), split), "out_specs": PartitionSpec()}
  mapped = jax.jit(jax.shard_map(jax.grad(loss), **specs))(params, batch)
  for found in (sharded, mapped):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), found, expected)


# Folders that are wrong.


def test_another_model_is_named(tmp_path):
  entries, tensors = t5_weights.to_entries(SMALL), {}
  for wrong, message in (
    ({"model_type": "bert"}, "bert"),
    ({"feed_forward_proj": "gated-silu"}, "gated-silu"),
    ({"vocab_size": "16"}, "vocab_size of config.json is '16'"),
    ({"d_model": None}, "d_model of config.json is None"),
    ({"dropout_rate": None}, "dropout_rate of config.json is None"),
    ({"num_heads": 2.0}, "num_heads of config.json is 2.0"),
    ({"pad_token_id": 3}, "pad_token_id of config.json is 3"),
    ({"decoder_start_token_id": 1}, "decoder_start_token_id of config.json is 1"),
  ):
    with pytest.raises(ValueError, match=message):
      t5_weights.config({**entries, **wrong}, tensors)


def test_sizes_that_no_t5_has_are_named_with_their_folder(tmp_path):
  t5_weights.save(tmp_path, SMALL, lively(SMALL))
  entries, tensors = weights.read(tmp_path)
  weights.write(tmp_path, {**entries, "relative_attention_num_buckets": 2}, tensors)
  with pytest.raises(DataError, match=f"{tmp_path}.*the sizes of config.json"):
    t5_weights.load(tmp_path)


def test_a_head_that_should_be_there_is_missed(tmp_path):
  t5_weights.save(tmp_path, V11, lively(V11))
  entries, tensors = weights.read(tmp_path)
  del tensors["lm_head.weight"]
  weights.write(tmp_path, entries, tensors)
  with pytest.raises(ValueError, match=r"missing: lm_head.weight \(31, 12\)"):
    t5_weights.load(tmp_path)


def test_an_early_folder_that_keeps_copies_is_read(tmp_path):
  params = lively(SMALL)
  t5_weights.save(tmp_path, SMALL, params)
  entries, tensors = weights.read(tmp_path)
  table = tensors.pop("shared.weight")
  for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
    tensors[name] = table
  unread = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
  tensors[unread] = np.zeros((8, 3), np.float32)
  del entries["scale_decoder_outputs"], entries["tie_word_embeddings"]
  weights.write(tmp_path, entries, tensors)
  cfg, found = t5_weights.load(tmp_path)
  assert cfg == SMALL
  jax.tree.map(np.testing.assert_array_equal, found, params)
  tensors["decoder.embed_tokens.weight"] = table + 1
  weights.write(tmp_path, entries, tensors)
  with pytest.raises(ValueError, match="decoder.embed_tokens.weight differs"):
    t5_weights.load(tmp_path)
