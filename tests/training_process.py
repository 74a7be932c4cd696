"""A training run in a process of its own, for tests that kill, starve or pair it.

    python training_process.py WORKDIR STEPS [ADDRESS PROCESS PROCESSES]

With TWO_STAGES in the environment half of the steps are a stage before, in WORKDIR/first.
Prints one JSON line: a digest of the final parameters, the metrics, and what a system writes of the
users that validate.
"""

import dataclasses
import hashlib
import json
import os
import sys

import jax


def main(workdir, steps, address=None, process=0, processes=1):
  if address:
    jax.distributed.initialize(address, int(processes), int(process))
  sys.path.insert(0, os.path.dirname(__file__))
  import numpy as np
  import toy

  from recjax.data import examples, loader, splits
  from recjax.train import evaluate, generated, loop, optim, stages
  from recjax.types import System

  split = splits.leave_one_out(toy.log())
  shard = (jax.process_index(), jax.process_count())
  system = toy.make(split.train.num_items)
  # Length buckets, micro-batches, fused steps and a running mean: what could break exactness.
  train = toy.batches(split.train, max_len=[4, 8], shard=shard)
  held_out = examples.next_events(split.train, split.valid)
  valid = loader.Batches(held_out, 16, max_len=8, shard=shard)
  cfg = loop.Config(
    steps=int(steps),
    optimizer=optim.Config(rate=1e-2, schedule="cosine", warmup=4),
    accumulate=2,
    fuse=2,
    ema=0.9,
    log_every=6,
    eval_every=12,
    save_every=4,
    best="valid/ndcg@10",
  )
  suites = [evaluate.Suite("valid", valid, evaluate.ranking_by_list(system))]
  if os.environ.get("TWO_STAGES"):
    half = dataclasses.replace(cfg, steps=cfg.steps // 2)
    first = stages.Stage("first", system, (), train, dataclasses.replace(half, best=None))
    second = stages.Stage("second", system, (), train, half, suites, ("first", {"": ""}))
    done = stages.run([first, second], workdir=workdir)
    result = done.get("second", done["first"])
  else:
    result = loop.fit(system, (), train, cfg, suites=suites, workdir=workdir)
  leaves = [np.asarray(x) for x in jax.tree.leaves(jax.device_get(result.state))]
  digest = hashlib.sha256(b"".join(x.tobytes() for x in leaves)).hexdigest()
  writer = System(generate=lambda params, assets, batch: batch["history"][:, -2:])
  said, wanted = generated.texts(
    {}, (), valid, system=writer, decode=lambda rows: [str(row.tolist()) for row in rows]
  )
  written = {"said": said, "wanted": wanted}
  told = {"digest": digest, "metrics": result.metrics, "stop": result.stopped_by}
  print(json.dumps({**told, **written}))


if __name__ == "__main__":
  main(*sys.argv[1:])
