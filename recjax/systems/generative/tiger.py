"""TIGER (Rajput et al., NeurIPS 2023), https://arxiv.org/abs/2305.05065.

An item is a short code (a semantic id); a T5 reads the codes of the history behind a hashed user
token and writes the code of the next item, by a beam search that a trie keeps inside the
catalogue. Codes of different levels are different tokens.

Two ways to learn. A batch with `target` is the paper's: one prefix of a history an example. A
batch with `next` is packed: every place of a history is learned in one pass, at up to T times the
targets a second. For that the encoder must be item-causal (an item's tokens see each other and
what came before) and each target's decoder sees its own tokens and the items up to its place.
An item-causal model gives the same loss and gradient packed or not; the paper's, whose encoder
looks both ways, cannot be packed.

Unlike the paper: one dropout rate; the user token is `user` modulo the buckets. T5's decoder is
not told where in the source a token stands, and an item-causal encoder cannot tell which item is
the last: with `recency`, cross-attention has a learned bias by how many items ago one was.

B batch, T history (left-padded), L levels, V tokens, K results, S = 1 + T L source tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from recjax import losses
from recjax.decode import beam, exact, trie
from recjax.nn import t5
from recjax.types import PAD, Array, Loss, System

START = PAD  # the decoder's first input, as in T5


@dataclasses.dataclass(frozen=True)
class Config:
  """The paper's sizes."""

  levels: tuple[int, ...] = (256, 256, 256, 256)  # codes a level, the collision level last
  user_buckets: int = 2000  # 0: no user token
  dim: int = 128
  heads: int = 6
  head_dim: int = 64
  ff: int = 1024
  layers: int = 4  # of the encoder and of the decoder
  dropout: float = 0.1
  beams: int = 20  # at least as many as results
  temperature: float = 1.0  # of lists that are drawn, with a key, instead of searched for
  item_causal: bool = False  # the encoder sees no later item; packed training needs it
  recency: int = 0  # of so many latest items the decoder knows which is which; 0: none, as in T5
  level_softmax: bool = False  # normalise over one level's codes, not over all tokens
  dtype: str = "float32"

  @property
  def vocab(self) -> int:
    return 1 + sum(self.levels) + self.user_buckets

  @property
  def t5(self) -> t5.Config:
    return t5.Config(
      vocab=self.vocab,
      dim=self.dim,
      heads=self.heads,
      head_dim=self.head_dim,
      ff=self.ff,
      layers=self.layers,
      decoder_layers=self.layers,
      dropout=self.dropout,
      dtype=self.dtype,
    )


def assets(
  cfg: Config, codes: np.ndarray, *, capacity: int | None = None
) -> Mapping[str, Array | trie.Trie]:
  """What the system reads of the catalogue, from codes [I, L]; row PAD is ignored."""
  codes = np.asarray(codes)
  if codes.ndim != 2 or codes.shape[1] != len(cfg.levels):
    raise ValueError(f"codes of shape {codes.shape} are not of {len(cfg.levels)} levels")
  beyond = codes[1:].max(0, initial=0) >= np.array(cfg.levels)
  if beyond.any() or codes[1:].min(initial=0) < 0:
    raise ValueError(
      f"codes must lie below {cfg.levels} level by level; they reach {codes[1:].max(0).tolist()}"
    )
  tokens = (codes + 1 + np.cumsum((0, *cfg.levels[:-1]))).astype(np.int32)
  tokens[PAD] = PAD
  tree = trie.build(tokens, cfg.vocab, capacity=capacity)
  room = np.zeros((len(tree["rank"]), tokens.shape[1]), np.int32)  # to the trie's capacity
  room[: len(tokens)] = tokens
  return {"tokens": jnp.asarray(room), "trie": tree}


