"""k-means on device: k-means++ and k-means||, full and mini-batch Lloyd, balanced clusters.

Vectors lie in chunks [M, C, D], sharded over the devices by chunk, and a pass is one scan: the
distances [C, K] of one chunk are all that is ever held. The same data, key and devices give the
same bits. N vectors, M chunks of C, D width, K clusters.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from recjax.data.errors import DataError
from recjax.nn import quantize
from recjax.types import Array, Key

CHUNK = 8192
_SAMPLE = 64  # vectors a cluster that k-means++ looks at
_ROUNDS, _OVER = 5, 2  # of k-means||: passes, and candidates drawn in each, times K


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
  """N vectors on the devices of a mesh."""

  chunks: Array  # [M, C, D] float32, zeros beyond the last vector
  rows: int  # N
  mesh: Mesh


class Clusters(NamedTuple):
  centroids: Array  # [K, D]
  prices: Array  # [K], what `quantize.nearest` takes from the distances; zero unless balanced


class Pass(NamedTuple):
  """What one reading of the data finds."""

  counts: Array  # [K]
  sums: Array  # [K, D]
  codes: Array  # [M, C] int32
  gaps: Array  # [M, C] squared distance to the centroid taken; -1 where there is no vector


Seeding = Callable[[Data, int, Key], Array]  # (data, K, key) -> centroids [K, D]


def put(x: np.ndarray, mesh: Mesh | None = None) -> Data:
  """Vectors [N, D], finite, onto all devices or those of `mesh`."""
  x = np.asarray(x, np.float32)
  if x.ndim != 2 or not x.size:
    raise DataError(f"vectors [N, D] are needed, these have shape {x.shape}")
  finite = np.isfinite(x).all(1)
  if not finite.all():
    raise DataError(
      f"vector {np.argmin(finite)} is not finite ({(~finite).sum()} such vectors)",
      remedy="Look at the text or the encoder it came from.",
    )
  mesh = mesh or jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
  share = -(-len(x) // mesh.size)
  size = min(CHUNK, max(8, 1 << (share - 1).bit_length()))
  count = -(-len(x) // (size * mesh.size)) * mesh.size
  padded = np.zeros((count * size, x.shape[1]), np.float32)
  padded[: len(x)] = x
  return Data(jax.device_put(padded.reshape(count, size, -1), _sharding(mesh)), len(x), mesh)


def fit(
  data: Data,
  clusters: int,
  key: Key,
  *,
  seeding: Seeding | None = None,  # plus_plus
  iterations: int = 25,
  tolerance: float = 1e-4,  # of the mean squared distance: a pass that gains less is the last
  batch: int | None = None,  # vectors a pass, drawn at random; None: all of them
  balance: float = 0.0,  # softness of the Sinkhorn choice (0.01 .. 0.1); 0: not balanced
) -> Clusters:
  """Lloyd's iteration from a seeding; a cluster that empties moves to the farthest vector.

  In mini-batches that is the farthest of a batch: where nearly all vectors are the same, a batch
  holds few others, and clusters stay empty that full passes would use.

  Balanced, further passes choose at prices that give each cluster nearly as many vectors.
  """
  if clusters < 1 or iterations < 1:
    raise ValueError(f"clusters {clusters} and iterations {iterations} must be at least 1")
  if batch is not None and batch < clusters:
    raise ValueError(f"a batch of {batch} vectors cannot fill {clusters} clusters; raise `batch`")
  _check_distinct(data, clusters)
  seed_key, key = jax.random.split(key)
  centroids = (seeding or plus_plus)(data, clusters, seed_key)
  free = jnp.zeros(clusters)
  total, before = jnp.zeros(clusters), np.inf
  for i in range(iterations):
    part = data if batch is None else _draw(data, batch, jax.random.fold_in(key, i))
    found = read(part, Clusters(centroids, free))
    centroids, total, error = _moved(part.chunks, found, centroids, total, fresh=batch is None)
    if batch is None:  # a drawn batch's error says too little to stop by
      if before - float(error) <= tolerance * float(error):
        break
      before = float(error)
  if not balance:
    return Clusters(centroids, free)
  price = free
  for _ in range(5):
    price = _prices(data.chunks, data.rows, centroids, price, balance, mesh=data.mesh)
    found = read(data, Clusters(centroids, price))
    centroids, _, _ = _moved(data.chunks, found, centroids, free, fresh=True)
  price = _prices(data.chunks, data.rows, centroids, price, balance, mesh=data.mesh)
  return Clusters(centroids, price)


def read(data: Data, clusters: Clusters) -> Pass:
  """The cluster of each vector, and what each cluster holds."""
  return _read(data.chunks, data.rows, *clusters, mesh=data.mesh)


def codes(data: Data, found: Pass) -> np.ndarray:
  """[N] int32: a pass's clusters in the order of the vectors."""
  return np.asarray(found.codes).reshape(-1)[: data.rows]


def subtract(data: Data, centroids: Array, found: Pass) -> Data:
  """What is left of each vector when its centroid is taken off; `data` is used up."""
  chunks = _subtract(data.chunks, centroids, found.codes, found.gaps)
  return dataclasses.replace(data, chunks=chunks)


