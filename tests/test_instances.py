"""Instances: prompts of real events, made only when asked for, mixed as the weights say."""

import dataclasses
import re

import hypothesis.strategies as st
import numpy as np
import pytest
import shop
from absl import logging
from hypothesis import given

from recjax.data import examples, interactions, loader
from recjax.data.errors import DataError
from recjax.text import arithmetic, asked, indexing, instances, prompts, questions, whole_words
from recjax.text.prompts import Prompt

SPLIT, SHOP, WORDS = shop.world()
TRAIN = SPLIT.train
ASKED = shop.asked_of(SPLIT)
OURS = prompts.collection()
NEXT = Prompt("sequential", "after {history} ?", "{target}", "next")
ITEM = {written: row for row, written in enumerate(SHOP.items)}
MET = [set(TRAIN.item[TRAIN.user == u].tolist()) for u in range(TRAIN.num_users)]


def made(**options):
  return shop.mixture(SPLIT, SHOP, WORDS, **options)


def items_of(text):
  return [ITEM[word] for word in text.split()]


# --- The mixture ---


def test_shares_are_rounded_by_the_largest_remainders():
  weights = {"sequential": 3, "rating": 1, "explanation": 1, "summary": 1, "direct": 1}
  mixture = made(weights=weights, size=100)  # 42.86, 14.29 x 4: one of the 58 goes to each ...
  assert mixture.counts.tolist() == [43, 15, 14, 14, 14] and len(mixture) == 100
  tasks = [mixture[i].prompt.task for i in range(100)]
  assert {t: tasks.count(t) for t in weights} == dict(zip(weights, mixture.counts, strict=True))


@given(st.lists(st.floats(0.01, 100), min_size=5, max_size=5), st.integers(1, 5000))
def test_the_mixture_follows_its_weights(weights, size):
  mixture = made(weights=dict(zip(prompts.TASKS, weights, strict=True)), size=size)
  shares = np.array(weights) / sum(weights) * size
  assert mixture.counts.sum() == len(mixture) == size
  assert (np.abs(mixture.counts - shares) < 1 + 1e-6).all() and (mixture.counts >= 0).all()


def test_without_weights_every_example_comes_once_and_in_order():
  mixture = instances.Instances(ASKED[:1], [NEXT], SHOP, WORDS)
  assert len(mixture) == len(ASKED[0])
  for i in (0, 7, len(mixture) - 1):
    q, found = ASKED[0], mixture[i].values
    assert items_of(found["history"]) == q.history[i].tolist()
    assert ITEM[found["target"]] == q.item[i]


def test_a_small_share_takes_no_example_twice_and_a_large_one_goes_round():
  n = len(ASKED[0])
  one = dict.fromkeys(prompts.TASKS, 1e-9)
  few = made(weights=one | {"sequential": 1.0}, size=n - 5)
  order = few._drawn[0]
  assert len(set(order.tolist())) == len(order) == few.counts[0] < n
  assert few._drawn[0].tolist() != sorted(few._drawn[0])  # drawn, not the first
  many = made(weights=one | {"sequential": 1.0}, size=2 * n)
  again = [many[i].values["user"] for i in range(n)], [many[n + i].values["user"] for i in range(n)]
  assert many.counts[0] == 2 * n and again[0] == again[1]
  assert [many[i].prompt for i in range(n)] != [many[n + i].prompt for i in range(n)]


def test_an_instance_follows_from_seed_and_index_alone():
  weights = dict.fromkeys(prompts.TASKS, 1.0)
  one, two = made(weights=weights, size=300), made(weights=weights, size=300)
  widths = one.widths(200)
  rows = np.array([5, 250, 77, 130])
  batch, alone = one.gather(rows, widths), two.gather(rows[2:3], widths)
  for name, column in batch.items():
    np.testing.assert_array_equal(column[2:3], alone[name])
  other = made(weights=weights, size=300, seed=1)
  assert [one[i].text for i in range(300)] != [other[i].text for i in range(300)]
  drawn = [
    {i.prompt.name for i in map(one.__getitem__, range(60 * t, 60 * t + 60))} for t in (0, 1)
  ]
  assert [len(names) for names in drawn] == [7, 9]  # every prompt of the task comes


