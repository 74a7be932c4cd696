"""Configs: frozen dataclasses inside, `ml_collections` at the edge; a typo is an error."""

from __future__ import annotations

import dataclasses
import inspect
import io
import pathlib
import runpy
import tokenize
from collections.abc import Mapping
from typing import Any, TypeVar

import ml_collections

from recjax.semid import learn
from recjax.text import instances

T = TypeVar("T")


def _named(*same: str, **others: str) -> Any:
  return dataclasses.field(default_factory=lambda: {**{name: name for name in same}, **others})


@dataclasses.dataclass(frozen=True)
class Data:
  """Raw files -> ordered events of users and items."""

  source: str = "synthetic"  # a name in experiments/sources.py
  path: str = ""  # of the raw files; where relative, also below RECJAX_DATA
  catalog: str = ""  # the file of what is known of items, of tables and reviews
  # Of source tables, field -> column; but for user, item and id one may be absent, or "".
  columns: Mapping[str, str] = _named("user", "item", "rating", "timestamp")
  item_columns: Mapping[str, str] = _named("title", "brand", "categories", "description", id="item")
  on_error: str = "raise"  # at a malformed place of tables and reviews; skip: left out, counted
  undescribed: bool = False  # items that users met and the catalogue lacks are kept, titled by id
  unmet: bool = True  # items of the catalogue that nobody met are items too, if there is no core
  repeats: str = "keep"  # what a user meets again: keep, or first: only the first time counts
  size: str = "small"  # of synthetic data: tiny, small
  user_core: int = 0  # fewest events a user, k-core
  item_core: int = 0  # fewest events an item
  ties: str = "file"  # order of events at one time: file, item, or a seed to shuffle with
  max_len: int = 20  # history items that a model reads
  buckets: tuple[int, ...] = ()  # shorter widths that short histories, or sources, are padded to
  even: bool = False  # narrower batches of training have more rows, as many places in all
  negatives: int = 0  # beside each event, not met (a click: not clicked); 0: the system's own draw
  split_seed: int = 0  # of splits at random
  valid: float = 0.0  # of a given training part (sampled: of its users), to validate by
  cold: float = 0.0  # of the items that test, so many are kept from training and validation


def widths(cfg: Data) -> list[int]:
  """That histories are padded to, ascending."""
  return [*cfg.buckets, cfg.max_len]


@dataclasses.dataclass(frozen=True)
class Text:
  """Items -> vectors."""

  template: str = "{title} {brand} {categories}"  # fields of the catalogue
  encoder: str = "lsa"  # lsa, or the folder of a sentence encoder
  dim: int = 64  # of lsa; 0: 128, fewer where there are few texts or terms
  shortest: int = 2  # letters of the shortest word that lsa reads


@dataclasses.dataclass(frozen=True)
class Words:
  """The vocabulary of the news that training impressions show."""

  fields: tuple[str, ...] = ("title",)  # of the catalogue, whose words count
  least: int = 1  # times that a word occurs; a rarer one is unknown
  vectors: str = ""  # a text file of word vectors, as GloVe's, that the table starts from


@dataclasses.dataclass(frozen=True)
class SemanticIds:
  """Vectors -> codes."""

  quantizer: learn.Config = dataclasses.field(default_factory=learn.Config)
  collisions: int = 256  # size of the level that counts up within a collision; 0: see `policy`
  policy: str = "count_up"  # count_up, or next_free or optimal: codes of the last level change
  published: str = ""  # a file of published ids in the order of the raw item numbers, instead


