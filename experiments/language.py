"""Systems that read and write text: how a run's users and items are written, and what is asked.

| family | question | measured |
|---|---|---|
| sequential, direct | with or without a history | full ranking, by beams |
| rating | user, item | RMSE, MAE |
| explanation, summary | user, item, a review | BLEU, ROUGE, exact match |

Of each family one prompt is kept from training: with it, the same is measured as FAMILY_unseen.
Where the source has no titles, prompts that tell them are left out.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

from experiments import settings, sources
from experiments.indexes import INDEXES
from recjax.data import examples, loader
from recjax.data.interactions import Interactions
from recjax.nn import t5
from recjax.semid import artefact
from recjax.systems.generative import p5
from recjax.text import (
  arithmetic,
  asked,
  indexing,
  instances,
  prompts,
  questions,
  t5_weights,
  vocab,
)
from recjax.text.instances import Instances
from recjax.text.prompts import Prompt
from recjax.text.questions import Questions
from recjax.train import checkpoint, evaluate, generated, loop, optim, stages, task_vectors
from recjax.train import mesh as meshes
from recjax.types import Assets, Params, System

_logger = logging.getLogger(__name__)

RANKED = ("sequential", "direct")  # families that an item answers
WRITTEN = ("explanation", "summary")  # those that a text answers
ANSWERS = {  # what is measured: a prompt may have another target, as yes or no, and only train
  "sequential": "{target}",
  "direct": "{target}",
  "rating": "{rating}",
  "explanation": "{explanation}",
  "summary": "{summary}",
}
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of a task vector
_CHOICES = {"candidates", "candidate", "candidate_title"}  # no question about the whole catalogue
# Of a pretrained T5: what a system's Config takes from it, and what all of ours have alike.
_BUILT = ("dim", "heads", "head_dim", "ff", "layers", "decoder_layers", "gated", "tied", "scaled")
_FIXED = ("buckets", "max_distance", "eps")


class Ingredients(Protocol):
  """What users and items are written from; each part costs nothing until it is asked for."""

  config: ml_collections.ConfigDict
  data: settings.Data
  evaluation: settings.Evaluation
  raw: sources.Raw
  known: Interactions  # the events that may be learned from
  ids: artefact.SemanticIds


class Language:
  """The words of a run: its vocabulary, its items, its prompts. Questions as `tasks` wants them."""

  served = False

  @property
  def needs_sums(self) -> bool:
    return bool(self.cfg.sums)

  def __init__(self, cfg: settings.Prompts, of: Ingredients):
    weights = {family: weight for family, weight in cfg.instances.weights.items() if weight}
    cfg = dataclasses.replace(cfg, instances=dataclasses.replace(cfg.instances, weights=weights))
    self.cfg, self.of, self.families = cfg, of, tuple(weights)
    if not self.families:
      raise ValueError(
        "prompts.instances.weights names no family of questions: give each one that is to be "
        f"learned a weight; there is {', '.join(prompts.TASKS)}"
      )
    unknown = set(self.families) - set(prompts.TASKS)
    if unknown:
      raise ValueError(
        f"prompts.instances.weights names {', '.join(sorted(unknown))}, no family of questions; "
        f"there is {', '.join(prompts.TASKS)}"
      )
    if not cfg.vocabulary and not cfg.pretrained:
      raise ValueError("prompts needs a vocabulary, or the folder of a pretrained T5")
    if cfg.sums not in ("", "first", "vector"):
      raise ValueError(f"prompts.sums is first, vector or nothing, not {cfg.sums!r}")
    known = [prompt for prompt in _prompts(cfg) if prompt.task in self.families]
    self._known = [p for p in known if cfg.choices or not p.fields & _CHOICES]
    self._parted(self._known)  # an error before any data is read

  def _parted(self, known: Sequence[Prompt]) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """Those to learn from and those kept from it, each family's answer measured with both."""
    seen, unseen = prompts.hold_out(known)
    for family in self.families:
      for which in (seen, unseen):
        if not _measurable(which, family):
          raise ValueError(
            f"no prompt of {family!r} is answered by {ANSWERS[family]} alone among those "
            f"{'kept from' if which is unseen else 'of'} training: the last one is kept"
          )
    return seen, unseen

  @functools.cached_property
  def _parts(self) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    known = [p for p in self._known if self.titled or not p.fields & prompts.TITLES]
    if len(known) < len(self._known):
      left_out, every = len(self._known) - len(known), len(self._known)
      _logger.info("no titles: %d of %d prompts, which tell them, are left out", left_out, every)
    return self._parted(known)

  @property
  def seen(self) -> tuple[Prompt, ...]:
    return self._parts[0]

  @property
  def unseen(self) -> tuple[Prompt, ...]:
    return self._parts[1]

  @functools.cached_property
  def pieces(self) -> vocab.SentencePieces:
    """Of texts, without the tokens of users and items; a pretrained T5 knows its own alone."""
    if not self.cfg.pretrained:
      return vocab.t5(sources.path_of(self.cfg.vocabulary))
    path = sources.path_of(self.cfg.pretrained) / "spiece.model"
    if not path.is_file():
      raise ValueError(
        f"the pretrained T5 has no {path}, which its weights are rows of: download it too"
      )
    return vocab.t5(path)

  @functools.cached_property
  def words(self) -> vocab.SentencePieces:
    return instances.vocabulary(self.pieces, self.index, self.of.known.num_users)

  @functools.cached_property
  def index(self) -> indexing.Index:
    cfg = self.cfg.index
    if cfg.method not in INDEXES:
      raise ValueError(f"no index {cfg.method!r}; there is {', '.join(INDEXES)}")
    if not cfg.spelled:
      return INDEXES[cfg.method](self, cfg)
    whole = INDEXES[cfg.method](self, dataclasses.replace(cfg, span=0))
    return indexing.spelled(whole, self.pieces.pieces)

  @functools.cached_property
  def titles(self) -> list[str]:
    catalog = self.of.raw.catalog
    return (catalog["title"] if "title" in catalog.fields else catalog.ids).tolist()

  @functools.cached_property
  def titled(self) -> bool:
    """Whether the source names its items by more than their ids."""
    return sources.titled(self.of.raw.catalog)

  @functools.cached_property
  def domain(self) -> instances.Domain:
    return instances.domain(self.of.known, self.index, self.titles)

  @property
  def ratings(self) -> np.ndarray:
    """The ratings that users gave, ascending; none where the families ask for none."""
    rating = self.of.known.rating
    if "rating" not in self.families or rating is None:
      return np.zeros(0)
    return np.unique(rating[np.isfinite(rating)])

  @functools.cached_property
  def pretrained(self) -> tuple[t5.Config, Params] | None:
    """The config and weights of a T5, read once."""
    return t5_weights.load(sources.path_of(self.cfg.pretrained)) if self.cfg.pretrained else None

  @property
  def sizes(self) -> dict[str, Any]:
    """What the data decides of a system's Config; a pretrained T5 also says how it is built."""
    if self.of.config.system == "t5_rating" and self.families != ("rating",):
      raise ValueError(
        f"t5_rating answers ratings alone, prompts.instances.weights has {', '.join(self.families)}"
        ": leave the others out, or take p5"
      )
    if self.of.config.system == "t5_rating" and self.cfg.sums:
      raise ValueError("t5_rating writes no text, so it cannot learn sums: leave out prompts.sums")
    found = {"vocab": len(self.words), "values": tuple(map(float, self.ratings))}
    if self.pretrained is None:
      return found
    theirs, folder = self.pretrained[0], self.cfg.pretrained
    odd = [n for n in _FIXED if getattr(theirs, n) != getattr(t5.Config, n)]
    if odd:
      said = ", ".join(f"{n} {getattr(theirs, n)} (not {getattr(t5.Config, n)})" for n in odd)
      raise ValueError(f"no system here has the sizes of {folder}: {said}; take another T5")
    if not theirs.decoder_layers and self.of.config.system == "p5":
      raise ValueError(f"{folder} is an encoder alone, and p5 writes: give it a whole T5")
    return {**found, **{name: getattr(theirs, name) for name in _BUILT}}

  def start(self, fresh: Params) -> Params:
    """Fresh parameters, or those of a pretrained T5 with fresh rows for users and items."""
    if self.pretrained is None:
      return fresh
    theirs = dict(self.pretrained[1])
    if "head" not in fresh["t5"]:
      theirs.pop("head", None)  # a system that writes no token has none, tied or not
    return p5.from_t5(fresh, theirs, known=len(self.pieces))

  @property
  def on_ids(self) -> bool:
    return self.cfg.index.method.startswith("codes")

  @property
  def shown(self) -> bool:
    return "sequential" in self.families

  @property
  def fingerprint(self) -> str:
    """A hash of what is learned from: prompts, words, data."""
    return self.learned().fingerprint

  def learned(self) -> Instances | asked.Asked:
    return self._learned

  @functools.cached_property
  def _learned(self) -> Instances | asked.Asked:
    """The mixture of questions that training goes through; of heads, ratings as numbers."""
    known = self.of.known
    if self.of.config.system == "t5_rating":
      q = questions.rating(known)
      return asked.rated(self._instances("rating", self.seen, q))
    found = [_QUESTIONS[family](known) for family in self.families]
    return Instances(found, self.seen, self.domain, self.words, self.cfg.instances)

  def drawn(self) -> tuple[()]:
    return ()

  def asked(self, before: Interactions, events: Interactions) -> loader.Batches:
    cfg = self.of.evaluation
    found = self.ranked("sequential", before, events, deny_seen=cfg.deny_seen)
    return loader.Batches(found, cfg.batch_size, max_len=settings.widths(self.of.data))

  def sums(self) -> arithmetic.Sums:
    """All sums of two numbers below 100."""
    return arithmetic.Sums(self.words, count=10_000)

  def ranked(
    self,
    family: str,
    before: Interactions,
    events: Interactions,
    *,
    unseen: bool = False,
    deny_seen: bool = False,
  ) -> asked.Asked:
    """Which item of all answers, for every event; user and history beside, to show them."""
    found = examples.next_events(before, events)
    if family == "sequential":
      q = questions.sequential(found)
    else:  # the history is not told, but may be denied
      user, item = found.dense["user"], found.dense["target"]
      q = Questions(family, user, item, np.arange(len(found)), history=found.left["history"])
    instances_of = self._instances(family, self.unseen if unseen else self.seen, q)
    source = asked.ranked(instances_of, deny_seen=deny_seen)
    shown = examples.Examples(
      {**source.answer.dense, "user": q.user}, {"history": q.history}, source.answer.right
    )
    return dataclasses.replace(source, answer=shown)

  def _instances(self, family: str, which: Sequence[Prompt], q: Questions) -> Instances:
    """Every question of a family once, as it is measured."""
    cfg = dataclasses.replace(self.cfg.instances, weights={}, size=0)
    return Instances([q], _measurable(which, family), self.domain, self.words, cfg)

  def suites(
    self,
    name: str,
    system: System,
    rater: System,
    before: Interactions,
    events: Interactions,
  ) -> list[evaluate.Suite]:
    """Items ranked and ratings told, by prompts that were trained with and by one that was not."""
    cfg, found = self.of.evaluation, []
    if not len(events):
      return found
    for family, unseen in itertools.product(self.families, (False, True)):
      if family in RANKED:
        source = self.ranked(family, before, events, unseen=unseen, deny_seen=cfg.deny_seen)
        measure = _ranking(system, tuple(cfg.ks))
      elif family == "rating":
        which = self.unseen if unseen else self.seen
        source = asked.rated(self._instances("rating", which, questions.rating(events, before)))
        measure = _rating(rater)
      else:
        continue
      batches = loader.Batches(source, cfg.batch_size, max_len=settings.widths(self.of.data))
      devices = 1 if family in RANKED and jax.default_backend() == "cpu" else None
      parts = (name, family + ("_unseen" if unseen else ""))
      found.append(evaluate.Suite("/".join(filter(None, parts)), batches, measure, devices))
    return found

  def written(
    self, params: Params, assets: Assets, system: System, events: Interactions, path: pathlib.Path
  ) -> dict[str, float]:
    """What the system writes beside what users wrote; every text stays in `path`, one a line."""
    size, width, found = self.of.evaluation.batch_size, self.of.data.max_len, {}
    lines = []
    for family in (f for f in self.families if f in WRITTEN):
      for kind, which in (("", self.seen), ("_unseen", self.unseen)):
        source = self._instances(family, which, _QUESTIONS[family](events))
        texts = source.texts()
        wanted = [text.target for text in texts]
        said, _ = generated.texts(
          params,
          assets,
          loader.Batches(source, size, max_len=width),
          system=system,
          decode=self.words.decode,
          wanted=wanted,
        )
        scores = generated.scores(said, wanted)
        found |= {f"{family}{kind}/{metric}": value for metric, value in scores.items()}
        (q,) = source.questions
        told = {"user": events.users[q.user], "item": events.items[q.item]}
        told |= {"asked": [text.source for text in texts], "said": said, "wanted": wanted}
        for row in zip(*told.values(), strict=True):
          lines.append({"asks": family + kind, **dict(zip(told, row, strict=True))})
    if lines:
      rows = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
      path.with_suffix(".part").write_text(rows, encoding="utf-8")
      path.with_suffix(".part").replace(path)
    return found


