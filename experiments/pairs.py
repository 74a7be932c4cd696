"""Pairs of texts -> a T5 that turns one into the other -> its answers and their metrics.

A file of pairs is a table (.tsv, .csv, .jsonl, .parquet) with columns `input` and `target`. The
model is a Hugging Face folder of T5 weights with its spiece.model, or a new one of given sizes. A
run's folder holds config.json, checkpoints and logs, and at the end predictions.jsonl, metrics.json
and the model in Hugging Face's form; a run that is started again goes on where it was.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import settings
from recjax.data import loader
from recjax.data.errors import DataError
from recjax.data.readers import columns, tables
from recjax.decode import generate
from recjax.metrics import additive
from recjax.nn import t5
from recjax.text import objectives, t5_weights, vocab
from recjax.train import evaluate, generated, loop, signals
from recjax.types import PAD, System

_logger = logging.getLogger(__name__)

START = PAD  # the decoder's first input, as in T5


@dataclasses.dataclass(frozen=True)
class Pairs:
  """How pairs become batches, and how answers are found."""

  batch_size: int = 64  # pairs; rows, if packed
  source_len: int = 128  # tokens; longer inputs are cut, and counted
  target_len: int = 64  # tokens; longer targets are cut in training, and counted
  buckets: tuple[int, ...] = ()  # shorter widths of sources
  packed: bool = False  # several pairs in a row
  beams: int = 1  # 1: greedy
  seed: int = 0


class Texts(NamedTuple):
  input: list[str]
  target: list[str]


class Said(columns.Texts):
  """Texts of which none may be empty."""

  def check(self, value: Any) -> str:
    found = super().check(value)
    if not found or found.isspace():
      raise DataError(f"the {self.name} is empty", remedy="Give every pair an input and a target.")
    return found


def read(path: str) -> Texts:
  """The pairs of a table; what cannot be used is an error that names the line."""
  table = tables.read(
    path, {name: name for name in Texts._fields}, dict.fromkeys(Texts._fields, Said)
  )
  return Texts(*(table.columns[name].tolist() for name in Texts._fields))


def encode(name: str, pairs: Texts, words: vocab.SentencePieces, cfg: Pairs) -> objectives.Pairs:
  """Token rows of at most the configured lengths; how many had to be cut is said."""
  rows = []
  for side, texts, most in zip(Texts._fields, pairs, (cfg.source_len, cfg.target_len), strict=True):
    found = words.encode(texts)
    long = int((found.lengths > most).sum())
    if long:
      _logger.warning(
        "%s: %d of %d %ss are longer than %d tokens (the longest has %d) and are cut",
        name, long, len(texts), side, most, found.lengths.max(),
      )  # fmt: skip
      found = words.encode(texts, max_len=most)
    rows.append(found)
  return objectives.Pairs(*rows)


def batches(pairs: objectives.Pairs, cfg: Pairs, *, train: bool) -> loader.Batches:
  if train and cfg.packed:
    order = np.random.default_rng(cfg.seed).permutation(len(pairs))
    lengths = {"source_len": cfg.source_len, "target_len": cfg.target_len}
    pairs = objectives.pack(pairs.take(order), **lengths)
    return loader.Batches(pairs, cfg.batch_size, max_len=cfg.source_len, seed=cfg.seed, epochs=None)
  widths = sorted({*(b for b in cfg.buckets if b < cfg.source_len), cfg.source_len})
  order = {"seed": cfg.seed, "epochs": None} if train else {}
  return loader.Batches(pairs, cfg.batch_size, max_len=widths, **order)


def make(cfg: t5.Config, words: vocab.SentencePieces, *, length: int, beams: int) -> System:
  """A T5 that learns pairs and writes at most `length` tokens."""

  def init(key, assets, batch):
    return t5.init(key, cfg)

  def loss(params, assets, batch, key):
    return objectives.text_to_text(params, cfg, batch, key)

  def answer(params, assets, batch, *, key=None):
    source = batch["source"]
    encoded = t5.encode(params, cfg, source)
    cache = t5.start_cache(
      params, cfg, encoded, source_mask=source != PAD, beams=beams, length=length
    )
    step = functools.partial(t5.decode_step, params, cfg)
    start = jnp.full(len(source), START, jnp.int32)
    if beams == 1:
      return generate.greedy(step, cache, start[:, None], length=length, eos=words.eos).tokens[:, 0]
    found = generate.beam(
      step, cache, start, beams=beams, length=length, eos=words.eos, reorder=t5.reorder
    )
    return found.tokens[:, 0]

  return System(init, loss, generate=answer)


def teacher_forced(system: System) -> evaluate.Measure:
  """Loss and accuracy of each token given the true ones before it; without dropout."""

  def measure(params, assets, batch):
    out = system.loss(params, assets, batch, None)
    hits, weight = out.metrics["accuracy"]
    return {
      "loss": additive.Mean(out.sum, out.weight),
      "accuracy": additive.Mean(hits, weight),
    }

  return measure


def run(
  config: ml_collections.ConfigDict,
  files: dict[str, str],  # train, valid, test -> path
  workdir: pathlib.Path,
  *,
  model: str = "",
  vocabulary: str = "",
) -> dict[str, float]:
  """Trains, answers the test inputs and writes what a run leaves; the metrics."""
  cfg = settings.build(Pairs, config.pairs)
  train_config = settings.build(loop.Config, config.train)
  pairs = {name: read(path) for name, path in files.items()}  # errors before any work
  words = vocab.t5(vocabulary or pathlib.Path(model) / "spiece.model")
  if model:
    model_config, loaded = t5_weights.load(model)
  else:
    sizes = settings.build(t5.Config, config.model)
    model_config, loaded = dataclasses.replace(sizes, vocab=sizes.vocab or len(words)), None
  if model_config.vocab < len(words):
    raise DataError(
      f"the vocabulary has {len(words)} tokens, the model a table of {model_config.vocab}",
      path=vocabulary or model,
      remedy="Give the vocabulary that the model was trained with.",
    )
  workdir.mkdir(parents=True, exist_ok=True)
  (workdir / "config.json").write_text(config.to_json_best_effort(indent=2) + "\n")
  encoded = {name: encode(name, found, words, cfg) for name, found in pairs.items()}
  system = make(model_config, words, length=cfg.target_len, beams=cfg.beams)
  valid = batches(encoded["valid"], cfg, train=False)
  result = loop.fit(
    system,
    (),
    batches(encoded["train"], cfg, train=True),
    train_config,
    suites=[evaluate.Suite("valid", valid, teacher_forced(system))],
    workdir=workdir,
    init_from=None if loaded is None else lambda fresh: loaded,
    fingerprint={
      "pairs": _digest(encoded["train"]),
      "batches": dataclasses.asdict(dataclasses.replace(cfg, beams=1)),
      "model": model,
      "vocabulary": words.fingerprint,
    },
  )
  if result.stopped_by is not None:
    signals.leave(result.stopped_by, workdir)
  params = jax.device_get(result.params)
  # In the file's order, so in one bucket.
  whole = dataclasses.replace(cfg, buckets=())
  asked = batches(encoded["test"], whole, train=False)
  said, _ = generated.texts(params, (), asked, system=system, decode=words.decode)
  metrics = generated.scores(said, pairs["test"].target) | dict(result.metrics)
  rows = zip(*pairs["test"], said, strict=True)
  records = [{"input": i, "target": t, "prediction": p} for i, t, p in rows]
  lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
  _write(workdir / "predictions.jsonl", "".join(lines))
  _write(workdir / "metrics.json", json.dumps(metrics, indent=1) + "\n")
  t5_weights.save(workdir / "model", model_config, params)
  (workdir / "model" / "spiece.model").write_bytes(words.model)
  return metrics


def _write(path: pathlib.Path, content: str) -> None:
  """Whole or not at all."""
  part = path.with_name(path.name + ".part")
  part.write_text(content, encoding="utf-8")
  part.replace(path)


def _digest(pairs: objectives.Pairs) -> str:
  digest = hashlib.sha256()
  for rows in (pairs.source, pairs.target):
    digest.update(rows.values.tobytes() + rows.lengths.tobytes())
  return digest.hexdigest()
