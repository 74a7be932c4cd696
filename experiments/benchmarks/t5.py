"""A training step of TIGER's T5 (Rajput et al., 2023) against `transformers` under torch.

Width 128, 4 + 4 layers, 6 heads of 64, 1024 hidden units, 1030 tokens; sources of 81, targets of
4, 256 examples, dropout 0.1, AdamW. Both sides have the same cores and the same settings of the
allocator, and run in turn in a process of its own, as the settings come before the backend. The
peer's attention is `eager`, which was faster here than its default, and torch.compile slower
(seconds of one core a step: 5.0 eager, 5.3 sdpa, 7.7 compiled; in bfloat16 2.5, 2.9, 5.0).

  python -m experiments.bench --suite=t5
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator

import jax
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments.benchmarks import timing
from recjax.nn import t5
from recjax.text import objectives
from recjax.train import process

CFG = t5.Config(
  vocab=1030, dim=128, heads=6, head_dim=64, ff=1024, layers=4, decoder_layers=4, dropout=0.1
)
BATCH, SOURCE, TARGET, RATE = 256, 81, 4, 1e-3
CORES, ROUNDS = min(2, os.cpu_count() or 1), int(os.environ.get("ROUNDS", "7"))
# What is wanted, by ours and theirs: of the launcher's settings, and in bfloat16.
FLOORS = {
  ("t5/train", "transformers float32"): 1.6,
  ("t5/train bfloat16", "transformers float32"): 2.2,
  ("t5/train bfloat16", "transformers bfloat16"): 1.5,
}


def figures() -> Iterator[timing.Figure]:
  for first in (
    "from experiments import launch",
    "",
  ):  # without: the allocator as the system has it
    script = f"{first}\nfrom experiments.benchmarks import t5\nt5.main(plain={not first})"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
      for line in child.stdout:
        yield json.loads(line)
    if child.returncode:
      raise RuntimeError(f"{script!r} ended with status {child.returncode}")


def measure(plain: bool) -> Iterator[timing.Figure]:
  """With the launcher's settings against both precisions of the peer; or with none of them."""
  if plain:
    runs = {"t5/train plain": ours(CFG, 1, {})}
  else:
    process.host_devices(CORES)
    half = dataclasses.replace(CFG, dtype="bfloat16")
    runs = {
      "t5/train": ours(CFG, CORES, process.train_options()),
      "t5/train bfloat16": ours(half, CORES, {}),
      "t5/train plain xla": ours(CFG, CORES, {}),
      "t5/train one device": ours(CFG, 1, {}),
    }
  theirs = _peers()
  times = timing.seconds(*runs.values(), *theirs.values(), rounds=ROUNDS, warmup=3)
  taken = dict(zip([*runs, *theirs], times, strict=True))
  peak = matmul_peak()
  for name in runs:
    more = {"gflops": flops() / statistics.median(taken[name]) / 1e9, "peak_gflops": peak}
    if not theirs:
      yield timing.rate(name, "examples/s", BATCH, taken[name], **more)
      yield timing.absent(name, "torch transformers")
    for peer in theirs:
      bound = {"floor": FLOORS[name, peer]} if (name, peer) in FLOORS else {}
      figure = timing.rate(name, "examples/s", BATCH, taken[name], peer, taken[peer], **more)
      yield figure | bound | {"peer_spread": timing.spread(taken[peer])}


def data() -> tuple[np.ndarray, np.ndarray]:
  """Sources [B, S], half of them with padding, and targets [B, T]."""
  rng = np.random.default_rng(0)
  source = rng.integers(2, CFG.vocab, (BATCH, SOURCE)).astype(np.int32)
  source[::2, -20:] = 0
  return source, rng.integers(2, CFG.vocab, (BATCH, TARGET)).astype(np.int32)


