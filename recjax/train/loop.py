"""The training loop: the same for every system, resumable to the bit, quiet about what it hides.

Batch i is a function of i, and so are the key of step i and the grouping of fused steps. A run
that is killed and started again in the same folder therefore ends as if nothing had happened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from recjax.data import loader
from recjax.train import checkpoint, evaluate, log, optim, process, progress, signals
from recjax.train import mesh as meshes
from recjax.train import state as states
from recjax.train import step as steps
from recjax.train.meter import Meter
from recjax.types import Assets, Params, System

_logger = logging.getLogger(__name__)

_LISTEN = 16  # steps between which processes do not ask each other for signals


@dataclasses.dataclass(frozen=True)
class Config:
  """One stage of training."""

  steps: int  # updates in all
  optimizer: optim.Config = dataclasses.field(default_factory=optim.Config)
  seed: int = 0  # of fresh parameters and of all draws
  accumulate: int = 1  # micro-batches a step
  fuse: int = 1  # steps a call; for models so small that dispatch binds them
  ema: float = 0.0  # decay of the running mean of parameters that is evaluated; 0: none
  compute_dtype: str | None = None  # "bfloat16": parameters are cast for the loss
  fused_products: bool = False  # on a CPU, see `process.FUSED_PRODUCTS`: for T5s in float32
  skip_bad: bool = False  # leave out updates that are not finite, instead of stopping
  max_loss: float = 1e6  # a mean loss beyond this has exploded
  log_every: int = 100  # steps between lines of metrics.jsonl
  eval_every: int = 0  # 0: at the end only
  save_every: int = 1000  # and after each evaluation and at the end
  keep_last: int = 2  # checkpoints, beside the best
  best: str | None = None  # what chooses a checkpoint, "-NAME" where less is better; "": none
  patience: int = 0  # evaluations without a better one before stopping; 0: never
  profile: tuple[int, int] | None = None  # trace these steps into workdir/profile

  def __post_init__(self):
    for name in ("steps", "accumulate", "fuse", "log_every", "save_every", "keep_last"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, it is {getattr(self, name)}")
    for name in ("log_every", "eval_every", "save_every"):
      if getattr(self, name) % self.fuse:
        raise ValueError(
          f"{name} {getattr(self, name)} is not a multiple of fuse {self.fuse}: fused steps end"
          " together"
        )
    if self.patience and not self.best:
      raise ValueError("patience needs `best`, the metric to be patient about")


class Result(NamedTuple):
  state: states.State
  params: Params  # the best by `Config.best` of those that are kept in a folder, else the last
  metrics: Mapping[str, float]  # of those parameters, from the last evaluation of them
  stopped_by: int | None = None  # the signal that came, if only in the last validation
  seconds: float = 0.0  # spent, over all lives of the run


def fit(
  system: System,
  assets: Assets,
  train: loader.Batches,
  cfg: Config,
  *,
  suites: Sequence[evaluate.Suite] = (),
  workdir: str | os.PathLike | None = None,  # None: nothing is kept
  mesh: Mesh | None = None,
  rules: meshes.Rules = (),
  init_from: Callable[[Params], Params] | None = None,  # fresh params -> those to start from
  fingerprint: Mapping[str, Any] | None = None,  # further config that a resumed run must share
) -> Result:
  """Trains from where `workdir` left off, or afresh."""
  _check_best(cfg, suites)
  if cfg.steps > len(train):
    raise ValueError(
      f"{cfg.steps} steps need more than the {len(train)} batches there are: give the batches more"
      " `epochs`, or None"
    )
  mesh = mesh or meshes.make_mesh()
  meshes.check_share(train, mesh)
  optimizer = optim.make(cfg.optimizer, cfg.steps, system)
  assets = meshes.put(assets, mesh, rules)
  example = meshes.put_batch(train[0], mesh)
  state = fresh(system, optimizer, assets, example, cfg, mesh, rules)
  saved = None
  if workdir is not None:
    saved = checkpoint.Checkpoints(
      pathlib.Path(workdir) / "checkpoints",
      fingerprint={
        **_fingerprint(cfg),
        "batches": {name: getattr(train, name) for name in ("batch_size", "seed", "per_epoch")},
        **(fingerprint or {}),
        "system": _shapes(state.params),
      },
      keep_last=cfg.keep_last,
      best=cfg.best or None,
    )
  meter = Meter(saved, best=cfg.best or None, max_loss=cfg.max_loss)
  found = saved.restore_latest(state) if saved else None
  if found is not None:
    state, meta = found
    _check_steps(int(state.step), cfg, workdir)
    meter.resume(meta)
    _logger.info("goes on from step %d of %d in %s", int(state.step), cfg.steps, workdir)
  elif init_from is not None:
    # A copy: the first step donates these buffers, and they may be somebody's.
    params = jax.tree.map(jnp.copy, meshes.put(init_from(state.params), mesh, rules))
    placed = jax.tree.map(lambda x: x.sharding, state.opt_state)
    state = state._replace(
      params=params,
      opt_state=jax.jit(optimizer.init, out_shardings=placed)(params),
      ema=jax.tree.map(jnp.copy, params) if cfg.ema else (),
    )
  out = log.Log(workdir, resume_from=int(state.step))
  run = _Compiled(system, optimizer, cfg, meter)
  source = loader.load(train)
  at = int(state.step)
  source.set_state({"next_index": at})
  save = _saver(saved, meter)
  done = _finished(cfg, meter, at)
  profile = _Profile(cfg.profile, workdir)

  bar = progress.bar(cfg.steps, unit="step", desc="training", initial=at)
  with signals.Stop() as stop:
    try:
      while not done:
        size = _group(train, at, cfg)
        started = time.perf_counter()
        host = [next(source) for _ in range(size)]
        batch = (
          meshes.put_batch(_stack(host), mesh, stacked=True)
          if size > 1
          else meshes.put_batch(host[0], mesh)
        )
        meter.loaded(time.perf_counter() - started)
        profile.reached(at, size)
        state, metrics = run(state, assets, batch, stacked=size > 1)
        meter.fetch()  # of the group before, while this one runs
        meter.pending = (at, size, metrics, train)
        at += size
        bar.update(size)
        due = at % cfg.log_every == 0 or at == cfg.steps
        evaluates = at == cfg.steps or (cfg.eval_every and at % cfg.eval_every == 0)
        # Processes agree by a round of messages, which not every step must wait for.
        listens = jax.process_count() == 1 or at % _LISTEN < size or at == cfg.steps
        stops = listens and stop.agreed()
        if due or evaluates or stops or at % cfg.save_every == 0:
          meter.fetch()
        if due:
          told = _report(cfg, meter, train, state)
          with progress.above():
            out.write(at, told)
          shown = {"loss": told["loss"]} if "loss" in told else {}  # all may have been skipped
          progress.show(bar, shown | _chosen(cfg, meter))
        if evaluates and suites:
          began = time.perf_counter()
          params = states.answering(state)
          measured = evaluate.evaluate(params, assets, suites, system=system, mesh=mesh)
          try:
            meter.evaluated(at, measured)
          except ValueError:  # there is no such metric as `best` names: what was learned is kept
            save(state, at, measured=False)
            raise
          with progress.above():
            out.write(at, measured)
          meter.paused += time.perf_counter() - began
        done = _finished(cfg, meter, at)
        if evaluates or stops or done or at % cfg.save_every == 0:
          save(state, at, measured=bool(evaluates and suites))
        if stops:
          break
    finally:
      profile.stop()
      bar.close()
      out.close()
      if saved is not None:
        saved.close(alone=sys.exc_info()[0] is not None)
    stop.agreed()  # on a signal since the last step
  return _result(state, saved, meter, stop.signal)


def check(workdir: str | os.PathLike, cfg: Config, told: Mapping[str, Any]) -> None:
  """Raises where `fit` would find that `workdir` was trained with another config.

  `told` may be a part of its fingerprint.
  """
  found = checkpoint.finished(pathlib.Path(workdir) / "checkpoints")
  if found:
    checkpoint.check(found[-1], {**_fingerprint(cfg), **told}, part=True)
    _check_steps(found[-1].step, cfg, workdir)


def solve(
  system: System,
  assets: Assets,
  interactions: Any,
  *,
  suites: Sequence[evaluate.Suite] = (),
  workdir: str | os.PathLike | None = None,
  mesh: Mesh | None = None,
) -> Result:
  """The counterpart of `fit` for systems in closed form: counts, neighbours, least squares."""
  mesh, began = mesh or meshes.make_mesh(), time.perf_counter()
  params = meshes.put(system.fit(assets, interactions), mesh)
  spent = time.perf_counter() - began
  metrics = evaluate.evaluate(params, meshes.put(assets, mesh), suites, system=system, mesh=mesh)
  state = states.State(np.int32(1), params, (), np.zeros(2, np.uint32))
  if workdir is not None:
    saved = checkpoint.Checkpoints(
      pathlib.Path(workdir) / "checkpoints", fingerprint={"system": _shapes(params)}
    )
    saved.save(state, {"step": 1, "metrics": metrics})
    saved.close()
    out = log.Log(workdir)
    out.write(1, metrics)
    out.close()
  return Result(state, params, metrics, seconds=spent)


def fresh(system, optimizer, assets, batch, cfg: Config, mesh, rules) -> states.State:
  def create(key, assets, batch):
    return states.create(system, optimizer, assets, batch, key, ema=bool(cfg.ema))

  key = jax.random.key(cfg.seed)
  placed = meshes.shardings(jax.eval_shape(create, key, assets, batch), mesh, rules)
  return jax.jit(create, out_shardings=placed)(key, assets, batch)


class _Compiled:
  """The step, compiled once for each shape of batch; the state is donated."""

  def __init__(self, system, optimizer, cfg: Config, meter: Meter):
    def make(accumulate):
      return steps.make_step(
        system,
        optimizer,
        accumulate=accumulate,
        ema=cfg.ema,
        compute_dtype=cfg.compute_dtype,
        skip_bad=cfg.skip_bad,
        max_loss=cfg.max_loss,
      )

    one = make(cfg.accumulate)
    self._steps = {False: one, True: steps.fuse(one)}  # by whether batches are stacked
    self._loops, self._plain = cfg.accumulate > 1, jax.jit(make(1))
    fused = process.train_options() if cfg.fused_products else {}
    self._options = {"donate_argnums": 0, "compiler_options": dict(fused)}
    self._made: dict[Any, tuple[Callable, float]] = {}
    self._meter = meter

  def __call__(self, state, assets, batch, *, stacked: bool):
    shape = (stacked, *((name, x.shape) for name, x in sorted(batch.items())))
    if shape not in self._made:
      began = time.perf_counter()
      # The state leaves as it came: XLA might place it otherwise, and not take it again.
      placed = jax.tree.map(lambda x: x.sharding, state), None
      step = jax.jit(self._steps[stacked], out_shardings=placed, **self._options)
      lowered = counted = step.lower(state, assets, batch)
      if stacked or self._loops:  # of a loop the body is counted once or not at all
        rows = {k: jax.ShapeDtypeStruct(x.shape[int(stacked) :], x.dtype) for k, x in batch.items()}
        counted = self._plain.lower(state, assets, rows)
      told, compiled = counted.cost_analysis() or {}, lowered.compile()
      self._made[shape] = compiled, float(told.get("flops", 0.0))
      self._meter.paused += time.perf_counter() - began
    compiled, flops = self._made[shape]
    self._meter.flops += flops * (len(next(iter(batch.values()))) if stacked else 1)
    return compiled(state, assets, batch)


def _saver(saved: checkpoint.Checkpoints | None, meter: Meter):
  def save(state: states.State, at: int, *, measured: bool) -> None:
    if saved is None:
      return
    # A copy: the next step donates the state's buffers while Orbax still reads them.
    copied = jax.tree.map(jnp.copy, state)
    metrics = meter.metrics if measured else {}
    saved.save(copied, {"step": at, "metrics": metrics, "meter": meter.kept()})

  return save


def _finished(cfg: Config, meter: Meter, at: int) -> bool:
  return at >= cfg.steps or bool(cfg.patience and meter.stale >= cfg.patience)


def _chosen(cfg: Config, meter: Meter) -> dict[str, float]:
  """The last value of the metric that chooses, where it was measured."""
  name = (cfg.best or "").removeprefix("-")
  return {name: meter.metrics[name]} if name in meter.metrics else {}


def _report(cfg: Config, meter: Meter, train: loader.Batches, state: states.State):
  skipped = {"skipped": float(state.skipped)} if cfg.skip_bad else {}
  return {**meter.report(train.mean_size), **skipped}


def _group(train: loader.Batches, at: int, cfg: Config) -> int:
  """How many steps from `at` go in one call: all `fuse` of them, if aligned and of one shape."""
  end = at + cfg.fuse
  if cfg.fuse == 1 or at % cfg.fuse or end > cfg.steps:
    return 1
  return cfg.fuse if len({train.bucket(i) for i in range(at, end)}) == 1 else 1


def _stack(batches: Sequence[loader.HostBatch]) -> loader.HostBatch:
  return {name: np.stack([b[name] for b in batches]) for name in batches[0]}


def _result(state, saved, meter: Meter, stopped_by: int | None) -> Result:
  for best in saved.ranked() if saved is not None and meter.best is not None else ():
    if best.step == int(state.step):
      break
    try:
      chosen = checkpoint.restore(best.path, state)
    except checkpoint.CheckpointError as error:
      _logger.warning("%s Falling back to the next best checkpoint.", error)
      continue
    return Result(state, states.answering(chosen), best.meta["metrics"], stopped_by, meter.seconds)
  return Result(state, states.answering(state), meter.metrics, stopped_by, meter.seconds)


class _Profile:
  """A trace of the groups of steps from one step to another."""

  def __init__(self, between: tuple[int, int] | None, workdir):
    self._between = None if workdir is None else between
    self._folder, self._running = workdir, False

  def reached(self, at: int, size: int) -> None:
    """Before the steps from `at` on."""
    if self._between is None:
      return
    first, last = self._between
    if self._running and at > last:
      self.stop()
    if not self._running and at <= first < at + size:
      jax.profiler.start_trace(os.fspath(pathlib.Path(self._folder) / "profile"))
      self._running = True

  def stop(self) -> None:
    if self._running:
      jax.profiler.stop_trace()
      self._running = False


def _check_best(cfg: Config, suites: Sequence[evaluate.Suite]) -> None:
  """Before any work, what can be told of `best` without a measurement."""
  if not cfg.best:
    return
  name = cfg.best.removeprefix("-")
  if not suites:
    raise ValueError(
      f"best={cfg.best!r} chooses by an evaluation, and there is nothing to evaluate"
    )
  if not any(name.startswith(f"{suite.name}/" if suite.name else "") for suite in suites):
    told = ", ".join(f"{suite.name}/..." for suite in suites)
    raise ValueError(f"best={cfg.best!r} names no metric: there are {told}")


def _check_steps(trained: int, cfg: Config, workdir: str | os.PathLike) -> None:
  if trained > cfg.steps:
    raise checkpoint.CheckpointError(
      f"{workdir} was trained for {trained} steps already, and {cfg.steps} are asked for. Ask for "
      "at least as many, or take a new folder."
    )


# What changes neither the parameters nor the metrics, so may change under a run.
_FREE = ("log_every", "save_every", "keep_last", "profile", "max_loss", "steps")


def _fingerprint(cfg: Config) -> dict[str, Any]:
  kept = {k: v for k, v in dataclasses.asdict(cfg).items() if k not in _FREE}
  kept["skip_bad"] = False  # whichever it is: it changes nothing until a run would end
  # One value, or a group that is added would be no difference.
  kept["optimizer"]["group_rates"] = sorted(cfg.optimizer.group_rates.items()) or {}
  if cfg.optimizer.schedule in ("cosine", "linear"):
    kept["steps"] = cfg.steps  # the schedule ends there; a constant one may be prolonged
  return kept


def _shapes(params: Params) -> str:
  """A digest of the parameters' names, shapes and types."""
  leaves = jax.tree_util.tree_flatten_with_path(params)[0]
  text = ";".join(f"{meshes.path_name(p)}:{np.shape(x)}:{x.dtype}" for p, x in leaves)
  return hashlib.sha256(text.encode()).hexdigest()[:16]
