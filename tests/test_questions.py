"""Questions that events give: whom and what they ask of."""

import dataclasses

import numpy as np
import pytest
import shop

from recjax.data import examples, interactions
from recjax.data.errors import DataError
from recjax.text import instances, questions

SPLIT, SHOP, WORDS = shop.world()
TRAIN = SPLIT.train


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
  rated = instances.Instances([q], [shop.RATED], SHOP, WORDS, cfg)
  own = np.flatnonzero(TRAIN.user == 3)
  wanted = ["nothing"]
  for at in range(1, len(own)):
    told = [f"{SHOP.titles[TRAIN.item[i]]} ({TRAIN.rating[i]:g})" for i in own[:at][-2:][::-1]]
    wanted.append(", ".join(told))
  assert [rated[int(i)].values["rated"] for i in own] == wanted and len(own) > 3
  test = instances.Instances([questions.rating(SPLIT.valid, TRAIN)], [shop.RATED], SHOP, WORDS, cfg)
  last = [f"{SHOP.titles[TRAIN.item[i]]} ({TRAIN.rating[i]:g})" for i in own[-2:][::-1]]
  at = SPLIT.valid.user.tolist().index(3)
  assert test[at].values["rated"] == ", ".join(last)
  unknown = dataclasses.replace(q, stars=None)
  with pytest.raises(DataError, match="rating/rated needs rated, which these questions do not"):
    instances.Instances([unknown], [shop.RATED], SHOP, WORDS, cfg)


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