def flops() -> float:
  """Of the matrix products of a step as T5 is written down; ours saves some of the cross ones."""
  dim, inner, ff = CFG.dim, CFG.heads * CFG.head_dim, CFG.ff
  encoder = SOURCE * (4 * dim * inner + 2 * dim * ff) + 2 * SOURCE**2 * inner
  cross = 2 * dim * inner * (SOURCE + TARGET) + 2 * TARGET * SOURCE * inner
  decoder = TARGET * (4 * dim * inner + 2 * dim * ff) + 2 * TARGET**2 * inner + cross
  each = CFG.layers * (encoder + decoder) + TARGET * dim * CFG.vocab
  return 3 * 2 * BATCH * each  # forward and twice backward, a multiplication and an addition


def ours(cfg: t5.Config, devices: int, options: dict[str, str]) -> Callable[[], object]:
  """A training step on `devices` devices of the host, each with its share of the batch."""
  mesh = jax.make_mesh(
    (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
  )
  split, whole = PartitionSpec("data"), PartitionSpec()
  optimizer = optax.adamw(RATE)

  def share(params, batch, key):
    def loss(params):
      out = objectives.text_to_text(params, cfg, batch, key)
      return out.sum, out.weight

    return jax.lax.psum(jax.value_and_grad(loss, has_aux=True)(params), "data")

  gradients = jax.shard_map(
    share, mesh=mesh, in_specs=(whole, split, whole), out_specs=whole, check_vma=False
  )

  def step(state, batch, nth):
    params, moments = state
    (total, weight), grads = gradients(params, batch, jax.random.fold_in(jax.random.key(1), nth))
    grads = jax.tree.map(lambda g: g / weight, grads)
    updates, moments = optimizer.update(grads, moments, params)
    return (optax.apply_updates(params, updates), moments), total / weight

  params = jax.device_put(t5.init(jax.random.key(0), cfg), NamedSharding(mesh, whole))
  batch = dict(zip(("source", "target"), data(), strict=True))
  batch = jax.device_put(batch, NamedSharding(mesh, split))
  step = jax.jit(step, donate_argnums=0, compiler_options=dict(options))
  kept = {"state": (params, optimizer.init(params)), "nth": 0}

  def run():
    kept["state"], loss = step(kept["state"], batch, kept["nth"])
    kept["nth"] += 1
    assert np.isfinite(float(loss))

  return run


def _peers() -> dict[str, Callable[[], object]]:
  """The same step by `transformers`, in float32 and under bfloat16 autocast; none if absent."""
  try:
    import torch
    import transformers
  except ImportError:
    return {}
  torch.set_num_threads(CORES)
  config = transformers.T5Config(
    vocab_size=CFG.vocab,
    d_model=CFG.dim,
    d_kv=CFG.head_dim,
    d_ff=CFG.ff,
    num_heads=CFG.heads,
    num_layers=CFG.layers,
    num_decoder_layers=CFG.decoder_layers,
    dropout_rate=CFG.dropout,
    decoder_start_token_id=0,
    use_cache=False,
    attn_implementation="eager",
  )
  source, target = (torch.tensor(x, dtype=torch.long) for x in data())
  mask = (source != 0).long()

  def make(precision):
    model = transformers.T5ForConditionalGeneration(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)

    def run():
      optimizer.zero_grad(set_to_none=True)
      with precision():
        loss = model(input_ids=source, attention_mask=mask, labels=target).loss
      loss.backward()
      optimizer.step()
      assert torch.isfinite(loss)

    return run

  return {
    "transformers float32": make(contextlib.nullcontext),
    "transformers bfloat16": make(lambda: torch.autocast("cpu", torch.bfloat16)),
  }


def matmul_peak(size: int = 2048) -> float:
  """GFLOP/s of one large float32 product, the best of several."""
  a = jax.random.normal(jax.random.key(0), (size, size))
  product = jax.jit(lambda a: a @ a)
  (times,) = timing.seconds(lambda: product(a).block_until_ready(), rounds=9, warmup=2)
  return 2 * size**3 / min(times) / 1e9


def main(plain: bool) -> None:
  for measured in measure(plain):
    print(timing.line(measured), flush=True)