def test_batches_are_the_same_for_any_number_of_processes():
  mixture = made(weights=dict.fromkeys(prompts.TASKS, 1.0), size=64)
  whole = loader.Batches(mixture, 16, max_len=160, seed=0)[1]
  parts = [loader.Batches(mixture, 16, max_len=160, seed=0, shard=(i, 2))[1] for i in (0, 1)]
  for name, column in whole.items():
    np.testing.assert_array_equal(column, np.concatenate([p[name] for p in parts]))


# --- Only what is asked for is ever text ---


class Column:
  """A column of texts that notes which of them are read."""

  def __init__(self, values):
    self.values, self.read, self.dtype = values, [], values.dtype

  def __getitem__(self, row):
    self.read.append(int(row))
    return self.values[row]


def test_a_batch_puts_its_own_rows_into_words_and_no_others(monkeypatch):
  reviews = questions.summary(TRAIN)
  column = Column(reviews.columns["review"])
  lazy = dataclasses.replace(reviews, columns={**reviews.columns, "review": column})
  mixture = instances.Instances([lazy], OURS, SHOP, WORDS, instances.Config(target_len=16))
  batches = loader.Batches(mixture, 8, max_len=64, seed=0)
  spent, real = [], whole_words.encode
  monkeypatch.setattr(
    whole_words, "encode", lambda v, texts, **o: spent.append(len(texts)) or real(v, texts, **o)
  )
  assert column.read == [] and len(mixture) == len(TRAIN)
  batches[3]
  rows = batches._plan(0)[0][3]
  assert sorted(column.read) == sorted(reviews.row[rows].tolist()) and spent == [8, 8]


def test_lengths_for_buckets_are_those_of_the_sources():
  mixture = made(weights=dict.fromkeys(prompts.TASKS, 1.0), size=40)
  wanted = [len(WORDS.encode([mixture[i].text.source])[0]) for i in range(40)]
  assert mixture.lengths.tolist() == wanted
  batches = loader.Batches(mixture, 4, max_len=[40, 160], seed=0)
  assert {batches[i]["source"].shape[1] for i in range(len(batches))} == {40, 160}


# --- From data to text and back ---


@given(st.integers(0, 499))
def test_instances_are_read_back_from_their_tokens(i):
  mixture = made(weights=dict.fromkeys(prompts.TASKS, 1.0), size=500)
  batch, found = mixture.gather(np.array([i]), mixture.widths(200)), mixture[i]
  tokens, words = (batch[name] for name in ("source", "words"))
  assert (tokens == WORDS.eos).sum() == 1 and (words[tokens == WORDS.eos] == 0).all()
  source = whole_words.decode(WORDS, list(tokens), list(words))[0]
  assert source == found.text.source
  again = found.prompt.parse(found.text._replace(source=source))
  assert again == found.values


def test_what_an_instance_says_is_true_of_the_data():
  mixture = made(weights=dict.fromkeys(prompts.TASKS, 1.0), size=1000)
  stars = dict(zip(zip(TRAIN.user.tolist(), TRAIN.item.tolist(), strict=True), TRAIN.rating,
                   strict=True))  # fmt: skip
  answers = []
  for i in range(len(mixture)):
    prompt, v, _ = mixture[i]
    user = SHOP.users.index(v["user"])
    if "item" in v:
      given = stars[user, ITEM[v["item"]]]
      assert float(v.get("rating", given)) == given
      assert v.get("opinion") in (None, "like" if given >= 4 else "dislike")
      if "guess" in v:
        assert (float(v["guess"]) == given) == (v["answer"] == "yes")
    if "candidates" in v:
      shown = items_of(v["candidates"])
      assert len(set(shown)) == len(shown) == 4 and ITEM[v["target"]] in shown
      assert not (set(shown) - {ITEM[v["target"]]}) & MET[user]
    if "candidate" in v:
      answers.append(v["answer"])
      assert (ITEM[v["candidate"]] in MET[user]) == (v["answer"] == "yes")
    if "title" in v:
      assert SHOP.items[SHOP.titles.index(v["title"])] == v["item"]
    if "review" in v:
      assert v["review"].startswith("This one is ") and v["review"].endswith("We kept it.")
    if prompt.task == "explanation":
      assert v["explanation"] == f"This one is {shop.OPINIONS[int(given)]}."
  assert 0.35 < answers.count("yes") / len(answers) < 0.65 and len(answers) > 60


