"""An epoch of SASRec and its full-ranking evaluation against a plain PyTorch SASRec of our own.

Sequences of the shape of Amazon Beauty (22,363 users, 12,101 items, mostly short), or the real
ones where RECJAX_DATA names a folder with `amazon14_p5/Beauty`. Width 64, 2 layers, full softmax,
batches of 256, Adam; ours learns several histories to a row of 50, as many a step, and is asked in
widths of 8, 16 and 50. The plain peer pads to 50, as such code does; it too drops padded places
before the softmax (boolean indexing), its attention is `scaled_dot_product_attention`, its
optimiser fused; in evaluation it scores the last state alone and takes topk. Beside it is measured
what it does with these widths, and with bfloat16 as well: no such code is about, but it tells the
layers from the batches. Both sides have the same cores and the same settings of the allocator, and
run in turn in a process of its own, as the settings come before the backend.

  python -m experiments.bench --suite=sasrec
"""

from __future__ import annotations

from experiments import launch  # before all others

# isort: split
import contextlib
import functools
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from experiments.benchmarks import timing
from recjax.data import examples, interactions, loader, splits
from recjax.data.interactions import Interactions
from recjax.data.readers import sequences
from recjax.systems.sequential import sasrec
from recjax.train import evaluate, loop, mesh, optim, step

USERS, ITEMS, BATCH, MAX_LEN, WIDTHS = 22_363, 12_101, 256, 50, (8, 16, 50)
CFG = sasrec.Config(num_items=ITEMS + 1, max_len=MAX_LEN, dim=64, heads=2, ff=256, dropout=0.5)
CORES, ROUNDS = min(2, os.cpu_count() or 1), int(os.environ.get("ROUNDS", "3"))
FLOORS = {"sasrec/train": 2.0, "sasrec/evaluate": 2.5}

PLAIN = "torch float32"


def figures() -> Iterator[timing.Figure]:
  command = [sys.executable, "-m", "experiments.benchmarks.sasrec"]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
    for line in child.stdout:
      yield json.loads(line)
  if child.returncode:
    raise RuntimeError(f"{' '.join(command)} ended with status {child.returncode}")


def measure() -> Iterator[timing.Figure]:
  launch.prepare(devices=CORES)
  source, x = read()
  split = splits.leave_one_out(x)
  apart = examples.sequences(split.train, MAX_LEN, stride=MAX_LEN)
  found = apart, examples.next_events(split.train, split.valid)
  learned, asked = _batches(found, WIDTHS)
  rows = examples.rows(split.train, MAX_LEN)
  count = 2 * round(BATCH * len(rows) / len(apart) / 2)  # splits over two devices
  packed = loader.Batches(rows, count, max_len=MAX_LEN, seed=0, epochs=1)
  whole = _batches(found, (MAX_LEN,))
  for name, unit, batches, wide, ours, make in (
    ("sasrec/train", "sequences/s", learned, whole[0], our_epoch(packed), _torch_epoch),
    ("sasrec/evaluate", "users/s", asked, whole[1], our_evaluation(asked), _torch_evaluation),
  ):
    work = sum(float(batches[i]["weight"].sum()) for i in range(len(batches)))
    theirs = _peers(make, batches, wide)
    taken = timing.seconds(ours, *theirs.values(), rounds=ROUNDS)
    if not theirs:
      yield timing.rate(name, unit, work, taken[0], data=source)
      yield timing.absent(name, "torch")
    for peer, times in zip(theirs, taken[1:], strict=True):
      figure = timing.rate(name, unit, work, taken[0], peer, times, data=source)
      bound = {"floor": FLOORS[name]} if peer == PLAIN else {}
      yield figure | bound | {"peer_spread": timing.spread(times)}


def _batches(found, widths: Sequence[int]) -> tuple[loader.Batches, loader.Batches]:
  """An epoch of training, and all questions."""
  learned, asked = found
  return (
    loader.Batches(learned, BATCH, max_len=widths, seed=0, epochs=1),
    loader.Batches(asked, BATCH, max_len=widths),
  )


def read() -> tuple[str, Interactions]:
  """Where the sequences are from, and they."""
  real = pathlib.Path(os.environ.get("RECJAX_DATA", ""), "amazon14_p5", "Beauty")
  if os.environ.get("RECJAX_DATA") and real.is_dir():
    return "beauty", sequences.grouped(real / "sequences.txt.gz")
  rng = np.random.default_rng(0)
  # Beauty: at least 5 events, 8.9 in the mean, a long tail; the law of items is near to Zipf's.
  lengths = np.minimum(5 + rng.negative_binomial(0.6, 0.6 / (0.6 + 3.9), USERS), 204)
  user = np.repeat(np.arange(USERS), lengths)
  weight = 1 / (30 + np.arange(ITEMS)) ** 0.8
  item = rng.choice(ITEMS, len(user), p=weight / weight.sum())
  item[:ITEMS] = np.arange(ITEMS)  # every item is met
  place = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
  return "synthetic", interactions.from_columns(user, item, timestamp=place)


def our_epoch(batches: loader.Batches) -> Callable[[], object]:
  """A step for each batch, over a mesh of the host's devices, as the training loop makes it."""
  system = sasrec.make(CFG)
  devices = mesh.make_mesh()
  optimizer = optim.make(optim.Config(rate=1e-3, clip=None), 1, system)
  placed = [mesh.put_batch(batches[i], devices) for i in range(len(batches))]
  state = loop.fresh(system, optimizer, (), placed[0], loop.Config(steps=1), devices, ())
  one = jax.jit(step.make_step(system, optimizer), donate_argnums=0)
  kept = {"state": state}

  def run():
    for batch in placed:
      kept["state"], metrics = one(kept["state"], (), batch)
    assert np.isfinite(float(metrics["loss"][0]))

  return run


