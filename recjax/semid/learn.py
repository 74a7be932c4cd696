"""Item vectors -> a quantiser, by any of the methods: what scripts and experiments share.

Unlike the rest of `semid` this stands above `recjax.train`, whose loop trains the RQ-VAE.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from recjax.data import examples, loader
from recjax.data.errors import DataError
from recjax.semid import artefact, report, rqkmeans, rqvae
from recjax.semid.quantizer import Quantizer
from recjax.train import loop, optim, signals

_APART = 1_000_003  # between the seeds of two tries, for seeds are often neighbours


@dataclasses.dataclass(frozen=True)
class Config:
  """How vectors become codes."""

  method: str = "rqvae"  # rqvae, rqkmeans, or opq (codes in parallel)
  sizes: tuple[int, ...] = (256, 256, 256)  # codes of each level; (): as many as `sizes_of` says
  seed: int = 0
  balance: float = 0.0  # softness of RQ-KMeans' balance; 0: none
  epochs: int = 300  # this and what follows are the RQ-VAE's
  batch_size: int = 1024
  rate: float = 1e-3  # falls to 0
  warmup: int = 0  # of the epochs, the first that the rate rises in; a high beta needs some
  beta: float = 0.25  # how hard latents are pulled to their codes; far more, and all take one code
  code_rate: float = 5.0  # of codebooks that follow the gradient, times the rate
  ema: float = 0.0  # decay of codebooks that are running means; 0: they follow the gradient
  sinkhorn: float = 0.0  # softness of the last level's balanced choice in training; 0: nearest
  restart: float = 0.05  # a code used less than this share of an even use starts anew; 0: none
  tries: int = 1  # so many are trained, each of a seed of its own: the fewest collisions win


def quantizer(
  cfg: Config, vectors: np.ndarray, *, workdir: str | os.PathLike | None = None
) -> Quantizer:
  """Learned from vectors [N, D], none for PAD; the training of an RQ-VAE is kept in `workdir`."""
  if np.ndim(vectors) != 2:
    raise DataError(f"vectors [N, D] are needed, these have shape {np.shape(vectors)}")
  vectors = np.asarray(vectors)
  if not len(vectors) or not np.isfinite(vectors).all():
    bad = (
      f"row {int(np.argmin(np.isfinite(vectors).all(1)))} is not" if len(vectors) else "none are"
    )
    raise DataError(f"vectors must be there, and finite: {bad}", remedy="Encode the texts again.")
  if not cfg.sizes:
    distinct = len({row.tobytes() for row in np.ascontiguousarray(vectors, np.float32)})
    if distinct < 2:
      raise DataError(
        f"all {len(vectors)} vectors are the same: no codes can tell these items apart",
        remedy="Describe the items by more, or leave semantic ids out.",
      )
    cfg = dataclasses.replace(cfg, sizes=sizes_of(distinct))
  key = jax.random.key(cfg.seed)
  methods: dict[str, Callable[[], Quantizer]] = {
    "rqvae": lambda: _best_rqvae(cfg, vectors, workdir),
    "rqkmeans": lambda: rqkmeans.residual(vectors, cfg.sizes, key, balance=cfg.balance),
    "opq": lambda: rqkmeans.product(vectors, cfg.sizes, key),
  }
  if cfg.method not in methods:
    raise ValueError(f"no method {cfg.method!r}; there is {', '.join(methods)}")
  return methods[cfg.method]()


def sizes_of(items: int) -> tuple[int, ...]:
  """Codes of each level for so many items that differ: three of 256 for 12,000, two of 32 for 500.

  Far fewer items than codes leave nothing to learn the later levels of.
  """
  if items < 3:
    return (2,)
  if items < 12:  # a level of more leaves nothing for the next
    return (2, 2)
  size = 2 ** math.ceil(math.log2(1.2 * max(items - 4, 4) ** 0.5))
  return (min(size, 256),) * (2 if items <= 4096 else 3)


def _best_rqvae(cfg: Config, vectors: np.ndarray, workdir) -> Quantizer:
  """Of the tries the one whose codes tell most items apart, the earlier of equals."""
  if cfg.tries < 1:
    raise ValueError(f"tries is {cfg.tries}; it takes 1 or more")
  if not 0 <= cfg.warmup <= cfg.epochs:
    raise ValueError(f"warmup is {cfg.warmup} epochs; it takes 0 to epochs, {cfg.epochs}")
  made = []
  for n in range(cfg.tries):
    own = dataclasses.replace(cfg, seed=cfg.seed + _APART * n)
    folder = None if workdir is None else pathlib.Path(workdir) / (f"try_{n}" if n else "")
    made.append(_rqvae(own, vectors, folder))
  return min(made, key=lambda q: report.collisions(q.encode(vectors))) if made[1:] else made[0]


def _rqvae(cfg: Config, vectors: np.ndarray, workdir) -> Quantizer:
  key = jax.random.key(cfg.seed)
  chosen = {name: getattr(cfg, name) for name in ("beta", "ema", "sinkhorn", "restart")}
  model = rqvae.Config(dim=vectors.shape[1], codes=cfg.sizes, **chosen)
  source = examples.Examples({"vector": vectors})
  batches = loader.Batches(source, cfg.batch_size, max_len=1, seed=cfg.seed, epochs=None)
  train = loop.Config(
    steps=batches.per_epoch * cfg.epochs,
    optimizer=optim.Config(
      rate=cfg.rate,
      schedule="linear",
      warmup=batches.per_epoch * cfg.warmup,
      group_rates={} if cfg.ema else {"codebooks": cfg.code_rate},
    ),
    seed=cfg.seed,
  )
  result = loop.fit(
    rqvae.make(model),
    (),
    batches,
    train,
    workdir=workdir,
    init_from=lambda params: rqvae.initialize(params, vectors, key),
    fingerprint={
      "vectors": artefact.content_hash(vectors),
      "model": dataclasses.asdict(model),
      "batch_size": cfg.batch_size,
    },
  )
  if result.stopped_by is not None:
    signals.leave(result.stopped_by, workdir)
  return rqvae.quantizer(result.params)
