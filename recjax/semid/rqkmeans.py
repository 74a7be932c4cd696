"""Quantisers without training: residual k-means, balanced or not, and product quantisation.

RQ-KMeans clusters the vectors, then what the centroids leave of them, level by level. Optimised
product quantisation (Ge et al., CVPR 2013) turns the vectors so that blocks of dimensions can be
clustered apart: its codes have no order, for systems that predict them in parallel.

N vectors, D width, L levels, K codes of a level.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from recjax.data.errors import DataError
from recjax.nn import quantize
from recjax.semid import kmeans
from recjax.semid.quantizer import Quantizer
from recjax.types import Array, Key

_SAMPLE = 65_536  # vectors that the rotation is learned on


def residual(
  vectors: np.ndarray,
  sizes: Sequence[int],
  key: Key,
  *,
  balance: float = 0.0,  # softness of the Sinkhorn choice; 0: not balanced
  seeding: kmeans.Seeding | None = None,
  iterations: int = 25,
  batch: int | None = None,  # vectors a pass; None: all
  mesh: Mesh | None = None,
) -> Quantizer:
  """RQ-KMeans with `sizes` codes a level; balanced, every code of a level has as many vectors."""
  shift, scale = standard(vectors)
  scale = np.float32(2.0 ** np.round(np.log2(scale)))  # exact, so codes do not move
  data = kmeans.put((vectors - shift[None]) / scale, mesh)
  codebooks, prices = [], []
  for level, size in enumerate(sizes):
    found = level_of(
      *(data, size, jax.random.fold_in(key, level), level),
      seeding=seeding,
      iterations=iterations,
      batch=batch,
      balance=balance,
    )
    codebooks.append(np.asarray(found.centroids))
    prices.append(np.asarray(found.prices))
    if level + 1 < len(sizes):
      data = kmeans.subtract(data, found.centroids, kmeans.read(data, found))
  return Quantizer(tuple(codebooks), shift, scale, prices=tuple(prices) if balance else ())


def level_of(data: kmeans.Data, size: int, key: Key, level: int, **options) -> kmeans.Clusters:
  """`kmeans.fit` of one level, whose errors name the level."""
  try:
    return kmeans.fit(data, size, key, **options)
  except DataError as error:
    raise DataError(f"level {level}: {error.problem}", remedy=error.remedy) from None


def product(
  vectors: np.ndarray,
  sizes: Sequence[int],
  key: Key,
  *,
  rounds: int = 8,  # turns of the rotation; 0: plain product quantisation
  iterations: int = 25,
  mesh: Mesh | None = None,
) -> Quantizer:
  """Product quantisation in len(sizes) blocks of dimensions, after an optimised rotation."""
  shift, scale = standard(vectors)
  scale = np.float32(2.0 ** np.round(np.log2(scale)))
  x = (np.asarray(vectors, np.float32) - shift[None]) / scale
  dim = x.shape[1]
  if not 0 < len(sizes) <= dim:
    raise DataError(f"{dim} dimensions do not make {len(sizes)} blocks")
  blocks = np.array_split(np.arange(dim), len(sizes))
  # Which block a direction lands in matters to a product and not to the distances: start by
  # dealing out the directions of most variance, one to each block in turn.
  rotation = np.eye(dim, dtype=np.float32)
  if rounds:
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    part = x[np.sort(rng.choice(len(x), min(len(x), _SAMPLE), replace=False))]
    rotation = _dealt(part, blocks)
    for turn in range(rounds):
      turned = part @ rotation
      books = _books(turned, blocks, sizes, jax.random.fold_in(key, turn), 4, mesh)
      near = kmeans.vectors(kmeans.mapped(kmeans.put(turned, mesh), _rebuilt, books))
      left, _, right = np.linalg.svd(part.T @ near)
      rotation = (left @ right).astype(np.float32)
  books = _books(x @ rotation, blocks, sizes, key, iterations, mesh)
  into = {"kernel": rotation, "bias": np.zeros(dim, np.float32)}
  out = {"kernel": np.ascontiguousarray(rotation.T), "bias": np.zeros(dim, np.float32)}
  return Quantizer(tuple(books), shift, scale, (into,), (out,))


def standard(vectors: np.ndarray) -> tuple[np.ndarray, np.float32]:
  """The mean [D] and one scale, the root mean square deviation, that make vectors standard.

  One scale for all dimensions: a scale for each would change which items are near each other.
  """
  x = np.asarray(vectors, np.float32)
  if x.ndim != 2 or not len(x):
    raise DataError(f"vectors [N, D] are needed, these have shape {x.shape}")
  finite = np.isfinite(x).all(1)
  if not finite.all():
    raise DataError(
      f"vector {np.argmin(finite)} is not finite ({(~finite).sum()} such vectors)",
      remedy="Look at the text or the encoder it came from.",
    )
  mean = x.mean(0, dtype=np.float64)
  # By parts, without a float64 copy of the vectors.
  parts = np.array_split(x, -(-len(x) // 65_536))
  total = sum(np.square(part - mean[None]).sum() for part in parts)
  scale = np.sqrt(total / x.size)
  if scale <= 1e-6 * np.abs(mean).max() or scale == 0:
    raise DataError(
      f"all {len(x)} vectors are the same",
      remedy="Check the texts they were made from: perhaps every one is empty.",
    )
  return mean.astype(np.float32), np.float32(scale)


def _books(x, blocks, sizes, key, iterations, mesh) -> list[np.ndarray]:
  """A codebook [K, D] a block, zero outside it."""
  books = []
  for nth, (block, size) in enumerate(zip(blocks, sizes, strict=True)):
    data = kmeans.put(x[:, block], mesh)
    found = level_of(data, size, jax.random.fold_in(key, nth), nth, iterations=iterations)
    books.append(np.zeros((size, x.shape[1]), np.float32))
    books[-1][:, block] = np.asarray(found.centroids)
  return books


def _rebuilt(x: Array, books: list[Array]) -> Array:
  return quantize.compose(books, quantize.residual(x, books).codes)


def _dealt(x: np.ndarray, blocks: list[np.ndarray]) -> np.ndarray:
  """[D, D] principal directions, strongest first, dealt out to the blocks in turn."""
  _, directions = np.linalg.eigh(x.T @ x)
  order = sorted(range(x.shape[1]), key=lambda d: _place(d, blocks))
  dealt = np.empty(x.shape[1], np.int64)
  dealt[order] = np.arange(x.shape[1])
  return np.ascontiguousarray(directions[:, ::-1][:, dealt]).astype(np.float32)


def _place(dimension: int, blocks: list[np.ndarray]) -> tuple[int, int]:
  """When a dimension is dealt: the first of every block, then the second of every block ..."""
  nth = next(i for i, block in enumerate(blocks) if dimension <= block[-1])
  return dimension - int(blocks[nth][0]), nth