def our_evaluation(batches: loader.Batches) -> Callable[[], object]:
  """The evaluator's own loop, the loader's work in it."""
  system = sasrec.make(CFG)
  devices = mesh.make_mesh()
  params = mesh.put(system.init(jax.random.key(0), (), batches[0]), devices)
  suite = evaluate.Suite("valid", batches, evaluate.ranking_by_score(system, (5, 10)))

  def run():
    found = evaluate.evaluate(params, (), [suite], mesh=devices)
    assert 0 <= found["valid/ndcg@10"] < 1

  return run


def _peers(
  make: Callable, batches: loader.Batches, whole: loader.Batches
) -> dict[str, Callable[[], object]]:
  """The same in plain torch, and in our widths, also under bfloat16 autocast; none if absent."""
  try:
    import torch
  except ImportError:
    return {}
  torch.set_num_threads(CORES)
  half = functools.partial(torch.autocast, "cpu", torch.bfloat16)
  return {
    PLAIN: make(whole, contextlib.nullcontext),
    "torch float32, our widths": make(batches, contextlib.nullcontext),
    "torch bfloat16, our widths": make(batches, half),
  }


def _torch_model():
  """SASRec of the same sizes: parameters by name, and `states` of a batch of histories."""
  import torch
  from torch import nn
  from torch.nn import functional

  class Block(nn.Module):
    def __init__(self):
      super().__init__()
      self.norms = nn.ModuleList([nn.LayerNorm(CFG.dim) for _ in range(2)])
      self.project, self.out = nn.Linear(CFG.dim, 3 * CFG.dim), nn.Linear(CFG.dim, CFG.dim)
      self.wide, self.narrow = nn.Linear(CFG.dim, CFG.ff), nn.Linear(CFG.ff, CFG.dim)
      self.dropout = nn.Dropout(CFG.dropout)

    def forward(self, x, seen):
      heads = self.project(self.norms[0](x)).view(*x.shape[:2], 3, CFG.heads, -1)
      query, key, value = heads.permute(2, 0, 3, 1, 4)  # [B, H, T, D / H]
      y = functional.scaled_dot_product_attention(
        query, key, value, seen, CFG.dropout if self.training else 0.0
      )
      x = x + self.dropout(self.out(y.transpose(1, 2).flatten(2)))
      y = self.dropout(functional.gelu(self.wide(self.norms[1](x)), approximate="tanh"))
      return x + self.dropout(self.narrow(y))

  class Model(nn.Module):
    def __init__(self):
      super().__init__()
      self.items = nn.Embedding(CFG.num_items, CFG.dim)
      self.places = nn.Embedding(MAX_LEN, CFG.dim)
      for table in (self.items, self.places):
        nn.init.normal_(table.weight, std=0.02)
      self.blocks = nn.ModuleList([Block() for _ in range(CFG.layers)])
      self.norm, self.dropout = nn.LayerNorm(CFG.dim), nn.Dropout(CFG.dropout)

    def forward(self, history):
      """[B, T, D]"""
      length = history.shape[1]
      there = history != 0
      places = self.places.weight[:length].flip(0)
      x = self.items(history) * CFG.dim**0.5 + places
      x = self.dropout(x * there[..., None])
      past = torch.ones(length, length, dtype=torch.bool).tril()
      # A padded place sees itself, or its softmax were over nothing.
      own = torch.eye(length, dtype=torch.bool)
      seen = (past & there[:, None, :] | own)[:, None]  # [B, 1, T, T]
      for block in self.blocks:
        x = block(x, seen)
      return self.norm(x)

  return Model()


def _tensors(batches: loader.Batches):
  import torch

  return [
    {name: torch.from_numpy(x).long() for name, x in batches[i].items() if name != "user"}
    for i in range(len(batches))
  ]


def _torch_epoch(batches: loader.Batches, precision) -> Callable[[], object]:
  import torch
  from torch.nn import functional

  model, batches = _torch_model().train(), _tensors(batches)
  optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

  def run():
    for batch in batches:
      optimizer.zero_grad(set_to_none=True)
      with precision():
        where = (batch["next"] != 0) & (batch["weight"] > 0)[:, None]
        states = model(batch["history"])[where]  # [N, D], the places that count
        logits = states @ model.items.weight[1:].T
        loss = functional.cross_entropy(logits, batch["next"][where] - 1)
      loss.backward()
      optimizer.step()
    assert torch.isfinite(loss)

  return run


def _torch_evaluation(batches: loader.Batches, precision) -> Callable[[], object]:
  import torch

  model, batches = _torch_model().eval(), _tensors(batches)
  discounts = 1 / torch.log2(torch.arange(2, 12))

  @torch.inference_mode()
  def run():
    recall = ndcg = 0.0
    for batch in batches:
      with precision():
        scores = model(batch["history"])[:, -1] @ model.items.weight.T  # [B, I]
      scores[:, 0] = -torch.inf
      hits = scores.topk(10).indices == batch["target"][:, None]
      hits = hits * batch["weight"][:, None]
      for k in (5, 10):
        recall += hits[:, :k].sum().item()
        ndcg += (hits[:, :k] * discounts[:k]).sum().item()
    assert ndcg <= recall

  return run


if __name__ == "__main__":
  for measured in measure():
    print(timing.line(measured), flush=True)
