"""Vocabularies: ids as the references give them, added tokens whole, padding and cutting."""

import io
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from recjax.data import synthetic
from recjax.data.errors import DataError
from recjax.text import vocab

ROOT = pathlib.Path(__file__).parent.parent
SMALL = ROOT / "tokenizers" / "synthetic.model"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "nail", "##s", "polish", "caf", "##e"]
WORDS += ["café", "Red"]


@pytest.fixture(scope="module")
def pieces():
  return vocab.t5(SMALL)


def rows(ragged):
  return [ragged[i].tolist() for i in range(len(ragged))]


def test_sentinels_stand_at_the_top_in_descending_order(pieces):
  assert len(pieces) == 1_000 + 100
  assert [pieces.sentinel(i) for i in (0, 1, 99)] == [1_099, 1_098, 1_000]
  assert (pieces.pad, pieces.eos, pieces.unk) == (0, 1, 2)


def test_added_tokens_follow_and_never_split(pieces):
  more = pieces.add(vocab.numbered("user", 2, first=1)).add(vocab.codes([3, 2]))
  assert more.added[100:] == ("<user_1>", "<user_2>", "<a_0>", "<a_1>", "<a_2>", "<b_0>", "<b_1>")
  assert rows(more.encode(["<user_2> <a_2><b_0>"])) == [[1_101, 1_104, 1_105, 1]]
  assert len(more) == 1_107
  assert len(pieces) == 1_100, "the old value is unchanged"


def test_what_looks_like_an_added_token_and_is_none_is_plain_text(pieces):
  more = pieces.add(["<item_1>"])
  for text in ("<item_2>", "a < b > c", "<<item", "<b>bold</b>", "<item_1"):
    assert rows(more.encode([text])) == rows(pieces.encode([text]))
  inner = rows(more.encode(["<<item_1>>"]))[0]
  assert 1_100 in inner and more.decode([inner]) == ["< <item_1> >"]


def test_plain_text_is_what_sentencepiece_gives(pieces):
  texts = ["Compact Kettle in Crimson", "", "  two  spaces ", "$3.50 & more", "日本"]
  expected = [pieces._processor.encode(text) + [1] for text in texts]
  assert rows(pieces.encode(texts)) == expected


def test_rows_are_cut_before_the_end_token_and_padded_on_the_right(pieces):
  whole = rows(pieces.encode(["Compact Kettle in Crimson"]))[0]
  assert len(whole) == 5
  batch = pieces.batch(["Compact Kettle in Crimson", ""], 3)
  np.testing.assert_array_equal(batch, [[*whole[:2], 1], [1, 0, 0]])
  assert batch.dtype == np.int32
  assert rows(pieces.encode(["Compact Kettle"], eos=False)) == [whole[:2]]
  assert pieces.batch([], 4).shape == (0, 4)
  with pytest.raises(ValueError, match="no room"):
    pieces.batch(["a"], 0)


def test_decoding_ends_at_the_end_token_and_drops_padding(pieces):
  ids = rows(pieces.encode(["Compact Kettle"], eos=False))[0]
  assert pieces.decode([[0, *ids, 1, *ids]]) == ["Compact Kettle"]
  assert pieces.decode(np.array([[0, 0], [1, 0]])) == ["", ""]


def test_ids_beyond_the_vocabulary_are_unknown(pieces):
  assert pieces.decode([[5_000], [-1]]) == ["⁇", "⁇"]


@given(
  st.lists(
    st.sampled_from(["Kettle", "of", "<item_3>", "<extra_id_0>", "7,", "<a", "b>", "x.y"]),
    max_size=12,
  )
)
def test_decoding_inverts_encoding(words):
  pieces = vocab.t5(SMALL).add(vocab.numbered("item", 4))
  text = " ".join(words)
  assert pieces.decode(pieces.encode([text])[i] for i in range(1)) == [text]


def test_the_kept_vocabulary_knows_every_text_of_the_synthetic_catalogues(pieces):
  for config in (synthetic.TINY, synthetic.SMALL):
    catalog = next(iter(synthetic.catalog_chunks(config, seed=3)))
    texts = catalog["title"][1:].tolist() + catalog["description"][1:].tolist()
    encoded = pieces.encode(texts)
    assert pieces.unk not in encoded.values
    words = sum(len(text.split()) for text in texts)
    assert len(encoded.values) / words < 2, "common words should be one piece each"
    assert pieces.decode(rows(encoded)) == texts


