"""A training step of TIGER's T5 (Rajput et al., 2023) against `transformers` under torch.

Width 128, 4 + 4 layers, 6 heads of 64, 1024 hidden units, 1030 tokens; sources of 81, targets of 4,
256 examples, dropout 0.1, AdamW. Both sides run on the same number of cores and with the same
settings of the allocator, in turn, in a process of its own: the settings come before the backend.

  python -m experiments.benchmarks.t5 [--plain]    # --plain: the allocator as the system has it
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np

from experiments.benchmarks import timing

SIZES = {"vocab": 1030, "dim": 128, "heads": 6, "head_dim": 64, "ff": 1024, "layers": 4}
BATCH, SOURCE, TARGET, DROPOUT, RATE = 256, 81, 4, 0.1, 1e-3
CORES = min(2, os.cpu_count() or 1)
ROUNDS = int(os.environ.get("T5_ROUNDS", "7"))


def figures() -> Iterator[timing.Figure]:
  for flags in ([], ["--plain"]):
    command = [sys.executable, "-m", "experiments.benchmarks.t5", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
      for line in child.stdout:
        if line.startswith("{"):
          yield json.loads(line)
    if child.returncode:
      raise RuntimeError(f"{' '.join(command)} ended with status {child.returncode}")


def data() -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(0)
  source = rng.integers(2, SIZES["vocab"], (BATCH, SOURCE)).astype(np.int32)
  source[:, -20:] *= rng.random((BATCH, 1)) < 0.5  # half are shorter
  return source, rng.integers(2, SIZES["vocab"], (BATCH, TARGET)).astype(np.int32)


def flops() -> float:
  """Of the matrix products of one step, forward and backward, an example's dropout not counted."""
  dim, inner, ff = SIZES["dim"], SIZES["heads"] * SIZES["head_dim"], SIZES["ff"]
  encoder = SOURCE * (4 * dim * inner + 2 * dim * ff) + 2 * SOURCE * SOURCE * inner
  cross = 2 * SOURCE * dim * inner + TARGET * 2 * dim * inner + 2 * TARGET * SOURCE * inner
  decoder = TARGET * (4 * dim * inner + 2 * dim * ff) + 2 * TARGET * TARGET * inner + cross
  head = TARGET * dim * SIZES["vocab"]
  return 3 * 2 * BATCH * (SIZES["layers"] * (encoder + decoder) + head)


def ours(devices: int, options: dict[str, str]) -> Callable[[], object]:
  """One step of the same training, on `devices` devices of the host."""
  import jax
  import optax
  from jax.sharding import AxisType, NamedSharding, PartitionSpec

  from recjax.nn import t5
  from recjax.text import objectives

  cfg = t5.Config(**SIZES, decoder_layers=SIZES["layers"], dropout=DROPOUT)
  mesh = jax.make_mesh(
    (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
  )
  split, whole = PartitionSpec("data"), PartitionSpec()

  def local(params, batch, key):
    def loss(params):
      out = objectives.text_to_text(params, cfg, batch, key)
      return out.sum, out.weight

    (total, weight), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return jax.lax.psum((total, weight, grads), "data")

  gradients = jax.shard_map(
    local, mesh=mesh, in_specs=(whole, split, whole), out_specs=whole, check_vma=False
  )
  optimizer = optax.adamw(RATE)

  def step(params, state, batch, key):
    total, weight, grads = (gradients if devices > 1 else _one(local))(params, batch, key)
    updates, state = optimizer.update(jax.tree.map(lambda g: g / weight, grads), state, params)
    return optax.apply_updates(params, updates), state, total / weight

  params = jax.device_put(t5.init(jax.random.key(0), cfg), NamedSharding(mesh, whole))
  source, target = data()
  batch = jax.device_put({"source": source, "target": target}, NamedSharding(mesh, split))
  compiled = jax.jit(step, donate_argnums=(0, 1), compiler_options=options)
  keep = [params, optimizer.init(params), 0]

  def run():
    params, state, nth = keep
    params, state, loss = compiled(params, state, batch, jax.random.fold_in(jax.random.key(1), nth))
    keep[:] = params, state, nth + 1
    assert np.isfinite(float(loss))

  return run


def _one(local):
  import jax

  return functools.partial(jax.vmap, axis_name="data")(local) if False else local
