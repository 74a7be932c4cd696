"""Whole words: each token stands beside the word that it is part of, and the text comes back."""

import types

import hypothesis.strategies as st
import numpy as np
import pytest
import shop
from hypothesis import given

from recjax.data.ragged import Ragged
from recjax.text import prompts, vocab, whole_words

WORDS = shop.PIECES.add(vocab.numbered("a", 5)).add(vocab.numbered("b", 5))
OURS = [f"{p.source} {p.target}".replace("{", "").replace("}", "") for p in prompts.collection()]


def check(texts):
  tokens, words = whole_words.encode(WORDS, texts)
  assert tokens.lengths.tolist() == words.lengths.tolist()
  for text, row, place in zip(texts, tokens, words, strict=True):
    assert row[-1] == WORDS.eos and place[-1] == 0
    split = text.split()
    assert np.unique(place[:-1]).tolist() == list(range(1, len(split) + 1))
    assert (np.diff(place[:-1]) >= 0).all()
    for i, word in enumerate(split, 1):
      assert "".join(WORDS.decode([row[place == i]])).replace(" ", "") == word
  assert whole_words.decode(WORDS, tokens, words) == [" ".join(t.split()) for t in texts]


def test_words_line_up_with_the_pieces_of_our_prompts():
  check(OURS)


PLAIN = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8)
ITEM = st.lists(st.sampled_from(WORDS.added), min_size=1, max_size=3).map("".join)


@given(st.lists(st.lists(PLAIN | ITEM, max_size=6).map("  ".join), min_size=1, max_size=4))
def test_words_line_up_with_the_pieces_of_any_text(texts):
  check(texts)


def test_an_item_of_several_tokens_is_one_word():
  tokens, words = whole_words.encode(WORDS, ["to <a_1><b_2> , <a_3>"])
  to = WORDS.encode(["to"], eos=False)[0].tolist()
  comma = WORDS.encode([","], eos=False)[0].tolist()
  items = [[WORDS.id(t) for t in item] for item in (("<a_1>", "<b_2>"), ("<a_3>",))]
  assert tokens[0].tolist() == [*to, *items[0], *comma, *items[1], WORDS.eos]
  assert words[0].tolist() == [1] * len(to) + [2, 2] + [3] * len(comma) + [4, 0]


def test_tokens_are_those_of_the_whole_text():
  texts = [*OURS, "bought <a_1><b_2> , then <a_3><b_4> ; it's fair (4.5 stars)"]
  found, whole = whole_words.encode(WORDS, texts)[0], WORDS.encode(texts)
  assert [row.tolist() for row in found] == [row.tolist() for row in whole]


def test_a_word_of_no_token_has_no_number():
  pieces = {"a": [7], "\u200b": [], "b": [8, 9]}  # as T5's model reads a mark of no width
  held = types.SimpleNamespace(
    eos=1, encode=lambda texts, eos: Ragged.from_rows([pieces[text] for text in texts])
  )
  tokens, words = whole_words.encode(held, ["a \u200b b", "\u200b"])
  assert tokens[0].tolist() == [7, 8, 9, 1] and words[0].tolist() == [1, 2, 2, 0]
  assert tokens[1].tolist() == [1] and words[1].tolist() == [0]


def test_what_is_too_long_is_cut_and_ends():
  tokens, words = whole_words.encode(WORDS, ["<a_0> <a_1><a_2> <a_3>", ""], max_len=3)
  assert tokens[0].tolist() == [WORDS.id("<a_0>"), WORDS.id("<a_1>"), WORDS.eos]
  assert words[0].tolist() == [1, 2, 0] and tokens[1].tolist() == [WORDS.eos]
  with pytest.raises(ValueError, match="leaves no room"):
    whole_words.encode(WORDS, ["x"], max_len=0)
