"""Prompts: templates of a question and its answer, with named fields, that can be read back.

A template is words between single spaces; a word in braces is a field, whose value is one word or
several. So fields never touch other text, and tokens of a text are those of its words. Our own
collection is `p5_prompts.jsonl`, five families of tasks as in P5 (Geng et al., RecSys 2022), in
words of ours; `load` reads a file of the same form, one JSON object a line:

  {"task": "rating", "name": "stars", "source": "how does {user} rate {item} ?",
   "target": "{rating}"}

A prompt may say what its task knows of an example:

  user item title              who, and what it is about
  history                      items that the user met before, oldest first
  candidates                   the true item and others, in random order
  candidate candidate_title    the true item or another one; the answer is yes or no
  guess                        the true rating or another one; the answer is yes or no
  rated                        titles (and stars) of what the user rated before, the latest first
  rating review feature        what the user gave and wrote
  target answer opinion explanation summary    (answers)
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from recjax.data.errors import DataError
from recjax.data.readers import files

# task -> (fields of a source, fields of a target)
TASKS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
  task: (frozenset(source.split()), frozenset(target.split()))
  for task, source, target in (
    ("sequential", "user history candidates candidate candidate_title", "target answer"),
    ("rating", "user item title guess rated", "rating answer opinion"),
    ("explanation", "user item title rating feature", "explanation"),
    ("summary", "user item title review", "summary rating"),
    ("direct", "user candidates candidate candidate_title", "target answer"),
  )
}
TITLES = frozenset({"title", "candidate_title", "rated"})  # what titles are told in
_DOUBTFUL = {"candidate", "candidate_title", "guess"}  # true or not: what {answer} says
_FIELD = re.compile(r"\{(\w+)\}")
_KEYS = ("task", "name", "source", "target")


class Text(NamedTuple):
  source: str
  target: str


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A question and its answer, `task/name` of a collection."""

  task: str
  source: str
  target: str
  name: str

  def __post_init__(self):
    if self.task not in TASKS:
      raise DataError(f"there is no task {self.task!r}", remedy=f"There is {', '.join(TASKS)}.")
    for side, known in zip(Text._fields, TASKS[self.task], strict=True):
      template = getattr(self, side)
      if not template.split():
        raise DataError(f"{self} has an empty {side}", remedy="Write a template.")
      object.__setattr__(self, side, " ".join(template.split()))
      if re.search(r"\} \{", getattr(self, side)):
        raise DataError(
          f"{self} has two fields side by side in its {side}",
          remedy="Put a word between them: else none could tell where the first ends.",
        )
      for word in template.split():
        found = _FIELD.fullmatch(word)
        if found is None and ("{" in word or "}" in word):
          raise DataError(
            f"{self}: {word!r} in the {side} is not a field",
            remedy="Write {name}, with a space on either side.",
          )
        if found is not None and found[1] not in known:
          raise DataError(
            f"{self} has an unknown field {word} in its {side}",
            remedy=f"A {side} of this task has {', '.join(sorted(known))}.",
          )
    if ("{answer}" in self.target) != bool(self.fields & _DOUBTFUL):
      raise DataError(
        f"{self}: the target {{answer}} says whether a {{candidate}} or {{guess}} is true",
        remedy="Have both or none.",
      )

  def __str__(self) -> str:
    return f"prompt {self.task}/{self.name}"

  @functools.cached_property
  def fields(self) -> frozenset[str]:
    """The names of all fields of both sides."""
    return frozenset(_FIELD.findall(f"{self.source} {self.target}"))

  def render(self, values: Mapping[str, str]) -> Text:
    """The text, with each field's value in its place; white space becomes single spaces."""
    said = {}
    for field in self.fields:
      if not values.get(field, "").split():
        raise DataError(f"{self} needs {{{field}}}, which is empty", remedy="Give it a value.")
      said[field] = " ".join(values[field].split())
    return Text(*(_FIELD.sub(lambda m: said[m[1]], t) for t in (self.source, self.target)))

  def parse(self, text: Text) -> dict[str, str]:
    """The values that `render` gives this text for; not this prompt's, or not certain, an error.

    A value may hold the words that stand behind it in the template; then there are two readings.
    """
    whole = "\n".join(text)
    readings = [re.fullmatch(pattern, whole) for pattern in self._patterns]
    if readings[0] is None:
      raise DataError(f"not a text of {self}: {files.shown(whole)}")
    # The shortest and the longest value of each field in turn: one reading, or there are several.
    shortest, longest = (reading.groupdict() for reading in readings)
    if shortest != longest:
      raise DataError(f"a text of {self} can be read in two ways: {shortest} and {longest}")
    return shortest

  @functools.cached_property
  def _patterns(self) -> tuple[str, str]:
    template = f"{self.source}\n{self.target}"
    patterns = []
    for lazy in ("?", ""):
      seen, parts = set(), []
      for i, part in enumerate(_FIELD.split(template)):
        if i % 2 == 0:
          parts.append(re.escape(part))
        elif part in seen:
          parts.append(f"(?P={part})")
        else:
          seen.add(part)
          parts.append(rf"(?P<{part}>\S+(?: \S+)*{lazy})")
      patterns.append("".join(parts))
    return patterns[0], patterns[1]


def load(path: str | os.PathLike) -> tuple[Prompt, ...]:
  """The prompts of a file; what is wrong with one is named by its line."""
  seen: set[tuple[str, str]] = set()

  def prompt(line: str) -> Prompt:
    try:
      record = files.json_object(line)
    except DataError as error:
      raise DataError(error.problem, remedy="Write a JSON object a line.") from error
    if set(record) != set(_KEYS):
      wrong = sorted(set(record) ^ set(_KEYS))
      raise DataError(
        f"keys missing or unknown: {', '.join(wrong)}", remedy=f"A prompt has {', '.join(_KEYS)}."
      )
    for key, value in record.items():
      if not isinstance(value, str):
        raise DataError(f"{key!r} is {files.shown(value)}, not a text", remedy="Put it in quotes.")
    made = Prompt(**record)
    if (made.task, made.name) in seen:
      raise DataError(f"{made} is there twice", remedy="Give each prompt of a task its own name.")
    seen.add((made.task, made.name))
    return made

  lines = files.Lines(path)
  found = tuple(lines.parsed(prompt))
  lines.finish()
  return found


def collection() -> tuple[Prompt, ...]:
  """Our own prompts, several a task."""
  return load(pathlib.Path(__file__).with_name("p5_prompts.jsonl"))


def extended(own: Sequence[Prompt]) -> tuple[Prompt, ...]:
  """These and then ours, so that the last prompt of each task, which is held out, stays ours."""
  ours = collection()
  named = {(p.task, p.name) for p in ours}
  again = [f"{p.task}/{p.name}" for p in own if (p.task, p.name) in named]
  if again:
    raise DataError(
      f"our prompts have these names already: {', '.join(again)}",
      remedy="Rename them, or replace our prompts as a whole.",
    )
  return (*own, *ours)


def hold_out(prompts: Sequence[Prompt]) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
  """(seen, unseen): the last prompt of each task tests the transfer to words never trained on."""
  last = {prompt.task: prompt for prompt in prompts}
  alone = [task for task in last if sum(p.task == task for p in prompts) < 2]
  if alone:
    raise DataError(
      f"the task {alone[0]} has one prompt, so none is left to learn from",
      remedy="Add a prompt, or leave the task out.",
    )
  return tuple(p for p in prompts if last[p.task] != p), tuple(last.values())
