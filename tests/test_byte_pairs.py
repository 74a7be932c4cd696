"""Byte pairs by a tokenizer trained here, against transformers' reading of the same folder."""

import json
import sys

import numpy as np
import pytest

from recjax.data.errors import DataError
from recjax.text import byte_pairs

TEXTS = ["a red kettle", "the red kettle was red", "a blue kettle for tea", "Yes", "No"]
ODD = ["a red kettle!", "tea für zwei 日本", "", "  two  spaces ", "Yes.\nNo."]
END = "<|endoftext|>"


def folder(tmp_path, *, begin=False, told=None, ids=None):
  """A byte-level tokenizer as GPT-2's, and what its files tell of special tokens."""
  tokenizers = pytest.importorskip("tokenizers")
  made = tokenizers.Tokenizer(tokenizers.models.BPE())
  made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = tokenizers.decoders.ByteLevel()
  every = tokenizers.pre_tokenizers.ByteLevel.alphabet()
  made.train_from_iterator(
    TEXTS,
    tokenizers.trainers.BpeTrainer(
      vocab_size=300, special_tokens=[END, "<s>"], initial_alphabet=every, show_progress=False
    ),
  )
  made.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
  if begin:
    made.post_processor = tokenizers.processors.TemplateProcessing(
      single="<s> $A", special_tokens=[("<s>", 1)]
    )
  made.enable_truncation(3)  # as some files carry it
  made.save(str(tmp_path / "tokenizer.json"))
  if told is not None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
  if ids is not None:
    (tmp_path / "config.json").write_text(json.dumps(ids))
  return tmp_path


def rows(ragged):
  return [ragged[i].tolist() for i in range(len(ragged))]


@pytest.mark.parametrize("begin", [False, True])
def test_ids_and_texts_are_those_of_transformers(tmp_path, begin):
  transformers = pytest.importorskip("transformers", reason="the reference tokenizer")
  words = byte_pairs.byte_pairs(
    folder(tmp_path, begin=begin, told={"bos_token": "<s>", "eos_token": END})
  )
  peer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
  expected = peer([*TEXTS, *ODD], truncation=False).input_ids
  found = words.encode([*TEXTS, *ODD])
  assert rows(found) == expected
  assert (words.bos, words.eos, words.pad) == (1 if begin else None, 0, 0)
  assert words.decode(rows(found)) == peer.batch_decode(expected, skip_special_tokens=True)
  assert words.decode(rows(found)) == [*TEXTS, *ODD]  # bytes: nothing is unknown, nothing is lost


def test_special_tokens_stand_where_they_are_asked_for(tmp_path):
  words = byte_pairs.byte_pairs(
    folder(tmp_path, begin=True, told={"bos_token": {"content": "<s>"}, "eos_token": END})
  )
  (whole,) = rows(words.encode(["a red kettle"], eos=True))
  assert whole[0] == 1 and whole[-1] == 0 and len(whole) == 5  # the words are whole tokens
  assert rows(words.encode(["a red kettle"], bos=False)) == [whole[1:-1]]
  assert rows(words.encode(["a red kettle"], max_len=4, eos=True)) == [[*whole[:3], 0]]
  assert whole[3] == words.id("Ġkettle")
  with pytest.raises(ValueError, match="max_len 1 leaves no room"):
    words.encode(["a"], max_len=1, eos=True)
  with pytest.raises(KeyError, match="zzz"):
    words.id("zzz")


def test_padding_is_told_by_a_mask_on_either_side(tmp_path):
  words = byte_pairs.byte_pairs(folder(tmp_path, told={"eos_token": END, "pad_token": "<s>"}))
  a, b = rows(words.encode(["red", "a red kettle"]))
  tokens, mask = words.batch(["red", "a red kettle"], 4)
  np.testing.assert_array_equal(tokens, [[*a, *[1] * (4 - len(a))], [*b, 1]])
  np.testing.assert_array_equal(mask.sum(1), [len(a), 3])
  left, seen = words.batch(["red", "a red kettle"], 4, left=True)
  np.testing.assert_array_equal(left, [[*[1] * (4 - len(a)), *a], [1, *b]])
  np.testing.assert_array_equal(seen[:, ::-1], mask)


def test_a_text_ends_at_its_end(tmp_path):
  words = byte_pairs.byte_pairs(folder(tmp_path, ids={"eos_token_id": [0, 5], "bos_token_id": 0}))
  (red,) = rows(words.encode(["a red kettle"]))
  assert words.decode([[*red, 0, 0, 7]]) == ["a red kettle"]
  assert words.bos is None  # there is one, but this tokenizer puts none in front


def test_the_fingerprint_follows_what_decides_the_ids(tmp_path):
  told = {"bos_token": "<s>", "eos_token": END}
  folders = [tmp_path / name for name in "abc"]
  for f in folders:
    f.mkdir()
  a, b, c = (
    byte_pairs.byte_pairs(folder(f, begin=begin, told=told)).fingerprint
    for f, begin in zip(folders, (False, False, True), strict=True)
  )
  assert a == b != c


def test_a_folder_that_does_not_say_enough_is_told(tmp_path, monkeypatch):
  with pytest.raises(DataError, match="no tokenizer.json.*save_pretrained"):
    byte_pairs.byte_pairs(tmp_path)
  folder(tmp_path)
  with pytest.raises(DataError, match="which token ends a text"):
    byte_pairs.byte_pairs(tmp_path)
  folder(tmp_path, told={"eos_token": "</s>"})
  with pytest.raises(DataError, match="eos_token is '</s>', no token"):
    byte_pairs.byte_pairs(tmp_path)
  folder(tmp_path, told={}, ids={"eos_token_id": 9_999})
  with pytest.raises(DataError, match="eos_token_id is 9999"):
    byte_pairs.byte_pairs(tmp_path)
  (tmp_path / "tokenizer.json").write_text("{}")
  with pytest.raises(DataError, match="not a tokenizer"):
    byte_pairs.byte_pairs(tmp_path)
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  with pytest.raises(ImportError, match=r"pip install 'recjax\[text\]'"):
    byte_pairs.byte_pairs(tmp_path)
