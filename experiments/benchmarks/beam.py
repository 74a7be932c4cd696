"""Constrained beam search with a T5 of TIGER's size: users a second, the encoder included.

Against `transformers` `generate` with `prefix_allowed_tokens_fn` (a dict of lists made beforehand,
the fastest there is), in float32 and under bfloat16 autocast, and against our own search without
a trie over each level's 256 codes. Weights are random, shapes are TIGER's: 81 source tokens, 4
levels of 256 codes, 12,000 items, batch 32. Ours is measured in both precisions, and the faster
held against the floors; without a trie in float32.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import timing
from recjax.decode import beam
from recjax.decode import trie as tries
from recjax.nn import t5
from recjax.types import Array, Params, Ranked

USERS, SOURCE, LEVELS, CODES, ITEMS = 32, 81, 4, 256, 12_000
FIRST = 2  # the token of code 0 at level 0; 0 is padding and the start, 1 the end
VOCAB = FIRST + LEVELS * CODES + 4  # 1030
T5 = t5.Config(
  vocab=VOCAB, dim=128, heads=6, head_dim=64, ff=1024, layers=4, decoder_layers=4, dropout=0.0
)
HALF = dataclasses.replace(T5, dtype="bfloat16")
# beams -> at least so many times float32, bfloat16
FLOORS = {10: (5.0, 3.5), 30: (), 50: (10.0, 5.5)}
CONSTRAINT_FLOOR = 1 / 1.04


def figures() -> Iterator[timing.Figure]:
  codes = catalogue(ITEMS)
  trie = tries.build(codes, VOCAB)
  params = t5.init(jax.random.key(0), T5)
  source = sources()
  ours = {
    (k, cfg.dtype): _jitted(constrained, params, trie, source, k, cfg)
    for k in FLOORS
    for cfg in (T5, HALF)
  }
  for k in FLOORS:
    free = _jitted(unconstrained, params, trie, source, k, T5)
    a, b = timing.seconds(ours[k, "float32"], free, rounds=11)
    name = f"beam/constraint-k{k}"
    floor = {"floor": CONSTRAINT_FLOOR}
    yield timing.rate(name, "users/s", USERS, a, "the same search unconstrained", b, **floor)
  try:
    peer = _Transformers(codes, source)
  except ImportError:
    yield timing.absent("beam/k10", "torch transformers")
    return
  for k, floors in FLOORS.items():
    theirs = (lambda k=k, half=half: peer.generate(k, half) for half in (False, True))
    kinds = ("float32", "bfloat16")
    taken = timing.seconds(*(ours[k, kind] for kind in kinds), *theirs, rounds=5)
    best = min((0, 1), key=lambda at: statistics.median(taken[at]))  # ours, as it is fastest
    for at, kind in enumerate(kinds):
      other = f"transformers generate, {kind}", taken[2 + at]
      if best:
        yield timing.rate(f"beam/k{k} float32-{kind}", "users/s", USERS, taken[0], *other)
      floor = {"floor": floors[at]} if floors else {}
      name = f"beam/k{k} {kinds[best]}-{kind}"
      yield timing.rate(name, "users/s", USERS, taken[best], *other, **floor)


def catalogue(items: int) -> np.ndarray:
  """[items + 1, LEVELS] tokens of distinct random codes, row 0 PAD."""
  rng = np.random.default_rng(0)
  keys = rng.choice(CODES**LEVELS, items + items // 8, replace=True)  # without is slow at 10 M
  keys = rng.permutation(np.unique(keys))[:items]
  assert len(keys) == items
  codes = np.zeros((items + 1, LEVELS), np.int32)
  for level in range(LEVELS):
    codes[1:, level] = keys // CODES ** (LEVELS - 1 - level) % CODES + FIRST + level * CODES
  return codes


def sources() -> Array:
  """[USERS, SOURCE] histories, as tokens."""
  return jnp.asarray(np.random.default_rng(1).integers(FIRST, VOCAB - 4, (USERS, SOURCE)))


def stepper(cfg: t5.Config) -> Callable[[Params, Array, t5.Cache], tuple[Array, t5.Cache]]:
  return lambda params, tokens, cache: t5.decode_step(params, cfg, tokens, cache)


def reorder(cache: t5.Cache, parents: Array) -> t5.Cache:
  """Beams follow their parents, and the cache grows by a place: what is empty is not moved."""

  def grown(x):
    return jnp.pad(x, ((0, 0),) * 3 + ((0, 1), (0, 0)))

  return cache._replace(beams=jax.tree.map(grown, beam.follow(cache.beams, parents)))


def begin(params: Params, source: Array, cfg: t5.Config) -> tuple[Array, t5.Cache]:
  encoded = t5.encode(params, cfg, source)
  cache = t5.start_cache(params, cfg, encoded, source_mask=source != 0, length=1)
  return jnp.zeros(len(source), jnp.int32), cache


def constrained(params: Params, trie: tries.Trie, source: Array, k: int, cfg: t5.Config) -> Ranked:
  begun = begin(params, source, cfg)
  return beam.search(stepper(cfg), params, *begun, trie, k=k, reorder=reorder)


def unconstrained(
  params: Params, trie: tries.Trie, source: Array, k: int, cfg: t5.Config
) -> Ranked:
  """[B, K, LEVELS] codes: beam search over each level's tokens, whatever items there are."""
  del trie
  start, cache = begin(params, source, cfg)
  step = stepper(cfg)
  token, score = start[:, None], jnp.zeros((len(source), 1))
  codes = jnp.zeros((len(source), 1, 0), jnp.int32)
  for level in range(LEVELS):
    logits, cache = step(params, token, cache)
    first = FIRST + level * CODES
    total = score[..., None] + logits[..., first : first + CODES]
    total = total - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    score, at = jax.lax.top_k(total.reshape(len(source), -1), k)
    parent, token = at // CODES, first + at % CODES
    codes = jnp.take_along_axis(codes, parent[..., None], axis=1)
    codes = jnp.concatenate([codes, token[..., None]], axis=2)
    cache = reorder(cache, parent)
  return Ranked(codes, score)


