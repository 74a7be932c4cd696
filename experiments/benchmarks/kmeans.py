"""RQ-KMeans, 3 levels of 256 clusters: on 1,000,000 x 384 vectors, and against scikit-learn.

The whole is timed once, on planted clusters with noise, seeding and standardising included; the
peer is one level on a part that both can repeat: the same start, the same number of passes.
RECJAX_BENCH_ITEMS sets another number of vectors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import timing
from recjax.semid import kmeans, rqkmeans

ITEMS = int(os.environ.get("RECJAX_BENCH_ITEMS", 1_000_000))
DIM, CLUSTERS, PASSES, PART = 384, 256, 5, 65_536


def figures() -> Iterator[timing.Figure]:
  yield from _level()
  x = planted(ITEMS)
  sizes = (CLUSTERS,) * 3
  (times,) = timing.seconds(
    lambda: rqkmeans.residual(x, sizes, jax.random.key(0)), rounds=1, warmup=0
  )
  yield timing.cost("kmeans/rq-3x256", "s", times[0], most=300 * ITEMS / 1_000_000, items=ITEMS)


def _level() -> Iterator[timing.Figure]:
  x = planted(PART)
  start = x[:: PART // CLUSTERS][:CLUSTERS].copy()
  data, key = kmeans.put(x), jax.random.key(0)

  def ours():
    found = kmeans.fit(
      data, CLUSTERS, key, seeding=lambda *_: jnp.asarray(start), iterations=PASSES, tolerance=-1
    )
    jax.block_until_ready(found.centroids)

  try:
    import sklearn.cluster
  except ImportError:
    yield timing.absent("kmeans/lloyd", "scikit-learn")
    return
  peer = sklearn.cluster.KMeans(CLUSTERS, init=start, n_init=1, max_iter=PASSES, tol=0)
  a, b = timing.seconds(ours, lambda: peer.fit(x), rounds=3)
  yield timing.rate("kmeans/lloyd", "vectors/s", PART * PASSES, a, "scikit-learn KMeans", b)


def planted(count: int) -> np.ndarray:
  """[count, DIM] around centres of two levels: work for every level of the quantiser."""
  rng = np.random.default_rng(0)
  coarse, fine = rng.normal(size=(512, DIM)), 0.5 * rng.normal(size=(512, DIM))
  x = np.empty((count, DIM), np.float32)
  for begin in range(0, count, PART):  # by parts: the noise would be a second copy
    rows = x[begin : begin + PART]
    rows[:] = rng.standard_normal(rows.shape, np.float32) * 0.5
    rows += coarse[rng.integers(512, size=len(rows))].astype(np.float32)
    rows += fine[rng.integers(512, size=len(rows))].astype(np.float32)
  return x
