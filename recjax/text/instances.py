"""Questions in words, made when a batch is gathered: a mixture of tasks as a source of batches.

What instance i is (its task, its example, its prompt, the negatives it shows) follows from (data,
config, i) alone, so only what a batch holds is ever text. Of n instances each task has its share by
weight, to the nearest; a task with fewer examples than that goes round again, prompts and
negatives drawn anew, and of one with more a part is drawn without replacement. An epoch of a
loader repeats these instances: `size` may be that of a whole run.

A batch: source [B, S] and its whole words [B, S] (see `whole_words`), target [B, T]. `asked` brings
the true item or rating in place of the target, which is what evaluation wants. A source that does
not fit tells less of the user's history, the oldest left out first, or of the review; only where
that is not enough the end is cut.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from recjax.data import negatives
from recjax.data.errors import DataError
from recjax.data.interactions import Interactions
from recjax.data.ragged import Ragged
from recjax.text import vocab as vocabularies
from recjax.text import whole_words
from recjax.text.indexing import Index
from recjax.text.prompts import Prompt, Text
from recjax.text.questions import Questions, digest
from recjax.text.vocab import SentencePieces
from recjax.types import PAD

_FROM_DATA = {"history", "rated", "rating", "review", "summary", "explanation", "feature"}
_CHUNK = 1024  # instances put into words at a time


@dataclasses.dataclass(frozen=True)
class Config:
  """How much a prompt holds, and how often each task comes."""

  target_len: int = 64  # tokens of an answer; 0: as many as the longest takes
  max_history: int = 20  # the last items of a history, or that a user rated, or those that fit
  review_words: int = 100  # the first words of a review
  candidates: int = 20  # items to choose from, the true one among them
  liked: float = 4.0  # the least rating of what a user likes
  # task -> how often it comes, beside the others; {}: every example once
  weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
  size: int = 0  # instances an epoch of the weighted mixture; 0: as many as there are examples
  seed: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Domain:
  """How the items and users of a shop are written, and what its users have met."""

  items: Sequence[str]  # [I] each a word of its own; row PAD ""
  users: Sequence[str]  # [U]
  titles: Sequence[str]  # [I], the item as it is written where it has no title
  unmet: negatives.Sampler


def domain(train: Interactions, index: Index, titles: Sequence[str] | None = None) -> Domain:
  """Items by their index, users by numbers; negatives are what a user did not meet in `train`."""
  if len(index.tokens) != train.num_items:
    raise DataError(
      f"the index has {len(index.tokens) - 1} items, the events {train.num_items - 1}",
      remedy="Index the items of these events.",
    )
  if titles is not None and len(titles) != train.num_items:
    raise DataError(
      f"there are titles of {len(titles) - 1} items, the events have {train.num_items - 1}",
      remedy="Bring the catalogue in their order, see interactions.align.",
    )
  rows = index.tokens.tolist()
  # The first piece of a title begins with the space that any word begins with.
  items = ["".join(index.vocab[t] for t in r if t != PAD).removeprefix("\u2581") for r in rows]
  named = items if titles is None else [_plain(t) or i for t, i in zip(titles, items, strict=True)]
  users = ["", *vocabularies.numbered("user", train.num_users - 1, first=1)]
  return Domain(items, users, named, negatives.uniform(negatives.Positives.of(train)))


def vocabulary(words: SentencePieces, index: Index, num_users: int) -> SentencePieces:
  """The vocabulary with the tokens of users and items that it does not have yet.

  Titles are written in its own pieces: `indexing.titles` with what cuts a text into these.
  """
  known = set(words.added)
  users = vocabularies.numbered("user", num_users - 1, first=1)
  items = [token for token in index.vocab[1:] if token.startswith("<")]
  for token in set(index.vocab[1:]) - set(items):
    words.id(token)  # an error where it has none
  return words.add(token for token in (*users, *items) if token not in known)


class Instance(NamedTuple):
  prompt: Prompt
  values: Mapping[str, str]  # field -> what stands in its place
  text: Text


@dataclasses.dataclass(frozen=True, eq=False)
class Instances:
  """A source for `data.loader`: E instances of a mixture of tasks."""

  questions: Sequence[Questions]  # each of its own task
  prompts: Sequence[Prompt]
  domain: Domain
  words: SentencePieces
  cfg: Config = Config()

  def __post_init__(self):
    tasks = [q.task for q in self.questions]
    if not tasks or len(set(tasks)) < len(tasks):
      raise DataError(f"the questions must each be of another task, they are of {tasks}")
    weights = self.cfg.weights
    if self.cfg.size and not weights:
      raise DataError("`size` is that of a mixture", remedy="Give `weights`, or leave it 0.")
    if weights and (set(weights) != set(tasks) or min(weights.values()) <= 0):
      raise DataError(
        f"the weights are {dict(weights)}, the questions of {', '.join(tasks)}",
        remedy="Give each task of the mixture a positive weight, and no other.",
      )
    if self.cfg.candidates < 2 or self.cfg.max_history < 1 or self.cfg.review_words < 1:
      raise DataError("a prompt has at least 2 candidates, an item of history, a word of a review")
    for q in self.questions:
      if q.task not in self._prompts:
        raise DataError(f"there is no prompt for the task {q.task!r}", remedy="Add some.")
      for prompt in self._prompts[q.task]:
        needed = {"rating" if f in ("guess", "opinion") else f for f in prompt.fields}
        lacking = (needed & _FROM_DATA) - q.knows
        if lacking:
          raise DataError(
            f"{prompt} needs {', '.join(sorted(lacking))}, which these questions do not have",
            remedy="Read the column, or leave the prompt out.",
          )
      self._check_negatives(q)
      self._check_liked(q)
    _ = self._ratings  # an error now, not in the middle of a training
    for texts in (self.domain.items, self.domain.users):
      vocabularies.check_added(self.words, texts)
    for target, longest in self._longest.items():
      if longest > self.target_len:
        raise DataError(
          f"an answer {target} takes {longest} tokens with its end, a target holds "
          f"{self.target_len}",
          remedy="Raise target_len (0: as many as are needed), or index with fewer tokens.",
        )

  @functools.cached_property
  def counts(self) -> np.ndarray:
    """How many instances each task has; of weighted shares the largest remainders go up."""
    sizes = np.array([len(q) for q in self.questions])
    if not self.cfg.weights:
      return sizes
    size = self.cfg.size or int(sizes.sum())
    weights = np.array([self.cfg.weights[q.task] for q in self.questions], np.float64)
    shares = weights / weights.sum() * size
    counts = np.floor(shares).astype(np.int64)
    counts[np.argsort(counts - shares, kind="stable")[: size - counts.sum()]] += 1
    return counts

  def __len__(self) -> int:
    return int(self.counts.sum())

  @functools.cached_property
  def lengths(self) -> np.ndarray:
    """[E] tokens of each source; asked for by buckets only, for all is put into words once."""
    chunks = range(0, len(self), _CHUNK)
    rows = (np.arange(start, min(start + _CHUNK, len(self))) for start in chunks)
    return np.concatenate([self._sources(r)[0].lengths for r in rows])

  def widths(self, max_len: int) -> dict[str, int]:
    return {"source": max_len, "target": self.target_len}

  @functools.cached_property
  def target_len(self) -> int:
    """Tokens of an answer at most."""
    return self.cfg.target_len or max(self._longest.values())

  @functools.cached_property
  def fingerprint(self) -> str:
    """A hash of what batches are made of, beside the config: prompts, words, data."""
    said = [part for prompt in self.prompts for part in dataclasses.astuple(prompt)]
    asked = [q.fingerprint for q in self.questions]
    names = (self.domain.items, self.domain.users, self.domain.titles)
    return digest([self.words.fingerprint], said, *names, asked)

  def gather(self, rows: np.ndarray, widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The batch of these rows, in words first."""
    texts, every, width = [self[i].text for i in rows], np.arange(len(rows)), widths["source"]
    tokens, words = self._fitting(rows, texts, width)
    answers, most = [t.target for t in texts], self.target_len
    target, _ = whole_words.encode(self.words, answers)
    if target.lengths.max() > most:
      logging.log_first_n(
        logging.WARNING,
        "%d of the %d targets of a batch are cut to %d tokens, the longest has %d, so what is "
        "beyond is not learned: raise target_len",
        1,
        int((target.lengths > most).sum()),
        len(target),
        most,
        int(target.lengths.max()),
      )
      target, _ = whole_words.encode(self.words, answers, max_len=most)
    return {
      "source": tokens.right_padded(every, width, fill=self.words.pad),
      "words": words.right_padded(every, width, fill=0),
      "target": target.right_padded(every, widths["target"], fill=self.words.pad),
    }

  def _fitting(self, rows, texts: Sequence[Text], width: int) -> tuple[Ragged, Ragged]:
    """The sources in tokens and whole words, with as much of each history as fits."""
    tokens, words = self._sources(rows, texts)
    over = tokens.lengths - width
    if over.max() <= 0:
      return tokens, words
    texts = [
      self._made(i, n).text if n > 0 else t for i, n, t in zip(rows, over, texts, strict=True)
    ]
    tokens, words = self._sources(rows, texts)
    if tokens.lengths.max() > width:
      logging.log_first_n(
        logging.WARNING,
        "%d of the %d sources of a batch lose their end, cut to %d tokens: with an item of history "
        "the longest has %d; lower candidates or review_words, or raise max_len",
        1,
        int((tokens.lengths > width).sum()),
        len(tokens),
        width,
        int(tokens.lengths.max()),
      )
      tokens, words = whole_words.encode(self.words, [t.source for t in texts], max_len=width)
    return tokens, words

  def __getitem__(self, i: int) -> Instance:
    """Instance i, as a person reads it, its history whole."""
    return self._made(i)

  def _made(self, i: int, over: int = 0) -> Instance:
    """Instance i, shorter by `over` tokens of its history, the oldest, or all but one item of it.

    Where it tells no history, by the end of its review.
    """
    if not 0 <= i < len(self):
      raise IndexError(f"there are instances 0..{len(self) - 1}, not {i}")
    at = int(np.searchsorted(np.cumsum(self.counts), i, side="right"))
    nth = int(i) - int(self.counts[:at].sum())
    q, rng = self.questions[at], np.random.default_rng([self.cfg.seed, at, nth])
    example = int(self._drawn[at][nth])
    prompts = self._prompts[q.task]
    prompt = prompts[int(rng.integers(len(prompts)))]
    before = self._before(q, example, prompt)
    if over > 0 and before:
      freed = np.cumsum(whole_words.encode(self.words, before)[0].lengths - 1)
      before = before[np.searchsorted(freed, over) + 1 :] or before[-1:]
    values = self._values(q, example, prompt, before, rng)
    if over > 0 and not before and "review" in values:
      said = values["review"].split()
      freed = np.cumsum((whole_words.encode(self.words, said)[0].lengths - 1)[::-1])
      kept = len(said) - int(np.searchsorted(freed, over)) - 1
      values["review"] = " ".join(said[: max(kept, 1)])
    return Instance(prompt, values, prompt.render(values))

  def texts(self) -> list[Text]:
    """[E] each source and target, whole however many tokens a batch holds of them."""
    return [self[i].text for i in range(len(self))]

  @functools.cached_property
  def _prompts(self) -> dict[str, list[Prompt]]:
    found: dict[str, list[Prompt]] = {}
    for prompt in self.prompts:
      found.setdefault(prompt.task, []).append(prompt)
    return found

  @functools.cached_property
  def _drawn(self) -> list[np.ndarray]:
    """Of each task the examples that are in it: all as often as they fit whole, and some drawn."""
    drawn = []
    for at, (q, count) in enumerate(zip(self.questions, self.counts, strict=True)):
      rounds, more = divmod(int(count), len(q))
      some = np.random.default_rng([self.cfg.seed, at]).permutation(len(q))[:more]
      drawn.append(np.concatenate([np.tile(np.arange(len(q)), rounds), some]))
    return drawn

  @functools.cached_property
  def _longest(self) -> dict[str, int]:
    """Template of an answer -> the most tokens it takes, its end counted, where there is a most."""
    given = [q.columns["rating"][q.row] for q in self.questions if "rating" in q.columns]
    known = {
      "{target}": self.domain.items,
      "{rating}": [f"{rating:g}" for rating in np.unique(np.concatenate([[0.0], *given]))],
      "{answer}": ("yes", "no"),
      "{opinion}": ("like", "dislike"),
    }
    found = {}
    for target in sorted({p.target for q in self.questions for p in self._prompts[q.task]}):
      parts = [known.get(w, () if w.startswith("{") else (w,)) for w in target.split()]
      if all(len(part) for part in parts):
        sizes = [whole_words.encode(self.words, part)[0].lengths.max() - 1 for part in parts]
        found[target] = int(sum(sizes)) + 1
      elif not self.cfg.target_len:
        raise DataError(
          f"an answer {target} has any length, so target_len cannot be 0",
          remedy="Say how many tokens of it are learned.",
        )
    return found

  def _sources(self, rows, texts: Sequence[Text] | None = None) -> tuple[Ragged, Ragged]:
    texts = [self[i].text for i in rows] if texts is None else texts
    return whole_words.encode(self.words, [text.source for text in texts])

  def _before(self, q: Questions, at: int, prompt: Prompt) -> list[str]:
    """What the prompt tells of the user's history, an item each, oldest first."""
    if not prompt.fields & {"history", "rated"}:
      return []
    met = q.history[at][-self.cfg.max_history :].tolist()
    if "history" in prompt.fields:
      return [self.domain.items[i] for i in met]
    stars = q.stars[at][-self.cfg.max_history :]
    return [f"{self.domain.titles[i]} ({s:g})" for i, s in zip(met, stars, strict=True)]

  def _values(
    self, q: Questions, at: int, prompt: Prompt, before: Sequence[str], rng
  ) -> dict[str, str]:
    """What stands in the place of each field of the prompt."""
    shop, user, item = self.domain, int(q.user[at]), int(q.item[at])
    row, fields = q.row[at], prompt.fields
    said = fields & q.columns.keys()
    found = {name: self._told(name, q.columns[name][row]) for name in said}
    found |= {"user": shop.users[user], "item": shop.items[item], "target": shop.items[item]}
    found["title"] = shop.titles[item]
    found["history"] = " ".join(before)  # each a word of its own
    found["rated"] = ", ".join(before[::-1]) or "nothing"
    if "candidates" in fields:
      others = self._others(rng, user, item, self.cfg.candidates - 1)
      found["candidates"] = " ".join(shop.items[i] for i in rng.permutation([item, *others]))
    true = bool(rng.integers(2))
    found["answer"] = "yes" if true else "no"
    if fields & {"candidate", "candidate_title"}:
      shown = item if true else self._others(rng, user, item, 1)[0]
      found |= {"candidate": shop.items[shown], "candidate_title": shop.titles[shown]}
    if "opinion" in fields:
      found["opinion"] = "like" if q.columns["rating"][row] >= self.cfg.liked else "dislike"
    if "guess" in fields:
      given = self._ratings[q.task]
      other = given[given != q.columns["rating"][row]]
      guess = q.columns["rating"][row] if true else rng.choice(other)
      found["guess"] = self._told("rating", guess)
    return {name: found[name] for name in fields}

  @functools.cached_property
  def _ratings(self) -> dict[str, np.ndarray]:
    """The ratings there are, of tasks where they are guessed."""
    found = {}
    for q in self.questions:
      if any("guess" in prompt.fields for prompt in self._prompts[q.task]):
        found[q.task] = np.unique(q.columns["rating"][q.row])
        if len(found[q.task]) < 2:
          raise DataError(
            f"all ratings of the task {q.task!r} are {found[q.task]}: none can be guessed wrongly",
            remedy="Leave out the prompts with {guess}.",
          )
    return found

  def _check_liked(self, q: Questions) -> None:
    """Where users say whether they like an item, there must be some of both."""
    if any("opinion" in prompt.fields for prompt in self._prompts[q.task]):
      given = q.columns["rating"][q.row]
      if len(given) and not given.min() < self.cfg.liked <= given.max():
        raise DataError(
          f"the ratings of {q.task!r} lie in {given.min():g} .. {given.max():g}, liked are "
          f"those from {self.cfg.liked:g} on: all or none",
          remedy="Say from which rating on an item is `liked`, or leave out prompts of {opinion}.",
        )

  def _check_negatives(self, q: Questions) -> None:
    """Where others than the true item are shown, each user must have left some unmet."""
    if any(
      p.fields & {"candidates", "candidate", "candidate_title"} for p in self._prompts[q.task]
    ):
      met = self.domain.unmet.positives
      full = met.count[q.user] > met.num_items - 3  # the true item may be one of the unmet
      if full.any():
        user = int(q.user[np.argmax(full)])
        raise DataError(
          f"user {user} has met {met.count[user]} of {met.num_items - 1} items, so none may be "
          f"left to tell from the true one ({len(np.unique(q.user[full]))} such users)",
          remedy="Leave these users out, or the prompts with candidates.",
        )

  def _told(self, name: str, value) -> str:
    if name == "rating":
      return f"{value:g}"
    words = _plain(value).split()
    return " ".join(words[: self.cfg.review_words] if name == "review" else words)

  def _others(self, rng, user: int, item: int, n: int) -> list[int]:
    """Up to n different items that the user has not met, in random order, `item` not among them.

    At least two are unmet, so that all draws are of `item` happens once in 2^32 at most.
    """
    drawn = self.domain.unmet.draw(rng, np.array([user]), 2 * n + 30)[0]
    return [i for i in dict.fromkeys(drawn.tolist()) if i != item][:n]


def _plain(text) -> str:
  """A text without angle brackets: they mark tokens that are no words."""
  return " ".join(str(text).replace("<", " ").replace(">", " ").split())
