"""Free text from any model with a step function: greedy, sampled, and beam search.

  step(tokens [B, K], cache) -> (logits [B, K, V], cache)

reads the last token of each of K lanes and scores the next; `t5.decode_step` with its params bound
is one. All is pure, of static shape, and stops when nothing is left to say: jit the call. The cache
must have room for `length` tokens. (Items by their codes are the business of `decode.beam`.)

B batch, K lanes or beams, V vocabulary, T length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recjax.types import PAD, Array, Key

Cache = Any
Step = Callable[[Array, Cache], tuple[Array, Cache]]


class Generated(NamedTuple):
  """What was said; the end token is there, and PAD after it."""

  tokens: Array  # [B, K, T] int32
  scores: Array  # [B, K] float32 log-probability (beam: over length ** penalty), -inf: no result


def greedy(step: Step, cache: Cache, start: Array, *, length: int, eos: int) -> Generated:
  """The likeliest token each time, after `start` [B, K], for at most `length` tokens."""

  def choose(logits, t):
    del t
    return logits.argmax(-1)

  return _generate(step, cache, start, choose, length=length, eos=eos)


def sample(
  step: Step,
  cache: Cache,
  start: Array,  # [B, K], so K independent samples a row
  key: Key,
  *,
  length: int,
  eos: int,
  temperature: float = 1.0,
  top_k: int = 0,  # 0: all
  top_p: float = 1.0,
) -> Generated:
  """Tokens drawn from `narrowed` logits; the scores are the model's own log-probabilities."""

  def choose(logits, t):
    narrow = narrowed(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    return jax.random.categorical(jax.random.fold_in(key, t), narrow)

  return _generate(step, cache, start, choose, length=length, eos=eos)


def narrowed(
  logits: Array, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Array:
  """Logits [..., V] over `temperature`, -inf outside the top_k likeliest tokens, and then outside
  the fewest tokens whose probabilities reach `top_p` (Holtzman et al., ICLR 2020)."""
  if temperature <= 0:
    raise ValueError(f"the temperature must be positive, not {temperature}; 0 is `greedy`")
  if not 0 < top_p <= 1 or top_k < 0:
    raise ValueError(f"top_p must lie in (0, 1] and top_k be at least 0, not {top_p}, {top_k}")
  logits = logits.astype(jnp.float32) / temperature
  if 0 < top_k < logits.shape[-1]:
    worst = jax.lax.top_k(logits, top_k)[0][..., -1:]
    logits = jnp.where(logits >= worst, logits, -jnp.inf)
  if top_p < 1:
    order = jnp.argsort(-logits, axis=-1, stable=True)
    probs = jnp.take_along_axis(jax.nn.softmax(logits), order, axis=-1)
    before = jnp.cumsum(probs, -1) - probs  # what likelier tokens have; the first always stays
    keep = jnp.take_along_axis(before < top_p, jnp.argsort(order, axis=-1), axis=-1)
    logits = jnp.where(keep, logits, -jnp.inf)
  return logits


def _generate(step, cache, start, choose, *, length, eos) -> Generated:
  def go_on(state):
    t, _, done, *_ = state
    return (t < length) & ~done.all()

  def body(state):
    t, tokens, done, last, scores, cache = state
    logits, cache = step(last, cache)
    logits = logits.astype(jnp.float32)  # [B, K, V]
    token = choose(logits, t).astype(jnp.int32)
    log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), token[..., None], -1)[..., 0]
    scores = scores + jnp.where(done, 0.0, log_prob)
    token = jnp.where(done, PAD, token)
    tokens = jax.lax.dynamic_update_index_in_dim(tokens, token, t, axis=-1)
    return t + 1, tokens, done | (token == eos), token, scores, cache

  start = start.astype(jnp.int32)
  tokens = jnp.full((*start.shape, length), PAD, jnp.int32)
  done, scores = jnp.zeros(start.shape, bool), jnp.zeros(start.shape, jnp.float32)
  state = (jnp.int32(0), tokens, done, start, scores, cache)
  _, tokens, _, _, scores, _ = jax.lax.while_loop(go_on, body, state)
  return Generated(tokens, scores)


