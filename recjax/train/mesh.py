"""Devices: one mesh, rules on parameter paths, and batches that each process fills its share of.

Axes: `data` splits the batch; `fsdp` splits the batch too and shards the parameters; `model`
shards what the rules name (item tables by rows, so that their softmax is sharded by item;
attention and MLP matrices by heads and hidden units). XLA inserts the communication.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

BATCH = ("data", "fsdp")  # the axes that a batch's leading dimension is split over
Rules = Sequence[tuple[str, PartitionSpec]]  # a regular expression on the path -> its spec
_FSDP_MIN = 2**14  # elements; smaller parameters are copied, which costs less than gathering


def make_mesh(
  *, data: int | None = None, fsdp: int = 1, model: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
  """A mesh of all devices (or the given); `data` takes what fsdp and model leave."""
  devices = jax.devices() if devices is None else list(devices)
  rest = fsdp * model
  data = len(devices) // rest if data is None else data
  if data * rest != len(devices):
    raise ValueError(
      f"{len(devices)} devices do not form a mesh of data {data} x fsdp {fsdp} x model {model}"
    )
  return jax.make_mesh(
    (data, fsdp, model), (*BATCH, "model"), axis_types=(AxisType.Auto,) * 3, devices=devices
  )


def shardings(shapes: Any, mesh: Mesh, rules: Rules = ()) -> Any:
  """A NamedSharding for each leaf: the first rule whose pattern is found in its path, else FSDP.

  The optimiser's moments carry their parameter's path, so the same rules find them.
  """

  def place(path, leaf):
    name = path_name(path)
    for pattern, spec in rules:
      if re.search(pattern, name) and len(spec) <= len(leaf.shape):
        _check(name, leaf.shape, spec, mesh)
        return NamedSharding(mesh, spec)
    return NamedSharding(mesh, _fsdp(leaf.shape, mesh))

  return jax.tree_util.tree_map_with_path(place, shapes)


def mesh_of(tree: Any) -> Mesh | None:
  """The mesh that arrays made here lie on; None for arrays from elsewhere."""
  for leaf in jax.tree.leaves(tree):
    sharding = getattr(leaf, "sharding", None)
    if isinstance(sharding, NamedSharding) and set(BATCH) <= set(sharding.mesh.axis_names):
      return sharding.mesh
  return None


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, *, stacked: bool = False) -> NamedSharding:
  """Rows over the batch axes; `stacked` batches have a leading axis of steps."""
  return NamedSharding(mesh, PartitionSpec(None, BATCH) if stacked else PartitionSpec(BATCH))


def shard(mesh: Mesh) -> tuple[int, int]:
  """(index, count) of the share of each batch that this process reads, for `loader.Batches`.

  Processes that share a `model` axis read the same rows.
  """
  rows = mesh.devices.reshape(math.prod(mesh.shape[axis] for axis in BATCH), -1)
  owners = [{device.process_index for device in of} for of in rows]
  mine = [n for n, found in enumerate(owners) if jax.process_index() in found]
  index, rest = divmod(mine[0], len(mine))
  if rest or len(rows) % len(mine) or mine != list(range(mine[0], mine[0] + len(mine))):
    raise ValueError(
      f"process {jax.process_index()} holds parts {mine} of {len(rows)} of a batch, which is no"
      " even share: give the mesh the devices in the order of their processes"
    )
  return index, len(rows) // len(mine)


def check_share(batches: Any, mesh: Mesh) -> None:
  """Raises where processes would take batches for the same that differ, or the other way round."""
  if jax.process_count() > 1 and tuple(batches.shard) != shard(mesh):
    raise ValueError(
      f"the batches are share {batches.shard[0]} of {batches.shard[1]}, this process of the mesh"
      f" reads {shard(mesh)}: give loader.Batches `shard=mesh.shard(the_mesh)`"
    )


def put_batch(
  batch: Mapping[str, np.ndarray], mesh: Mesh, *, stacked: bool = False
) -> dict[str, jax.Array]:
  """This process's rows of the batch -> arrays over the mesh."""
  sharding = batch_sharding(mesh, stacked=stacked)
  if jax.process_count() == 1:
    shards = math.prod(mesh.shape[axis] for axis in BATCH)
    rows = {np.shape(column)[int(stacked)] for column in batch.values()}
    odd = [count for count in rows if count % shards]
    if odd:
      raise ValueError(f"a batch of {odd[0]} does not split over {shards} devices: take a multiple")
    return jax.device_put(dict(batch), sharding)
  return {
    name: jax.make_array_from_process_local_data(sharding, column) for name, column in batch.items()
  }


def put(tree: Any, mesh: Mesh, rules: Rules = ()) -> Any:
  """Arrays that every process holds whole (assets, loaded parameters) -> sharded by the rules."""
  placed = shardings(tree, mesh, rules)
  if jax.process_count() == 1:
    return jax.device_put(tree, placed)

  def place(x, sharding):
    if isinstance(x, jax.Array) and not x.is_fully_addressable:  # it is spread out already
      return jax.jit(lambda x: x, out_shardings=sharding)(x)
    return jax.make_array_from_callback(np.shape(x), sharding, lambda at: np.asarray(x)[at])

  return jax.tree.map(place, tree, placed)


def path_name(path: Sequence[Any]) -> str:
  """A leaf's path as text: `encoder/block_0/attention/query/kernel`."""
  return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def _fsdp(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
  """The longest dimension that the axis divides; small leaves stay whole."""
  ways = mesh.shape["fsdp"]
  fits = [d for d, n in enumerate(shape) if n % ways == 0]
  if ways == 1 or math.prod(shape) < _FSDP_MIN or not fits:
    return PartitionSpec()
  longest = max(fits, key=lambda d: shape[d])
  return PartitionSpec(*("fsdp" if d == longest else None for d in range(len(shape))))


def _check(name: str, shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh) -> None:
  for size, axes in zip(shape, spec, strict=False):
    axes = () if axes is None else (axes,) if isinstance(axes, str) else axes
    ways = math.prod(mesh.shape[a] for a in axes)
    if size % ways:
      raise ValueError(
        f"{name} of shape {shape} does not split {ways} ways over {axes}: {size} rows leave a"
        f" remainder. Pad the table to a multiple of {ways}, or use a mesh that divides it."
      )
