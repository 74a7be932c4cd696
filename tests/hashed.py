"""A model whose logits are hashes, searched by `recjax.decode.beam` and, in float64, by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from recjax.decode import beam
from recjax.types import PAD

# The model of these tests: logits are a hash of the user, the codes so far and the next code, so
# every prefix has its own and a cache that does not follow its beam is found out. Exact in NumPy.


def mix(x, xp):
  x = (x ^ (x >> 16)) * xp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * xp.uint32(0x846CA68B)
  return x ^ (x >> 16)


def hashed_logits(state, vocab, xp):
  """state [...] uint32 -> [..., vocab] in [0, 8)."""
  codes = xp.arange(vocab, dtype=xp.uint32).reshape((1,) * state.ndim + (vocab,))
  return (mix(state[..., None] + codes * xp.uint32(2654435761), xp) >> 8).astype(
    xp.float32
  ) * xp.float32(8 / 2**24)


def step(vocab, params, tokens, cache):
  """`params` [] shifts the hash; the cache [B, K] is the hash of what came before."""
  state = mix(cache + tokens.astype(jnp.uint32) * jnp.uint32(40503) + params, jnp)
  return hashed_logits(state, vocab, jnp), state


def begin(users: int):
  """(start, cache) of so many users, each with its own hash."""
  return jnp.zeros(users, jnp.int32), jnp.arange(1, users + 1, dtype=jnp.uint32)[:, None]


def log_softmax(logits):
  logits = logits.astype(np.float64)
  top = logits.max(-1, keepdims=True)
  return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


class Reference:
  """The same model on the host, one prefix at a time, in float64."""

  def __init__(self, codes, vocab, user, *, over_children=False, end=None, temperature=1.0):
    self.items = {tuple(row): i for i, row in enumerate(codes.tolist()) if i}
    self.vocab, self.user, self.end = vocab, user, end
    self.over_children, self.temperature = over_children, temperature
    self.known = {}

  def next(self, prefix):
    """{code: log-probability} of the codes that continue a prefix to some item."""
    if prefix not in self.known:
      self.known[prefix] = self.ask(prefix)
    return self.known[prefix]

  def ask(self, prefix):
    depth = len(prefix)
    codes = sorted({row[depth] for row in self.items if row[:depth] == prefix})
    if depth and prefix[-1] == self.end:
      return {self.end: 0.0}
    state = np.array([self.user + 1], np.uint32)
    for token in (0, *prefix):
      state = mix(state + np.uint32(token) * np.uint32(40503) + np.uint32(7), np)
    logits = hashed_logits(state, self.vocab, np)[0] / self.temperature
    logp = log_softmax(logits[codes] if self.over_children else logits)
    return dict(zip(codes, logp if self.over_children else logp[codes], strict=True))

  def score(self, row):
    return sum(self.next(row[:d])[row[d]] for d in range(len(row)))

  def ranking(self, keep=lambda item: True):
    """[(score, item)] of all items, best first."""
    return sorted(((self.score(r), i) for r, i in self.items.items() if keep(i)), reverse=True)

  def search(self, beams, keep=lambda item: True):
    """Beam search as in a textbook."""
    levels = len(next(iter(self.items)))
    alive = [(0.0, ())]
    kept = [row for row, item in self.items.items() if keep(item)]
    for depth in range(levels):
      possible = {row[: depth + 1] for row in kept}
      grown = [
        (score + logp, (*prefix, code))
        for score, prefix in alive
        for code, logp in self.next(prefix).items()
        if (*prefix, code) in possible
      ]
      alive = sorted(grown, reverse=True)[:beams]
    return [(score, self.items[row]) for score, row in alive]


def catalogue(seed, items, levels, vocab):
  rng = np.random.default_rng(seed)
  codes = np.unique(rng.integers(0, vocab, (items, levels)), axis=0)
  return np.concatenate([np.zeros((1, levels), int), rng.permutation(codes)])


@functools.partial(jax.jit, static_argnames=("vocab", "k", "beams", "normalizer"))
def search(trie, start, cache, allow=None, deny=None, **kwargs):
  vocab = kwargs.pop("vocab")
  shift = jnp.uint32(7)
  model = functools.partial(step, vocab)
  return beam.search(model, shift, start, cache, trie, allow=allow, deny=deny, **kwargs)


def assert_ranked(found, user, expected, k):
  """The first k of [(score, item)], then PAD and -inf; near-ties may stand in either order."""
  ids, scores = np.array(found.ids[user]), np.array(found.scores[user])
  expected = expected[:k]
  count = len(expected)
  assert (ids[count:] == PAD).all() and (scores[count:] == -np.inf).all()
  np.testing.assert_allclose(scores[:count], [s for s, _ in expected], rtol=1e-5, atol=1e-5)
  for at, (score, item) in enumerate(expected):
    if ids[at] != item:
      near = [i for s, i in expected if abs(s - score) < 1e-4]
      assert ids[at] in near, (at, ids[at], item)
  assert len(set(ids[:count])) == count


USERS = 3


def valid(found, codes, counts):
  """Every result is an item, once; so many of them for each user."""
  for ids, scores, count in zip(*map(np.array, found), counts, strict=True):
    assert (ids[:count] > 0).all() and (ids[:count] < len(codes)).all()
    assert len(set(ids.tolist()) - {PAD}) == count
    assert (ids[count:] == PAD).all() and (scores[count:] == -np.inf).all()
    assert np.isfinite(scores[:count]).all() and (np.diff(scores[:count]) <= 0).all()
    assert not np.isnan(scores).any()


def constant(params, tokens, cache):
  """A model whose logits are its parameters, whatever came before."""
  return jnp.broadcast_to(params, (*tokens.shape, params.size)), cache


def fixed(how, logits, trie, **kwargs):
  """One user's results under `constant`."""
  start = jnp.zeros(1, jnp.int32)
  return jax.jit(lambda logits: how(constant, logits, start, (), trie, **kwargs))(logits)
