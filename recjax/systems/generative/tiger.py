"""TIGER (Rajput et al., NeurIPS 2023), https://arxiv.org/abs/2305.05065.

An item is a short code (a semantic id); a T5 reads the codes of the history behind a hashed user
token and writes the code of the next item, by a beam search that a trie keeps inside the
catalogue. Codes of different levels are different tokens.

Two ways to learn. A batch with `target` is the paper's: one prefix of a history an example. A
batch with `next` is packed: every place of a history is learned in one pass, at up to T times the
targets a second. For that the encoder must be item-causal (an item's tokens see each other and
what came before) and each target's decoder sees its own tokens and the items up to its place.
An item-causal model gives the same loss and gradient packed or not; the paper's, whose encoder
looks both ways, cannot be packed. With `segment` a packed row holds several histories, none of
which sees another.

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
from recjax.nn import attention, t5
from recjax.types import PAD, Array, Loss, System, known

START = PAD  # the decoder's first input, as in T5
SOFTMAXES = ("vocabulary", "level", "children")
SEGMENTS = True  # rows of several histories are kept apart: `examples.rows`
SERVED = ("tokens", "trie")  # what answers read of the assets; training may read more


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
  # What a code's probability is normalised over: all tokens (vocabulary), the codes of its level
  # (level), or those that an item with the codes before it has (children).
  softmax: str = "vocabulary"  # or level, children
  dtype: str = "float32"

  def __post_init__(self):
    check_softmax(self.softmax)

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


def user_token(cfg, user: Array) -> Array:
  """The hashed token [B] of each user; of one who is unknown none, PAD."""
  token = 1 + sum(cfg.levels) + user % cfg.user_buckets
  return jnp.where(user == PAD, PAD, token).astype(jnp.int32)


def check_softmax(name: str) -> None:
  if name not in SOFTMAXES:
    raise ValueError(f"softmax is one of {', '.join(SOFTMAXES)}, not {name!r}")


def assets(
  cfg: Config, codes: np.ndarray, *, capacity: int | None = None
) -> Mapping[str, Array | trie.Trie]:
  """What the system reads of the catalogue, from codes [I, L]; row PAD is ignored."""
  codes = np.asarray(codes)
  if not np.issubdtype(codes.dtype, np.integer):
    raise ValueError(f"codes are whole numbers, not {codes.dtype}")
  codes = codes.astype(np.int64)  # beyond what a small type of storage counts to
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
  made = {"tokens": jnp.asarray(room), "trie": tree}
  if cfg.softmax == "children":
    made["siblings"] = _siblings(codes, cfg.levels)
  return made


def _siblings(codes: np.ndarray, levels: tuple[int, ...]) -> dict[str, Array]:
  """`open` [P, C]: of each prefix the codes that may follow; `row` [I, L]: each item's prefixes."""
  row, tables, count = np.zeros(codes.shape, np.int32), [], 0
  for level in range(len(levels)):
    _, prefix = np.unique(codes[1:, :level], axis=0, return_inverse=True)
    prefix = prefix.reshape(-1)
    table = np.zeros((prefix.max() + 1, max(levels)), bool)
    table[prefix, codes[1:, level]] = True
    row[1:, level] = count + prefix
    tables.append(table)
    count += len(table)
  return {"row": jnp.asarray(row), "open": jnp.asarray(np.concatenate(tables))}


def code_loss(cfg, logits: Array, assets, target: Array, where: Array) -> Loss:
  """Of logits [B, N, L, V] for the items `target` [B, N], those in `where` [B, N]."""
  tokens = assets["tokens"][known(target, len(assets["tokens"]))]
  tokens = jnp.where((tokens == PAD) & (target != PAD)[..., None], -1, tokens)  # not there: NaN
  if cfg.softmax == "vocabulary":
    where = jnp.broadcast_to(where[..., None], tokens.shape)
    return Loss(*losses.softmax_xent(logits, tokens, where))
  total, weight = jnp.float32(0), jnp.float32(0)
  starts = 1 + np.cumsum((0, *cfg.levels))
  for level, size in enumerate(cfg.levels):
    own = logits[:, :, level, starts[level] : starts[level] + size]  # [B, N, C]
    if cfg.softmax == "children":
      rows = assets["siblings"]["row"][target, level]
      own = jnp.where(assets["siblings"]["open"][rows, :size], own, -jnp.inf)
    code = jnp.where(where, tokens[..., level] - starts[level], 0)
    part, count = losses.softmax_xent(own, code, where)
    total, weight = total + part, weight + count
  return Loss(total, weight)