def test_the_fingerprint_changes_with_the_tokens(pieces):
  assert pieces.fingerprint == vocab.t5(SMALL).fingerprint
  assert pieces.fingerprint != pieces.add(["<item_1>"]).fingerprint


def test_bad_tokens_are_refused(pieces):
  for token in ("item_1", "<a b>", "<>", "<<a>>"):
    with pytest.raises(ValueError, match="must look like"):
      pieces.add([token])
  for token in ("<extra_id_5>", "<pad>"):
    with pytest.raises(ValueError, match="already"):
      pieces.add([token])
  with pytest.raises(ValueError, match="already"):
    pieces.add(["<x>", "<x>"])
  with pytest.raises(KeyError, match="<item_9>"):
    pieces.id("<item_9>")
  with pytest.raises(ValueError, match="26 letters"):
    vocab.codes([2] * 27)


def test_a_missing_or_broken_model_is_named(tmp_path):
  with pytest.raises(DataError, match="no such file"):
    vocab.t5(tmp_path / "none.model")
  broken = tmp_path / "broken.model"
  broken.write_bytes(SMALL.read_bytes()[:1_000])
  with pytest.raises(DataError, match="not a SentencePiece model"):
    vocab.t5(broken)


def trained(tmp_path, **flags):
  """The path of a small model of its own kind."""
  texts = [f"a red fox number {i} sat on the green bank" for i in range(50)]
  options = {"vocab_size": 60, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, **flags}
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts),
    model_writer=model,
    minloglevel=2,
    hard_vocab_limit=False,
    **options,
  )
  path = tmp_path / "own.model"
  path.write_bytes(model.getvalue())
  return path


def test_a_model_that_would_be_misread_is_refused(tmp_path):
  with pytest.raises(DataError, match="pads with 3, models here with 0"):
    vocab.t5(trained(tmp_path, unk_id=0, bos_id=1, eos_id=2, pad_id=3))
  with pytest.raises(DataError, match="add_dummy_prefix"):
    vocab.t5(trained(tmp_path, add_dummy_prefix=False))
  with pytest.raises(DataError, match="cannot be read"):
    vocab.sentencepieces(tmp_path)
  (tmp_path / "empty.model").touch()
  with pytest.raises(DataError, match="not a SentencePiece model"):
    vocab.sentencepieces(tmp_path / "empty.model")


def test_sentinels_that_are_pieces_are_not_added_again(tmp_path):
  marks = [f"<extra_id_{i}>" for i in range(100)]
  held = vocab.t5(trained(tmp_path, user_defined_symbols=marks, vocab_size=160))
  assert held.added == () and len({held.sentinel(i) for i in range(100)}) == 100
  assert held.sentinel(7) in held.encode(["red <extra_id_7> bank"])[0]
  some = vocab.t5(trained(tmp_path, user_defined_symbols=marks[:3], vocab_size=80))
  assert some.added == tuple(reversed(marks[3:]))


def test_bytes_are_no_pieces_of_a_title(tmp_path):
  held = vocab.sentencepieces(trained(tmp_path, byte_fallback=True, vocab_size=320))
  assert len(held.encode(["fox \u706b"])[0]) > len(held.encode(["fox"])[0])
  assert held.pieces("fox \u706b") == held.pieces("fox")


def train(tmp_path, name, *flags):
  script = ROOT / "tokenizers" / "train_sentencepiece.py"
  command = [sys.executable, script, f"--output={tmp_path / name}", *flags]
  return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_training_gives_the_same_bytes_twice(tmp_path):
  texts = tmp_path / "texts.txt"
  texts.write_text("".join(f"a red kettle number {i} for the kitchen\n" for i in range(200)))
  flags = (f"--input={texts}", "--vocab_size=110")
  for name in ("a.model", "b.model"):
    done = train(tmp_path, name, *flags)
    assert done.returncode == 0, done.stderr
  assert (tmp_path / "a.model").read_bytes() == (tmp_path / "b.model").read_bytes()
  pieces = vocab.t5(tmp_path / "a.model")
  assert len(pieces) == 210
  assert pieces.decode(pieces.encode(["red kettle 17"])[i] for i in range(1)) == ["red kettle 17"]


