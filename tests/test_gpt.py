"""A decoder-only language model against itself, and its decoding against brute force."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax import losses
from recjax.decode import beam, generate, trie
from recjax.nn import gpt, t5

GPT2 = gpt.Config(
  vocab=19, dim=12, heads=3, ff=20, layers=2, max_len=16, dropout=0.2, attention_dropout=0.2
)
LLAMA = dataclasses.replace(
  gpt.LLAMA, vocab=19, dim=12, heads=4, kv_heads=2, head_dim=4, ff=20, layers=2
)
KINDS = {"gpt2": GPT2, "llama": LLAMA}

rng = np.random.default_rng(0)
TOKENS = jnp.asarray(rng.integers(0, 19, (3, 7)), jnp.int32)

# Compiled whole, once a config and shape: faster here than one operation at a time.
plain = jax.jit(gpt.logits, static_argnums=1)
begin = jax.jit(gpt.begin, static_argnums=1, static_argnames=("beams", "length"))
step = jax.jit(gpt.step, static_argnums=1)


@functools.partial(jax.jit, static_argnums=1)
def _read(params, cfg, tokens, mask, segment, vectors):
  return gpt.logits(params, cfg, tokens, mask=mask, segment=segment, vectors=vectors)


def logits(params, cfg, tokens, mask=None, segment=None, vectors=None):
  """With all that may be given, so that there is one program a shape."""
  shape = tokens.shape
  mask = jnp.ones(shape, bool) if mask is None else mask
  segment = jnp.ones(shape, jnp.int32) if segment is None else segment
  none = jnp.zeros(shape, bool), jnp.zeros((*shape, cfg.dim))
  return _read(params, cfg, tokens, mask, segment, none if vectors is None else vectors)


@functools.cache
def lively(cfg):
  """Random params of which every part matters."""
  params, noise = jax.eval_shape(lambda: gpt.init(jax.random.key(0), cfg)), np.random.default_rng(1)
  return jax.tree.map(
    lambda x: ((1.0 if x.ndim == 1 else 0.0) + 0.4 * noise.normal(size=x.shape)).astype(np.float32),
    params,
  )


@pytest.fixture(params=KINDS)
def cfg(request):
  return KINDS[request.param]


def padded(left):
  """The second row is short: padded by tokens that mean something elsewhere."""
  tokens, mask = np.array(TOKENS), np.ones((3, 7), bool)
  row = np.concatenate([[9, 9], TOKENS[1, :5]] if left else [TOKENS[1, :5], [9, 9]])
  tokens[1], mask[1] = row, (np.arange(7) > 1) if left else (np.arange(7) < 5)
  return jnp.asarray(tokens), jnp.asarray(mask)


def test_what_is_left_out_is_no_padding_one_text_and_no_vectors(cfg):
  given = logits(lively(cfg), cfg, TOKENS)
  np.testing.assert_allclose(plain(lively(cfg), cfg, TOKENS), given, atol=1e-5)


def test_logits_ignore_the_future(cfg):
  other = TOKENS.at[:, 4:].set(TOKENS[:, 4:] + 1)
  a, b = (logits(lively(cfg), cfg, x) for x in (TOKENS, other))
  np.testing.assert_allclose(a[:, :4], b[:, :4], atol=1e-5)
  assert (abs(a[:, 4:] - b[:, 4:]).max(-1) > 1e-3).all()


@pytest.mark.parametrize("left", [True, False])
def test_padding_on_either_side_changes_no_logit(cfg, left):
  tokens, mask = padded(left)
  alone = logits(lively(cfg), cfg, TOKENS)[1, :5]
  found = logits(lively(cfg), cfg, tokens, mask=mask)
  np.testing.assert_allclose(found[1, 2:] if left else found[1, :5], alone, atol=1e-5)


def test_texts_packed_into_a_row_are_read_as_if_alone(cfg):
  row = jnp.concatenate([TOKENS[:1, :4], TOKENS[1:2, :3]], axis=1)  # of no padding, then two texts
  segment = jnp.array([[1, 1, 1, 1, 2, 2, 2]])
  every = logits(lively(cfg), cfg, TOKENS)
  found = logits(lively(cfg), cfg, jnp.tile(row, (3, 1)), segment=jnp.tile(segment, (3, 1)))
  np.testing.assert_allclose(found[0, :4], every[0, :4], atol=1e-5)
  np.testing.assert_allclose(found[0, 4:], every[1, :3], atol=1e-5)


def test_a_vector_stands_in_for_the_embedding_of_its_place(cfg):
  params, at = lively(cfg), np.zeros((3, 7), bool)
  at[0, 2] = at[2, 6] = True
  given = params["embed"]["embedding"][TOKENS]
  swapped = jnp.where(at, 5, TOKENS)  # the token there does not matter
  found = logits(
    params, cfg, swapped, vectors=(jnp.asarray(at), jnp.where(at[..., None], given, 9))
  )
  np.testing.assert_allclose(found, logits(params, cfg, TOKENS), atol=1e-5)


def test_vectors_learn_where_they_stand_and_nowhere_else():
  params, at = lively(GPT2), np.zeros((3, 7), bool)
  at[0, 2] = at[2, 5] = True

  @jax.jit
  def gradient(given):
    def loss(given):
      found = gpt.states(params, GPT2, TOKENS, vectors=(jnp.asarray(at), given))
      return (found[:, -1] ** 3).sum()

    return jax.grad(loss)(given)

  found = gradient(jnp.ones((3, 7, 12)))
  np.testing.assert_array_equal(abs(found).max(-1) > 0, at)


def test_a_loss_of_states_is_that_of_logits(cfg):
  params, target = lively(cfg), TOKENS[:, 1:]

  @jax.jit
  def both(every):
    found, where = gpt.states(params, cfg, TOKENS)[:, :-1], target % 3 > 0
    few = losses.linear_softmax_xent(found, gpt.head(params, cfg), target, where)
    return few, losses.softmax_xent(every[:, :-1], target, where)

  np.testing.assert_allclose(*both(logits(params, cfg, TOKENS)), rtol=1e-5)


def test_dropout_is_on_with_a_key_alone():
  params = lively(GPT2)
  a, again, b = (plain(params, GPT2, TOKENS, key=jax.random.key(k)) for k in (3, 3, 4))
  np.testing.assert_array_equal(a, again)
  assert abs(logits(params, GPT2, TOKENS) - a).max() > 0.1 and abs(a - b).max() > 0.1


def test_bfloat16_and_rematerialised_layers_agree_with_the_plain(cfg):
  half = dataclasses.replace(cfg, dtype="bfloat16", remat=True)
  found, whole = plain(lively(cfg), half, TOKENS), logits(lively(cfg), cfg, TOKENS)
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, whole, atol=0.03 * float(abs(whole).max()))


def test_rotary_scores_depend_on_distances_alone():
  query, key = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))
  cfg = dataclasses.replace(gpt.LLAMA, dim=8, heads=1)
  frequency = gpt._frequencies(cfg)

  def turned(x, place):
    angle = jnp.asarray(place * frequency)[None, None, None]
    return gpt._turned(x, (jnp.cos(angle), jnp.sin(angle)))

  scores = [float((turned(query, 3 + n) * turned(key, n)).sum()) for n in (0, 5, 50)]
  np.testing.assert_allclose(scores, scores[0], rtol=1e-4)
  assert abs(float((turned(query, 4) * key).sum()) - scores[0]) > 1e-3


def test_sizes_that_do_not_fit_are_told():
  with pytest.raises(ValueError, match="width of 13 does not divide into 3 heads"):
    dataclasses.replace(GPT2, dim=13)
  with pytest.raises(ValueError, match="4 heads do not share 3 heads of keys evenly"):
    dataclasses.replace(LLAMA, kv_heads=3)
  with pytest.raises(ValueError, match="a head has 5 numbers"):
    dataclasses.replace(LLAMA, head_dim=5)
  with pytest.raises(ValueError, match="scaling"):
    dataclasses.replace(LLAMA, scaling=(8.0,))
  with pytest.raises(ValueError, match="17 tokens, but 16 learned positions"):
    gpt.logits(lively(GPT2), GPT2, jnp.zeros((1, 17), jnp.int32))
  with pytest.raises(ValueError, match="17 tokens, but 16 learned positions"):
    gpt.start_cache(lively(GPT2), GPT2, TOKENS, length=10)


# Decoding.


def test_a_prompt_and_its_answer_may_fill_all_learned_positions():
  last, cache = jax.eval_shape(  # the last of the prompt is the first that is read by a step
    lambda: gpt.begin(lively(GPT2), GPT2, TOKENS, length=10)
  )
  assert last.shape == (3,) and cache.beams[0][0].shape[3] == 10
  with pytest.raises(ValueError, match="17 tokens, but 16 learned positions"):
    gpt.begin(lively(GPT2), GPT2, TOKENS, length=11)


@pytest.mark.parametrize("left", [True, False])
def test_steps_after_a_prefix_are_the_logits_of_the_whole(cfg, left):
  params, (tokens, mask) = lively(cfg), padded(left)
  lanes = jnp.asarray(rng.integers(0, 19, (3, 2, 3)), jnp.int32)  # two beams of three tokens each

  last, cache = begin(params, cfg, tokens, mask=mask, beams=2, length=4)
  found, token = [], jnp.broadcast_to(last[:, None], (3, 2))
  for t in range(4):
    out, cache = step(params, cfg, token, cache)
    found.append(out)
    token = lanes[:, :, min(t, 2)]
  found = np.stack(found, axis=2)  # [B, K, 4, V]
  for k in range(2):
    whole = jnp.concatenate([tokens, lanes[:, k]], axis=1)
    real = jnp.concatenate([mask, jnp.ones((3, 3), bool)], axis=1)
    every = logits(params, cfg, whole, mask=real)
    for row in range(3):
      last = int(np.flatnonzero(mask[row])[-1])
      np.testing.assert_allclose(found[row, k, 0], every[row, last], atol=1e-4)
      np.testing.assert_allclose(found[row, k, 1:], every[row, 7:], atol=1e-4)


def test_the_head_may_be_asked_of_some_tokens_only(cfg):
  params, some = lively(cfg), jnp.array([4, 0, 11])
  everything = jnp.ones(TOKENS.shape, bool)
  last, cache = begin(params, cfg, TOKENS, mask=everything, beams=2, length=4)
  token = jnp.broadcast_to(last[:, None], (3, 2))
  few, every = (step(params, cfg, token, cache, a)[0] for a in (some, None))
  np.testing.assert_allclose(few, every[..., some], atol=1e-5)


def test_a_beam_over_a_trie_ranks_the_items_as_brute_force_does(cfg):
  params, (tokens, mask) = lively(cfg), padded(left=True)
  codes = np.array(list(itertools.product((3, 5, 7), (2, 5))), np.int32)  # [6, 2] tokens of items
  tree = trie.build(np.concatenate([np.zeros((1, 2), np.int32), codes]), vocab=cfg.vocab)

  @jax.jit
  def search():
    last, cache = gpt.begin(params, cfg, tokens, mask=mask, length=2)
    return beam.search(
      lambda p, token, c: gpt.step(p, cfg, token, c),
      params, last, cache, tree, k=6, reorder=t5.reorder,
    )  # fmt: skip

  found = search()
  whole = np.concatenate([np.repeat(tokens, 6, axis=0), np.tile(codes, (3, 1))], axis=1)
  real = np.pad(np.repeat(mask, 6, axis=0), ((0, 0), (0, 2)), constant_values=True)
  every = jax.nn.log_softmax(logits(params, cfg, jnp.asarray(whole), mask=jnp.asarray(real)))
  every = np.asarray(every).reshape(3, 6, 9, -1)
  for row, log_probs in enumerate(every):
    score = log_probs[np.arange(6), 6, codes[:, 0]] + log_probs[np.arange(6), 7, codes[:, 1]]
    np.testing.assert_array_equal(found.ids[row], 1 + np.argsort(-score))
    np.testing.assert_allclose(found.scores[row], np.sort(score)[::-1], atol=1e-4)


def test_samples_follow_the_probabilities_of_the_next_token():
  params, lanes = lively(GPT2), 4096

  @jax.jit
  def drawn():
    last, cache = gpt.begin(params, GPT2, TOKENS, beams=lanes, length=1)
    start = jnp.broadcast_to(last[:, None], (3, lanes))
    model = functools.partial(gpt.step, params, GPT2)
    return generate.sample(model, cache, start, jax.random.key(0), length=1, eos=18).tokens

  expected = jax.nn.softmax(logits(params, GPT2, TOKENS)[:, -1])
  for row, tokens in enumerate(np.asarray(drawn())):
    share = np.bincount(tokens.ravel(), minlength=19) / lanes
    np.testing.assert_allclose(share, expected[row], atol=4 * 0.5 / lanes**0.5)  # four deviations
