"""Task vectors (Ilharco et al., ICLR 2023), https://arxiv.org/abs/2212.04089.

What training on a task changed, tuned - base, added to the parameters of another training. In
floating point (x + v) - v is not x; so nothing is ever subtracted from a sum: `Edited` keeps
the parameters as they were and the vectors beside them, and adds up when asked. What remains after
a vector was removed is, to the bit, what there was without it, in whatever order they came.

Vectors are float64, on the host, and a sum is rounded once to the parameters' type. So of float32
`base` edited by tuned - base is tuned to the bit, except where a weight shrank to less than 2^-27
of what it was: there within float64's rounding of the larger.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from recjax.train import mesh
from recjax.types import Params

Vector = Any  # a tree as that of the parameters, float64


def difference(tuned: Params, base: Params) -> Vector:
  """What became of `base` in training."""
  _check("tuned", tuned, base)
  return jax.tree.map(
    lambda t, b: np.asarray(t, np.float64) - np.asarray(b, np.float64), tuned, base
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Edited:
  """Parameters and the vectors that are added to them, each by its name."""

  base: Params
  # name -> (vector, scale)
  vectors: Mapping[str, tuple[Vector, float]] = dataclasses.field(default_factory=dict)

  def add(self, name: str, vector: Vector, scale: float = 1.0) -> Edited:
    """With a further vector, times `scale`; below 0 it makes forget."""
    if name in self.vectors:
      raise ValueError(f"a vector {name!r} is there already; remove it first, or name it otherwise")
    if not np.isfinite(scale):
      raise ValueError(f"the scale of {name!r} is {scale}")
    _check(f"the vector {name!r}", vector, self.base)
    return Edited(self.base, {**self.vectors, name: (vector, float(scale))})

  def remove(self, name: str) -> Edited:
    """Without this vector."""
    if name not in self.vectors:
      raise ValueError(f"there is no vector {name!r}; there is {', '.join(self.vectors) or 'none'}")
    return Edited(self.base, {n: v for n, v in self.vectors.items() if n != name})

  @property
  def params(self) -> Params:
    """The sum, in the types of the parameters."""
    if not self.vectors:
      return self.base
    names = sorted(self.vectors)  # by name: the order in which they came does not matter
    scales = [self.vectors[name][1] for name in names]

    def total(x, *changes):
      # The changes first: what is equal and opposite leaves nothing.
      change = sum(s * np.asarray(c, np.float64) for s, c in zip(scales, changes, strict=True))
      return (np.asarray(x, np.float64) + change).astype(np.asarray(x).dtype)

    return jax.tree.map(total, self.base, *(self.vectors[name][0] for name in names))


def _check(name: str, tree: Any, base: Params) -> None:
  """One error that lists all that does not fit."""
  ours, theirs = (
    {mesh.path_name(p): np.shape(x) for p, x in jax.tree_util.tree_flatten_with_path(t)[0]}
    for t in (tree, base)
  )
  faults = [f"{n} is only in one of them" for n in sorted(set(ours) ^ set(theirs))]
  faults += [
    f"{n} has shape {ours[n]}, that of the base {theirs[n]}"
    for n in ours
    if n in theirs and ours[n] != theirs[n]
  ]
  if faults:
    raise ValueError(f"{name} is not of the same model as the base:\n  " + "\n  ".join(faults))