def test_a_vocabulary_too_large_for_its_texts_says_how_large_it_can_be(tmp_path):
  texts = tmp_path / "texts.txt"
  texts.write_text("a red kettle\n")
  done = train(tmp_path, "a.model", f"--input={texts}", "--vocab_size=5000")
  assert done.returncode == 1
  assert "too high (5000)" in done.stdout + done.stderr and "Traceback" not in done.stderr
  assert not (tmp_path / "a.model").exists()


def test_t5_ids_are_those_of_transformers(real_data):
  transformers = pytest.importorskip("transformers", reason="the reference tokenizer")
  folder = real_data / "t5_vocab"
  reference = transformers.T5Tokenizer.from_pretrained(folder, local_files_only=True)
  pieces = vocab.t5(folder / "spiece.model")
  assert len(pieces) == len(reference) == 32_100
  texts = [
    "translate English to German: That is good.",
    "Hello <extra_id_0> world",
    "Hello<extra_id_0>, world <extra_id_1>.",
    "<extra_id_99><extra_id_98>",
    "<extra_id_100> is none",
    " two  spaces\n",
    "",
    "日本 é Ⅷ ﬁ",
    "Thank you <extra_id_0> me to your party <extra_id_1> week.",
  ]
  assert rows(pieces.encode(texts)) == reference(texts).input_ids
  cut = reference(texts, truncation=True, max_length=5).input_ids
  assert rows(pieces.encode(texts, max_len=5)) == cut


# Word pieces


def bert_folder(folder, *, lower=True):
  (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
  (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
  return folder


def test_word_pieces_stand_between_cls_and_sep(tmp_path):
  pytest.importorskip("tokenizers")
  pieces = vocab.wordpieces(bert_folder(tmp_path))
  assert len(pieces) == len(WORDS)
  # red nail ##s café -> caf ##e (the accent falls with the case); zzz is unknown.
  assert rows(pieces.encode(["Red nails", "CAFÉ zzz", ""])) == [
    [2, 5, 6, 7, 3],
    [2, 9, 10, 1, 3],
    [2, 3],
  ]
  np.testing.assert_array_equal(pieces.batch(["Red nails", ""], 4), [[2, 5, 6, 3], [2, 3, 0, 0]])
  assert pieces.decode([[2, 5, 6, 7, 3, 0]]) == ["red nails"]
  with pytest.raises(ValueError, match="no room"):
    pieces.batch(["Red"], 1)


def test_a_cased_folder_keeps_case_and_accents(tmp_path):
  pytest.importorskip("tokenizers")
  pieces = vocab.wordpieces(bert_folder(tmp_path, lower=False))
  assert rows(pieces.encode(["Red café"])) == [[2, 12, 11, 3]]


def test_word_pieces_of_vocab_txt_are_those_of_transformers(tmp_path):
  transformers = pytest.importorskip("transformers", reason="the reference tokenizer")
  reference = transformers.BertTokenizer(str(bert_folder(tmp_path) / "vocab.txt"))
  texts = ["Red nails, polish!", "reds-CAFÉ", "", "日 red", "nail" * 40]
  assert rows(vocab.wordpieces(tmp_path).encode(texts)) == reference(texts).input_ids


def test_a_folder_without_word_pieces_is_named(tmp_path):
  pytest.importorskip("tokenizers")
  with pytest.raises(DataError, match="neither tokenizer.json nor vocab.txt"):
    vocab.wordpieces(tmp_path)
  (tmp_path / "tokenizer.json").write_text("{}")
  with pytest.raises(DataError, match="not a tokenizer"):
    vocab.wordpieces(tmp_path)


def test_without_the_tokenizers_library_the_remedy_is_told(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  with pytest.raises(ImportError, match=r"pip install 'recjax\[text\]'"):
    vocab.wordpieces(bert_folder(tmp_path))


def test_the_folder_of_vocabularies_hides_no_library():
  """Run from the root, `import tokenizers` must find the library."""
  assert not (ROOT / "tokenizers" / "__init__.py").exists()
