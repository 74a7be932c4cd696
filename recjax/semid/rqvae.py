"""RQ-VAE of TIGER (Rajput et al., NeurIPS 2023), https://arxiv.org/abs/2305.05065.

An MLP takes an item's vector to a small latent one, which is quantised residually, level by level,
and decoded back; the codes are the item's semantic id. Trained by the squared reconstruction error
and, for every level, |sg(r) - e|^2 + beta |r - sg(e)|^2 (r what the level was given, e its code).

The k-means initialisation (`initialize`) is a stage before training, on all items, not on the
first batch. Unlike the paper: a code that falls out of use is placed beside the one whose vectors
it serves worst, and the standardisation of the input is part of the parameters. As there, no
gradient passes from a level's loss to the codes of earlier levels. `rotation` and `sinkhorn` are
of later work (Fifty et al., ICLR 2025; LC-Rec, Zheng et al., ICDE 2024).

Codes that follow the gradient must keep up with latents that move: give them a rate of their own,
`optim.Config(schedule="linear", group_rates={"codebooks": 5.0})`.

B batch, D width of the vectors, W latent width, L levels, K codes of a level.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from recjax.data.errors import DataError
from recjax.nn import quantize
from recjax.semid import kmeans
from recjax.semid.quantizer import Quantizer, mlp
from recjax.semid.rqkmeans import level_of, standard
from recjax.types import FROZEN, Array, Key, Loss, Params, System


@dataclasses.dataclass(frozen=True)
class Config:
  dim: int = 768  # D
  hidden: tuple[int, ...] = (512, 256, 128)  # the decoder's are the same, backwards
  latent: int = 32  # W
  codes: tuple[int, ...] = (256, 256, 256)  # K of each of the L levels
  beta: float = 0.25
  ema: float = 0.0  # decay of codebooks that are running means; 0: they follow the gradient
  rotation: bool = False  # gradient by the rotation trick, not straight through
  sinkhorn: float = 0.0  # softness of the last level's balanced choice in training; 0: nearest
  restart: float = 0.05  # a code used less than this share of an even use starts anew; 0: none
  memory: float = 0.99  # decay of the running use of a code

  def __post_init__(self):
    if not self.codes or min(self.codes) < 2:
      raise ValueError(f"every level needs at least 2 codes, they are {self.codes}")
    for name, end in (("ema", 1), ("memory", 1), ("restart", 1), ("beta", np.inf)):
      if not 0 <= getattr(self, name) < end:
        raise ValueError(f"{name} must lie in [0, {end}), it is {getattr(self, name)}")
    if min(self.latent, self.dim, *self.hidden) < 1:
      raise ValueError(f"widths must be positive: {self.dim}, {self.hidden}, {self.latent}")


def make(cfg: Config) -> System:
  """Batches: `vector` [B, D] and `weight` [B].

  A loop of one's own calls `update` after each step, with the loss's `stats`, and leaves alone what
  `trainable` calls frozen.
  """
  estimate = quantize.rotate if cfg.rotation else quantize.straight_through

  def init(key, _, batch):
    if batch["vector"].shape[1] != cfg.dim:
      raise ValueError(f"vectors are {batch['vector'].shape[1]} wide, the config says {cfg.dim}")
    widths = (cfg.dim, *cfg.hidden, cfg.latent)
    into, out, codes = jax.random.split(key, 3)
    keys = jax.random.split(codes, len(cfg.codes))
    books = tuple(
      jax.random.normal(k, (size, cfg.latent)) / cfg.latent**0.5
      for k, size in zip(keys, cfg.codes, strict=True)
    )
    even = tuple(jnp.full(size, 1 / size) for size in cfg.codes)
    return {
      "shift": jnp.zeros(cfg.dim),
      "scale": jnp.ones(()),
      "encoder": _layers(into, widths),
      "decoder": _layers(out, widths[::-1]),
      "codebooks": books,
      "use": even,  # running share of the vectors that take each code
      "sums": _sums(books, even) if cfg.ema else (),  # running mean of what they hold
    }

  def loss(params, _, batch, key):
    where = batch["weight"] > 0
    shift, scale = (jax.lax.stop_gradient(params[name]) for name in ("shift", "scale"))
    x = (batch["vector"] - shift[None]) / scale  # [B, D]
    z = mlp(params["encoder"], x).astype(jnp.float32)  # [B, W]

    def choose(level, left, codebook):
      cost = quantize.distances(left, codebook)
      if cfg.sinkhorn and level == len(cfg.codes) - 1:
        cost -= quantize.prices(cost, epsilon=cfg.sinkhorn, where=where)[None]
      return quantize.lowest(cost)

    books = [c.astype(jnp.float32) for c in params["codebooks"]]
    codes, given, chosen = quantize.residual(z, books, choose)
    held = jax.lax.stop_gradient
    pull = sum(_square(held(r) - e) for r, e in zip(given, chosen, strict=True))  # codes
    commit = sum(_square(r - held(e)) for r, e in zip(given, chosen, strict=True))  # encoder
    rebuilt = mlp(params["decoder"], estimate(z, sum(chosen)))
    error = _square((rebuilt - x).astype(jnp.float32))
    each = error + cfg.beta * commit + (0.0 if cfg.ema else pull)
    count = where.sum().astype(jnp.float32)
    stats = tuple(
      _stats(held(r), held(e), jnp.where(where, codes[:, level], size), size, bool(cfg.ema))
      for level, (r, e, size) in enumerate(zip(given, chosen, cfg.codes, strict=True))
    )

    def total(value):
      return jnp.where(where, value, 0).sum()

    metrics = {"reconstruction": (total(error), count), "quantization": (total(commit), count)}
    return Loss(total(each), count, metrics, stats)

  def update(params, _, stats, key):
    books, use, sums = [], [], []
    for level, seen in enumerate(stats):
      book, level_use = params["codebooks"][level], params["use"][level]
      share = seen["count"] / jnp.maximum(seen["count"].sum(), 1)
      counted = seen["count"].sum() > 0
      decay = jnp.where(counted, cfg.ema or cfg.memory, 1.0)
      level_use = decay * level_use + (1 - decay) * share
      if cfg.ema:
        mean = seen["sum"] / jnp.maximum(seen["count"].sum(), 1)
        held = decay * params["sums"][level] + (1 - decay) * mean
        known = level_use > 1e-9
        book = jnp.where(known[:, None], held / jnp.where(known, level_use, 1)[:, None], book)
      if cfg.restart:
        book, level_use = _restart(book, level_use, seen, cfg, jax.random.fold_in(key, level))
      books.append(book)
      use.append(level_use)
    books, use = tuple(books), tuple(use)
    sums = _sums(books, use) if cfg.ema else ()
    return {**params, "codebooks": books, "use": use, "sums": sums}

  def embed(params, _, batch):
    return mlp(params["encoder"], (batch["vector"] - params["shift"][None]) / params["scale"])

  def trainable(params):
    labels = dict.fromkeys(params, FROZEN) | {"encoder": "layers", "decoder": "layers"}
    labels["codebooks"] = FROZEN if cfg.ema else "codebooks"
    return {
      name: jax.tree.map(lambda _, label=labels[name]: label, part) for name, part in params.items()
    }

  return System(init, loss, embed=embed, update=update, trainable=trainable)


def initialize(
  params: Params,
  vectors: np.ndarray,
  key: Key,
  *,
  iterations: int = 25,
  mesh: Mesh | None = None,
) -> Params:
  """The stage before training: standardise, then k-means on the real residuals of every level.

  Given to the loop as `init_from=lambda params: initialize(params, vectors, key)`.
  """
  dim, _ = np.shape(params["encoder"][0]["kernel"])
  if np.ndim(vectors) != 2 or np.shape(vectors)[1] != dim:
    raise DataError(f"vectors [N, {dim}] are needed, these have shape {np.shape(vectors)}")
  shift, scale = standard(vectors)
  data = kmeans.put((vectors - shift[None]) / scale, mesh)
  data = kmeans.mapped(data, _encoded, params["encoder"])
  books, use = [], []
  for level, book in enumerate(params["codebooks"]):
    found = level_of(data, len(book), jax.random.fold_in(key, level), level, iterations=iterations)
    read = kmeans.read(data, found)
    books.append(found.centroids)
    use.append(read.counts / read.counts.sum())
    data = kmeans.subtract(data, found.centroids, read)
  books, use = tuple(books), tuple(use)
  sums = _sums(books, use) if params["sums"] else ()
  return {
    **params,
    "shift": jnp.asarray(shift),
    "scale": jnp.asarray(scale),
    "codebooks": books,
    "use": use,
    "sums": sums,
  }


def quantizer(params: Params) -> Quantizer:
  """What codes items, from trained parameters."""
  names = ("codebooks", "shift", "scale", "encoder", "decoder")
  return Quantizer(**{name: jax.tree.map(np.asarray, params[name]) for name in names})


def _layers(key: Key, widths: tuple[int, ...]):
  start = jax.nn.initializers.lecun_normal()
  pairs = list(itertools.pairwise(widths))
  keys = jax.random.split(key, len(pairs))
  return tuple(
    {"kernel": start(k, pair), "bias": jnp.zeros(pair[1])}
    for k, pair in zip(keys, pairs, strict=True)
  )


def _square(x: Array) -> Array:
  return jnp.square(x).sum(1)  # [B]


def _stats(given: Array, chosen: Array, codes: Array, size: int, ema: bool):
  """Of one level, by code: how many took it, their squared error, and their sum where kept."""
  error = _square(given - chosen)[:, None]
  found = quantize.sums(jnp.concatenate([jnp.ones_like(error), error], 1), codes, size)
  stats = {"count": found[:, 0], "error": found[:, 1]}
  return {**stats, "sum": quantize.sums(given, codes, size)} if ema else stats


def _sums(books, use):
  return tuple(book * share[:, None] for book, share in zip(books, use, strict=True))


def _restart(book: Array, use: Array, seen, cfg: Config, key: Key) -> tuple[Array, Array]:
  """Each code out of use goes beside one that serves its vectors badly, and takes half of them.

  The one used least goes to the one whose vectors of this batch have most error, and so on; a
  tenth of their spread away, for a code half the spread away would win none of them.
  """
  worst, least = jnp.argsort(-seen["error"]), jnp.argsort(use)
  moves = (use[least] < cfg.restart / len(use)) & (seen["error"][worst] > 0)
  moves &= use[worst] >= cfg.restart / len(use)
  spread = seen["error"][worst] / jnp.maximum(seen["count"][worst], 1) / book.shape[1]
  noise = 0.1 * jnp.sqrt(spread)[:, None] * jax.random.normal(key, book.shape)
  book = book.at[least].set(jnp.where(moves[:, None], book[worst] + noise, book[least]))
  halved = jnp.where(moves, use[worst] / 2, use[worst])
  use = use.at[worst].set(halved)
  return book, use.at[least].set(jnp.where(moves, halved, use[least]))


def _encoded(x: Array, encoder) -> Array:
  return mlp(encoder, x)