@dataclasses.dataclass(frozen=True)
class Index:
  """Items -> tokens that a language model writes."""

  method: str = "sequential"  # a name in experiments/indexes.py
  span: int = 2  # digits of a number in a token of its place; 0: a whole token each
  spelled: bool = False  # numbers as the vocabulary of texts cuts them, as P5 had them
  title_words: int = 8  # of the titles that items are written by
  clusters: int = 20  # that a cluster is split into
  leaf: int = 500  # items of a cluster that is not split again; a small catalogue is split once
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Prompts:
  """Events -> questions and answers in words."""

  vocabulary: str = ""  # a SentencePiece .model; with `pretrained`, its own counts
  pretrained: str = ""  # a Hugging Face folder of a T5 to start from, vocabulary and sizes its own
  file: str = ""  # prompts beside ours, see recjax/text/p5_prompts.jsonl
  replace: bool = False  # the file's prompts alone
  choices: bool = True  # also learned: prompts that show items to choose from, or ask about one
  index: Index = dataclasses.field(default_factory=Index)
  # Its weights name the families of questions that are learned; one of 0 leaves a family out.
  instances: instances.Config = dataclasses.field(default_factory=instances.Config)
  sums: str = ""  # learned as `pretrain` says: first, or as a task vector, added at the end


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Full ranking of the test events."""

  ks: tuple[int, ...] = (5, 10)  # lengths of lists that are measured
  batch_size: int = 256  # questions at a time
  deny_seen: bool = False  # leave out what the user has met: the protocol must say so
  valid_users: int = 0  # that validate, so many drawn; 0: all
  test_users: int = 0  # that test: a figure of a sample is not the published one; 0: all
  by_score: bool = True  # rank by the scores of all items where a system gives them; not in words
  baselines: tuple[str, ...] = ()  # systems in closed form, measured beside
  compare: tuple[str, ...] = ()  # configs of further systems, run on this run's data

  def __post_init__(self):
    for name in ("valid_users", "test_users"):
      if getattr(self, name) < 0:
        raise ValueError(f"evaluation.{name} is a number of users, or 0, not {getattr(self, name)}")


# The plain values of a run, and what each means.
PLAIN = {
  "system": "a name in recjax.systems.SYSTEMS",
  "task": "how events are split, asked and measured, see experiments/tasks.py",
  "examples": "what an example of the training is, see experiments/tasks.py",
  "seeds": "one training each; the table tells mean and interval",
  "batch_size": "examples of a step, over all devices",
  "pretrain_batch_size": "the same of the stage before",
  "devices": "that a CPU shows to a run: a training batch is split over them",
}
# All that a config may hold.
SECTIONS = (
  *("data", "text", "words", "semantic_ids", "prompts", "pairs", "yes_no"),
  *("model", "train", "pretrain"),
  *("evaluation", *PLAIN),
)


def config(**sections: Any) -> ml_collections.ConfigDict:
  """A ConfigDict of dataclass sections and plain values, locked: an unknown key is an error."""
  unknown = sorted(set(sections) - set(SECTIONS))
  if unknown:
    raise ValueError(f"a config has no {unknown}; it has {', '.join(SECTIONS)}")
  if "system" in sections:
    sections = {"devices": 2} | sections
  plain = {
    name: _typed(type(s), dataclasses.asdict(s)) if dataclasses.is_dataclass(s) else s
    for name, s in sections.items()
  }
  return ml_collections.ConfigDict(plain).lock()


def _typed(cls: type, values: dict[str, Any]) -> dict[str, Any]:
  """With None, where a field may be something else, as a reference that a flag can set to it."""
  kinds = {kind.__name__: kind for kind in (str, int, float, bool, tuple)}
  found = {}
  for field in dataclasses.fields(cls):
    if field.name not in values:
      continue
    value, nested = values[field.name], field.default_factory
    kind = kinds.get(str(field.type).partition("|")[0].partition("[")[0].strip())
    if value is None and kind is not None:
      value = ml_collections.config_dict.placeholder(kind)
    elif isinstance(value, dict) and dataclasses.is_dataclass(nested):
      value = _typed(nested, value)
    found[field.name] = value
  return found


def model(cls: type, **fields: Any) -> dict[str, Any]:
  """The fields of a system's Config; those without a default may come from the data (num_items)."""
  unknown = set(fields) - {f.name for f in dataclasses.fields(cls)}
  if unknown:
    raise ValueError(f"{cls.__module__}.{cls.__name__} has no {sorted(unknown)}")
  defaults = {
    f.name: f.default for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING
  }
  return _typed(cls, {**defaults, **fields})


def build(cls: type[T], section: ml_collections.ConfigDict, **more: Any) -> T:
  """The dataclass that a section describes; nested dataclasses too, unknown keys are errors."""
  values = {**section.to_dict(), **more}
  names = {f.name for f in dataclasses.fields(cls)}
  unknown = set(values) - names
  if unknown:
    raise ValueError(f"{cls.__name__} has no {sorted(unknown)}; it has {sorted(names)}")
  for field in dataclasses.fields(cls):
    default = field.default_factory if callable(field.default_factory) else None
    if dataclasses.is_dataclass(default) and isinstance(values.get(field.name), dict):
      values[field.name] = build(default, ml_collections.ConfigDict(values[field.name]))
  return cls(**values)


def describe(name: str, cls: type, section: Mapping[str, Any]) -> str:
  """Every field of a section and of its dataclass: its flag, its value, its comment."""
  said = "" if (cls.__doc__ or "").startswith(f"{cls.__name__}(") else inspect.getdoc(cls)
  lines = [f"{name}: {said}".splitlines()[0].rstrip(": ")]
  comments = _comments(cls)
  for field in dataclasses.fields(cls):
    nested = field.default_factory if callable(field.default_factory) else None
    if dataclasses.is_dataclass(nested):
      lines.append(describe(f"{name}.{field.name}", nested, section[field.name]))
      continue
    said = comments.get(field.name, "")
    if isinstance(section.get(field.name), ml_collections.ConfigDict):
      told = sorted(section[field.name].items())
      if said:
        lines.append(f"  {name}.{field.name}: {said}")
      lines += [f"  --config.{name}.{field.name}.{key}={v}" for key, v in told]
      continue
    value = str(section[field.name]).strip() if field.name in section else "(given by the data)"
    lines.append(f"  --config.{name}.{field.name}={value}" + (f"  # {said}" if said else ""))
  return "\n".join(lines)


def load(path: str) -> ml_collections.ConfigDict:
  """The config of a Python file, as `--config` reads it; from any folder those of ours too."""
  ours = pathlib.Path(__file__).parent.parent / path
  file = pathlib.Path(path) if pathlib.Path(path).is_file() else ours
  if not file.is_file():
    raise FileNotFoundError(f"no config {path}; there are those of experiments/configs/")
  return runpy.run_path(str(file))["get_config"]()


def _comments(cls: type) -> dict[str, str]:
  """field -> the comment at the end of its line in the class's source, or in that of a base."""
  found: dict[str, str] = {}
  for base in reversed([c for c in cls.__mro__ if dataclasses.is_dataclass(c)]):
    found |= _own_comments(base)
  return found


def _own_comments(cls: type) -> dict[str, str]:
  found: dict[str, str] = {}
  names = {f.name for f in dataclasses.fields(cls)}
  source = inspect.getsource(cls)
  last = ""
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    first = token.line.split(":")[0].strip()
    last = first if first in names else last
    if token.type == tokenize.COMMENT and first in names:
      found[last] = token.string.lstrip("# ")
  return found
