"""TIGER (Rajput et al., NeurIPS 2023) without an encoder, https://arxiv.org/abs/2305.05065.

One causal stack over the codes of a history; the rest is that of `tiger`. An item is a short code,
and a history the codes of its items in a row, behind a hashed user token or none. A language model
of such rows learns every place of a history in one pass, and the next item is written by the same
beam search over the catalogue's trie. Unlike the encoder-decoder, an item's own codes are read
causally too, and the last item is near by its distance alone.

Batches are those of `tiger`: `next` is packed, `target` is one item after each history.

B batch, T history (left-padded), L levels, V tokens, K results.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from recjax.decode import beam, exact
from recjax.nn import causal, t5
from recjax.systems.generative import tiger
from recjax.types import PAD, System, unpacked


@dataclasses.dataclass(frozen=True)
class Config:
  """TIGER's sizes, the layers of encoder and decoder in one stack."""

  levels: tuple[int, ...] = (256, 256, 256, 256)  # codes a level, the collision level last
  user_buckets: int = 0  # 0: no user token
  dim: int = 128
  heads: int = 6
  head_dim: int = 64
  ff: int = 1024
  layers: int = 8
  dropout: float = 0.1
  beams: int = 20  # at least as many as results
  temperature: float = 1.0  # of lists that are drawn, with a key, instead of searched for
  softmax: str = "vocabulary"  # as in `tiger`: vocabulary, level, children
  dtype: str = "float32"

  def __post_init__(self):
    tiger.check_softmax(self.softmax)

  @property
  def vocab(self) -> int:
    return 1 + sum(self.levels) + self.user_buckets

  @property
  def t5(self) -> t5.Config:
    names = ("vocab", "dim", "heads", "head_dim", "ff", "layers", "dropout", "dtype")
    return t5.Config(**{name: getattr(self, name) for name in names})


assets = tiger.assets
SERVED = tiger.SERVED


def make(cfg: Config) -> System:
  length = len(cfg.levels)

  def read(assets, batch):
    """Tokens [B, U + T L], U 1 with a user token; the last is read even where it is PAD."""
    tokens = assets["tokens"][batch["history"]].reshape(len(batch["history"]), -1)
    if not cfg.user_buckets:
      return tokens
    user = tiger.user_token(cfg, batch["user"])
    # Beside the first item, however much padding stands before it.
    at = jnp.argmax(jnp.pad(tokens, ((0, 0), (0, 1)), constant_values=1) != PAD, axis=1)
    tokens = jnp.pad(tokens, ((0, 0), (1, 0)))
    return jnp.where(jnp.arange(tokens.shape[1])[None] == at[:, None], user[:, None], tokens)

  def init(key, assets, batch):
    return causal.init(key, cfg.t5)

  def loss(params, assets, batch, key):
    unpacked(batch)
    before = read(assets, batch)
    target = batch["next"] if "next" in batch else batch["target"][:, None]  # [B, N]
    answers = assets["tokens"][target]  # [B, N, L]
    tokens = jnp.concatenate([before, answers[:, -1, :-1]], axis=1)
    mask = (tokens != PAD).at[:, before.shape[1] - 1].set(True)  # what a search begins with
    found = causal.logits(params, cfg.t5, tokens, mask=mask, key=key)
    found = found[:, -target.shape[1] * length :].reshape(*answers.shape, -1)  # [B, N, L, V]
    where = (target != PAD) & (batch["weight"] > 0)[:, None]
    return tiger.code_loss(cfg, found, assets, target, where)

  def decoded(params, tokens, cache):
    return causal.step(params, cfg.t5, tokens, cache)

  step, normalizer = tiger.searched(cfg, decoded)
  how = {"reorder": t5.reorder, "normalizer": normalizer}

  def start(params, assets, batch):
    tokens = read(assets, batch)
    before = tokens[:, :-1]
    cache = causal.start_cache(params, cfg.t5, before, mask=before != PAD, length=length)
    return tokens[:, -1], cache

  def recommend(params, assets, batch, *, k, key=None):
    begun, tree = start(params, assets, batch), assets["trie"]
    more = {name: batch.get(name) for name in ("allow", "deny")} | {"k": k, **how}
    if key is None:
      return beam.search(step, params, *begun, tree, beams=max(k, cfg.beams), **more)
    return beam.sample(step, params, *begun, tree, key=key, temperature=cfg.temperature, **more)

  def score(params, assets, batch):
    """Log-likelihoods: exact, without a beam's error; of the whole catalogue by default."""
    begun, tree = start(params, assets, batch), assets["trie"]
    if "candidates" in batch:
      found = batch["candidates"]
      return exact.candidates(step, params, *begun, tree, found, **how)
    return exact.catalogue(step, params, *begun, tree, **how)

  return System(init, loss, recommend=recommend, score=score)
