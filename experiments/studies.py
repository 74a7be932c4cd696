"""What is asked of a finished run of TIGER beside its accuracy.

    python -m experiments.studies --study=beam --config=CONFIG.py --workdir=DIR [--users=2000]

| study | question |
|---|---|
| beam | how far lists of so many beams are from the exact ones |
| diversity | what drawing lists at a temperature adds to their variety and takes from their hits |
| cold | how items that were kept from training (`data.cold`) fare, mixed into lists at set rates |

The config and its overrides must be those of the run, which is checked; the run must have ended.
`cold` stands beside the nearest neighbours of item vectors, mixed alike. With --record=FOLDER
results are kept there as CONFIG_STUDY.json.
"""

from __future__ import annotations

from experiments import launch  # before all others

# isort: split
import dataclasses
import datetime
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from experiments import assembly, pipeline, results, settings, sources
from recjax.data import examples, loader
from recjax.data.errors import DataError
from recjax.data.interactions import Catalog
from recjax.decode import topk
from recjax.metrics import beyond, ranking
from recjax.systems import SYSTEMS
from recjax.train import checkpoint, loop, progress
from recjax.types import Ranked, System

_CONFIG = config_flags.DEFINE_config_file("config", None, "The run's config.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the finished run.")
_STUDY = flags.DEFINE_enum("study", "beam", ["beam", "diversity", "cold"], "What is asked.")
_USERS = flags.DEFINE_integer("users", 0, "So many test users, drawn; 0: all.", lower_bound=0)
_RECORD = flags.DEFINE_string("record", None, "A folder to keep the results in.")

STUDIED = ("tiger", "tiger_lm")
K = 10
BEAMS = (10, 20, 50)
TEMPERATURES = (0.5, 1.0, 1.5, 2.0)
RATES = (0.0, 0.1, 0.2, 0.3)  # of a list's places for cold items

Row = dict[str, float]
Lists = Callable[[loader.HostBatch], Mapping[str, Ranked]]  # a question -> row -> items


class Finished:
  """A run, its parameters, and the questions of some of its test users."""

  def __init__(self, job: pipeline.Run, users: int = 0):
    check_ended(job.config, job.workdir)
    self.job = job
    result = job.train(job.config.seeds[0])  # nothing is left to train
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

  def measured(
    self, name: str, lists: Lists, **more: Callable[[np.ndarray, np.ndarray], Any]
  ) -> dict[str, Row]:
    """Recall and NDCG of lists, of further functions (ids, targets) -> values the means."""
    rows: dict[str, dict[str, list[np.ndarray]]] = {}
    with progress.bar(len(self._asked), unit="batch", desc=name) as bar:
      for batch, target, real in self.batches():
        for row, ranked in lists(batch).items():
          ids = np.asarray(ranked.ids)
          hits = ranking.hits(jnp.asarray(ids), jnp.asarray(target)[:, None])
          one = jnp.ones(len(ids), jnp.int32)
          found = {
            f"recall@{K}": ranking.recall(hits, one, K),
            f"ndcg@{K}": ranking.ndcg(hits, one, K),
            **{metric: value(ids, target) for metric, value in more.items()},
          }
          for metric, values in found.items():
            rows.setdefault(row, {}).setdefault(metric, []).append(np.asarray(values)[real])
        bar.update()
    return {
      row: {metric: float(np.nanmean(np.concatenate(parts))) for metric, parts in found.items()}
      for row, found in rows.items()
    }


def beam(run: Finished) -> dict[str, Row]:
  """Lists by beams, and by the exact likelihood of every item."""
  rows = {}
  for beams in BEAMS:
    recommend = jax.jit(run.system(beams=beams).recommend, static_argnames="k")
    name = f"{beams} beams"
    rows |= run.measured(
      name, lambda batch, n=name, f=recommend: {n: f(run.params, run.assets, batch, k=K)}
    )
  score = jax.jit(run.system().score)
  return rows | run.measured(
    "exact",
    lambda batch: {"exact": _best(score(run.params, run.assets, batch), _denied(batch))},
  )


def diversity(run: Finished) -> dict[str, Row]:
  """The likeliest lists, and lists drawn at each temperature."""
  group = groups(run.job.raw.catalog)
  variety = {"entropy": lambda ids, target: beyond.entropy(ids, group)}
  recommend = jax.jit(run.system().recommend, static_argnames="k")
  rows = run.measured(
    "beam search",
    lambda batch: {"beam search": recommend(run.params, run.assets, batch, k=K)},
    **variety,
  )
  for temperature in TEMPERATURES:
    draw = jax.jit(run.system(temperature=temperature).recommend, static_argnames="k")
    keys = iter(jax.random.split(jax.random.key(0), 100_000))
    name = f"temperature {temperature:g}"
    rows |= run.measured(
      name,
      lambda batch, n=name, f=draw, k=keys: {n: f(run.params, run.assets, batch, k=K, key=next(k))},
      **variety,
    )
  return rows


def groups(catalog: Catalog) -> np.ndarray:
  """[I] a number for each item's category: the second of its path, or the first if all have one."""
  for depth in (1, 0):
    names = sources.category(catalog, depth)
    if len(set(names.tolist()) - {""}) > 1:
      return np.unique(names, return_inverse=True)[1]
  raise DataError(
    "diversity is of categories, and the catalogue's `categories` are not there, or one for all",
    remedy="Take a source whose catalogue has several, or another study.",
  )


