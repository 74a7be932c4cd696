"""RQ-VAE training, 768-512-256-128-32, 3 x 256, batches of 1,024: ours against plain PyTorch.

The peers train the same autoencoder, loss (reconstruction, codes, commitment at 0.25) and AdamW on
the same batches in the same run: one quantises in plain torch (gradient codebooks), the other with
ResidualVQ of vector-quantize-pytorch (running means, its default; ours then too). Beside them:
coding 1,000,000 vectors by the trained quantiser.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np

from experiments.benchmarks import timing
from recjax.semid import rqvae
from recjax.train import optim, state, step

BATCH, STEPS, ROUNDS = 1024, 10, 7
ITEMS, CODED = 1_000_000, 100_000  # coding is linear: time a tenth


def figures() -> Iterator[timing.Figure]:
  x = np.random.default_rng(0).normal(size=(8 * BATCH, 768)).astype(np.float32)
  cfg = rqvae.Config()
  yield from _against("torch", cfg, x, _plain)
  yield from _against("vector-quantize-pytorch", dataclasses.replace(cfg, ema=0.8), x, _residual_vq)
  params = rqvae.make(cfg).init(jax.random.key(0), (), {"vector": x})
  made = rqvae.quantizer(rqvae.initialize(params, x, jax.random.key(0), iterations=2))
  many = np.tile(x, (-(-CODED // len(x)), 1))[:CODED]
  (times,) = timing.seconds(lambda: made.encode(many), rounds=3)
  seconds = float(np.median(times)) * ITEMS / CODED
  yield timing.cost("rqvae/code-1m", "s", seconds, most=60, spread=timing.spread(times))


def _against(package: str, cfg: rqvae.Config, x: np.ndarray, peer) -> Iterator[timing.Figure]:
  name = "rqvae/train-ema" if cfg.ema else "rqvae/train"
  ours = _ours(cfg, x)
  try:
    theirs = peer(cfg, x)
  except ImportError:
    yield timing.absent(name, package)
    (times,) = timing.seconds(ours, rounds=ROUNDS)
    yield timing.rate(name, "rows/s", BATCH * STEPS, times)
    return
  a, b = timing.seconds(ours, theirs, rounds=ROUNDS)
  yield timing.rate(name, "rows/s", BATCH * STEPS, a, package, b, floor=1.8)


def _ours(cfg: rqvae.Config, x: np.ndarray) -> Callable[[], object]:
  system = rqvae.make(cfg)
  optimizer = optim.make(optim.Config(clip=None), 1000, system)
  batches = [
    jax.device_put({"vector": part, "weight": np.ones(BATCH, np.float32)})
    for part in np.split(x, len(x) // BATCH)
  ]
  params = state.create(system, optimizer, (), batches[0], jax.random.key(0)).params
  params = rqvae.initialize(params, x, jax.random.key(0), iterations=2)
  first = state.State(np.int32(0), params, optimizer.init(params), np.zeros(2, np.uint32))
  first = jax.device_put(first, jax.devices()[0])
  one = jax.jit(
    step.make_step(system, optimizer),
    donate_argnums=0,
  )
  held = [jax.tree.map(lambda leaf: leaf.copy(), first)]

  def run():
    for i in range(STEPS):
      held[0], _ = one(held[0], (), batches[i % len(batches)])
    jax.block_until_ready(held[0].params)

  return run


def _layers(torch, cfg: rqvae.Config):
  widths = (cfg.dim, *cfg.hidden, cfg.latent)

  def stack(widths):
    parts = []
    for a, b in zip(widths, widths[1:], strict=False):
      parts += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    return torch.nn.Sequential(*parts[:-1])

  return stack(widths), stack(widths[::-1])


def _plain(cfg: rqvae.Config, x: np.ndarray) -> Callable[[], object]:
  import torch

  encoder, decoder = _layers(torch, cfg)
  books = torch.nn.ParameterList(torch.randn(size, cfg.latent) / 6 for size in cfg.codes)

  def quantize(z):
    left, total, loss = z, 0, 0
    for book in books:
      with torch.no_grad():
        code = torch.addmm(book.square().sum(1), left, book.T, alpha=-2).argmin(1)
      chosen = torch.nn.functional.embedding(code, book)
      loss = loss + (left.detach() - chosen).square().sum()
      loss = loss + cfg.beta * (left - chosen.detach()).square().sum()
      left, total = left - chosen.detach(), total + chosen
    return z + (total - z).detach(), loss

  parameters = [*encoder.parameters(), *decoder.parameters(), *books]
  return _torch_run(torch, parameters, encoder, decoder, quantize, x)


def _residual_vq(cfg: rqvae.Config, x: np.ndarray) -> Callable[[], object]:
  import torch
  from vector_quantize_pytorch import ResidualVQ

  encoder, decoder = _layers(torch, cfg)
  vq = ResidualVQ(
    dim=cfg.latent,
    num_quantizers=len(cfg.codes),
    codebook_size=cfg.codes[0],
    decay=cfg.ema,
    commitment_weight=cfg.beta,
    threshold_ema_dead_code=1,
  )

  def quantize(z):
    quantized, _, commit = vq(z)
    return quantized, commit.sum() * z.numel()

  parameters = [*encoder.parameters(), *decoder.parameters()]
  return _torch_run(torch, parameters, encoder, decoder, quantize, x)


def _torch_run(torch, parameters, encoder, decoder, quantize, x) -> Callable[[], object]:
  # One kernel over all parameters is torch's fastest documented AdamW.
  optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)
  batches = [torch.from_numpy(part) for part in np.split(x, len(x) // BATCH)]

  def run():
    for i in range(STEPS):
      batch = batches[i % len(batches)]
      optimizer.zero_grad(set_to_none=True)
      quantized, loss = quantize(encoder(batch))
      loss = ((decoder(quantized) - batch).square().sum() + loss) / len(batch)
      loss.backward()
      optimizer.step()

  return run
