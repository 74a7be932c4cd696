"""Prompts: what is rendered is read back, or is said to be uncertain; a bad line is named."""

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from recjax.data.errors import DataError
from recjax.text import prompts
from recjax.text.prompts import Prompt, Text

OURS = prompts.collection()
STARS = Prompt("rating", "how does {user} rate {item} ?", "{rating}", "stars")


def test_every_task_has_several_prompts_of_ours():
  assert {p.task for p in OURS} == set(prompts.TASKS)
  assert all(sum(p.task == task for p in OURS) >= 4 for task in prompts.TASKS)
  assert len({(p.task, p.source) for p in OURS}) == len(OURS)


@pytest.mark.parametrize("prompt", OURS, ids=str)
@given(data=st.data())
def test_prompts_are_read_back(prompt, data):
  """No value holds a word of ours, as those of items, users and numbers do not."""
  words = st.lists(st.from_regex(r"[A-Z0-9<>_.]{1,6}", fullmatch=True), min_size=1, max_size=4)
  values = {field: " ".join(data.draw(words)) for field in sorted(prompt.fields)}
  text = prompt.render(values)
  assert "{" not in text.source + text.target
  assert prompt.parse(text) == values


@pytest.mark.parametrize("prompt", OURS, ids=str)
@given(data=st.data())
def test_any_text_is_read_back_or_is_uncertain(prompt, data):
  """Values of the very words of the template, and any other characters."""
  said = st.sampled_from([*prompt.source.replace("{", "").split(), ",", "x", "."]) | st.text(
    st.characters(codec="utf-8"), min_size=1, max_size=4
  )
  some = st.lists(said, min_size=1, max_size=5).map(lambda w: " ".join(" ".join(w).split()))
  values = {field: data.draw(some.filter(bool)) for field in sorted(prompt.fields)}
  text = prompt.render(values)
  try:
    assert prompt.parse(text) == values
  except DataError as error:
    assert "in two ways" in str(error)


def test_a_text_with_two_readings_is_named_and_a_foreign_one_too():
  text = STARS.render({"user": "a rate b", "item": "c", "rating": "4"})
  assert text == Text("how does a rate b rate c ?", "4")
  with pytest.raises(DataError, match="can be read in two ways"):
    STARS.parse(text)
  with pytest.raises(DataError, match="not a text of prompt rating/stars"):
    STARS.parse(Text("how does a judge c ?", "4"))


def test_a_field_named_twice_has_one_value():
  twice = Prompt("rating", "{user} and {user} rate {item} ?", "{rating}", "twice")
  values = {"user": "u 1", "item": "i", "rating": "2"}
  text = twice.render(values)
  assert text.source == "u 1 and u 1 rate i ?" and twice.parse(text) == values
  with pytest.raises(DataError, match="not a text of"):
    twice.parse(Text("u 1 and u 2 rate i ?", "2"))


@pytest.mark.parametrize(
  "change, said",
  [
    ({"task": "ranking"}, "no task 'ranking'.*sequential"),
    ({"source": "does {usr} like it ?"}, r"unknown field \{usr\} in its source.*title, user"),
    ({"source": "how does {user} rate it , {rating} ?"}, r"unknown field \{rating\} in its source"),
    ({"source": "how does {user} rate {item}?"}, r"'\{item\}\?' in the source is not a field"),
    ({"source": "so {user}  {item} ?"}, "two fields side by side in its source"),
    ({"target": " "}, "empty target"),
    ({"target": "{answer}"}, "whether a {candidate} or {guess} is true"),
    ({"source": "is it {guess} ?"}, "whether a {candidate} or {guess} is true"),
  ],
)
def test_templates_that_do_not_work_are_named(change, said):
  whole = {"task": "rating", "source": STARS.source, "target": STARS.target, "name": "x"}
  with pytest.raises(DataError, match=said):
    Prompt(**{**whole, **change})


def test_a_value_that_is_missing_or_empty_is_named():
  for values in ({"user": "u", "rating": "2"}, {"user": "u", "rating": "2", "item": " \n"}):
    with pytest.raises(DataError, match=r"rating/stars needs \{item\}"):
      STARS.render(values)


def record(**change):
  whole = {"task": "rating", "name": "n", "source": "{user} : {item} ?", "target": "{rating}"}
  return json.dumps({**whole, **change})


def test_a_file_of_ones_own_is_read(write):
  path = write(
    "mine.jsonl", record() + "\n\n" + record(name="m", source="{item}  for {user}") + "\n"
  )
  assert prompts.load(path) == (
    Prompt("rating", "{user} : {item} ?", "{rating}", "n"),
    Prompt("rating", "{item} for {user}", "{rating}", "m"),
  )


@pytest.mark.parametrize(
  "line, said",
  [
    (record(source="{nobody}"), r"unknown field \{nobody\}"),
    ('{"task": "rating"', "neither JSON"),
    (record(weight=1), "unknown: weight"),
    (json.dumps({"task": "rating", "name": "x"}), "missing or unknown: source, target"),
    (record(target=3), "'target' is 3, not a text"),
    (record(name="first"), "prompt rating/first is there twice"),
  ],
)
def test_a_bad_line_of_a_file_is_named(write, line, said):
  path = write("mine.jsonl", record(name="first") + "\n" + line + "\n")
  with pytest.raises(DataError, match=said) as caught:
    prompts.load(path)
  assert f"{path}:2:" in str(caught.value)


def test_ones_own_prompts_come_beside_ours_under_names_of_their_own():
  own = (STARS, Prompt("rating", "{item} ?", "{rating}", "mine"))
  with pytest.raises(DataError, match="these names already: rating/stars. Rename"):
    prompts.extended(own)
  both = prompts.extended(own[1:])
  assert set(both) == {own[1], *OURS} and len(both) == len(OURS) + 1
  seen, unseen = prompts.hold_out(both)
  # What is held out stays ours.
  assert set(unseen) == set(prompts.hold_out(OURS)[1]) and own[1] in seen


def test_the_last_prompt_of_each_task_is_held_out():
  seen, unseen = prompts.hold_out(OURS)
  assert {p.task for p in seen} == {p.task for p in unseen} == set(prompts.TASKS)
  assert len(unseen) == 5 and set(seen) | set(unseen) == set(OURS) and not set(seen) & set(unseen)
  # What is held out asks for an item, a rating or a text: its metrics are those of the task.
  assert [p.target for p in unseen] == [
    "{target}", "{rating}", "{explanation}", "{summary}", "{target}"
  ]  # fmt: skip
  with pytest.raises(DataError, match="the task rating has one prompt"):
    prompts.hold_out([STARS])
