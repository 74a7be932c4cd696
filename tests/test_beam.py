import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from recjax.decode import beam
from recjax.decode import trie as tries
from recjax.nn import t5
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


def valid(found, codes, counts):
  """Every result is an item, once; so many of them for each user."""
  for ids, scores, count in zip(*map(np.array, found), counts, strict=True):
    assert (ids[:count] > 0).all() and (ids[:count] < len(codes)).all()
    assert len(set(ids.tolist()) - {PAD}) == count
    assert (ids[count:] == PAD).all() and (scores[count:] == -np.inf).all()
    assert np.isfinite(scores[:count]).all() and (np.diff(scores[:count]) <= 0).all()
    assert not np.isnan(scores).any()


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
  assert answer._cache_size() == 1
  assert traced == [(2, 1), (2, 8), (2, 8), (2, 8)]


def constant(params, tokens, cache):
  """A model whose logits are its parameters, whatever came before."""
  return jnp.broadcast_to(params, (*tokens.shape, params.size)), cache


def fixed(how, logits, trie, **kwargs):
  """One user's results under `constant`."""
  start = jnp.zeros(1, jnp.int32)
  return jax.jit(lambda logits: how(constant, logits, start, (), trie, **kwargs))(logits)


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


# --- Diverse and sampled ---


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


@given(seed=st.integers(0, 10**6), items=st.integers(1, 60))
def test_diverse_results_are_items_once_whatever_the_catalogue(seed, items):
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
    assert count or not set(range(1, len(codes))) - set(deny[user].tolist())


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


def test_single_draws_follow_the_probability_of_each_item():
  codes = catalogue(4, 9, 3, 6)
  draws = 4000
  found = sampled(tries.build(codes, 6), k=1, draws=draws, temperature=2.0)
  model = Reference(codes, 6, 0, over_children=True, temperature=2.0)
  expected = np.zeros(len(codes))
  for row, item in model.items.items():
    expected[item] = math.exp(model.score(row))
  share = np.bincount(np.ravel(found.ids), minlength=len(codes)) / draws
  # Four standard deviations of a share.
  assert (np.abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / draws) + 1e-9).all()


def test_pairs_are_drawn_without_replacement():
  codes = catalogue(4, 7, 3, 6)
  draws = 4000
  found = sampled(tries.build(codes, 6), k=2, draws=draws, temperature=4.0)
  model = Reference(codes, 6, 0, over_children=True, temperature=4.0)
  p = np.zeros(len(codes))
  for row, item in model.items.items():
    p[item] = math.exp(model.score(row))
  # Drawn first, or second after any other.
  expected = [
    p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(1, len(p)) if j != i) for i in range(len(p))
  ]
  expected[0] = 0.0
  share = np.bincount(np.ravel(found.ids), minlength=len(codes)) / draws
  deviation = np.sqrt(np.array(expected) * (1 - np.array(expected)) / draws)
  assert (np.abs(share - expected) < 4 * deviation + 1e-9).all()


def test_drawing_as_many_as_are_allowed_gives_them_all_best_first():
  codes = catalogue(4, 60, 3, 6)
  allow = jnp.array([[3, 8, 21, PAD]])
  found = sampled(tries.build(codes, 6), allow, k=5, draws=3)
  ranking = Reference(codes, 6, 0).ranking({3, 8, 21}.__contains__)
  for draw in range(3):
    assert_ranked(found, draw, ranking, 5)


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