def added(
  tuned: loop.Result,
  sums: stages.Stage,
  start: Callable[[Params], Params],
  measure: Callable[[Params], Mapping[str, float]],
  best: str | None,
  *,
  workdir: pathlib.Path,
) -> loop.Result:
  """`tuned` with the task vector of sums added, times what is the best by a validation metric."""
  if best is None:
    raise ValueError("prompts.sums='vector' needs train.best, the metric that chooses its scale")
  mesh, optimizer = meshes.make_mesh(), optim.make(sums.cfg.optimizer, sums.cfg.steps, sums.system)
  example = meshes.put_batch(sums.train[0], mesh)
  fresh = loop.fresh(sums.system, optimizer, sums.assets, example, sums.cfg, mesh, ())
  base = jax.device_get(start(fresh.params))  # of the same seed, so where both trainings began
  learned = loop.fit(
    sums.system, sums.assets, sums.train, sums.cfg, workdir=workdir, init_from=start
  )
  if learned.stopped_by is not None:
    return learned
  vector = task_vectors.difference(jax.device_get(learned.params), base)
  edited = task_vectors.Edited(jax.device_get(tuned.params))
  tried = {scale: edited.add("sums", vector, scale).params for scale in SCALES}
  found = {scale: measure(params) for scale, params in tried.items()}
  for scale, metrics in found.items():
    _logger.info("sums x %g: %s %.4f", scale, best, metrics[best.removeprefix("-")])
  chosen = max(SCALES, key=lambda scale: checkpoint.worth(found[scale], best))
  return tuned._replace(
    params=tried[chosen],
    metrics={**found[chosen], "sums_scale": chosen},
    seconds=tuned.seconds + learned.seconds,
  )