def test_ids_share_no_token_but_where_their_digits_agree():
  """Items are written in tokens of their own, users too: no piece of text is among them."""
  tokens, _ = whole_words.encode(WORDS, SHOP.items)
  pieces = len(shop.PIECES)
  assert all((row[:-1] >= pieces).all() and len(row) == 3 for row in list(tokens)[1:])
  numbers = {written: re.findall(r"_(\d)>", written) for written in SHOP.items[1:]}
  for one in numbers:
    for other in numbers:
      shared = set(tokens[ITEM[one]][:-1]) & set(tokens[ITEM[other]][:-1])
      same = sum(a == b for a, b in zip(numbers[one], numbers[other], strict=True))
      assert len(shared) == same


def test_the_vocabulary_grows_by_what_is_new():
  assert len(WORDS) == len(shop.PIECES) + (TRAIN.num_users - 1) + 2 + 10
  index = indexing.randomly(TRAIN.num_items, seed=0, span=1)
  assert instances.vocabulary(WORDS, index, TRAIN.num_users).added == WORDS.added


def test_titles_in_pieces_of_the_vocabulary_can_be_identifiers():
  def pieces(text):
    return WORDS._processor.encode(text, out_type=str)

  titled = ["", "Red lamp", "Red", "Red lamp", "A lamp"]
  few = TRAIN.take(TRAIN.item < 5)
  few = dataclasses.replace(few, items=few.items[:5])
  index = indexing.titles(titled, few.items, split=pieces)
  words = instances.vocabulary(WORDS, index, few.num_users)
  tokens, whole = whole_words.encode(words, instances.domain(few, index).items)
  wanted = [words.encode([title], eos=False)[0].tolist() for title in titled[1:]]
  copies = [row[-2] for row in (tokens[1], tokens[3])]  # of the two that have the same title
  assert sorted(copies) == [words.id("<copy_0>"), words.id("<copy_1>")]
  for at, copy in ((0, copies[:1]), (1, []), (2, copies[1:]), (3, [])):
    assert tokens[at + 1].tolist() == [*wanted[at], *copy, words.eos]
    assert set(whole[at + 1].tolist()) == {1, 0}  # one word, however many pieces
  with pytest.raises(KeyError, match="no token '(Red|lamp|A)'"):
    instances.vocabulary(WORDS, indexing.titles(titled, few.items), few.num_users)


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


def test_of_what_a_user_rated_the_oldest_is_left_out_first():
  q = questions.rating(TRAIN)
  mixture = instances.Instances([q], [RATED], SHOP, WORDS, instances.Config(target_len=16))
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
  assert mixture.answers()[:3] == ["one two three four five six"] * 2 + ["one"]


def test_text_that_looks_like_a_token_is_none():
  text = interactions.strings(["see <user_3> <", "<>"] + ["fine"] * (len(TRAIN) - 2))
  x = interactions.replace(TRAIN, text=text)
  q = questions.summary(x)
  assert len(q) == len(x) - 1 and 1 not in q.row  # brackets alone say nothing
  only = [p for p in OURS if p.name == "condense"]
  found = instances.Instances([q], only, SHOP, WORDS, instances.Config())[0]
  assert found.values["review"] == "see user_3"


# --- Questions ---


def test_events_that_do_not_say_what_a_task_needs_are_left_out():
  rating = TRAIN.rating.copy()
  rating[[2, 5]] = np.nan
  assert questions.rating(interactions.replace(TRAIN, rating=rating)).row.tolist() == [
    i for i in range(len(TRAIN)) if i not in (2, 5)
  ]
  text = TRAIN.text.copy()
  text[[0, 3]] = "", " \n"
  left = questions.summary(interactions.replace(TRAIN, text=text))
  assert left.row[:3].tolist() == [1, 2, 4] and left.item[1] == TRAIN.item[2]
  text[:] = ""
  with pytest.raises(DataError, match="no event has what the task 'summary' needs"):
    questions.summary(interactions.replace(TRAIN, text=text))


RATED = Prompt("rating", "{item} , {title} , after {rated} ?", "{rating}", "rated")


