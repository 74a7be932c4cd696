"""LoRA (Hu et al., ICLR 2022), https://arxiv.org/abs/2106.09685: small changes of frozen kernels.

A kernel W [I, O] of a trained model stays as it is, and s A B is added to it, A [I, R], B [R, O]
and s = alpha / R; B begins as zero, so that the changed model begins as the base. What is learned
is a tree of A and B with the base's paths, made and used by pure functions:

  with lora.adapted(changes, cfg, key=key):   x W + s drop(x) A B wherever the model is applied:
    out = gpt.states(base, ...)                for training, W has no gradient and no second copy
  params = lora.merged(base, changes, cfg)     W + s A B: for answering, as fast as the base

Merging leaves the base as it is. To unmerge exactly is to go on with that base: A B taken off again
would give W up to rounding only, so there is no such function.

I what a kernel reads, O what it writes, R rank.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from recjax.nn.dropout import dropout
from recjax.types import FROZEN, Array, Key, Params


@dataclasses.dataclass(frozen=True)
class Config:
  """Queries and values, as in the paper; the sizes are those of TALLRec."""

  rank: int = 8  # R
  alpha: float = 16.0
  dropout: float = 0.05  # of what A reads, in `adapted` alone
  targets: tuple[str, ...] = ("*/query/kernel", "*/value/kernel")  # patterns of paths

  def __post_init__(self):
    if self.rank < 1:
      raise ValueError(f"a LoRA of rank {self.rank} changes nothing: give a rank of at least 1")

  @property
  def scale(self) -> float:
    return self.alpha / self.rank


def init(key: Key, params: Params, cfg: Config) -> Params:
  """A and B for each kernel of `params` (arrays, or their shapes) that a target names."""
  kernels = {
    path: leaf.shape
    for path, leaf in traverse_util.flatten_dict(params, sep="/").items()
    if path.endswith("/kernel") and len(leaf.shape) == 2
  }
  for target in cfg.targets:
    if not fnmatch.filter(kernels, target):
      some = ", ".join(sorted(kernels)[:12])
      raise ValueError(f"no kernel is named {target!r}; there are {some} ...")
  found = {}
  chosen = sorted({path for target in cfg.targets for path in fnmatch.filter(kernels, target)})
  for path, one in zip(chosen, jax.random.split(key, len(chosen)), strict=True):
    reads, writes = kernels[path]
    bound = reads**-0.5
    found[f"{path}/a"] = jax.random.uniform(one, (reads, cfg.rank), minval=-bound, maxval=bound)
    found[f"{path}/b"] = jnp.zeros((cfg.rank, writes))
  return traverse_util.unflatten_dict(found, sep="/")


def merged(params: Params, changes: Params, cfg: Config) -> Params:
  """The base with its kernels changed; it must be the one that `init` was given."""
  flat = traverse_util.flatten_dict(params, sep="/")
  pairs = _pairs(changes)
  _check(pairs, flat)
  for path, (a, b) in pairs.items():
    exact = jax.lax.Precision.HIGHEST
    product = jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32), precision=exact)
    flat[path] = (flat[path] + cfg.scale * product).astype(flat[path].dtype)
  return traverse_util.unflatten_dict(flat, sep="/")


@contextlib.contextmanager
def adapted(changes: Params, cfg: Config, *, key: Key | None = None) -> Iterator[None]:
  """Changes what every `nn.Dense` of a model gives that is applied within; dropout with a key.

  An error where a kernel that is to be changed was not used in this way: a model that reads its
  kernels by other means has to be merged.
  """
  pairs, met = _pairs(changes), set()
  places = {path: i for i, path in enumerate(sorted(pairs))}

  def change(call, args, kwargs, context):
    y, path = call(*args, **kwargs), "/".join((*context.module.path, "kernel"))
    if context.method_name != "__call__" or path not in pairs:
      return y
    met.add(path)
    a, b = (m.astype(y.dtype) for m in pairs[path])
    x = args[0].astype(y.dtype)
    if key is not None and cfg.dropout:
      x = dropout(x, cfg.dropout, jax.random.fold_in(key, places[path]))
    return y + (x @ a) @ b * cfg.scale

  with nn.intercept_methods(change):
    yield
  _check(pairs, met)


def trainable(params: Params) -> Params:
  """For `System.trainable`: of params {"base": ..., NAME: ...} the base is frozen, NAME learned."""

  def labels(name, tree):
    return jax.tree.map(lambda _: FROZEN if name == "base" else name, tree)

  return {name: labels(name, tree) for name, tree in params.items()}


def _pairs(changes: Params) -> dict[str, tuple[Array, Array]]:
  flat = traverse_util.flatten_dict(changes, sep="/")
  paths = {path.rpartition("/")[0] for path in flat}
  return {path: (flat[f"{path}/a"], flat[f"{path}/b"]) for path in paths}


def _check(pairs, used) -> None:
  unused = sorted(pairs.keys() - set(used))
  if unused:
    raise ValueError(
      f"LoRA changes {', '.join(unused)}, which this model does not have, or does not use as a "
      "Dense layer: is it the base that these changes were made for? else merge them"
    )