def _jitted(
  search: Callable[..., Ranked],
  params: Params,
  trie: tries.Trie,
  source: Array,
  k: int,
  cfg: t5.Config,
) -> Callable[[], object]:
  run = jax.jit(search, static_argnames=("k", "cfg"))
  return lambda: jax.block_until_ready(run(params, trie, source, k=k, cfg=cfg))


class _Transformers:
  def __init__(self, codes: np.ndarray, source: Array):
    import torch
    import transformers

    self.torch = torch
    torch.manual_seed(0)
    self.model = transformers.T5ForConditionalGeneration(
      transformers.T5Config(
        vocab_size=VOCAB,
        d_model=T5.dim,
        d_kv=T5.head_dim,
        d_ff=T5.ff,
        num_layers=T5.layers,
        num_decoder_layers=T5.decoder_layers,
        num_heads=T5.heads,
        dropout_rate=0.0,
        decoder_start_token_id=0,
      )
    ).eval()
    self.source = torch.tensor(np.array(source))
    self.mask = torch.ones_like(self.source)
    following: dict[tuple[int, ...], set[int]] = {}
    for row in codes[1:].tolist():
      for level in range(LEVELS):
        following.setdefault(tuple(row[:level]), set()).add(row[level])
    self.following = {prefix: list(tokens) for prefix, tokens in following.items()}

  def generate(self, k: int, half: bool):
    torch = self.torch
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
      return self.model.generate(
        input_ids=self.source,
        attention_mask=self.mask,
        num_beams=k,
        num_return_sequences=k,
        max_new_tokens=LEVELS,
        do_sample=False,
        prefix_allowed_tokens_fn=lambda _, said: self.following[tuple(said[1:].tolist())],
      )