def test_what_a_user_rated_is_told_up_to_the_event_and_not_further():
  """Two users, rows out of order; an event at the same time is not earlier, nor is another's."""
  x = interactions.from_columns(
    ["a", "a", "b", "a", "a", "b"],
    ["p", "q", "p", "r", "s", "q"],
    timestamp=np.array([30, 10, 5, 20, 20, 9]),
    rating=np.array([3, 1, 5, 2.5, np.nan, 4]),
  )
  p, q, r = 1, 2, 3  # by first appearance
  found = questions.rating(x)
  assert found.row.tolist() == [0, 1, 2, 3, 5]
  assert [row.tolist() for row in found.history] == [[q, r], [], [], [q], [p]]
  assert [row.tolist() for row in found.stars] == [[1, 2.5], [], [], [1], [5]]
  later = interactions.replace(x.take(np.arange(2)), timestamp=np.array([21, 8]))
  beside = questions.rating(later, x)  # of x alone: one question says nothing of another
  assert [row.tolist() for row in beside.history] == [[q, r], []]
  bare = interactions.replace(x, timestamp=None)  # the order of the table is that of time
  assert [row.tolist() for row in questions.rating(bare).history] == [[], [p], [], [p, q], [p]]
  every = questions.rating(interactions.replace(later, timestamp=None), bare)
  assert [row.tolist() for row in every.history] == [[p, q, r]] * 2
  two = beside.take(np.array([0]))
  assert two.stars[0].tolist() == [1, 2.5] and two.knows >= {"rated", "rating"}


def test_rated_items_are_the_latest_first_and_as_many_as_a_prompt_holds():
  q = questions.rating(TRAIN)
  cfg = instances.Config(target_len=16, max_history=2)
  rated = instances.Instances([q], [RATED], SHOP, WORDS, cfg)
  own = np.flatnonzero(TRAIN.user == 3)
  wanted = ["nothing"]
  for at in range(1, len(own)):
    told = [f"{SHOP.titles[TRAIN.item[i]]} ({TRAIN.rating[i]:g})" for i in own[:at][-2:][::-1]]
    wanted.append(", ".join(told))
  assert [rated[int(i)].values["rated"] for i in own] == wanted and len(own) > 3
  test = instances.Instances([questions.rating(SPLIT.valid, TRAIN)], [RATED], SHOP, WORDS, cfg)
  last = [f"{SHOP.titles[TRAIN.item[i]]} ({TRAIN.rating[i]:g})" for i in own[-2:][::-1]]
  at = SPLIT.valid.user.tolist().index(3)
  assert test[at].values["rated"] == ", ".join(last)
  unknown = dataclasses.replace(q, stars=None)
  with pytest.raises(DataError, match="rating/rated needs rated, which these questions do not"):
    instances.Instances([unknown], [RATED], SHOP, WORDS, cfg)


def test_columns_that_are_not_there_are_named():
  bare = interactions.from_columns([1, 1], [1, 2])
  for make, name in (
    (questions.rating, "rating"),
    (questions.summary, "review"),
    (questions.explanation, "explanation"),
  ):
    with pytest.raises(DataError, match=f"no column '{name}'"):
      make(bare)
  with pytest.raises(DataError, match="no reviews"):
    questions.first_sentences(bare)
  with pytest.raises(DataError, match="no history"):
    questions.sequential(examples.events(bare))


def test_explanations_are_first_sentences():
  text = interactions.strings(["Good. Very!", "v1.5 is out! Yes.", "no end", "a b c d"])
  x = interactions.from_columns([1, 2, 3, 4], [1, 1, 1, 1], text=text)
  found = questions.first_sentences(x, words=3).fields["explanation"]
  assert found.tolist() == ["Good.", "v1.5 is out!", "no end", "a b c"]


def test_questions_of_held_out_events_ask_with_what_came_before():
  q = questions.sequential(examples.next_events(TRAIN, SPLIT.valid))
  assert q.item.tolist() == SPLIT.valid.item.tolist()
  for at in (0, 5):
    assert q.history[at].tolist() == TRAIN.item[TRAIN.user == q.user[at]].tolist()


# --- What evaluation asks ---


def test_evaluation_brings_the_item_or_the_rating_and_no_text():
  q = questions.sequential(examples.next_events(TRAIN, SPLIT.valid))
  source = asked.ranked(instances.Instances([q], [NEXT], SHOP, WORDS), deny_seen=True)
  batch = loader.Batches(source, 16, max_len=64)[0]
  assert set(batch) == {"source", "words", "target", "deny", "weight"}
  assert batch["target"].tolist() == q.item[:16].tolist()
  assert set(batch["deny"][0]) - {0} == set(q.history[0].tolist())
  stars = [p for p in OURS if p.name in ("stars", "called") and p.task == "rating"]
  source = asked.rated(instances.Instances([ASKED[1]], stars, SHOP, WORDS))
  batch = loader.Batches(source, 16, max_len=64)[0]
  assert set(batch) == {"source", "words", "ratings", "weight"}
  assert batch["ratings"].tolist() == TRAIN.rating[:16].tolist()


