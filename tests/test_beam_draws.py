"""Diverse groups of beams, and lists that are drawn."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from hashed import USERS, Reference, assert_ranked, begin, catalogue, fixed, search, step, valid
from hypothesis import given
from hypothesis import strategies as st

from recjax.decode import beam
from recjax.decode import trie as tries
from recjax.types import PAD


def diverse(trie, users, **kwargs):
  model = functools.partial(step, 6)
  return jax.jit(lambda t: beam.diverse(model, jnp.uint32(7), *begin(users), t, **kwargs))(trie)


def test_one_group_is_plain_beam_search():
  codes = catalogue(4, 60, 3, 6)
  trie = tries.build(codes, 6)
  one, plain = diverse(trie, 4, k=5, groups=1), search(trie, *begin(4), vocab=6, k=5)
  np.testing.assert_array_equal(one.ids, plain.ids)
  np.testing.assert_array_equal(one.scores, plain.scores)


def test_a_great_penalty_gives_every_group_its_own_codes():
  codes = catalogue(4, 150, 3, 6)
  found = diverse(tries.build(codes, 6), 4, k=3, groups=3, penalty=100.0)
  valid(found, codes, [3] * 4)
  for user in range(4):
    picked = codes[found.ids[user]]  # [3, 3]: at each level three different codes
    assert all(len(set(level)) == 3 for level in picked.T.tolist())
    model = Reference(codes, 6, user)
    expected = [model.score(tuple(row)) for row in picked.tolist()]
    np.testing.assert_allclose(found.scores[user], expected, rtol=1e-5)


def test_groups_choose_in_turn_under_the_penalty():
  # One level, five codes of logits 5, 4, 3, 2, 1. Group 0 takes codes 0 and 1. For group 1 both
  # are taken (items are found once), so it takes 2 and 3; the fifth place is nobody's.
  codes = np.array([[0], [0], [1], [2], [3], [4]])
  found = fixed(beam.diverse, 5.0 - jnp.arange(5.0), tries.build(codes, 5), k=4, groups=2)
  assert found.ids.tolist() == [[1, 2, 3, 4]]
  # Two levels, one beam a group. Items (0, 0) (0, 1) (1, 0); code 0 leads code 1 by 1 at the first
  # level. Under a penalty of 0.5 group 1 shares the prefix 0 and takes its other item; under 2
  # it goes to code 1.
  codes = np.array([[0, 0], [0, 0], [0, 1], [1, 0]])
  trie, logits = tries.build(codes, 2), jnp.array([1.0, 0.0])
  for penalty, second in ((0.5, 2), (2.0, 3)):
    found = fixed(beam.diverse, logits, trie, k=2, groups=2, penalty=penalty)
    assert set(found.ids[0].tolist()) == {1, second}


def test_a_group_whose_prefixes_are_used_up_takes_what_is_left():
  # Group 0 holds both prefixes and takes the two items of code 0; group 1 may hold code 0 alone,
  # of which nothing is left then: the third item is group 0's to lose.
  codes = np.array([[0, 0], [0, 0], [0, 1], [1, 0]])
  trie, logits = tries.build(codes, 2), jnp.array([2.0, 1.9])
  found = fixed(beam.diverse, logits, trie, k=4, groups=2)
  assert set(found.ids[0].tolist()) == {1, 2, 3, PAD}
  found = fixed(beam.diverse, logits, trie, k=4, groups=2, deny=jnp.array([[2, 2, 0]]))
  assert set(found.ids[0].tolist()) == {1, 3, PAD}
  found = fixed(beam.diverse, logits, trie, k=2, groups=2, allow=jnp.array([[3, 2, 3]]))
  assert set(found.ids[0].tolist()) == {2, 3}


@given(seed=st.integers(0, 10**6), items=st.integers(1, 60))
def test_diverse_lists_are_full_of_items_once_whatever_the_catalogue(seed, items):
  codes = catalogue(seed, items, 3, 6)
  deny = np.random.default_rng(seed).integers(0, items + 1, (USERS, 10))
  trie = tries.build(codes, 6, capacity=64)
  found = DIVERSE(trie, jnp.array(deny))
  for user in range(USERS):
    ids = np.array(found.ids[user])
    count = (ids != PAD).sum()
    assert len(set(ids[:count].tolist())) == count and (ids[:count] < len(codes)).all()
    assert not np.isin(ids[:count], deny[user]).any()
    assert (np.array(found.scores[user, count:]) == -np.inf).all()
    assert count == min(6, len(set(range(1, len(codes))) - set(deny[user].tolist())))


DIVERSE = jax.jit(
  lambda trie, deny: beam.diverse(
    functools.partial(step, 6), jnp.uint32(7), *begin(USERS), trie, k=6, groups=3, deny=deny
  )
)


@functools.partial(jax.jit, static_argnames=("k", "draws", "temperature"))
def sampled(trie, allow=None, *, k, draws, temperature=1.0):
  """[draws, k] of one user."""
  model = functools.partial(step, 6)

  def run(key):
    options = dict(key=key, k=k, temperature=temperature, allow=allow)
    return beam.sample(model, jnp.uint32(7), *begin(1), trie, **options)

  found = jax.vmap(run)(jax.random.split(jax.random.key(0), draws))
  return jax.tree.map(lambda x: x[:, 0], found)


def assert_shares(found, expected):
  """Each item is in as many lists as expected [I], up to four standard deviations."""
  draws = len(found.ids)
  share = np.bincount(np.ravel(found.ids), minlength=len(expected)) / draws
  assert (np.abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / draws) + 1e-9).all()


def test_single_draws_follow_the_probability_of_each_item():
  codes = catalogue(4, 9, 3, 6)
  found = sampled(tries.build(codes, 6), k=1, draws=4000, temperature=2.0)
  model = Reference(codes, 6, 0, over_children=True, temperature=2.0)
  expected = np.zeros(len(codes))
  for row, item in model.items.items():
    expected[item] = math.exp(model.score(row))
  assert_shares(found, expected)


def test_pairs_are_drawn_without_replacement():
  codes = catalogue(4, 7, 3, 6)
  found = sampled(tries.build(codes, 6), k=2, draws=4000, temperature=4.0)
  model = Reference(codes, 6, 0, over_children=True, temperature=4.0)
  p = np.zeros(len(codes))
  for row, item in model.items.items():
    p[item] = math.exp(model.score(row))
  # Drawn first, or second after any other.
  expected = [
    p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(1, len(p)) if j != i) for i in range(len(p))
  ]
  expected[0] = 0.0
  assert_shares(found, np.array(expected))


def test_drawing_as_many_as_are_allowed_gives_them_all_best_first():
  codes = catalogue(4, 60, 3, 6)
  allow = jnp.array([[3, 8, 21, PAD]])
  found = sampled(tries.build(codes, 6), allow, k=5, draws=3)
  ranking = Reference(codes, 6, 0).ranking({3, 8, 21}.__contains__)
  for draw in range(3):
    assert_ranked(found, draw, ranking, 5)