def mapped(data: Data, f: Callable[..., Array], *args) -> Data:
  """Data whose chunks are `f(chunk [C, D], *args)` [C, D']; `f` must be a named function."""
  return dataclasses.replace(data, chunks=_mapped(data.chunks, *args, f=f, mesh=data.mesh))


def vectors(data: Data) -> np.ndarray:
  """[N, D] back on the host."""
  return np.asarray(data.chunks).reshape(-1, data.chunks.shape[-1])[: data.rows]


def plus_plus(data: Data, clusters: int, key: Key) -> Array:
  """k-means++ (Arthur & Vassilvitskii, SODA 2007), on a sample of 64 vectors a cluster."""
  pick, key = jax.random.split(key)
  if data.rows > _SAMPLE * clusters:
    rows = jax.random.choice(pick, data.rows, (_SAMPLE * clusters,), replace=False)
  else:
    rows = jnp.arange(data.rows)
  x = _take(data.chunks, rows)
  return _spread(x, jnp.ones(len(x)), key, clusters=clusters)


def parallel(data: Data, clusters: int, key: Key) -> Array:
  """k-means|| (Bahmani et al., VLDB 2012): 5 passes over all vectors, 2K candidates drawn in each.

  Exactly 2K, not 2K on average, so that shapes are static.
  """
  many = min(_OVER * clusters, data.rows)
  keys = jax.random.split(key, _ROUNDS + 2)
  found = _take(data.chunks, jax.random.randint(keys[0], (1,), 0, data.rows))
  zeros = jnp.zeros(1)
  for i in range(_ROUNDS):
    gaps = read(data, Clusters(found, zeros)).gaps
    found = jnp.concatenate([found, _take(data.chunks, _farther(gaps, keys[i + 1], many))])
    zeros = jnp.zeros(len(found))
  weight = read(data, Clusters(found, zeros)).counts
  return _spread(found, weight, keys[-1], clusters=clusters)


def _sharding(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def _over(mesh: Mesh, f: Callable, out_specs):
  """f(chunks, first row, *rest) on each device's chunks; the rest is the same everywhere."""

  def local(chunks, *rest):
    first = jax.lax.axis_index(mesh.axis_names) * chunks.shape[0] * chunks.shape[1]
    return f(chunks, first, *rest)

  def run(chunks, *rest):
    specs = (PartitionSpec(mesh.axis_names), *(PartitionSpec() for _ in rest))
    shared = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=False)
    return shared(chunks, *rest)

  return run


@functools.partial(jax.jit, static_argnames="mesh")
def _read(chunks, rows, centroids, prices, *, mesh) -> Pass:
  size, count = chunks.shape[1], len(centroids)

  def local(chunks, first, rows, centroids, prices):
    square = jnp.square(centroids).sum(1)[None] - prices[None]

    def step(carry, chunk):
      counts, total, at = carry
      cost = square - 2 * quantize.product(chunk, centroids.T)  # [C, K]
      there = at + jnp.arange(size) < rows
      code = jnp.where(there, quantize.lowest(cost), count)  # no cluster for what is padding
      total += quantize.sums(chunk, code, count)
      counts += jnp.zeros(count).at[code].add(1.0, mode="drop")
      near = cost.min(1) + prices[jnp.minimum(code, count - 1)]
      gap = jnp.where(there, jnp.maximum(near + jnp.square(chunk).sum(1), 0), -1)
      return (counts, total, at + size), (code, gap)

    start = (jnp.zeros(count), jnp.zeros_like(centroids), first)
    (counts, total, _), (code, gap) = jax.lax.scan(step, start, chunks)
    return jax.lax.psum((counts, total), mesh.axis_names) + (code, gap)

  split, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
  return Pass(*_over(mesh, local, (whole, whole, split, split))(chunks, rows, centroids, prices))


@functools.partial(jax.jit, static_argnames="mesh")
def _prices(chunks, rows, centroids, price, softness, *, mesh, iterations: int = 30):
  """Sinkhorn over chunks: the prices that balance the clusters. See `quantize.prices`."""
  size = chunks.shape[1]

  def over(f, start):  # the sum of f(cost, there) over all chunks of all devices
    def local(chunks, first, rows, centroids, *args):
      def step(carry, chunk):
        total, at = carry
        cost = quantize.distances(chunk, centroids)
        new = f(cost, at + jnp.arange(size) < rows, *args)
        return (jax.tree.map(jnp.add, total, new), at + size), None

      total, _ = jax.lax.scan(step, (start, first), chunks)[0]
      return jax.lax.psum(total, mesh.axis_names)

    return _over(mesh, local, PartitionSpec())

  scale, count = over(quantize.spread, (jnp.float32(0), jnp.int32(0)))(chunks, rows, centroids)
  epsilon = softness * scale / count

  def load(price):
    soft = over(lambda c, w, p, e: quantize.shares(c, p, e, w).sum(0), jnp.zeros_like(price))
    return soft(chunks, rows, centroids, price, epsilon)

  return quantize.settle(load, price, epsilon, iterations)