def test_what_cannot_be_evaluated_is_named():
  with pytest.raises(DataError, match="asks one task"):
    asked.ranked(made(weights=dict.fromkeys(prompts.TASKS, 1.0)))
  with pytest.raises(DataError, match="rating/exactly is not answered by {rating}"):
    asked.rated(instances.Instances([ASKED[1]], OURS, SHOP, WORDS))
  direct = [p for p in OURS if p.task == "direct" and p.target == "{target}"]
  with pytest.raises(DataError, match="no history to deny"):
    asked.ranked(instances.Instances([ASKED[4]], direct, SHOP, WORDS), deny_seen=True)


@pytest.mark.parametrize(
  "change, said",
  [
    ({"questions": []}, "of another task"),
    ({"questions": [ASKED[0], ASKED[0]]}, "of another task"),
    ({"prompts": [NEXT]}, "no prompt for the task 'rating'"),
    ({"cfg": instances.Config(size=10)}, "`size` is that of a mixture"),
    ({"cfg": instances.Config(weights={"rating": 1.0})}, "the weights are .*'rating'"),
    (
      {"cfg": instances.Config(weights=dict.fromkeys(prompts.TASKS, 0.0))},
      "a positive weight",
    ),
    (
      {"questions": ASKED[:1], "prompts": [NEXT], "cfg": instances.Config(target_len=2)},
      "an answer {target} takes 3 tokens with its end, a target holds 2.*0: as many as are needed",
    ),
    ({"cfg": instances.Config(candidates=1)}, "at least 2 candidates"),
    (
      {"prompts": [*OURS, Prompt("explanation", "{feature} ?", "{explanation}", "f")]},
      "explanation/f needs feature",
    ),
  ],
)
def test_mixtures_that_do_not_work_are_named(change, said):
  whole = {"questions": ASKED, "prompts": OURS, "domain": SHOP, "words": WORDS}
  with pytest.raises(DataError, match=said):
    instances.Instances(**{**whole, **change})


def test_domains_that_do_not_fit_the_events_are_named():
  with pytest.raises(DataError, match="the index has 4 items, the events 12"):
    instances.domain(TRAIN, indexing.randomly(5, seed=0))
  index = indexing.randomly(TRAIN.num_items, seed=0)
  with pytest.raises(DataError, match="titles of 1 items"):
    instances.domain(TRAIN, index, ["", "x"])


def test_a_user_who_met_everything_and_equal_ratings_are_named_before_any_work():
  x = interactions.from_columns([1] * 3, [1, 2, 3], timestamp=[0, 1, 2], rating=[2, 2, np.nan])
  found, words = shop.of(x)
  whether = [p for p in OURS if p.name == "whether" and p.task == "direct"]
  with pytest.raises(DataError, match="user 1 has met 3 of 3 items"):
    instances.Instances([questions.direct(x)], whether, found, words)
  guess = [p for p in OURS if p.name == "exactly"]
  with pytest.raises(DataError, match="none can be guessed wrongly"):
    instances.Instances([questions.rating(x)], guess, found, words)


# --- Sums ---


def test_sums_are_right_and_parts_share_none():
  parts = [arithmetic.Sums(WORDS, 30, first, highest=9) for first in (0, 30)]
  seen = [part[i] for part in parts for i in range(30)]
  assert len({text.source for text in seen}) == 60
  for text in seen:
    one, other = (int(w) for w in text.source.split() if w.isdigit())
    assert int(text.target) == one + other and 0 <= min(one, other) <= max(one, other) <= 9
  batch = loader.Batches(parts[0], 8, max_len=24, seed=0)[0]
  assert set(batch) == {"source", "words", "target", "weight"}
  said = WORDS.decode(batch["source"][:1])[0]
  assert said in {t.source for t in seen} and WORDS.decode(batch["target"])[0].isdigit()
  with pytest.raises(DataError, match="there are 100 sums"):
    arithmetic.Sums(WORDS, 90, 20, highest=9)
  with pytest.raises(DataError, match="Raise its max_len"):
    loader.Batches(parts[0], 8, max_len=4)[0]