def make(cfg: Config) -> System:
  length = len(cfg.levels)
  starts = 1 + np.cumsum((0, *cfg.levels))
  # [L, V] which tokens each level has
  level = (np.arange(cfg.vocab) >= starts[:-1, None]) & (np.arange(cfg.vocab) < starts[1:, None])

  def encode(params, assets, batch, key=None):
    """States [B, S, D], which are real [B, S], and of each its item [S]: 0 the user, 1 to T."""
    history = batch["history"]
    tokens = assets["tokens"][history].reshape(len(history), -1)
    item = np.repeat(1 + np.arange(history.shape[1]), length)
    place = np.arange(tokens.shape[1])
    if cfg.user_buckets:
      user = starts[-1] + batch["user"] % cfg.user_buckets
      tokens = jnp.concatenate([user[:, None].astype(jnp.int32), tokens], axis=1)
      # The user is equally far from every item, however much padding stands between.
      item, place = np.append(0, item), np.append(-cfg.t5.max_distance, place)
    mask = tokens != PAD  # [B, S]
    seen = mask[:, None, None, :]
    if cfg.item_causal:
      seen = seen & (item[None, :] <= item[:, None])[None, None]
    return t5.encode(params, cfg.t5, tokens, mask=seen, places=place, key=key), mask, item

  def init(key, assets, batch):
    params = t5.init(key, cfg.t5)
    if cfg.recency:  # it starts by looking at what is recent
      decay = -jnp.log1p(jnp.arange(cfg.recency + 1, dtype=jnp.float32)).at[-1].set(0)
      params["recency"] = jnp.tile(decay[:, None], (1, cfg.heads))  # the last: the user token
    return params

  def nearness(params, place, item):
    """[1, H, N, S] what attention from after item `place` [N] to the source's `item` [S] gains."""
    if not cfg.recency:
      return None
    distance = np.clip(place[:, None] - item[None, :], 0, cfg.recency - 1)
    rows = np.where(item[None, :] == 0, cfg.recency, distance)
    return params["recency"][rows].transpose(2, 0, 1)[None]

  def loss(params, assets, batch, key):
    encoder_key, decoder_key = jax.random.split(key)
    encoded, mask, item = encode(params, assets, batch, encoder_key)
    packed = "next" in batch
    if packed and not cfg.item_causal:
      raise ValueError("packed batches (with `next`) need item_causal=True")
    target = batch["next"] if packed else batch["target"][:, None]  # [B, N]
    tokens = assets["tokens"][target]  # [B, N, L]
    shifted = jnp.pad(tokens, ((0, 0), (0, 0), (1, 0)), constant_values=START)[..., :-1]
    flat = shifted.reshape(len(target), -1)  # [B, N * L]
    block = np.repeat(np.arange(target.shape[1]), length)
    # Target n stands after item n: it sees the items up to there, and its own tokens.
    within = (block[None, :] == block[:, None])[None, None]
    upto = (item[None, :] <= 1 + block[:, None])[None, None] if packed else True
    logits = t5.decode(
      params,
      cfg.t5,
      flat,
      encoded,
      source_mask=mask[:, None, None, :] & upto,
      source_bias=nearness(params, 1 + block if packed else 0 * block + item[-1], item),
      mask=within,
      key=decoder_key,
    ).reshape(*tokens.shape, -1)  # [B, N, L, V]
    if cfg.level_softmax:
      logits = jnp.where(level[None, None], logits, -jnp.inf)
    where = (target != PAD) & (batch["weight"] > 0)[:, None]
    where = jnp.broadcast_to(where[..., None], tokens.shape)
    return Loss(*losses.softmax_xent(logits, tokens, where))

  def step(params, tokens, cache):
    at = cache.at
    logits, cache = t5.decode_step(params, cfg.t5, tokens, cache)
    if cfg.level_softmax:
      logits = jnp.where(jnp.asarray(level)[at][None, None], logits, -jnp.inf)
    return logits, cache

  def start(params, assets, batch):
    encoded, mask, item = encode(params, assets, batch)
    near = nearness(params, item[-1:], item)
    cache = t5.start_cache(
      params, cfg.t5, encoded, source_mask=mask, source_bias=near, length=length
    )
    return jnp.full(len(mask), START, jnp.int32), cache

  def recommend(params, assets, batch, *, k, key=None):
    begun, tree = start(params, assets, batch), assets["trie"]
    more = {name: batch.get(name) for name in ("allow", "deny")} | {"k": k, "reorder": t5.reorder}
    if key is None:
      return beam.search(step, params, *begun, tree, beams=max(k, cfg.beams), **more)
    return beam.sample(step, params, *begun, tree, key=key, temperature=cfg.temperature, **more)

  def score(params, assets, batch):
    """Log-likelihoods: exact, without a beam's error; of the whole catalogue by default."""
    begun = start(params, assets, batch)
    if "candidates" in batch:
      return exact.candidates(
        step, params, *begun, assets["trie"], batch["candidates"], reorder=t5.reorder
      )
    return exact.catalogue(step, params, *begun, assets["trie"], reorder=t5.reorder)

  return System(init, loss, recommend=recommend, score=score)
