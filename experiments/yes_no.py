"""Yes-or-no questions -> a language model that answers them -> the AUC of its answers.

The files are TALLRec's: JSON lists of instruction, input and output. The base is a Hugging Face
folder of a decoder-only model with its tokenizer.json, tuned by LoRA; without one, a new model of
the sizes of `model` and a SentencePiece vocabulary learns all it knows from the questions. A run's
folder holds config.json, results.json, and of each seed the checkpoints, logs and what was learned.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np

from experiments import results, settings, sources
from recjax.data import loader
from recjax.data.errors import DataError
from recjax.data.examples import Examples
from recjax.data.readers import instructions
from recjax.nn import gpt, lora
from recjax.systems.llm import tallrec
from recjax.text import byte_pairs, gpt_weights, lora_weights, vocab, yes_no
from recjax.train import evaluate, loop, signals
from recjax.types import Params

_logger = logging.getLogger(__name__)

ADAPTER, MODEL = "adapter", "model"  # in a seed's folder: what was learned


@dataclasses.dataclass(frozen=True)
class YesNo:
  """Questions and who learns them; a relative path is also looked for below RECJAX_DATA."""

  train: str = ""  # files of questions, to learn from
  valid: str = ""  # to choose by
  test: str = ""  # to measure
  model: str = ""  # a Hugging Face folder to adapt; without one a new model learns everything
  vocabulary: str = ""  # of a new model: a SentencePiece .model
  shots: int = 0  # questions to learn from, so many drawn by the seed; 0: all
  batch_size: int = 32
  max_len: int = 512  # tokens of a prompt; of longer ones the end is kept
  dtype: str = "float32"  # of a pretrained model's activations
  lora: lora.Config = dataclasses.field(default_factory=lora.Config)  # of a pretrained model

  def __post_init__(self):
    for name in ("train", "valid", "test"):
      if not getattr(self, name):
        raise ValueError(f"yes_no.{name} names no file: --config.yes_no.{name}=FILE")
    if bool(self.model) == bool(self.vocabulary):
      raise ValueError(
        "give yes_no.model, a folder to adapt, or yes_no.vocabulary for a new model: "
        f"they are {self.model!r} and {self.vocabulary!r}"
      )
    if self.shots < 0:
      raise ValueError(f"yes_no.shots is a number of questions, or 0, not {self.shots}")


def questions(words: yes_no.Words, path: str, max_len: int) -> Examples:
  """Every question of a file."""
  found = instructions.tallrec_texts(sources.path_of(path))
  asked = zip(found["instruction"], found["input"], strict=True)
  texts = [yes_no.prompt(str(a), str(b)) for a, b in asked]
  labels = yes_no.labels([str(x) for x in found["output"]])
  examples = yes_no.examples(words, texts, labels, max_len=max_len)
  cut = int((examples.dense["length"] == max_len).sum())
  if cut:
    _logger.warning(
      "%s: %d of %d prompts fill %d tokens and may be cut", path, cut, len(texts), max_len
    )
  return examples


def drawn(examples: Examples, shots: int, seed: int) -> Examples:
  """So many of the questions, in random order."""
  if not shots:
    return examples
  if shots > len(examples):
    raise ValueError(f"yes_no.shots is {shots}, but there are {len(examples)} questions to draw")
  return examples.take(np.random.default_rng(seed).permutation(len(examples))[:shots])


def run(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  *,
  name: str = "run",
  record: pathlib.Path | None = None,
) -> results.Table:
  """Trains every seed, measures it on the test questions, and writes what a run leaves."""
  cfg = settings.build(YesNo, config.yes_no)
  train_config = settings.build(loop.Config, config.train)
  words, lm, base = _start(config, cfg)
  yes, no = yes_no.answers(words)
  system = tallrec.make(tallrec.Config(yes, no, lm, cfg.lora, adapt=base is not None))
  parts = {part: questions(words, getattr(cfg, part), cfg.max_len) for part in _PARTS}
  workdir.mkdir(parents=True, exist_ok=True)
  (workdir / "config.json").write_text(config.to_json_best_effort(indent=2) + "\n")

  def suite(part: str, called: str) -> evaluate.Suite:
    batches = loader.Batches(parts[part], cfg.batch_size, max_len=cfg.max_len)
    return evaluate.Suite(called, batches, evaluate.probability(system))

  rows, seconds = [], 0.0
  for seed in config.seeds:
    folder = workdir / f"seed_{seed}"
    learned = drawn(parts["train"], cfg.shots, seed)
    result = loop.fit(
      system,
      (),
      loader.Batches(learned, cfg.batch_size, max_len=cfg.max_len, seed=seed, epochs=None),
      dataclasses.replace(train_config, seed=seed),
      suites=[suite("valid", "valid")],
      workdir=folder,
      init_from=None if base is None else lambda fresh: tallrec.from_gpt(fresh, base),
      fingerprint={"yes_no": dataclasses.asdict(cfg), "vocabulary": words.fingerprint},
    )
    if result.stopped_by is not None:
      signals.leave(result.stopped_by, workdir)
    keep(folder, cfg, lm, jax.device_get(result.params))
    rows.append({"seed": seed, **evaluate.evaluate(result.params, (), [suite("test", "")])})
    seconds += result.seconds
  table = {config.system: rows}
  results.write(workdir / "results.json", config, table, seconds)
  if record is not None:
    results.write(record / f"{name}.json", config, table, seconds)
  return table


def keep(folder: pathlib.Path, cfg: YesNo, lm: gpt.Config, params: Params) -> None:
  """What was learned in a form of Hugging Face: LoRA as PEFT's, else the whole model.

  GPT-2 is kept whole, merged: its fused projections are three here, which PEFT does not know.
  """
  changes = params.get("lora")
  if changes is None:
    gpt_weights.save(folder / MODEL, lm, params["base"])
  elif lm.theta is None:
    gpt_weights.save(folder / MODEL, lm, lora.merged(params["base"], changes, cfg.lora))
  else:
    lora_weights.save(folder / ADAPTER, changes, cfg.lora, gpt_weights.rules(lm), base=cfg.model)


_PARTS = ("train", "valid", "test")


def _start(
  config: ml_collections.ConfigDict, cfg: YesNo
) -> tuple[yes_no.Words, gpt.Config, Params | None]:
  """Words, config and weights of a pretrained model, or of a new one, without weights."""
  if not cfg.model:
    words: Any = vocab.sentencepieces(sources.path_of(cfg.vocabulary))
    sizes = settings.build(gpt.Config, config.model)
    return words, dataclasses.replace(sizes, vocab=sizes.vocab or len(words)), None
  folder = sources.path_of(cfg.model)
  words, (lm, base) = byte_pairs.byte_pairs(folder), gpt_weights.load(folder, dtype=cfg.dtype)
  if lm.vocab < len(words):
    raise DataError(
      f"the tokenizer has {len(words)} tokens, the model a table of {lm.vocab}",
      path=folder,
      remedy="Take both from one download.",
    )
  return words, lm, base
