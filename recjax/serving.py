"""A recommendation as one StableHLO artefact, which runs without recjax wherever XLA does.

  recommend.stablehlo   `jax.export`: f(params, assets, batch) -> {"ids", "scores"}
  params.safetensors    its first argument as it lies there: names -> arrays
  assets.safetensors    its second: the catalogue, so a changed one (of the same shapes) needs no
                        new artefact
  items.jsonl           line n, from 1, is item n: its raw id and title
  users.jsonl           line n, from 0, is user n's raw id; 0 is nobody
  README.txt            the same for who gets the folder, with the exact shapes

Only dicts and arrays cross the border. The batch size is symbolic; the length of a history, the
places for denied items and k are fixed, and so is the trie's capacity.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import export as jax_export

from recjax import bundle
from recjax.types import Assets, Params, System

ARTEFACT = "recommend.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def exported(
  system: System,
  params: Params,
  assets: Assets,
  *,
  k: int,
  max_len: int,
  deny: int,
  platforms: Sequence[str] = PLATFORMS,
) -> jax_export.Exported:
  """The whole of `system.recommend` for any batch size, lowered for each platform."""
  empty = not assets  # a system without assets is given none: `()`

  def recommend(params, assets, batch):
    params, assets = bundle.nested(params), () if empty else bundle.nested(assets)

    # One row at a time for the system, which may ask how many there are; vmap brings the others.
    def one(row):
      ranked = system.recommend(params, assets, {n: x[None] for n, x in row.items()}, k=k)
      return {"ids": ranked.ids[0], "scores": ranked.scores[0]}

    return jax.vmap(one)(batch)

  (rows,) = jax_export.symbolic_shape("b")
  shapes = {"user": (rows,), "history": (rows, max_len), "deny": (rows, deny)}
  batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}
  arrays = [
    {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in bundle.flatten(tree).items()}
    for tree in (params, assets)
  ]
  try:
    return jax_export.export(jax.jit(recommend), platforms=tuple(platforms))(*arrays, batch)
  except jax.errors.InconclusiveDimensionOperation as error:
    raise ValueError(
      "this system has to know how many rows it is asked, so no artefact of it serves any number"
    ) from error


def describe(
  about: str, *, k: int, max_len: int, deny: int, deny_seen: bool, platforms: Sequence[str]
) -> str:
  """What README.txt says."""
  seen = (
    "The measured protocol leaves out what the history holds: write those items into `deny`."
    if deny_seen
    else "The measured protocol leaves nothing out; `deny` all 0 denies nothing."
  )
  columns = (
    ("user", "int32 [b]", "the user's number, 0: one who was not in training"),
    ("history", f"int32 [b, {max_len}]", "items, the newest last; 0 fills the left"),
    ("deny", f"int32 [b, {deny}]", "items not to recommend, 0 where there are fewer"),
    ("ids", f"int32 [b, {k}]", "items, best first; 0 where nothing is left"),
    ("scores", f"float32 [b, {k}]", "-inf where nothing is left"),
  )
  rows = [f"  {name:8} {shape:18} {said}" for name, shape, said in columns]
  into, out = "\n".join(rows[:3]), "\n".join(rows[3:])
  return f"""{about}, exported for {", ".join(platforms)}.

In, for any number b of rows:
{into}
Out:
{out}

Item n is line n of items.jsonl, counted from 1; user n is line n of users.jsonl, from 0.
{seen}
The arrays of assets.safetensors may be replaced by others of the same shapes.

import jax, numpy as np, safetensors.numpy

load = safetensors.numpy.load_file
f = jax.export.deserialize(open("{ARTEFACT}", "rb").read())
answer = f.call(
  load("params.safetensors"),
  load("assets.safetensors"),
  {{"user": user, "history": history, "deny": deny}},
)
"""


def write(
  folder: pathlib.Path, made: jax_export.Exported, params: Params, assets: Assets, readme: str
) -> None:
  """The artefact, its arguments, and what it says of itself."""
  (folder / ARTEFACT).write_bytes(made.serialize())
  (folder / "params.safetensors").write_bytes(bundle.dump(params))
  (folder / "assets.safetensors").write_bytes(bundle.dump(assets))
  (folder / "README.txt").write_text(readme, encoding="utf-8")
