"""How good semantic ids are: code use, collisions, reconstruction, purity, neighbours; a figure.

Plain functions of codes [N, L], one row an item and none for PAD, so that ids that others
published are measured by the same ones.

N items, L levels, D width.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import BinaryIO

import matplotlib.backends.backend_agg
import matplotlib.figure
import numpy as np

from recjax.data.errors import DataError
from recjax.semid.quantizer import Quantizer


@dataclasses.dataclass(frozen=True)
class Report:
  """What `measure` found; None where it was not given what that takes."""

  items: int
  sizes: tuple[int, ...]
  used: tuple[int, ...]  # codes of each level that some item has
  perplexity: tuple[float, ...]  # of each level: exp of the entropy of its codes
  prefixes: tuple[int, ...]  # different prefixes of length 1 .. L
  collisions: float  # 1 - different ids / items, of the ids as they are
  collisions_before: float | None = None  # before the policy
  reconstruction: float | None = None  # mean squared error as a share of the vectors' variance
  purity: tuple[float, ...] | None = None  # by length of prefix: see `purity`
  neighbours: tuple[float, ...] | None = None  # by length of prefix: see `neighbours`

  def json(self) -> str:
    return json.dumps(dataclasses.asdict(self), indent=2)

  def table(self) -> str:
    """Markdown: a row a level, and below it what is of the whole."""
    head = ["level", "codes", "used", "perplexity", "prefixes", "purity", "neighbours"]
    columns = [
      [str(level) for level in range(1, len(self.sizes) + 1)],
      [str(size) for size in self.sizes],
      [str(used) for used in self.used],
      [f"{p:.1f}" for p in self.perplexity],
      [str(count) for count in self.prefixes],
      _shown(self.purity, len(self.sizes)),
      _shown(self.neighbours, len(self.sizes)),
    ]
    rows = [head, ["---"] * len(head), *zip(*columns, strict=True)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    whole = [f"{self.items} items", f"collisions {self.collisions:.4f}"]
    if self.collisions_before is not None:
      whole[-1] += f" ({self.collisions_before:.4f} before the policy)"
    if self.reconstruction is not None:
      whole.append(f"reconstruction error {self.reconstruction:.4f} of the variance")
    return "\n".join([*lines, "", ", ".join(whole)])


def measure(
  codes: np.ndarray,
  *,
  sizes: Sequence[int] | None = None,  # None: as many as the greatest code tells
  vectors: np.ndarray | None = None,  # [N, D] in the space that neighbours are of
  category: np.ndarray | None = None,  # [N] of each item; "" where unknown
  quantizer: Quantizer | None = None,  # of `vectors`
) -> Report:
  """The report of these codes; every row of all arguments is an item."""
  codes = np.asarray(codes)
  if codes.ndim != 2 or not codes.size or codes.min() < 0:
    raise DataError(f"codes [N, L] from 0 are needed, without PAD; these have shape {codes.shape}")
  for name, column in (("vectors", vectors), ("category", category)):
    if column is not None and len(column) != len(codes):
      raise DataError(f"{len(column)} {name} for {len(codes)} items; leave PAD out of both")
  if quantizer is not None and vectors is None:
    raise DataError("a quantiser is measured on `vectors`; give them too")
  before = quantizer.encode(vectors) if quantizer is not None else None
  return Report(
    items=len(codes),
    sizes=tuple(int(s) for s in (codes.max(0) + 1 if sizes is None else sizes)),
    used=tuple(len(np.unique(column)) for column in codes.T),
    perplexity=tuple(perplexity(column) for column in codes.T),
    prefixes=tuple(int(_numbers(codes[:, : n + 1]).max()) + 1 for n in range(codes.shape[1])),
    collisions=collisions(codes),
    collisions_before=None if before is None else collisions(before),
    reconstruction=None if before is None else reconstruction(vectors, quantizer.decode(before)),
    purity=None if category is None else purity(codes, category),
    neighbours=None if vectors is None else neighbours(codes, vectors),
  )


def perplexity(column: np.ndarray) -> float:
  """exp(entropy): how many codes there would be, were all used equally."""
  share = np.unique(column, return_counts=True)[1] / len(column)
  return float(np.exp(-(share * np.log(share)).sum()))


def collisions(codes: np.ndarray) -> float:
  """The share of items that have no id of their own: 1 - different ids / items."""
  return 1 - (int(_numbers(codes).max()) + 1) / len(codes)


def reconstruction(vectors: np.ndarray, rebuilt: np.ndarray) -> float:
  """Squared error over the squared distance to the mean: 1 is as bad as one code for all."""
  spread = np.square(vectors - vectors.mean(0)[None], dtype=np.float64).sum()
  return float(np.square(vectors - rebuilt, dtype=np.float64).sum() / max(spread, 1e-30))


def purity(codes: np.ndarray, category: np.ndarray) -> tuple[float, ...]:
  """The share of items in the commonest category of their prefix, for prefixes of 1 .. L codes.

  Items without a category ("") do not count.
  """
  known = np.asarray(category).astype(str) != ""
  if not known.any():
    raise DataError("no item has a category")
  _, kind = np.unique(np.asarray(category).astype(str)[known], return_inverse=True)
  found = []
  for length in range(1, codes.shape[1] + 1):
    prefix = _numbers(codes[known, :length])
    pair, count = np.unique(prefix * (kind.max() + 1) + kind, return_counts=True)
    best = np.zeros(prefix.max() + 1, np.int64)
    np.maximum.at(best, pair // (kind.max() + 1), count)
    found.append(float(best.sum() / len(prefix)))
  return tuple(found)


def neighbours(codes: np.ndarray, vectors: np.ndarray, *, sample: int = 2000) -> tuple[float, ...]:
  """The share of items whose nearest other item has the same first 1 .. L codes.

  Nearest by Euclidean distance among all; of evenly spaced items where there are more than
  `sample`. Of equally near ones (identical texts), the first.
  """
  if len(codes) < 2:
    raise DataError("neighbours need at least two items")
  rows = np.unique(np.linspace(0, len(codes) - 1, min(sample, len(codes))).astype(np.int64))
  mean = np.mean(vectors, 0, dtype=np.float64)
  if not np.isfinite(mean).all():
    raise DataError("neighbours need vectors that are finite")
  # Centred and of one scale: float32 would lose the distances beside a large mean.
  vectors = np.asarray(vectors) - mean.astype(np.result_type(vectors, np.float32))[None]
  vectors = (vectors / (np.abs(vectors).max() or 1)).astype(np.float32, copy=False)
  square = np.square(vectors).sum(1)
  nearest = np.empty(len(rows), np.int64)
  part = max(1, 2**25 // len(codes))  # rows at a time: 128 MiB of distances
  for begin in range(0, len(rows), part):
    some = rows[begin : begin + part]
    gap = square[None] - 2 * vectors[some] @ vectors.T
    gap[np.arange(len(some)), some] = np.inf
    nearest[begin : begin + part] = gap.argmin(1)
  same = np.logical_and.accumulate(codes[rows] == codes[nearest], axis=1)
  return tuple(float(share) for share in same.mean(0))


def figure(
  codes: np.ndarray,
  path: str | os.PathLike | BinaryIO,
  *,
  vectors: np.ndarray | None = None,
  title: str = "",
) -> None:
  """Draws code use, sizes of the prefix tree and, given vectors, a map coloured by first code."""
  drawn = matplotlib.figure.Figure(figsize=(15, 4.5), layout="constrained")
  matplotlib.backends.backend_agg.FigureCanvasAgg(drawn)
  use, tree, plane = drawn.subplots(1, 3)
  levels = codes.shape[1]
  for level in range(levels):
    count = np.sort(np.unique(codes[:, level], return_counts=True)[1])[::-1]
    use.plot(np.arange(1, len(count) + 1), count, label=f"level {level + 1}")
  use.set(xlabel="code, by use", ylabel="items", yscale="log", title="Code use")
  use.legend()
  counts = [int(_numbers(codes[:, : n + 1]).max()) + 1 for n in range(levels)]
  tree.bar([str(n + 1) for n in range(levels)], counts)
  tree.axhline(len(codes), color="black", linestyle=":", label=f"{len(codes)} items")
  tree.set(xlabel="length of prefix", ylabel="different prefixes", yscale="log")
  tree.set_title("Prefix tree")
  tree.legend()
  if vectors is None:
    plane.set_axis_off()
  else:
    place = _plane(vectors)
    # A palette of 20 tells neighbouring regions apart; 256 shades would not.
    plane.scatter(*place.T, c=codes[:, 0] % 20, cmap="tab20", s=3, linewidths=0, rasterized=True)
    plane.set(title="Vectors by first code", xticks=[], yticks=[])
    plane.set(xlabel="first principal direction", ylabel="second")
  drawn.suptitle(title)
  drawn.savefig(path, dpi=120)


def _plane(vectors: np.ndarray) -> np.ndarray:
  """[N, 2] the two directions of most variance."""
  x = np.asarray(vectors, np.float64) - np.mean(vectors, axis=0, dtype=np.float64)[None]
  directions = np.linalg.eigh(x.T @ x)[1][:, ::-1]
  place = x @ directions[:, :2]
  return np.pad(place, ((0, 0), (0, 2 - place.shape[1])))


def _numbers(codes: np.ndarray) -> np.ndarray:
  """[N] the number of each row among the distinct rows."""
  number = np.zeros(len(codes), np.int64)
  for column in codes.T:  # two columns at a time: faster than comparing whole rows
    pair = number * (int(column.max()) + 1) + column
    number = np.unique(pair, return_inverse=True)[1].reshape(-1)
  return number


def _shown(values: Sequence[float] | None, count: int) -> list[str]:
  return ["-"] * count if values is None else [f"{v:.3f}" for v in values]
