"""Full-ranking evaluation: every user against every item, recall and NDCG at 5, 10 and 20.

Ours counts what beats the target while a block of scores is in the cache; the peer is the plain
torch loop, matmul, topk(20), hits. Each side gets its best of a few batch sizes, found first.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import timing
from recjax.metrics import additive, ranking
from recjax.types import PAD

USERS, ITEMS, DIM, SEEN = 22_000, 12_000, 64, 50
CUTOFFS = (5, 10, 20)
BLOCKS = (64, 128, 256)
PEER_BATCHES = (128, 256, 512, 1024, 2048)


def figures(rounds: int = 9) -> Iterator[timing.Figure]:
  rng = np.random.default_rng(0)
  users = rng.normal(size=(USERS, DIM)).astype(np.float32)
  items = rng.normal(size=(ITEMS, DIM)).astype(np.float32)
  target = rng.integers(1, ITEMS, USERS).astype(np.int32)
  # Lift the targets, so that there are hits to count.
  users += 0.25 * items[target]
  seen = rng.integers(0, ITEMS, (USERS, SEEN)).astype(np.int32)
  seen[seen == target[:, None]] = PAD
  for name, deny in (("full_ranking", None), ("full_ranking_unseen", seen)):
    yield _figure(f"metrics/{name}", users, items, target, deny, rounds)


def _figure(name, users, items, target, deny, rounds: int) -> timing.Figure:
  arrays = [None if a is None else jnp.asarray(a) for a in (users, items, target, deny)]
  block, ours = _best(_ours, BLOCKS, arrays)
  floor = functools.partial(_only_multiply, *arrays[:2], block)
  try:
    batch, theirs = _best(_torch, PEER_BATCHES, [users, items, target, deny])
  except ImportError:
    taken, floors = timing.seconds(ours, floor, rounds=rounds)
    figure = timing.rate(name, "users/s", USERS, taken) | timing.absent(name, "torch")
  else:
    _agree(ours(), theirs())
    taken, peer, floors = timing.seconds(ours, theirs, floor, rounds=rounds)
    figure = timing.rate(name, "users/s", USERS, taken, "torch matmul + topk(20)", peer)
    figure |= {"peer_batch": batch}
  gflop = 2 * USERS * ITEMS * DIM / 1e9
  return figure | {
    "floor": USERS / statistics.median(floors),  # our matmul alone, its rows' maxima kept
    "gflop_per_s": gflop / statistics.median(taken),
    "floor_gflop_per_s": gflop / statistics.median(floors),
    "block": block,
  }


def _best(make: Callable, sizes: Sequence[int], arrays) -> tuple[int, Callable[[], object]]:
  """The fastest batch size of three rounds, and the run with it."""
  runs = [make(*arrays, size) for size in sizes]
  taken = timing.seconds(*runs, rounds=3)
  fastest = min(range(len(sizes)), key=lambda i: min(taken[i]))
  return sizes[fastest], runs[fastest]


def _ours(users, items, target, deny, block: int) -> Callable[[], dict[str, float]]:
  @jax.jit
  def evaluate(users, items, target, deny):
    ranks = ranking.dot_ranks(users, items, target, deny=deny, block=block)
    named = {"recall": ranking.recall_at, "ndcg": ranking.ndcg_at}
    return {
      f"{name}@{k}": additive.mean(metric(ranks, k))
      for name, metric in named.items()
      for k in CUTOFFS
    }

  def run():
    statistics = jax.block_until_ready(evaluate(users, items, target, deny))
    return {name: float(s.finish()) for name, s in statistics.items()}

  return run


@functools.partial(jax.jit, static_argnums=2)
def _maxima(users, items, block: int):
  return jax.lax.map(lambda user: jnp.max(user @ items.T), users, batch_size=block)


def _only_multiply(users, items, block: int) -> None:
  jax.block_until_ready(_maxima(users, items, block))


def _torch(users, items, target, deny, batch: int) -> Callable[[], dict[str, float]]:
  import torch

  users, items = torch.from_numpy(users), torch.from_numpy(items)
  target = torch.from_numpy(target).long()
  deny = None if deny is None else torch.from_numpy(deny).long()
  depth = max(CUTOFFS)
  discounts = 1 / torch.log2(torch.arange(2, depth + 2))

  @torch.inference_mode()
  def run():
    sums = {f"{name}@{k}": 0.0 for name in ("recall", "ndcg") for k in CUTOFFS}
    for start in range(0, USERS, batch):
      rows = slice(start, start + batch)
      scores = users[rows] @ items.T
      scores[:, PAD] = -torch.inf
      if deny is not None:
        scores.scatter_(1, deny[rows], -torch.inf)
      hits = scores.topk(depth).indices == target[rows, None]
      for k in CUTOFFS:
        sums[f"recall@{k}"] += hits[:, :k].sum().item()
        sums[f"ndcg@{k}"] += (hits[:, :k] * discounts[:k]).sum().item()
    return {name: total / USERS for name, total in sums.items()}

  return run


def _agree(ours: dict[str, float], theirs: dict[str, float]) -> None:
  """Both sides must have done the same work; near-ties may fall either way."""
  for name, value in ours.items():
    if not (value > 0 and abs(value - theirs[name]) < 1e-3 * value):
      raise AssertionError(f"{name}: ours {value}, torch {theirs[name]}")
