"""Questions that are answered by yes or no, as TALLRec asks them: what was liked, what was not.

`told` writes the questions of a data set of impressions; `readers.instructions.tallrec_texts` reads
them from a file that has them. Both become batches by `examples`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recjax.data.errors import DataError
from recjax.data.examples import Examples
from recjax.data.interactions import Impressions
from recjax.data.ragged import Ragged
from recjax.text.byte_pairs import BytePairs
from recjax.text.vocab import SentencePieces

Words = SentencePieces | BytePairs
YES, NO = "Yes.", "No."
INSTRUCTION = (
  "Given the user's preference and unpreference, identify whether the user will like the target "
  '{noun} by answering "Yes." or "No.".'
)
_INPUT = (
  "User Preference: {liked}\nUser Unpreference: {disliked}\n"
  'Whether the user will like the target {noun} "{title}"?'
)
# The headings that instruction-tuned LLaMAs know, Alpaca's.
_PROMPT = "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"


def prompt(instruction: str, about: str) -> str:
  """What a model reads before its answer."""
  return _PROMPT.format(instruction=instruction, input=about)


def told(
  x: Impressions, titles: Sequence[str], *, noun: str = "item"
) -> tuple[list[str], np.ndarray]:
  """A prompt for each candidate of each impression, and their labels [N]; titles by item."""
  if x.history_labels is None:
    raise DataError(
      "the histories do not tell liked from disliked", remedy="Give them history_labels."
    )

  def quoted(items: np.ndarray) -> str:
    return ", ".join(f'"{titles[item]}"' for item in items)

  instruction, texts = INSTRUCTION.format(noun=noun), []
  for i in range(len(x)):
    history, liked = x.history[i], x.history_labels[i] > 0.5
    shown = {"liked": quoted(history[liked]), "disliked": quoted(history[~liked])}
    for item in x.candidates[i]:
      texts.append(prompt(instruction, _INPUT.format(noun=noun, title=titles[item], **shown)))
  rows = [x.labels[i] for i in range(len(x))]
  return texts, np.concatenate([*rows, np.zeros(0, np.float32)]).astype(np.float32)


def labels(answers: Sequence[str]) -> np.ndarray:
  """[N] 1 for "Yes.", 0 for "No."; anything else is an error."""
  for i, answer in enumerate(answers):
    if answer not in (YES, NO):
      raise DataError(f"answer {i + 1} is {answer!r}, neither {YES!r} nor {NO!r}")
  return np.array([answer == YES for answer in answers], np.float32)


def examples(words: Words, texts: Sequence[str], label: np.ndarray, *, max_len: int) -> Examples:
  """`source`, `length`, `labels`; a longer prompt keeps its last `max_len` tokens, the question."""
  rows = words.encode(texts, eos=False)
  rows = Ragged(rows.values, np.maximum(rows.start, rows.stop - max_len), rows.stop)
  length = rows.lengths.astype(np.int32)
  if len(length) and not length.min():
    raise DataError(f"prompt {int(length.argmin()) + 1} is empty", remedy="Leave it out.")
  columns = {"length": length, "labels": np.asarray(label, np.float32)[:, None]}
  return Examples(columns, right={"source": rows})


def answers(words: Words) -> tuple[int, int]:
  """The tokens that yes and no begin with after a prompt."""
  asked = prompt("?", "?")
  rows = words.encode([asked, asked + YES, asked + NO], eos=False)
  before, *after = (rows[i].tolist() for i in range(3))
  found = [row[len(before)] for row in after if row[: len(before)] == before != row]
  if len(found) < 2 or found[0] == found[1]:
    raise DataError(
      f"this vocabulary does not tell {YES!r} from {NO!r} by one token after a prompt",
      remedy="Take one in which Yes and No are words.",
    )
  return found[0], found[1]
