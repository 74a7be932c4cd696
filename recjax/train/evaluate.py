"""Evaluation: named suites, each batches and what to measure on them, divided once at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from recjax.data import loader
from recjax.metrics import additive, classification, impressions, ranking, regression, roc
from recjax.train import mesh as meshes
from recjax.train import progress
from recjax.types import PAD, Array, Assets, Batch, Params, System

Statistics = Mapping[str, Any]  # name -> an additive statistic (see `metrics.additive`)
Measure = Callable[[Params, Assets, Batch], Statistics]
Slices = Mapping[str, Callable[[Assets, Batch], Array]]  # name -> the examples [B] in it


class Suite(NamedTuple):
  name: str  # its metrics are called NAME/METRIC
  batches: loader.Batches
  measure: Measure
  # Of the devices, so many answer; None: all. A beam on a CPU is faster on one than split over
  # virtual devices, where training is not (BUILD_NOTES.md). Of one process only.
  devices: int | None = None


def evaluate(
  params: Params,
  assets: Assets,
  suites: Sequence[Suite],
  *,
  system: System | None = None,  # whose `index` runs first, where it has one
  mesh: Mesh | None = None,  # where the parameters lie, by default
) -> dict[str, float]:
  """Every metric of every suite. All examples count once, whatever the batches and devices."""
  mesh = mesh or meshes.mesh_of(params) or meshes.make_mesh()
  if system is not None and system.index is not None:
    assets = jax.jit(system.index)(params, assets)
  report: dict[str, float] = {}
  for suite in suites:
    measure = _jitted(suite.measure)
    total, pending = None, None
    meshes.check_share(suite.batches, mesh)
    own_mesh, learned, read = mesh, params, assets
    if suite.devices is not None and jax.process_count() == 1:
      own_mesh = meshes.make_mesh(devices=mesh.devices.flat[: suite.devices])
      learned, read = (meshes.put(tree, own_mesh) for tree in (params, assets))
    with progress.bar(len(suite.batches), unit="batch", desc=suite.name or "evaluation") as bar:
      for batch in loader.load(suite.batches):
        # One batch in flight: the host adds the statistics of the one before.
        pending, done = measure(learned, read, meshes.put_batch(batch, own_mesh)), pending
        total = _add(total, done)
        bar.update()
    for metric, statistic in _add(total, pending).items():
      value = statistic.finish()
      named = value if isinstance(value, Mapping) else {"": value}
      for part, number in named.items():
        report["/".join(filter(None, (suite.name, metric, part)))] = float(number)
  return report


def ranking_by_list(
  system: System, ks: Sequence[int] = (5, 10), *, slices: Slices | None = None
) -> Measure:
  """Recall, NDCG and MRR of `recommend` against `target` [B], or [B, R] padded with PAD.

  What must not be recommended (seen items) is the batch's `deny`; the system applies it.
  """

  def measure(params, assets, batch):
    ranked = system.recommend(params, assets, _question(batch), k=max(ks))
    target = batch["target"]
    relevant = target[:, None] if target.ndim == 1 else target
    hits, count = ranking.hits(ranked.ids, relevant), ranking.count(relevant)
    values = {f"recall@{k}": ranking.recall(hits, count, k) for k in ks}
    values |= {f"ndcg@{k}": ranking.ndcg(hits, count, k) for k in ks}
    values |= {f"mrr@{max(ks)}": ranking.mrr(hits, max(ks))}
    return _means(values, count > 0, assets, batch, slices)

  return measure


def ranking_by_score(
  system: System, ks: Sequence[int] = (5, 10), *, slices: Slices | None = None
) -> Measure:
  """The same by `score` over the whole catalogue (a batch without `candidates`), without a sort."""

  def measure(params, assets, batch):
    scores = system.score(params, assets, _question(batch))  # [B, I]
    target = batch["target"]
    if target.ndim == 1:
      ranks = ranking.ranks(scores, target, deny=batch.get("deny"))
      values = {f"recall@{k}": ranking.recall_at(ranks, k) for k in ks}
      values |= {f"ndcg@{k}": ranking.ndcg_at(ranks, k) for k in ks}
      values |= {f"mrr@{max(ks)}": ranking.mrr_at(ranks, max(ks))}
      return _means(values, target != PAD, assets, batch, slices)
    hits = ranking.hits_at(ranking.ranks_of_many(scores, target, deny=batch.get("deny")), max(ks))
    count = ranking.count(target)
    values = {f"recall@{k}": ranking.recall(hits, count, k) for k in ks}
    values |= {f"ndcg@{k}": ranking.ndcg(hits, count, k) for k in ks}
    return _means(values, count > 0, assets, batch, slices)

  return measure


def sampled_ranking(
  system: System, ks: Sequence[int] = (5, 10), *, slices: Slices | None = None
) -> Measure:
  """Ranks of the target among `candidates` [B, C] that hold it; the names say so."""

  def measure(params, assets, batch):
    ranks = ranking.sampled_ranks(
      system.score(params, assets, _question(batch)), batch["candidates"], batch["target"]
    )
    values = {f"sampled_recall@{k}": ranking.recall_at(ranks, k) for k in ks}
    values |= {f"sampled_ndcg@{k}": ranking.ndcg_at(ranks, k) for k in ks}
    return _means(values, batch["target"] != PAD, assets, batch, slices)

  return measure


def rating(system: System) -> Measure:
  """RMSE and MAE of `score` against `ratings` [B]; the batch's `target` is the item in question."""

  def measure(params, assets, batch):
    question = _question(batch)
    if "target" in batch:
      question["candidates"] = batch["target"][:, None]
    predicted = system.score(params, assets, question).reshape(batch["ratings"].shape)
    return {"": regression.errors(predicted, batch["ratings"], batch["weight"] > 0)}

  return measure


