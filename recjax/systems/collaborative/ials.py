"""iALS (Hu, Koren & Volinsky, ICDM 2008), https://doi.org/10.1109/ICDM.2008.22; regularised as by
Rendle et al. (RecSys 2022), https://arxiv.org/abs/2110.14037.

Every user-item pair counts: what a user met should score 1, all else 0 with a small weight. With
one side fixed, each row of the other is a least-squares problem of its own, solved exactly; the
pairs that did not meet enter through one D x D Gram matrix, so a sweep costs what the events cost.
All of it is done in the basis of that matrix's eigenvectors, where it is a diagonal: a row that met
fewer than D is then a system of as many equations as it met, for (S + Y'Y)^-1 Y' = S^-1 Y' (1 + Y
S^-1 Y')^-1.

  sum over met (1 - x.y)^2 + unobserved * sum over the others (x.y)^2
    + penalty * sum over rows (count + unobserved * rows of the other side)^exponent |row|^2

An event counts once however often it is repeated (Hu et al. may weigh it by the count); Rendle et
al. let the small weight fall on met pairs too. A user without a row (PAD, or one of no training
event) is new, as everybody is in a batch without `user`: the vector is solved from `history`, and
is 0 where the batch has none.

B batch, D width, U users, I items (both with PAD), K results, T history, W met by the row of a
chunk that met most, R rows of a chunk.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from recjax.decode import topk
from recjax.systems.collaborative import neighbours
from recjax.types import PAD, System, known

_CHUNK = 2**22  # elements R x W x D that are gathered at once


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  dim: int = 64  # D
  unobserved: float = 0.1  # weight of a pair that did not meet; a met pair's is 1
  penalty: float = 0.002
  exponent: float = 1.0  # 0: every row alike, as Hu et al.; 1: in proportion to its pairs
  sweeps: int = 16  # over both sides
  init: float = 0.1  # standard deviation of an initial vector's length, about
  seed: int = 0


def make(cfg: Config) -> System:
  if not 0 < cfg.unobserved <= 1:
    raise ValueError(f"unobserved must lie in (0, 1], it is {cfg.unobserved}")
  if cfg.penalty <= 0:
    raise ValueError(f"penalty must be above 0, or rows may have no one solution: {cfg.penalty}")

  def solve(y, gram, met, rows):
    """Rows [R, D] that met `met` [R, W], of vectors y [R, W, D] (PAD's is 0 and adds nothing).

    y and what is found are in the basis where the other side's Gram matrix is the diagonal `gram`
    [D]; `rows` is how many the other side has.
    """
    count = (met != PAD).sum(1).astype(jnp.float32)
    ridge = cfg.penalty * (count + cfg.unobserved * rows) ** cfg.exponent
    scale = cfg.unobserved * gram[None] + ridge[:, None]  # [R, D]
    share = 1 - cfg.unobserved
    if y.shape[1] < cfg.dim:
      z = y / jnp.sqrt(scale)[:, None]
      matrix = share * z @ jnp.swapaxes(z, 1, 2)  # [R, W, W]
      one = jnp.ones(y.shape[:2])
      weights = _solved(matrix, one, one)
      solved = (jnp.swapaxes(y, 1, 2) @ weights[..., None])[..., 0] / scale
    else:
      solved = _solved(share * jnp.swapaxes(y, 1, 2) @ y, scale, y.sum(1))
    return jnp.where(count[:, None] > 0, solved, 0.0)  # met nothing: exactly 0

  @jax.jit
  def turned(table):
    """(table in the basis of its Gram matrix's eigenvectors, their values [D], the basis [D, D])"""
    gram, basis = jnp.linalg.eigh(table.T @ table)
    return table @ basis, jnp.maximum(gram, 0), basis

  @functools.partial(jax.jit, donate_argnums=0)  # or each chunk would copy the table
  def update(own, other, gram, ids, met, rows):
    return own.at[ids].set(solve(other[met], gram, met, rows), mode="drop")

  def fit(assets, interactions):
    """Both sides in turn, the users last, so that a user's vector is what its history solves to."""
    x = interactions
    if not len(x):
      raise ValueError("there are no interactions to fit")
    met = neighbours.counts(x, cfg.num_items)
    sides = {"items": _chunks(met.T.tocsr(), cfg.dim), "users": _chunks(met, cfg.dim)}
    scale = cfg.init / cfg.dim**0.5
    users = scale * jax.random.normal(jax.random.key(cfg.seed), (x.num_users, cfg.dim))
    someone = np.diff(met.indptr)[:, None] > 0  # a row that met nothing is 0 from the start
    params = {"users": jnp.where(someone, users, 0), "items": jnp.zeros((cfg.num_items, cfg.dim))}
    for _ in range(cfg.sweeps):
      for own, other in (("items", "users"), ("users", "items")):
        table, gram, basis = turned(params[other])
        found = params[own]  # each of its rows that met something is set
        for ids, rows in sides[own]:
          found = update(found, table, gram, ids, rows, len(table) - 1)
        params[own] = found @ basis.T
    return {**params, "gram": gram, "basis": basis}  # of the items

  def folded(params, batch):
    met = _once(batch["history"])
    y = params["items"][met] @ params["basis"]
    return solve(y, params["gram"], met, cfg.num_items - 1) @ params["basis"].T

  def embed(params, assets, batch):
    if "user" not in batch:
      return folded(params, batch)
    own = params["users"][known(batch["user"], len(params["users"]))]  # PAD's is 0
    if "history" not in batch:
      return own
    fitted = (own != 0).any(1, keepdims=True)
    # Where all are fitted nothing is solved.
    return jax.lax.cond(
      fitted.all(), lambda: own, lambda: jnp.where(fitted, own, folded(params, batch))
    )

  def every(params, assets, batch):
    return embed(params, assets, batch) @ params["items"].T  # [B, I]

  def score(params, assets, batch):
    return topk.scores(every(params, assets, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, assets, batch), batch, k=k)

  return System(fit=fit, score=score, recommend=recommend, embed=embed)


def _solved(matrix, diagonal, right):
  """x [R, N] of (matrix + diagonal) x = right; matrix [R, N, N], diagonal [R, N]."""
  matrix += diagonal[..., None] * jnp.eye(matrix.shape[1])[None]
  factor = jax.scipy.linalg.cho_factor(matrix, lower=True)
  return jax.scipy.linalg.cho_solve(factor, right[..., None])[..., 0]


def _chunks(met: scipy.sparse.csr_array, dim: int):
  """(ids [R], met [R, W]) of rows that met a similar number; few shapes, so few compilations.

  W is a power of two or three quarters of one, and all chunks of one W have one R; ids beyond the
  table only fill.
  """
  count = np.diff(met.indptr)
  power = 2 ** np.ceil(np.log2(np.maximum(count, 1))).astype(int)
  width = np.where((power > 4) & (count <= power * 3 // 4), power * 3 // 4, power)
  chunks = []
  for w in np.unique(width[count > 0]):
    ids = np.flatnonzero((width == w) & (count > 0))
    size = min(max(_CHUNK // (max(w, dim) * dim), 1), len(ids))
    for begin in range(0, len(ids), size):
      rows = ids[begin : begin + size]
      at = met.indptr[rows][:, None] + np.arange(w)
      there = at < met.indptr[rows + 1][:, None]
      found = np.where(there, met.indices.take(at, mode="clip"), PAD)
      fill = size - len(rows)
      chunks.append((
        jnp.asarray(np.pad(rows, (0, fill), constant_values=met.shape[0]), jnp.int32),
        jnp.asarray(np.pad(found, ((0, fill), (0, 0))), jnp.int32),
      ))  # fmt: skip
  return chunks


def _once(history):
  """[B, T] with each item once, PAD in place of repeats; the order is lost."""
  ordered = jnp.sort(history, axis=1)
  first = jnp.pad(ordered[:, 1:] != ordered[:, :-1], ((0, 0), (1, 0)), constant_values=True)
  return jnp.where(first, ordered, PAD)
