"""What of an instance fits its source and target, and what it is told apart by."""

import dataclasses

import numpy as np
import pytest
import shop
from absl import logging

from recjax.data import interactions
from recjax.data.errors import DataError
from recjax.text import asked, instances, prompts, questions, whole_words
from recjax.text.prompts import Prompt

SPLIT, SHOP, WORDS = shop.world()
TRAIN = SPLIT.train
ASKED = shop.asked_of(SPLIT)
OURS = prompts.collection()
NEXT = Prompt("sequential", "after {history} ?", "{target}", "next")
ITEM = {written: row for row, written in enumerate(SHOP.items)}


def items_of(text):
  return [ITEM[word] for word in text.split()]


def test_histories_and_reviews_are_cut_to_what_a_prompt_holds():
  q = ASKED[0]
  at = int(np.argmax(q.history.lengths))
  cfg = instances.Config(target_len=16, max_history=2, review_words=3)
  found = instances.Instances([q], [NEXT], SHOP, WORDS, cfg)[at].values
  assert items_of(found["history"]) == q.history[at][-2:].tolist() and q.history.lengths[at] > 2
  short = [p for p in OURS if p.name == "condense"]
  cut = instances.Instances([questions.summary(TRAIN)], short, SHOP, WORDS, cfg)
  assert cut[0].values["review"] == "This one is"


def told_in(mixture, at, width):
  """Instance `at` as a batch of this width tells it, read back from its tokens."""
  batch = mixture.gather(np.array([at]), {"source": width, "target": mixture.target_len})
  tokens, words = (list(batch[name]) for name in ("source", "words"))
  text = mixture[at].text._replace(source=whole_words.decode(WORDS, tokens, words)[0])
  return mixture[at].prompt.parse(text)


