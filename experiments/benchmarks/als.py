"""iALS on events of Gowalla's shape against the library `implicit`, D = 64.

A fit of a few sweeps is timed whole, our tables of chunks included. The library solves either
exactly, as ours does, or by three steps of conjugate gradients, its default and its fastest; its
BLAS runs on one thread, as it asks for, and its own threads on all cores.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np
import scipy.sparse

from experiments.benchmarks import lightgcn, timing
from recjax.data.interactions import Interactions, with_pad
from recjax.systems.collaborative import ials

DIM, SWEEPS, UNOBSERVED, PENALTY = 64, 3, 0.1, 0.01


def figures() -> Iterator[timing.Figure]:
  user, item = lightgcn.edges()
  users, items = (with_pad(np.arange(1, n)) for n in (lightgcn.USERS, lightgcn.ITEMS))
  x = Interactions(user.astype(np.int32), item.astype(np.int32), users, items)
  cfg = ials.Config(
    x.num_items, DIM, unobserved=UNOBSERVED, penalty=PENALTY, exponent=0.0, sweeps=SWEEPS
  )
  system = ials.make(cfg)
  work = 2 * len(x) * SWEEPS  # each event enters a sweep from both sides

  def ours():
    jax.block_until_ready(system.fit((), x))

  try:
    import threadpoolctl
    from implicit import als
  except ImportError:
    yield timing.absent("als/fit", "implicit")
    (a,) = timing.seconds(ours, rounds=3)
    yield timing.rate("als/fit", "events/s", work, a)
    return
  # The same objective: divided by the small weight, a met pair's confidence is its inverse.
  confidence = np.full(len(x), 1 / UNOBSERVED, np.float32)
  met = scipy.sparse.csr_matrix((confidence, (user, item)), (x.num_users, x.num_items))

  def peer(use_cg):
    def run():
      model = als.AlternatingLeastSquares(
        DIM, PENALTY / UNOBSERVED, 1.0, use_cg=use_cg, use_gpu=False, iterations=SWEEPS
      )
      with threadpoolctl.threadpool_limits(1, "blas"):
        model.fit(met, show_progress=False)

    return run

  a, exact, gradients = timing.seconds(ours, peer(False), peer(True), rounds=3)
  yield timing.rate("als/fit", "events/s", work, a, "implicit, exact", exact)
  yield timing.rate("als/fit", "events/s", work, a, "implicit, 3 steps of CG", gradients)