def clicks(system: System, ks: Sequence[int] = (5, 10)) -> Measure:
  """Per-impression AUC, MRR and NDCG of `score` against `labels`, both [B, C]."""

  def measure(params, assets, batch):
    scores, labels = system.score(params, assets, _question(batch)), batch["labels"]
    where = batch["candidates"] != PAD
    values = {"auc": impressions.auc(scores, labels, where)}
    values |= {"mrr": impressions.mrr(scores, labels, where)}
    values |= {f"ndcg@{k}": impressions.ndcg(scores, labels, k, where) for k in ks}
    return _means(values, impressions.has_both_classes(labels, where), assets, batch, None)

  return measure


def probability(system: System) -> Measure:
  """AUC over all examples, log-loss and accuracy of `score` [B, 1], logits, and `labels` [B, 1]."""

  def measure(params, assets, batch):
    logit = system.score(params, assets, _question(batch)).reshape(-1)
    label, where = batch["labels"].reshape(-1), batch["weight"] > 0
    p = jax.nn.sigmoid(logit)
    return {
      "": roc.histogram(logit, label, where),
      "log_loss": additive.mean(classification.binary_log_loss(p, label), where),
      "accuracy": additive.mean(((p > 0.5) == (label > 0.5)) & ~jnp.isnan(p), where),
    }

  return measure


def classes(system: System) -> Measure:
  """Accuracy and log-loss of `score`, class logits [B, N], against `labels` [B]."""

  def measure(params, assets, batch):
    logits, where = system.score(params, assets, _question(batch)), batch["weight"] > 0
    p = jax.nn.softmax(logits.astype(jnp.float32))
    right = (jnp.argmax(logits, -1) == batch["labels"]) & ~jnp.isnan(p).any(-1)
    return {
      "accuracy": additive.mean(right, where),
      "log_loss": additive.mean(classification.log_loss(p, batch["labels"]), where),
    }

  return measure


def loss(system: System, key: Array) -> Measure:
  """The training loss itself, dropout and draws included, under one key for every batch.

  For systems that answer nothing yet (pretraining).
  """

  def measure(params, assets, batch):
    out = system.loss(params, assets, batch, key)
    return {"loss": additive.Mean(out.sum, out.weight)}

  return measure


def measures(system: System, batch: Batch, ks: Sequence[int] = (5, 10)) -> Measure:
  """What the system's answers and the batch's keys call for; the rulings of the contract."""
  if "ratings" in batch and system.score is not None:
    return rating(system)
  if "labels" in batch and system.score is not None:
    if "candidates" not in batch:
      return classes(system)
    return probability(system) if batch["labels"].shape[1] == 1 else clicks(system, ks)
  if "target" in batch and "candidates" in batch and system.score is not None:
    return sampled_ranking(system, ks)
  if "target" in batch and system.recommend is not None:
    return ranking_by_list(system, ks)
  raise ValueError(
    f"nothing to measure: the batch has {sorted(batch)} and the system answers "
    f"{[n for n in ('recommend', 'score', 'generate', 'embed') if getattr(system, n)]}"
  )


def _question(batch: Batch) -> Batch:
  """The batch without its answer, so that no system can look."""
  answers = ("target", "next", "labels", "ratings")
  return {name: column for name, column in batch.items() if name not in answers}


def _means(values, where, assets, batch, slices) -> Statistics:
  where = where & (batch["weight"] > 0)
  means = {name: additive.mean(value, where) for name, value in values.items()}
  for label, chosen in (slices or {}).items():
    inside = where & chosen(assets, batch)
    means |= {f"{name}/{label}": additive.mean(v, inside) for name, v in values.items()}
    means |= {f"examples/{label}": Count(inside.sum())}
  return means


class Count(NamedTuple):
  """How many examples a slice holds, told beside its metrics."""

  count: Array

  def finish(self) -> Array:
    return self.count


def _jitted(measure: Measure) -> Measure:
  """One compiled function a measure, kept on it: a run evaluates many times."""
  if not hasattr(measure, "jitted"):
    measure.jitted = jax.jit(measure)
  return measure.jitted


def _add(total: Statistics | None, new: Statistics | None) -> Statistics | None:
  if new is None:
    return total
  return additive.merge(new) if total is None else additive.merge(total, new)