class _Search(NamedTuple):
  t: Array  # []
  live: Array  # [B, K, T] tokens of the unfinished, best first
  live_scores: Array  # [B, K] log-probability
  done: Array  # [B, K, T] tokens of the finished, best first
  done_scores: Array  # [B, K] log-probability / length ** penalty, -inf: none yet
  open: Array  # [B] whether the unfinished may still improve the finished
  last: Array  # [B, K]
  cache: Cache


def beam(
  step: Step,
  cache: Cache,  # of K beams a row
  start: Array,  # [B]
  *,
  beams: int,  # K
  length: int,
  eos: int,
  length_penalty: float = 1.0,  # above 0 favours the long: log-probabilities are negative
  early_stopping: bool = False,  # stop a row at its K-th finished sequence
  reorder: Callable[[Cache, Array], Cache],  # (cache, parents [B, K]): `t5.reorder`
) -> Generated:
  """The K best sequences found, best first, as `transformers` searches and scores.

  Of the 2K best continuations, those among the first K that end join the finished; the best K
  that do not end go on. At the last place everything ends. A row closes when its best unfinished
  sequence, scored at its present length, is no better than the worst of K finished ones.
  """
  rows, lanes = len(start), jnp.arange(2 * beams)

  def take(x, index):
    return jnp.take_along_axis(x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), axis=1)

  def go_on(s: _Search):
    return (s.t < length) & s.open.any()

  def body(s: _Search) -> _Search:
    logits, cache = step(s.last, s.cache)
    vocab = logits.shape[-1]
    if 2 * beams > beams * vocab:
      raise ValueError(f"beam search needs a vocabulary of two tokens, not {vocab}")
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32)) + s.live_scores[..., None]
    scores, flat = jax.lax.top_k(log_probs.reshape(rows, -1), 2 * beams)  # [B, 2K]
    parent, token = flat // vocab, (flat % vocab).astype(jnp.int32)
    tokens = jax.lax.dynamic_update_index_in_dim(take(s.live, parent), token, s.t, axis=-1)
    ends = (token == eos) | (s.t + 1 == length)

    joins = ends & (lanes < beams)[None] & s.open[:, None]
    final = jnp.where(joins, scores / (s.t + 1.0) ** length_penalty, -jnp.inf)
    done_scores, best = jax.lax.top_k(jnp.concatenate([s.done_scores, final], 1), beams)
    done = take(jnp.concatenate([s.done, tokens], 1), best)

    live_scores, best = jax.lax.top_k(jnp.where(ends, -jnp.inf, scores), beams)
    parent = take(parent, best)
    full = jnp.isfinite(done_scores).all(1)
    hope = live_scores[:, 0] / (s.t + 1.0) ** length_penalty > done_scores[:, -1]
    open_ = s.open & (~full | (hope & (not early_stopping)))
    live, last, cache = take(tokens, best), take(token, best), reorder(cache, parent)
    return _Search(s.t + 1, live, live_scores, done, done_scores, open_, last, cache)

  empty = jnp.full((rows, beams, length), PAD, jnp.int32)
  none = jnp.full((rows, beams), -jnp.inf)
  first = none.at[:, 0].set(0.0)  # the beams are one to begin with
  last = jnp.broadcast_to(start.astype(jnp.int32)[:, None], (rows, beams))
  every = jnp.ones(rows, bool)
  begin = _Search(jnp.int32(0), empty, first, empty, none, every, last, cache)
  end = jax.lax.while_loop(go_on, body, begin)
  tokens = jnp.where(jnp.isfinite(end.done_scores)[..., None], end.done, PAD)
  return Generated(tokens, end.done_scores)