def _prompts(cfg: settings.Prompts) -> Sequence[Prompt]:
  """Ours, and those of a file beside them or in their place."""
  if not cfg.file:
    if cfg.replace:
      raise ValueError("prompts.replace puts those of prompts.file in place of ours: name a file")
    return prompts.collection()
  own = prompts.load(sources.path_of(cfg.file))
  return own if cfg.replace else prompts.extended(own)


def _explained(x: Interactions) -> Questions:
  """Explanations where the data has some, else the first sentences of reviews."""
  return questions.explanation(x if "explanation" in x.fields else questions.first_sentences(x))


# Compiled once for all suites that are measured alike.
_ranking = functools.cache(evaluate.ranking_by_list)
_rating = functools.cache(evaluate.rating)


def _measurable(which: Sequence[Prompt], family: str) -> list[Prompt]:
  """The prompts of a family whose answer is measured; those with choices ask of no catalogue."""
  own = (p for p in which if p.task == family and p.target == ANSWERS[family])
  return [p for p in own if not p.fields & _CHOICES]


_QUESTIONS: dict[str, Callable[[Interactions], Questions]] = {
  "sequential": lambda x: questions.sequential(examples.prefixes(x)),
  "direct": questions.direct,
  "rating": questions.rating,
  "explanation": _explained,
  "summary": questions.summary,
}