def searched(cfg, step):
  """`step` and the normalizer as `softmax` says, for the searches of `decode`."""
  if cfg.softmax == "children":
    return step, beam.over_children
  if cfg.softmax == "vocabulary":
    return step, beam.over_vocabulary
  starts = 1 + np.cumsum((0, *cfg.levels))
  # [L, V] which tokens each level has
  level = (np.arange(cfg.vocab) >= starts[:-1, None]) & (np.arange(cfg.vocab) < starts[1:, None])

  def own_level(params, tokens, cache):
    at = cache.at
    logits, cache = step(params, tokens, cache)
    return jnp.where(jnp.asarray(level)[at][None, None], logits, -jnp.inf), cache

  return own_level, beam.over_vocabulary


def make(cfg: Config) -> System:
  length = len(cfg.levels)

  def same_history(batch):
    """[B, 1, S, S] which tokens are of one history, where a row holds several."""
    if "segment" not in batch:
      return True
    if cfg.user_buckets:
      raise ValueError("rows of several histories have no user token: set user_buckets=0")
    of = jnp.repeat(batch["segment"], length, axis=1)
    return attention.same_segment(of, of)

  def encode(params, assets, batch, key=None):
    """States [B, S, D], which are real [B, S], and of each its item [S]: 0 the user, 1 to T."""
    history = batch["history"]
    tokens = assets["tokens"][history].reshape(len(history), -1)
    item = np.repeat(1 + np.arange(history.shape[1]), length)
    place = np.arange(tokens.shape[1])
    if cfg.user_buckets:
      user = user_token(cfg, batch["user"])
      tokens = jnp.concatenate([user[:, None], tokens], axis=1)
      # The user is equally far from every item, however much padding stands between.
      item, place = np.append(0, item), np.append(-cfg.t5.max_distance, place)
    mask = tokens != PAD  # [B, S]
    seen = mask[:, None, None, :]
    if cfg.item_causal:
      seen = seen & (item[None, :] <= item[:, None])[None, None]
    seen = seen & same_history(batch)
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
    upto = upto & same_history(batch)
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
    where = (target != PAD) & (batch["weight"] > 0)[:, None]
    return code_loss(cfg, logits, assets, target, where)

  def decoded(params, tokens, cache):
    return t5.decode_step(params, cfg.t5, tokens, cache)

  step, normalizer = searched(cfg, decoded)
  how = {"reorder": t5.reorder, "normalizer": normalizer}

  def start(params, assets, batch):
    encoded, mask, item = encode(params, assets, batch)
    near = nearness(params, item[-1:], item)
    cache = t5.start_cache(
      params, cfg.t5, encoded, source_mask=mask, source_bias=near, length=length
    )
    return jnp.full(len(mask), START, jnp.int32), cache

  def recommend(params, assets, batch, *, k, key=None):
    begun, tree = start(params, assets, batch), assets["trie"]
    more = {name: batch.get(name) for name in ("allow", "deny")} | {"k": k, **how}
    if key is None:
      return beam.search(step, params, *begun, tree, beams=max(k, cfg.beams), **more)
    return beam.sample(step, params, *begun, tree, key=key, temperature=cfg.temperature, **more)

  def score(params, assets, batch):
    """Log-likelihoods: exact, without a beam's error; of the whole catalogue by default."""
    begun = start(params, assets, batch)
    if "candidates" in batch:
      return exact.candidates(step, params, *begun, assets["trie"], batch["candidates"], **how)
    return exact.catalogue(step, params, *begun, assets["trie"], **how)

  return System(init, loss, recommend=recommend, score=score)
