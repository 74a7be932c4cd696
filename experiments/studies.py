"""What is asked of a finished run of TIGER beside its accuracy.

    python -m experiments.studies --study=beam --config=CONFIG.py --workdir=DIR [--users=2000]

| study | question |
|---|---|
| beam | how far lists of so many beams are from the exact ones |
| diversity | what drawing lists at a temperature adds to their variety and takes from their hits |
| cold | how items that were kept from training (`data.cold`) fare, mixed into lists at set rates |

The config and its overrides must be those of the run, which is checked. `cold` stands beside the
nearest neighbours of item vectors, mixed alike. With --record=FOLDER results are kept there as
CONFIG_STUDY.json.
"""

from __future__ import annotations

from experiments import launch  # before all others

# isort: split
import dataclasses
import datetime
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from experiments import assembly, pipeline, results, sources
from recjax.data import examples, loader
from recjax.data.errors import DataError
from recjax.decode import topk, trie
from recjax.metrics import beyond, ranking
from recjax.systems import SYSTEMS
from recjax.train import loop
from recjax.types import PAD, Ranked, System

_CONFIG = config_flags.DEFINE_config_file("config", None, "The run's config.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the finished run.")
_STUDY = flags.DEFINE_enum("study", "beam", ["beam", "diversity", "cold"], "What is asked.")
_USERS = flags.DEFINE_integer("users", 0, "So many test users, drawn; 0: all.", lower_bound=0)
_RECORD = flags.DEFINE_string("record", None, "A folder to keep the results in.")

K = 10
BEAMS = (10, 20, 50)
TEMPERATURES = (0.5, 1.0, 1.5, 2.0)
RATES = (0.0, 0.1, 0.2, 0.3)  # of a list's places for cold items

Row = dict[str, float]
Lists = Callable[[loader.HostBatch], Ranked]  # a question -> items


class Finished:
  """A run, its parameters, and the questions of some of its test users."""

  def __init__(self, job: pipeline.Run, users: int = 0):
    self.job = job
    result = job.train(job.config.seeds[0])
    if result.stopped_by is not None:
      raise RuntimeError("the run was stopped; let it end first")
    self.params, self.assets = jax.device_get(result.params), job.built.assets
    found = job.task.asked(job.raw, job.before_test, job.split.test)
    if job.evaluation.deny_seen:
      found = examples.deny_seen(found)
    if users and users < len(found):
      found = found.take(np.random.default_rng(0).choice(len(found), users, replace=False))
    self._asked = loader.Batches(found, job.evaluation.batch_size, max_len=job.data.max_len)

  def batches(self) -> Iterator[tuple[loader.HostBatch, np.ndarray, np.ndarray]]:
    """(questions, targets [B], which are real [B])."""
    for batch in loader.load(self._asked):
      target = batch.pop("target")
      yield batch, target, batch["weight"] > 0

  def system(self, **changes: Any) -> System:
    cfg = dataclasses.replace(self.job.built.config, **changes)
    return SYSTEMS[self.job.config.system].make(cfg)

  def measured(self, lists: Lists, **more: Callable[[np.ndarray, np.ndarray], Any]) -> Row:
    """Recall and NDCG of lists, of further functions (ids, targets) -> values the means."""
    rows: dict[str, list[np.ndarray]] = {}
    for batch, target, real in self.batches():
      ids = np.asarray(lists(batch).ids)
      hits = ranking.hits(jnp.asarray(ids), jnp.asarray(target)[:, None])
      one = jnp.ones(len(ids), jnp.int32)
      found = {
        f"recall@{K}": ranking.recall(hits, one, K),
        f"ndcg@{K}": ranking.ndcg(hits, one, K),
        **{name: value(ids, target) for name, value in more.items()},
      }
      for name, values in found.items():
        rows.setdefault(name, []).append(np.asarray(values)[real])
    return {name: float(np.nanmean(np.concatenate(parts))) for name, parts in rows.items()}


def beam(run: Finished) -> dict[str, Row]:
  """Lists by beams, and by the exact likelihood of every item."""
  rows = {}
  for beams in BEAMS:
    recommend = jax.jit(run.system(beams=beams).recommend, static_argnames="k")
    rows[f"{beams} beams"] = run.measured(
      lambda batch, f=recommend: f(run.params, run.assets, batch, k=K)
    )
  score = jax.jit(run.system().score)
  rows["exact"] = run.measured(
    lambda batch: _best(score(run.params, run.assets, batch), _denied(batch))
  )
  return rows