def cold(run: Finished) -> dict[str, Row]:
  """Hits on cold and on other items, at each rate of cold ones in a list."""
  unseen = run.job.cold
  if not unseen.any():
    raise ValueError("no item of this run is cold: train one with --config.data.cold=0.05")
  split = {
    "cold": lambda ids, target: _hits(ids, target, unseen[target]),
    "others": lambda ids, target: _hits(ids, target, ~unseen[target]),
  }
  recommend = jax.jit(run.system().recommend, static_argnames="k")

  def searched(batch):
    return [recommend(run.params, run.assets, part, k=K) for part in halves(batch, unseen)]

  content = assembly.build("content", None, run.job)
  learned = loop.solve(content.system, content.assets, run.job.before_test).params
  score = jax.jit(content.system.score)
  is_cold = jnp.asarray(unseen)[None]  # [1, I]

  def nearest(batch):
    scores = score(learned, content.assets, batch)
    parts = jnp.where(is_cold, -jnp.inf, scores), jnp.where(is_cold, scores, -jnp.inf)
    return [_best(part, _denied(batch)) for part in parts]

  rows = {}
  for name, both in ((run.job.config.system, searched), ("nearest", nearest)):
    rows |= run.measured(name, lambda batch, n=name, f=both: _at_rates(n, *f(batch)), **split)
  return rows


def _at_rates(name: str, others: Ranked, cold: Ranked) -> dict[str, Ranked]:
  """The two lists mixed at every rate."""
  return {f"{name}, {r:.0%} cold": topk.mixed(others, cold, round(r * K)) for r in RATES}


_best = jax.jit(lambda scores, denied: topk.rank(scores, denied, k=K))


def _denied(batch: loader.HostBatch) -> loader.HostBatch:
  """What the protocol leaves out of a list, if anything."""
  return {name: x for name, x in batch.items() if name == "deny"}


def halves(
  batch: loader.HostBatch, unseen: np.ndarray
) -> tuple[loader.HostBatch, loader.HostBatch]:
  """The question for all items but the cold ones, and for these alone.

  Lists filter after a model has normalised: the scores of both are those of the whole catalogue.
  """
  items = np.flatnonzero(unseen).astype(np.int32)
  rows = np.tile(items, (len(batch["history"]), 1))  # [B, N]
  denied = [x for name, x in batch.items() if name == "deny"]
  return {**batch, "deny": np.concatenate([*denied, rows], axis=1)}, {**batch, "allow": rows}


def _hits(ids: np.ndarray, target: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Whether each target that counts was found; NaN for the others, which a mean leaves out."""
  return np.where(counts, (ids == target[:, None]).any(1), np.nan)


def check_config(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """An error where the folder is of no run, or of a run with another config."""
  if "prompts" in config or config.get("system") not in STUDIED:
    words = ", in words" if "prompts" in config else ""
    raise DataError(
      f"studies are of {' and '.join(STUDIED)}; this is a run of {config.get('system')}{words}",
      path=workdir,
      remedy="Give a config of one of these, and its run.",
    )
  path = workdir / "config.json"
  if not path.exists():
    raise DataError("there is no run", path=workdir, remedy="Run experiments.run first.")
  theirs, ours = json.loads(path.read_text()), json.loads(config.to_json_best_effort())
  ours["model"] = assembly.chosen(config.system, ours.get("model"))
  changed = list(_differing(ours, theirs))
  if changed:
    raise DataError(
      f"the run has another config, by {', '.join(changed)}",
      path=path,
      remedy="Give the config and the overrides of the run.",
    )


def _differing(a: Mapping[str, Any], b: Mapping[str, Any], at: str = "") -> Iterator[str]:
  """Dotted paths of what differs; a field that only one has came to the code since the run."""
  for name in sorted(a.keys() & b.keys()):
    if isinstance(a[name], dict) and isinstance(b[name], dict):
      yield from _differing(a[name], b[name], f"{at}{name}.")
    elif a[name] != b[name]:
      yield f"{at}{name}"


def check_ended(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """An error where the run has steps left to train."""
  cfg = settings.build(loop.Config, config.train)
  folder = workdir / f"seed_{config.seeds[0]}" / "checkpoints"
  found = checkpoint.finished(folder)
  steps = found[-1].step if found else 0
  stale = found[-1].meta.get("meter", {}).get("stale", 0) if found else 0
  if steps < cfg.steps and not 0 < cfg.patience <= stale:
    raise DataError(
      f"the run has not ended: {steps:,} of {cfg.steps:,} steps are trained",
      path=workdir,
      remedy="Start experiments.run again with this config and workdir: it goes on.",
    )


STUDIES = {"beam": beam, "diversity": diversity, "cold": cold}


def main():
  launch.prepare(devices=_CONFIG.value.devices)
  workdir = pathlib.Path(_WORKDIR.value)
  check_config(_CONFIG.value, workdir)
  check_ended(_CONFIG.value, workdir)
  record_in = pathlib.Path(_RECORD.value) if _RECORD.value else None
  if record_in is not None:  # an error now, not after hours
    record_in.mkdir(parents=True, exist_ok=True)
  run = Finished(pipeline.Run(_CONFIG.value, workdir), _USERS.value)
  rows = STUDIES[_STUDY.value](run)
  print(results.render({name: [row] for name, row in rows.items()}))
  if record_in is not None:
    stem = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    record = {
      "config": results.portable(run.job.in_use),
      "date": datetime.date.today().isoformat(),
      "hardware": results.hardware(),
      "users": _USERS.value or "all",
      _STUDY.value: rows,
    }
    path = record_in / f"{stem}_{_STUDY.value}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "workdir"])
  launch.start(main)
