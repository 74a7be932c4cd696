import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recjax.decode import beam, exact
from recjax.decode import trie as tries
from recjax.types import PAD

USERS, VOCAB = 3, 6


def step(params, tokens, cache):
  """A recurrent model: the state [B, K, 4] of a beam is all that it knows of what came before."""
  state = jnp.tanh(cache["state"] @ params["carry"] + params["codes"][tokens])
  bias = params["place"][cache["at"]]  # by level, so that the scalar of the cache counts
  return 3 * state @ params["out"] + bias[None, None], {"state": state, "at": cache["at"] + 1}


def model(seed=0):
  rng = np.random.default_rng(seed)
  sizes = {"carry": (4, 4), "codes": (VOCAB, 4), "out": (4, VOCAB), "place": (12, VOCAB)}
  params = {name: jnp.array(rng.normal(size=size), jnp.float32) for name, size in sizes.items()}
  state = jnp.array(rng.normal(size=(USERS, 1, 4)), jnp.float32)
  return params, jnp.zeros(USERS, jnp.int32), {"state": state, "at": jnp.int32(0)}


def teacher_forced(codes, over_children=False, end=None):
  """[USERS, I] float64, each item alone from its first code to its last; -inf for PAD."""
  params, _, cache = model()
  params = {name: np.array(p, np.float64) for name, p in params.items()}
  rows = [tuple(row) for row in codes.tolist()]
  out = np.full((USERS, len(rows)), -np.inf)
  for item in range(1, len(rows)):
    state, token, total = np.array(cache["state"][:, 0], np.float64), 0, np.zeros(USERS)
    for at, code in enumerate(rows[item]):
      state = np.tanh(state @ params["carry"] + params["codes"][token])
      if at and token == end:
        break
      logits = 3 * state @ params["out"] + params["place"][at]
      if over_children:
        open_ = sorted({row[at] for row in rows[1:] if row[:at] == rows[item][:at]})
        total += logits[:, code] - np.log(np.exp(logits[:, open_]).sum(1))
      else:
        total += logits[:, code] - np.log(np.exp(logits).sum(1))
      token = code
    out[:, item] = total
  return out


def catalogue(seed, items, levels):
  rng = np.random.default_rng(seed)
  codes = np.unique(rng.integers(0, VOCAB, (items, levels)), axis=0)
  return np.concatenate([np.zeros((1, levels), int), rng.permutation(codes)])


@functools.partial(jax.jit, static_argnames=("chunk", "normalizer"))
def scores(trie, **kwargs):
  params, start, cache = model()
  return exact.catalogue(step, params, start, cache, trie, **kwargs)


@pytest.mark.parametrize(
  ("levels", "chunk", "normalizer"),
  [
    (1, 4, beam.over_vocabulary),
    (3, 1, beam.over_vocabulary),
    (3, 7, beam.over_children),
    (3, 64, beam.over_vocabulary),
    (6, 5, beam.over_vocabulary),
  ],
)
@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), items=st.integers(1, 60))
def test_the_walk_equals_teacher_forced_scoring(levels, chunk, normalizer, seed, items):
  codes = catalogue(seed, items, levels)
  trie = tries.build(codes, VOCAB, capacity=64)
  found = np.array(scores(trie, chunk=chunk, normalizer=normalizer))
  expected = teacher_forced(codes, over_children=normalizer is beam.over_children)
  assert found.shape == (USERS, 65)
  np.testing.assert_allclose(found[:, : len(codes)], expected, rtol=1e-4, atol=1e-4)
  assert (found[:, len(codes) :] == -np.inf).all()


@pytest.mark.parametrize("levels", [4, 10])  # unrolled and as a loop
def test_candidates_are_scored_as_the_catalogue_is(levels):
  codes = catalogue(1, 60, levels)
  trie = tries.build(codes, VOCAB)
  ids = np.random.default_rng(2).integers(-1, len(codes) + 5, (USERS, 30))
  run = jax.jit(functools.partial(exact.candidates, step))
  found = np.array(run(*model(), trie, jnp.array(ids)))
  known = (ids > PAD) & (ids < len(codes))
  expected = np.take_along_axis(teacher_forced(codes), np.where(known, ids, 0), axis=1)
  np.testing.assert_allclose(found, np.where(known, expected, -np.inf), rtol=1e-4, atol=1e-4)


def test_identifiers_of_unequal_length_score_up_to_their_end():
  rng = np.random.default_rng(0)
  rows = sorted({tuple(rng.integers(2, 6, rng.integers(1, 4)).tolist()) for _ in range(30)})
  codes = np.array([[1] * 4] + [[*r, *[1] * (4 - len(r))] for r in rows])
  trie = tries.build(codes, VOCAB, end=1)
  expected = teacher_forced(codes, end=1)
  found = np.array(scores(trie, chunk=8))[:, : len(codes)]
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  ids = jnp.broadcast_to(jnp.arange(len(codes))[None], expected.shape)
  found = jax.jit(functools.partial(exact.candidates, step))(*model(), trie, ids)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_best_of_exact_scores_are_what_a_full_beam_finds():
  codes = catalogue(3, 60, 3)
  trie = tries.build(codes, VOCAB, capacity=64)
  best = exact.top(scores(trie, chunk=16), 70)
  params, start, cache = model()
  run = jax.jit(functools.partial(beam.search, step, k=70))
  found = run(params, start, cache, trie)
  np.testing.assert_array_equal(best.ids, found.ids)
  np.testing.assert_allclose(best.scores, found.scores, rtol=1e-5)


def test_the_top_of_scores_leaves_what_is_not_there_empty():
  scores = jnp.array([[9.0, 1.0, 3.0, -jnp.inf, 3.0]])  # of PAD, 1, 2, 3, 4
  best = exact.top(scores, 6)
  assert best.ids.tolist() == [[2, 4, 1, PAD, PAD, PAD]]
  assert best.scores.tolist() == [[3.0, 3.0, 1.0, -np.inf, -np.inf, -np.inf]]


def test_memory_is_that_of_a_chunk_whatever_the_catalogue():
  def temporary(items):
    rows = np.stack([np.arange(items) // VOCAB**i % VOCAB for i in range(6)], 1)
    trie = tries.build(np.concatenate([rows[:1], rows]), VOCAB)
    run = jax.jit(functools.partial(exact.catalogue, step, chunk=16))
    memory = run.lower(*model(), trie).compile().memory_analysis()
    return memory.temp_size_in_bytes

  small, large = temporary(2_000), temporary(20_000)
  # The scores by leaf grow (USERS * 4 bytes an item, held twice); no state of 4 floats a node does.
  assert large - small < 20_000 * USERS * 4 * 3
