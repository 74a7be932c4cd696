"""Beam search over a trie: exact where it is wide, and what bounds it."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hashed import (
  USERS,
  Reference,
  assert_ranked,
  begin,
  catalogue,
  fixed,
  log_softmax,
  search,
  step,
  valid,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from recjax.decode import beam
from recjax.decode import trie as tries
from recjax.nn import t5
from recjax.types import PAD


@pytest.mark.parametrize(
  ("levels", "vocab", "lists", "normalizer"),
  [
    (1, 40, ("allow", "deny"), beam.over_vocabulary),
    (3, 6, ("none", "allow", "deny"), beam.over_vocabulary),
    (3, 6, ("none",), beam.over_children),
    (8, 3, ("deny",), beam.over_vocabulary),
  ],
)
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), items=st.integers(1, 64), data=st.data())
def test_a_beam_as_wide_as_the_catalogue_ranks_it_exactly(
  levels, vocab, lists, normalizer, seed, items, data
):
  kind = data.draw(st.sampled_from(lists))
  codes = catalogue(seed, items, levels, vocab)
  rng = np.random.default_rng(seed)
  listed = rng.integers(-1, items + 3, (USERS, 40))  # PAD, the unknown and repeats among them
  listed[rng.random(listed.shape) < rng.random()] = PAD
  given_ = {} if kind == "none" else {kind: jnp.array(listed)}
  trie = tries.build(codes, vocab, capacity=64)
  found = search(trie, *begin(USERS), vocab=vocab, k=70, normalizer=normalizer, **given_)
  for user in range(USERS):
    own = set(listed[user].tolist())
    left = {"none": set(range(65)), "allow": own, "deny": set(range(65)) - own}[kind]
    model = Reference(codes, vocab, user, over_children=normalizer is beam.over_children)
    assert_ranked(found, user, model.ranking(left.__contains__), 70)


@pytest.mark.parametrize(
  ("levels", "vocab", "lists"),
  [(1, 40, ()), (3, 6, ()), (3, 6, ("allow",)), (3, 6, ("allow", "deny")), (8, 3, ("deny",))],
)
def test_a_narrow_beam_finds_what_a_textbook_search_finds(levels, vocab, lists):
  users = 6
  codes = catalogue(5, 60, levels, vocab)
  listed = {name: np.random.default_rng(9).integers(0, 64, (users, 30)) for name in lists}
  trie = tries.build(codes, vocab, capacity=64)
  given_ = {name: jnp.array(ids) for name, ids in listed.items()}
  if "deny" in listed and "allow" in listed:
    given_["deny"] = given_["deny"][:, ::3]
  found = search(trie, *begin(users), vocab=vocab, k=4, beams=5, **given_)
  for user in range(users):
    left = set(given_["allow"][user].tolist() if "allow" in given_ else range(64))
    left -= set(given_["deny"][user].tolist() if "deny" in given_ else [])
    expected = Reference(codes, vocab, user).search(5, left.__contains__)
    assert_ranked(found, user, expected, 4)


def test_an_allow_list_of_30_fills_30_of_50_places():
  codes = catalogue(0, 3000, 4, 16)
  allow = np.random.default_rng(0).permutation(np.arange(1, len(codes)))[:60].reshape(2, 30)
  found = search(tries.build(codes, 16), *begin(2), jnp.array(allow), vocab=16, k=50)
  valid(found, codes, [30, 30])
  for user in range(2):
    model = Reference(codes, 16, user)
    assert_ranked(found, user, model.ranking(set(allow[user].tolist()).__contains__), 50)


def test_200_items_that_share_their_first_code_fill_a_beam_of_200():
  codes = catalogue(1, 260, 3, 8)[:201]
  codes[:, 0] = 5
  codes = np.concatenate([codes[:1], np.unique(codes[1:], axis=0)])
  rest = np.arange(201 - len(codes))
  codes = np.concatenate([codes, np.stack([np.full_like(rest, 5), rest % 8, rest // 8 + 8], 1)])
  assert len(codes) == 201
  found = search(tries.build(codes, 64), *begin(2), vocab=64, k=200)
  valid(found, codes, [200, 200])


@pytest.mark.parametrize(
  ("items", "levels", "vocab"), [(40, 2, 7), (1, 1, 3), (1, 8, 3), (30, 1, 30)]
)
def test_a_beam_wider_than_a_codebook_or_the_catalogue_is_valid(items, levels, vocab):
  codes = catalogue(2, items, levels, vocab)
  found = search(tries.build(codes, vocab), *begin(2), vocab=vocab, k=50)
  valid(found, codes, [len(codes) - 1] * 2)


def test_an_allow_list_of_one_finds_it_and_an_empty_one_nothing():
  codes = catalogue(3, 500, 4, 8)
  allow = jnp.array([[77, PAD], [PAD, PAD], [77, 77]])
  found = search(tries.build(codes, 8), *begin(3), allow, vocab=8, k=5)
  valid(found, codes, [1, 0, 1])
  assert found.ids[0, 0] == found.ids[2, 0] == 77


def test_lists_of_no_length_name_nothing():
  trie = tries.build(np.array([[0, 0], [0, 1], [1, 0]]), 2)
  none = jnp.zeros((1, 0), jnp.int32)
  lists = {"deny": none}, {"allow": none}, {"allow": jnp.array([[1]]), "deny": none}
  for given_, expected in zip(lists, ([1, 2], [PAD, PAD], [1, PAD]), strict=True):
    assert sorted(search(trie, *begin(1), vocab=2, k=2, **given_).ids[0].tolist()) == sorted(
      expected
    )


def test_denying_every_item_finds_nothing_and_all_but_one_that_one():
  codes = catalogue(3, 60, 3, 4)
  every = np.arange(1, len(codes))
  deny = np.stack([every, np.where(every == 9, PAD, every)])
  found = search(tries.build(codes, 4), *begin(2), None, jnp.array(deny), vocab=4, k=5)
  valid(found, codes, [0, 1])
  assert found.ids[1, 0] == 9


@pytest.mark.parametrize("levels", [5, 10])  # unrolled and as a loop
def test_text_identifiers_of_unequal_length_score_up_to_their_end(levels):
  rng = np.random.default_rng(levels)
  rows = {tuple(rng.integers(2, 6, rng.integers(1, levels)).tolist()) for _ in range(50)}
  codes = np.array([[1] * levels] + [[*r, *[1] * (levels - len(r))] for r in sorted(rows)])
  found = search(tries.build(codes, 8, end=1), *begin(2), vocab=8, k=60)
  for user in range(2):
    assert_ranked(found, user, Reference(codes, 8, user, end=1).ranking(), 60)


def test_growing_and_shrinking_within_the_capacity_compiles_once():
  traced = []

  def model(params, tokens, cache):
    traced.append(tokens.shape)
    return step(256, params, tokens, cache)

  answer = jax.jit(
    lambda trie, deny: beam.search(model, jnp.uint32(7), *begin(2), trie, k=5, beams=8, deny=deny)
  )
  rng = np.random.default_rng(0)
  pool = np.concatenate(
    [np.zeros((1, 4), int), rng.permutation(np.unique(rng.integers(0, 256, (21000, 4)), axis=0))]
  )
  trie = tries.build(pool[:12000], 256, capacity=20_000)  # 11,999 items
  for items in (11_999, 12_000, 12_002, 20_000, 100):
    trie = tries.rebuild(trie, pool[: items + 1])
    deny = jnp.array(rng.integers(0, items + 1, (2, 16)))
    found = answer(trie, deny)
    valid(found, pool[: items + 1], [5, 5])
    assert not (found.ids[:, :, None] == deny[:, None, :]).any()
  assert traced == [(2, 1), (2, 8), (2, 8), (2, 8)]


def test_equal_scores_go_to_the_smaller_code():
  codes = np.array([[0, 0], [2, 1], [0, 2], [2, 0], [0, 1]])
  found = fixed(beam.search, jnp.zeros(3), tries.build(codes, 3), k=4)
  assert found.ids.tolist() == [[4, 2, 3, 1]]
  np.testing.assert_allclose(found.scores, np.full((1, 4), -2 * math.log(3)), rtol=1e-6)


def test_what_the_model_holds_impossible_is_no_result_and_never_nan():
  codes = np.array([[0, 0], [0, 0], [1, 0], [1, 1]])

  def model(params, tokens, cache):
    # After code 0 nothing is possible, after 1 only 1; at first both.
    after = jnp.array([[-jnp.inf, -jnp.inf], [-jnp.inf, 0.0], [0.0, 0.0]])
    return after[tokens], cache

  for normalizer in (beam.over_vocabulary, beam.over_children):
    run = functools.partial(beam.search, model, k=3, normalizer=normalizer)
    found = jax.jit(run)(None, jnp.array([2]), (), tries.build(codes, 2))
    assert found.ids.tolist() == [[3, PAD, PAD]]
    np.testing.assert_allclose(found.scores, [[math.log(0.5), -np.inf, -np.inf]], rtol=1e-6)


class VariantsTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_jit_and_eager_agree(self):
    codes = catalogue(4, 30, 2, 6)
    trie = tries.build(codes, 6)
    model = functools.partial(step, 6)
    run = functools.partial(beam.search, model, jnp.uint32(7), *begin(2), k=5)
    found = self.variant(run)(trie)
    for user in range(2):
      assert_ranked(found, user, Reference(codes, 6, user).search(5), 5)


def test_vmap_and_eight_devices_change_nothing():
  codes = catalogue(4, 60, 3, 6)
  trie = tries.build(codes, 6)
  users = 16
  start, cache = begin(users)
  deny = jnp.array(np.random.default_rng(0).integers(0, 60, (users, 12)))
  one = search(trie, start, cache, None, deny, vocab=6, k=7)

  def single(s, c, d):
    model = functools.partial(step, 6)
    found = beam.search(model, jnp.uint32(7), s[None], c[None], trie, k=7, deny=d[None])
    return jax.tree.map(lambda x: x[0], found)

  mapped = jax.jit(jax.vmap(single))(start, cache, deny)
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
  start, cache, deny = jax.device_put((start, cache, deny), rows)
  many = search(jax.device_put(trie, whole), start, cache, None, deny, vocab=6, k=7)
  assert len(many.ids.sharding.device_set) == 8
  for other in (mapped, many):
    np.testing.assert_array_equal(other.ids, one.ids)
    np.testing.assert_allclose(other.scores, one.scores, rtol=1e-6)


def test_the_cached_keys_of_a_transformer_follow_their_beams():
  vocab, users = 12, 3
  cfg = t5.Config(
    vocab=vocab, dim=16, heads=2, head_dim=8, ff=32, layers=1, decoder_layers=1, dropout=0.0
  )
  params = t5.init(jax.random.key(0), cfg)
  codes = catalogue(6, 60, 4, 6) + 5
  trie = tries.build(codes, vocab)
  source = jnp.array(np.random.default_rng(1).integers(1, vocab, (users, 7)))

  @jax.jit
  def answer(params, trie, source):
    encoded = t5.encode(params, cfg, source)
    cache = t5.start_cache(params, cfg, encoded, source_mask=source > 0, length=4)

    def model(params, tokens, cache):
      return t5.decode_step(params, cfg, tokens, cache)

    start = jnp.zeros(users, jnp.int32)
    return encoded, beam.search(model, params, start, cache, trie, k=6, reorder=t5.reorder)

  encoded, found = answer(params, trie, source)
  target = jnp.array(codes[np.ravel(found.ids)])  # [18, 4]
  logits = jax.jit(functools.partial(t5.decode, cfg=cfg))(
    params,
    tokens=jnp.pad(target[:, :-1], ((0, 0), (1, 0))),
    encoded=jnp.repeat(encoded, 6, axis=0),
    source_mask=jnp.ones((18, 7), bool),
  )
  logp = np.take_along_axis(log_softmax(np.array(logits)), np.array(target)[..., None], 2)
  np.testing.assert_allclose(np.ravel(found.scores), logp[..., 0].sum(1), rtol=1e-4)


def test_bad_requests_are_refused_by_name():
  codes = catalogue(4, 20, 2, 6)
  trie = tries.build(codes, 6)
  model = functools.partial(step, 6)
  given_ = (model, jnp.uint32(7), *begin(1), trie)
  with pytest.raises(ValueError, match="k = 5 results need .* `beams` = 4"):
    beam.search(*given_, k=5, beams=4)
  with pytest.raises(ValueError, match="4 beams do not divide into 3 groups"):
    beam.diverse(*given_, k=4, groups=3)
  with pytest.raises(ValueError, match="temperature 0.0 is not positive"):
    beam.sample(*given_, key=jax.random.key(0), k=1, temperature=0.0)
  with pytest.raises(
    ValueError, match=r"logits have shape \(1, 1, 6\); the trie needs \(1, 1, 9\)"
  ):
    beam.search(*given_[:-1], tries.build(codes, 9), k=1)