def test_of_a_source_that_is_too_long_the_oldest_history_is_left_out_and_no_more(caplog):
  ask = Prompt("sequential", "after {history} one of {candidates} ?", "{target}", "among")
  cfg = instances.Config(target_len=16, candidates=3)
  mixture = instances.Instances(ASKED[:1], [ask], SHOP, WORDS, cfg)
  at = int(np.argmax(mixture.lengths))
  whole, history = mixture[at].values, ASKED[0].history[at].tolist()
  longest, least = int(mixture.lengths[at]), len(history) - 1
  for less in range(2 * least + 1):  # an item is two tokens
    told = told_in(mixture, at, longest - less)
    assert items_of(told["history"]) == history[-(-less // 2) :] and least >= 2
    assert told | {"history": whole["history"]} == whole
  assert caplog.text == ""


def test_of_a_review_that_is_too_long_the_end_is_left_out_not_the_question(caplog):
  long = np.array([" ".join(["good"] * 3 + ["lamp"] * 9)] * len(TRAIN), object)
  q = questions.summary(interactions.replace(TRAIN, text=long))
  ask = Prompt("summary", "{user} says {review} in a few words ?", "{summary}", "few")
  mixture = instances.Instances([q], [ask], SHOP, WORDS, instances.Config(target_len=16))
  longest = int(mixture.lengths[0])
  of_word = len(WORDS.encode(["lamp"], eos=False)[0])
  for less in range(3 * of_word):
    told = told_in(mixture, 0, longest - less)
    left = 9 - -(-less // of_word)
    assert told["review"].split() == ["good"] * 3 + ["lamp"] * left
  assert caplog.text == ""


def test_of_what_a_user_rated_the_oldest_is_left_out_first():
  q = questions.rating(TRAIN)
  mixture = instances.Instances([q], [shop.RATED], SHOP, WORDS, instances.Config(target_len=16))
  at = int(np.argmax(mixture.lengths))
  whole = mixture[at].values["rated"].split(", ")
  found = [
    told_in(mixture, at, int(n))["rated"].split(", ") for n in mixture.lengths[at] - np.arange(12)
  ]
  assert all(told == whole[: len(told)] for told in found)
  assert len(found[0]) == len(whole) > len(found[1]) > len(found[-1]) >= 1


def test_a_source_that_no_history_fits_is_cut_and_ends_and_this_is_said(caplog, monkeypatch):
  monkeypatch.setattr(logging, "_log_counter_per_token", {})  # no earlier test has been told
  mixture = instances.Instances(ASKED[:1], [NEXT], SHOP, WORDS, instances.Config())
  batch = mixture.gather(np.arange(4), {"source": 4, "target": 4})
  assert batch["source"].shape == (4, 4) and (batch["source"][:, -1] == WORDS.eos).all()
  assert "4 of the 4 sources of a batch lose their end, cut to 4 tokens" in caplog.text


def test_a_target_may_be_as_long_as_the_longest_answer():
  cfg = instances.Config(target_len=0, candidates=4)
  every = instances.Instances([ASKED[0], ASKED[1], ASKED[4]], OURS, SHOP, WORDS, cfg)
  words = [*SHOP.items[1:], "yes", "no", "like", "dislike", "1", "2", "3", "4", "5"]
  longest = int(WORDS.encode(words).lengths.max())
  assert longest > 3 and every.widths(50) == {"source": 50, "target": longest}
  items = instances.Instances(ASKED[:1], [NEXT], SHOP, WORDS, cfg)
  assert (
    asked.ranked(items).gather(np.arange(2), {"source": 50, "target": 3})["source"].shape[0] == 2
  )
  assert items.target_len == 3
  said = Prompt("sequential", "after {history} ?", "it is {target}", "said")
  more = instances.Instances(ASKED[:1], [said], SHOP, WORDS, cfg)
  assert more.target_len == 3 + len(WORDS.encode(["it is"], eos=False)[0])
  with pytest.raises(DataError, match="answer {explanation} has any length.*Say how many"):
    instances.Instances([ASKED[2]], OURS, SHOP, WORDS, cfg)


def test_a_fingerprint_tells_of_all_that_is_said_and_of_nothing_else():
  def of(x=TRAIN, chosen=OURS, titles=SHOP.titles):
    told = [questions.rating(x), questions.explanation(x), questions.summary(x)]
    shown = dataclasses.replace(SHOP, titles=titles)
    return instances.Instances(told, chosen, shown, WORDS).fingerprint

  def changed(column, row, value):
    column = column.copy()
    column[row] = value
    return column

  same = interactions.replace(TRAIN, text=TRAIN.text.copy(), summary=TRAIN.fields["summary"].copy())
  assert of(same) == of()
  time = changed(TRAIN.timestamp, 1, TRAIN.timestamp[0])  # of one time: neither is the earlier
  others = {
    "review": of(interactions.replace(TRAIN, text=changed(TRAIN.text, 3, "Hm."))),
    "summary": of(interactions.replace(TRAIN, summary=changed(TRAIN.fields["summary"], 3, "hm"))),
    "time": of(interactions.replace(TRAIN, timestamp=time)),
    "title": of(titles=[*SHOP.titles[:-1], "Other"]),
    "prompt": of(chosen=[dataclasses.replace(p, source=f"so , {p.source}") for p in OURS]),
  }
  assert len({of(), *others.values()}) == 1 + len(others)


def test_targets_that_are_cut_are_counted_once_aloud_and_answers_are_whole(caplog, monkeypatch):
  monkeypatch.setattr(logging, "_log_counter_per_token", {})  # no earlier test has been told
  text = interactions.strings(["one two three four five six"] * 2 + ["one"] * (len(TRAIN) - 2))
  q = questions.summary(interactions.replace(TRAIN, summary=text))
  only = [p for p in OURS if p.name == "condense"]
  mixture = instances.Instances([q], only, SHOP, WORDS, instances.Config(target_len=6))
  for _ in range(2):
    batch = mixture.gather(np.arange(4), mixture.widths(64))
  assert (batch["target"][:2, -1] == WORDS.eos).all() and batch["target"].shape == (4, 6)
  assert caplog.text.count("2 of the 4 targets of a batch are cut to 6 tokens") == 1
  assert "raise target_len" in caplog.text
  assert WORDS.decode(batch["target"][:1]) != ["one two three four five six"]
  assert [text.target for text in mixture.texts()[:3]] == ["one two three four five six"] * 2 + [
    "one"
  ]


def test_text_that_looks_like_a_token_is_none():
  text = interactions.strings(["see <user_3> <", "<>"] + ["fine"] * (len(TRAIN) - 2))
  x = interactions.replace(TRAIN, text=text)
  q = questions.summary(x)
  assert len(q) == len(x) - 1 and 1 not in q.row  # brackets alone say nothing
  only = [p for p in OURS if p.name == "condense"]
  found = instances.Instances([q], only, SHOP, WORDS, instances.Config())[0]
  assert found.values["review"] == "see user_3"
