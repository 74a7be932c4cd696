"""LightGCN on Gowalla's graph: three layers forward and backward, and a training step.

The train part of the authors' lists where RECJAX_DATA names a folder with them, else a graph that
is drawn: users and items by popularity laws, as many nodes and edges. The peers are
`torch.sparse.mm` on a coalesced COO matrix with torch's own gradient, as the authors' code has it,
and torch's CSR product with our trick, the symmetric matrix once more as the gradient: the fastest
that torch offers here.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from experiments.benchmarks import timing
from recjax.data.interactions import Interactions, with_pad
from recjax.data.readers import edges as readers
from recjax.nn import graph
from recjax.systems.collaborative import lightgcn
from recjax.train import loop, mesh, optim, process, step

USERS, ITEMS, EDGES, DIM, LAYERS, BATCH = 29_858, 40_981, 810_128, 64, 3, 2048
FLOOR = 1.0  # of the propagation, whichever the peer: no slower


def figures() -> Iterator[timing.Figure]:
  source, events = read()
  made = graph.bipartite(events.user, events.item, events.num_users, events.num_items)
  nodes = events.num_users + events.num_items
  x, out = np.random.default_rng(1).normal(size=(2, nodes, DIM)).astype(np.float32)

  @jax.jit
  def both(x, out):
    y, back = jax.vjp(lambda x: graph.layers_mean(made, x, LAYERS), x)
    return y, back(out)[0]

  mine = jnp.asarray(x), jnp.asarray(out)

  def ours():
    return jax.block_until_ready(both(*mine))

  work, told = 2 * LAYERS * len(made["source"]), {"data": source}
  name, unit, bound = "lightgcn/propagation", "edges/s", {"floor": FLOOR, **told}
  try:
    import torch
  except ImportError:
    yield timing.absent(name, "torch")
    (a,) = timing.seconds(ours)
    yield timing.rate(name, unit, work, a, **told)
  else:
    coo, csr = _torch(torch, made, x, out)
    for peer in (coo, csr):
      for got, wanted in zip(ours(), peer(), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-4)
    a, b, c = timing.seconds(ours, coo, csr)
    yield timing.rate(name, unit, work, a, "torch.sparse.mm (coo)", b, **bound)
    yield timing.rate(name, unit, work, a, "torch csr, symmetric", c, **bound)
  (a,) = timing.seconds(_step(made, events), warmup=2)
  epoch_s = len(events) / BATCH * np.median(a)
  yield timing.rate("lightgcn/step", "examples/s", BATCH, a, epoch_s=epoch_s, **told)


def read() -> tuple[str, Interactions]:
  """Where the events are from, and they."""
  real = pathlib.Path(os.environ.get("RECJAX_DATA", ""), "lightgcn", "gowalla.train.txt.gz")
  if os.environ.get("RECJAX_DATA") and real.is_file():
    return "gowalla", readers.lists(real)
  users, items = (with_pad(np.arange(1, n)) for n in (USERS, ITEMS))
  user, item = (x.astype(np.int32) for x in edges())
  return "synthetic", Interactions(user, item, users, items)


def edges() -> tuple[np.ndarray, np.ndarray]:
  """EDGES distinct pairs (users and items from 1), both sides by a power law."""
  rng = np.random.default_rng(0)
  found = np.zeros(0, np.int64)
  while len(found) < EDGES:
    sides = (1 + (n - 1) * rng.random(2 * EDGES) ** 3 for n in (USERS, ITEMS))
    user, item = (side.astype(np.int64) for side in sides)
    found = np.unique(np.append(found, user * ITEMS + item))
  user, item = np.divmod(rng.choice(found, EDGES, replace=False), ITEMS)
  # Ids say nothing of popularity, as in the real data.
  return (1 + rng.permutation(n - 1)[rows - 1] for n, rows in ((USERS, user), (ITEMS, item)))


def _torch(torch, made, x, out):
  nodes = len(x)
  parts = (np.asarray(made[n]) for n in ("weight", "source", "start"))
  matrix = scipy.sparse.csr_matrix(tuple(parts), (nodes, nodes))
  at = matrix.tocoo()
  places = torch.from_numpy(np.stack([at.row, at.col]).astype(np.int64))
  coo = torch.sparse_coo_tensor(places, torch.from_numpy(at.data), matrix.shape).coalesce()
  csr = torch.sparse_csr_tensor(
    *(torch.from_numpy(part.copy()) for part in (matrix.indptr, matrix.indices, matrix.data)),
    matrix.shape,
  )

  class Symmetric(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
      return csr @ x

    @staticmethod
    def backward(ctx, grad):
      return csr @ grad

  x, out = torch.from_numpy(x).requires_grad_(), torch.from_numpy(out)

  def run(product):
    def both():
      total = layer = x
      for _ in range(LAYERS):
        layer = product(layer)
        total = total + layer
      y = total / (LAYERS + 1)
      (grad,) = torch.autograd.grad(y, x, out)
      return y.detach().numpy(), grad.numpy()

    return both

  return run(lambda x: torch.sparse.mm(coo, x)), run(Symmetric.apply)


def _step(made, events: Interactions):
  """A whole update, Adam included, as training makes it."""
  cfg = lightgcn.Config(events.num_users, events.num_items, dim=DIM, layers=LAYERS)
  system, grid = lightgcn.make(cfg), mesh.make_mesh()
  train = loop.Config(steps=1, optimizer=optim.Config(rate=1e-3, clip=None))
  optimizer = optim.make(train.optimizer, 1, system)
  rows = np.random.default_rng(2).choice(len(events), BATCH, replace=False)
  columns = {"user": events.user[rows], "target": events.item[rows]}
  columns["weight"] = np.ones(BATCH, np.float32)
  assets, batch = mesh.put({"graph": made}, grid), mesh.put_batch(columns, grid)
  held = [loop.fresh(system, optimizer, assets, batch, train, grid, ())]
  options = {"donate_argnums": 0, "compiler_options": dict(process.train_options())}
  one = jax.jit(step.make_step(system, optimizer), **options)

  def run():
    held[0], metrics = one(held[0], assets, batch)
    jax.block_until_ready((held[0], metrics))

  return run