@functools.partial(jax.jit, static_argnames="fresh")
def _moved(chunks, found: Pass, centroids, total, *, fresh: bool):
  """Centroids at the means, empty ones at the farthest vectors; counts so far; the mean gap.

  `fresh`: of this pass alone. Otherwise (mini-batch) a mean over all that was ever assigned.
  """
  total = found.counts if fresh else total + found.counts
  rate = jnp.maximum(total, 1)[:, None]
  centroids = centroids + (found.sums - found.counts[:, None] * centroids) / rate
  error = jnp.where(found.gaps >= 0, found.gaps, 0).sum() / found.counts.sum()
  empty = total == 0

  def refill(centroids):
    far = jax.lax.top_k(found.gaps.reshape(-1), len(centroids))[1]
    nth = jnp.maximum(jnp.cumsum(empty) - 1, 0)  # each empty one takes another vector
    return jnp.where(empty[:, None], _take(chunks, far[nth]), centroids)

  return jax.lax.cond(empty.any(), refill, lambda c: c, centroids), total, error


@functools.partial(jax.jit, static_argnames=("f", "mesh"))
def _mapped(chunks, *args, f, mesh):
  def local(chunks, _, *args):
    return jax.lax.map(lambda chunk: f(chunk, *args), chunks)

  return _over(mesh, local, PartitionSpec(mesh.axis_names))(chunks, *args)


@functools.partial(jax.jit, donate_argnums=0)
def _subtract(chunks, centroids, code, gap):
  left = chunks - centroids[jnp.minimum(code, len(centroids) - 1)]
  # A vector that is its centroid leaves nothing, not the rounding of the mean of equals.
  some = jnp.square(left).sum(-1) > 1e-12 * jnp.square(chunks).sum(-1)
  return jnp.where(((gap >= 0) & some)[..., None], left, 0)


@jax.jit
def _take(chunks, rows):
  """[len(rows), D] vectors by their number, the same on every device."""
  return chunks[rows // chunks.shape[1], rows % chunks.shape[1]]


@functools.partial(jax.jit, static_argnames="many")
def _farther(gaps, key, many: int):
  """`many` different vectors, drawn in proportion to their squared distance (Gumbel top-k)."""
  gaps = gaps.reshape(-1)
  drawn = jnp.log(jnp.maximum(gaps, 0)) + jax.random.gumbel(key, gaps.shape)
  best, rows = jax.lax.top_k(drawn, many)
  return jnp.where(jnp.isfinite(best), rows, 0)  # too few that are away from every centroid


@functools.partial(jax.jit, static_argnames="clusters")
def _spread(x, weight, key, *, clusters: int):
  """Weighted k-means++: each next centroid drawn in proportion to its squared distance."""
  square = jnp.square(x).sum(1)
  first = jax.random.categorical(key, jnp.log(weight))

  def step(i, carry):
    centroids, gap = carry
    last = centroids[i - 1]
    away = square - 2 * quantize.product(x, last) + jnp.square(last).sum()
    # A vector on a centroid is not drawn again for the rounding of its distance.
    away = jnp.where(away > 1e-6 * square, away, 0)
    gap = jnp.minimum(gap, away)
    drawn = jnp.log(weight * gap) + jax.random.gumbel(jax.random.fold_in(key, i), gap.shape)
    return centroids.at[i].set(x[jnp.argmax(drawn)]), gap

  start = jnp.zeros((clusters, x.shape[1])).at[0].set(x[first])
  return jax.lax.fori_loop(1, clusters, step, (start, jnp.full(len(x), jnp.inf)))[0]


@functools.partial(jax.jit, static_argnames="mesh")
def _hashes(chunks, *, mesh):
  """[M, C] uint32: equal vectors have equal hashes; whole-number arithmetic, so exact."""

  def local(chunks, _):
    odd = jax.random.bits(jax.random.key(0), chunks.shape[-1:]) | 1

    def one(chunk):
      whole = jnp.where(chunk == 0, 0.0, chunk)  # -0.0 is 0.0
      bits = jax.lax.bitcast_convert_type(whole, jnp.uint32)
      bits ^= bits >> 16  # or signs, the highest bits, would cancel out in pairs
      return (bits * odd[None]).sum(1, dtype=jnp.uint32)

    return jax.lax.map(one, chunks)

  return _over(mesh, local, PartitionSpec(mesh.axis_names))(chunks)


def _check_distinct(data: Data, clusters: int) -> None:
  distinct = len(
    np.unique(np.asarray(_hashes(data.chunks, mesh=data.mesh)).reshape(-1)[: data.rows])
  )
  if distinct < clusters:
    raise DataError(
      f"{clusters} codes need as many different vectors; there are {distinct} among {data.rows}",
      remedy="Use fewer codes or levels, or check that the vectors are not constant.",
    )


def _draw(data: Data, batch: int, key: Key) -> Data:
  """A random batch, with repeats, spread over the same devices."""
  size = -(-batch // data.mesh.size)
  rows = jax.random.randint(key, (data.mesh.size, size), 0, data.rows)
  return Data(jax.device_put(_take(data.chunks, rows), _sharding(data.mesh)), rows.size, data.mesh)