def diversity(run: Finished) -> dict[str, Row]:
  """The likeliest lists, and lists drawn at each temperature."""
  group = np.unique(sources.category(run.job.raw.catalog), return_inverse=True)[1]
  variety = {"entropy": lambda ids, target: beyond.entropy(ids, group)}
  recommend = jax.jit(run.system().recommend, static_argnames="k")
  rows = {
    "beam search": run.measured(
      lambda batch: recommend(run.params, run.assets, batch, k=K), **variety
    )
  }
  for temperature in TEMPERATURES:
    draw = jax.jit(run.system(temperature=temperature).recommend, static_argnames="k")
    keys = iter(jax.random.split(jax.random.key(0), 100_000))
    rows[f"temperature {temperature:g}"] = run.measured(
      lambda batch, f=draw, k=keys: f(run.params, run.assets, batch, k=K, key=next(k)), **variety
    )
  return rows


def cold(run: Finished) -> dict[str, Row]:
  """Hits on cold and on other items, at each rate of cold ones in a list."""
  unseen = run.job.cold
  if not unseen.any():
    raise ValueError("no item of this run is cold: train one with --config.data.cold=0.05")
  split = {
    "cold": lambda ids, target: _hits(ids, target, unseen[target]),
    "others": lambda ids, target: _hits(ids, target, ~unseen[target]),
  }
  tokens = np.asarray(run.assets["tokens"])
  trees = [_without(run.assets["trie"], tokens, left_out) for left_out in (unseen, ~unseen)]
  recommend = jax.jit(run.system().recommend, static_argnames="k")

  def searched(batch):
    return [recommend(run.params, {**run.assets, "trie": t}, batch, k=K) for t in trees]

  content = assembly.build("content", None, run.job)
  learned = loop.solve(content.system, content.assets, run.job.before_test).params
  score = jax.jit(content.system.score)
  known = jnp.asarray(unseen)[None]

  def nearest(batch):
    scores = score(learned, content.assets, batch)
    parts = jnp.where(known, -jnp.inf, scores), jnp.where(known, scores, -jnp.inf)
    return [_best(part, _denied(batch)) for part in parts]

  rows = {}
  for name, both in ((run.job.config.system, searched), ("nearest", nearest)):
    for rate in RATES:
      rows[f"{name}, {rate:.0%} cold"] = run.measured(
        lambda batch, f=both, r=rate: topk.mixed(*f(batch), round(r * K)), **split
      )
  return rows


_best = jax.jit(lambda scores, denied: topk.rank(scores, denied, k=K))


def _denied(batch: loader.HostBatch) -> loader.HostBatch:
  """What the protocol leaves out of a list, if anything."""
  return {name: x for name, x in batch.items() if name == "deny"}


def _without(tree: trie.Trie, tokens: np.ndarray, left_out: np.ndarray) -> trie.Trie:
  """The trie of the items that are not left out, in arrays of the same shapes."""
  rows = tokens[: len(left_out)].copy()
  rows[left_out] = trie.NONE
  rows[PAD] = PAD
  return trie.rebuild(tree, rows)


def _hits(ids: np.ndarray, target: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Whether each target that counts was found; NaN for the others, which a mean leaves out."""
  return np.where(counts, (ids == target[:, None]).any(1), np.nan)


def check_config(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """An error where the folder is of no run, or of a run with another config."""
  path = workdir / "config.json"
  if not path.exists():
    raise DataError("there is no run", path=workdir, remedy="Run experiments.run first.")
  theirs, ours = json.loads(path.read_text()), json.loads(config.to_json_best_effort())
  changed = [name for name in sorted({*theirs, *ours}) if theirs.get(name) != ours.get(name)]
  if changed:
    raise DataError(
      f"the run has another config: {', '.join(changed)} differ",
      path=path,
      remedy="Give the config and the overrides of the run.",
    )


STUDIES = {"beam": beam, "diversity": diversity, "cold": cold}


def main(argv):
  del argv
  launch.prepare()
  workdir = pathlib.Path(_WORKDIR.value)
  check_config(_CONFIG.value, workdir)
  run = Finished(pipeline.Run(_CONFIG.value, workdir), _USERS.value)
  rows = STUDIES[_STUDY.value](run)
  print(results.render({name: [row] for name, row in rows.items()}))
  if _RECORD.value:
    stem = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    record = {
      "config": results.portable(_CONFIG.value),
      "date": datetime.date.today().isoformat(),
      "hardware": results.hardware(),
      "users": _USERS.value or "all",
      _STUDY.value: rows,
    }
    path = pathlib.Path(_RECORD.value) / f"{stem}_{_STUDY.value}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main)
