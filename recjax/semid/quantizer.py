"""The quantiser: item vectors -> codes and back, one value whichever way it was learned.

x -> (x - shift) / scale -> encoder -> residual quantisation, and the same backwards. An RQ-VAE
has layers, RQ-KMeans has none, optimised product quantisation has one, a rotation, and codebooks
that are zero outside their own block of dimensions: quantising what is left of a block that no
earlier code touched is quantising the block.

Vectors are coded in chunks of one fixed, padded shape, each on one device, so that an item's codes
depend neither on the caller's batches nor on the number of devices. Ties go to the lowest code.

N vectors, D width, L levels, K codes of a level, W width of the codes.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from recjax.data.errors import DataError
from recjax.nn import quantize
from recjax.types import Array

FAR = 1e15  # deviations from the mean beyond which squares leave float32
CHUNK = 1024  # rows; part of what codes are, so never a setting
Layer = Mapping[str, Array]  # kernel [in, out], bias [out]


@dataclasses.dataclass(frozen=True, eq=False)
class Quantizer:
  """Everything that decides an item's codes."""

  codebooks: tuple[Array, ...]  # L x [K, W]
  shift: Array  # [D]
  scale: Array  # []
  encoder: tuple[Layer, ...] = ()
  decoder: tuple[Layer, ...] = ()
  prices: tuple[Array, ...] = ()  # L x [K], taken from the distances; () where not balanced

  def __post_init__(self):
    if not self.codebooks:
      raise ValueError("a quantiser needs at least one codebook")
    widths = {c.shape[1] for c in self.codebooks}
    wanted = self.encoder[-1]["kernel"].shape[1] if self.encoder else len(self.shift)
    if widths != {wanted}:
      raise ValueError(f"codebooks are {sorted(widths)} wide, what they code is {wanted}")

  @property
  def sizes(self) -> tuple[int, ...]:
    """Codes of each level."""
    return tuple(len(c) for c in self.codebooks)

  @property
  def dim(self) -> int:
    return len(self.shift)

  def __repr__(self) -> str:
    return f"Quantizer({self.dim} -> {' x '.join(map(str, self.sizes))})"

  def encode(self, vectors: np.ndarray, *, devices: Sequence[Any] | None = None) -> np.ndarray:
    """[N, L] int32 codes."""
    vectors = self._checked(vectors)
    return self._run(_encode, vectors, devices, np.zeros((0, len(self.sizes)), np.int32))

  def decode(self, codes: np.ndarray, *, devices: Sequence[Any] | None = None) -> np.ndarray:
    """[N, D] float32: the vectors that the codes [N, L] stand for."""
    codes = np.asarray(codes, np.int32)
    if codes.ndim != 2 or codes.shape[1] != len(self.sizes):
      raise DataError(f"codes [N, {len(self.sizes)}] are needed, these have shape {codes.shape}")
    outside = (codes < 0) | (codes >= np.array(self.sizes)[None])
    if outside.any():
      row, level = np.argwhere(outside)[0]
      raise DataError(
        f"row {row} has code {codes[row, level]} at level {level}, which has {self.sizes[level]}"
      )
    return self._run(_decode, codes, devices, np.zeros((0, self.dim), np.float32))

  def last_costs(self, vectors: np.ndarray) -> np.ndarray:
    """[N, K] squared distance less price to each code of the last level, the earlier ones taken."""
    vectors = self._checked(vectors)
    return self._run(_costs, vectors, None, np.zeros((0, self.sizes[-1]), np.float32))

  def arrays(self) -> dict[str, Any]:
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

  def _checked(self, vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != self.dim:
      raise DataError(
        f"vectors [N, {self.dim}] are needed, these have shape {vectors.shape}",
        remedy="Use the vectors of the encoder that the quantiser was learned on.",
      )
    finite = np.isfinite(vectors).all(1)
    if not finite.all():
      raise DataError(f"vector {np.argmin(finite)} is not finite ({(~finite).sum()} such vectors)")
    widest = np.maximum(vectors.max(1), -vectors.min(1))  # of each, without a copy of all
    far = widest > FAR * self.scale + np.abs(self.shift).max()
    if far.any():
      raise DataError(
        f"vector {np.argmax(far)} is more than {FAR:g} deviations away ({far.sum()} such vectors)",
        remedy="Use the vectors of the encoder that the quantiser was learned on.",
      )
    return vectors

  def _run(self, f, rows: np.ndarray, devices, none: np.ndarray) -> np.ndarray:
    devices = tuple(jax.local_devices() if devices is None else devices)
    mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
    arrays = jax.device_put(self.arrays(), NamedSharding(mesh, PartitionSpec()))

    def out() -> Iterator[Array]:
      for begin in range(0, len(rows), CHUNK * len(devices)):
        part = rows[begin : begin + CHUNK * len(devices)]
        if len(part) < CHUNK * len(devices):
          part = np.pad(part, ((0, CHUNK * len(devices) - len(part)), (0, 0)))
        yield _chunks(f, mesh)(arrays, part)

    # A few in flight: the next is coded while this one is fetched.
    ahead, done = list(itertools.islice(parts := out(), 2)), [none]
    while ahead:
      done.append(np.asarray(ahead.pop(0)))
      ahead += itertools.islice(parts, 1)
    return np.concatenate(done)[: len(rows)]


@functools.lru_cache(maxsize=16)
def _chunks(f, mesh: Mesh):
  """f(arrays, [CHUNK, ...]) on every device, compiled for exactly that shape."""
  split = PartitionSpec("data")
  return jax.jit(
    jax.shard_map(f, mesh=mesh, in_specs=(PartitionSpec(), split), out_specs=split, check_vma=False)
  )


def mlp(layers: Sequence[Layer], x: Array, product=jnp.matmul) -> Array:
  """Dense layers with ReLU between them."""
  for i, layer in enumerate(layers):
    x = product(x, layer["kernel"]) + layer["bias"][None]
    if i + 1 < len(layers):
      x = jax.nn.relu(x)
  return x


def _residual(arrays, x: Array) -> quantize.Residual:
  x = (x - arrays["shift"][None]) / arrays["scale"]
  x = mlp(arrays["encoder"], x, quantize.product)
  prices = arrays["prices"] or (None,) * len(arrays["codebooks"])

  def choose(level, left, codebook):
    return quantize.nearest(left, codebook, prices[level])

  return quantize.residual(x, arrays["codebooks"], choose)


def _encode(arrays, x: Array) -> Array:
  return _residual(arrays, x).codes


def _costs(arrays, x: Array) -> Array:
  left = _residual(arrays, x).given[-1]
  cost = quantize.distances(left, arrays["codebooks"][-1]) + jnp.square(left).sum(1)[:, None]
  return cost - arrays["prices"][-1][None] if arrays["prices"] else cost


def _decode(arrays, codes: Array) -> Array:
  x = quantize.compose(arrays["codebooks"], codes)
  x = mlp(arrays["decoder"], x, quantize.product)
  return x * arrays["scale"] + arrays["shift"][None]


def dumps(quantizer: Quantizer) -> bytes:
  """The quantiser as one safetensors file."""
  leaves = jax.tree_util.tree_flatten_with_path(quantizer.arrays())[0]
  # safetensors writes the buffer as it lies, so a transposed view must be laid out anew.
  return safetensors.numpy.save({_name(p): np.array(x, np.float32, order="C") for p, x in leaves})


def loads(path: str | os.PathLike) -> Quantizer:
  """What `dumps` made, from its file."""
  remedy = "Build the semantic ids again, or copy the whole folder again."
  try:
    with safetensors.safe_open(pathlib.Path(path), framework="numpy") as file:
      found = {name: file.get_tensor(name) for name in file.keys()}
  except FileNotFoundError:
    raise DataError("no such file", path=path, remedy=remedy) from None
  except (safetensors.SafetensorError, OSError) as error:
    raise DataError(f"not a whole quantiser: {error}", path=path, remedy=remedy) from None
  try:
    levels, into, out = (
      len({n.split("/")[1] for n in found if n.startswith(kind)})
      for kind in ("codebooks/", "encoder/", "decoder/")
    )
    return Quantizer(
      codebooks=tuple(found[f"codebooks/{i}"] for i in range(levels)),
      shift=found["shift"],
      scale=found["scale"],
      encoder=tuple(_layer(found, "encoder", i) for i in range(into)),
      decoder=tuple(_layer(found, "decoder", i) for i in range(out)),
      prices=tuple(found[f"prices/{i}"] for i in range(levels if "prices/0" in found else 0)),
    )
  except KeyError as error:
    raise DataError(f"not a quantiser: {error} is not in it", path=path, remedy=remedy) from None
  except ValueError as error:
    raise DataError(f"not a quantiser: {error}", path=path, remedy=remedy) from None


def _layer(found: Mapping[str, np.ndarray], part: str, i: int) -> dict[str, np.ndarray]:
  return {name: found[f"{part}/{i}/{name}"] for name in ("kernel", "bias")}


def _name(path) -> str:
  return "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path)
