"""What a system writes, measured: BLEU, ROUGE and exact match over all of a suite's texts.

These metrics read words, so they are counted on the host, beside `evaluate`, whose measures run on
the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from recjax.data import loader
from recjax.metrics import text
from recjax.train import mesh as meshes
from recjax.types import Assets, Params, System

Decode = Callable[[np.ndarray], Sequence[str]]  # rows of tokens -> their texts


def texts(
  params: Params,
  assets: Assets,
  asked: loader.Batches,
  *,
  system: System,
  decode: Decode,
  wanted: Sequence[str] | None = None,  # whole texts in the batches' order; `target` may be cut
  mesh: Mesh | None = None,  # where the parameters lie, by default
) -> tuple[list[str], list[str]]:
  """(what `generate` writes, what was `wanted`) for every example, in the batches' order.

  By default `target` [B, T] says what was wanted.
  """
  if system.generate is None:
    raise ValueError("the system writes no text: it has no `generate`")
  mesh = mesh or meshes.mesh_of(params) or meshes.make_mesh()
  meshes.check_share(asked, mesh)

  def answered(params, assets, batch):
    question = {name: x for name, x in batch.items() if name != "target"}
    kept = {name: batch[name] for name in ("weight", "target") if name in batch}
    return kept | {"said": system.generate(params, assets, question)}

  # Every process reads all of the answers, whichever devices gave them.
  answered = jax.jit(answered, out_shardings=meshes.replicated(mesh))
  said, written = [], []
  for batch in loader.load(asked):
    found = {
      name: np.asarray(x)
      for name, x in answered(params, assets, meshes.put_batch(batch, mesh)).items()
    }
    real = found["weight"] > 0
    said += decode(found["said"][real])
    if wanted is None:
      written += decode(found["target"][real])
  wanted = written if wanted is None else list(wanted)
  if len(said) != len(wanted):
    raise ValueError(f"{len(wanted)} texts are wanted of {len(said)} examples: give one for each")
  return said, wanted


def scores(said: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
  """BLEU-4 in per cent, ROUGE F1 and exact match in 0 .. 1, of words between white space."""
  hypotheses, references = ([t.split() for t in side] for side in (said, wanted))
  return {
    "bleu": text.bleu(hypotheses, references).finish(),
    "rouge1": float(text.rouge_n(hypotheses, references, 1).f1.mean()),
    "rouge2": float(text.rouge_n(hypotheses, references, 2).f1.mean()),
    "rougeL": float(text.rouge_l(hypotheses, references).f1.mean()),
    "exact_match": float(text.exact_match(hypotheses, references).mean()),
  }
