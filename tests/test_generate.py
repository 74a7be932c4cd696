"""Decoding against brute force over a table of a model, and against transformers."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recjax.decode import generate
from recjax.nn import t5
from recjax.text import t5_weights

EOS = 1


def random_table(seed, *, rows=3, length=3, vocab=4):
  """Logits by row, place, the token before the last, and the last: [B, T, V, V, V]."""
  shape = (rows, length, vocab, vocab, vocab)
  return jnp.asarray(2 * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def step(table, tokens, cache):
  """The table as a model; its cache is the token before the last."""
  rows = jnp.arange(len(tokens))[:, None]
  logits = table[rows, cache["at"], cache["before"], tokens]
  return logits, {"at": cache["at"] + 1, "before": tokens}


def start_cache(lanes, rows=3):
  return {"at": jnp.int32(0), "before": jnp.zeros((rows, lanes), jnp.int32)}


def reorder(cache, parents):
  return {**cache, "before": jnp.take_along_axis(cache["before"], parents, axis=1)}


@functools.partial(jax.jit, static_argnames=("length",))
def greedy(table, length):
  start = jnp.zeros((len(table), 1), jnp.int32)
  model = functools.partial(step, table)
  return generate.greedy(model, start_cache(1, len(table)), start, length=length, eos=EOS)


@functools.partial(jax.jit, static_argnames=("beams", "length", "penalty", "early"))
def beam(table, beams, length, penalty, early=False):
  return generate.beam(
    functools.partial(step, table),
    start_cache(beams, len(table)),
    jnp.zeros(len(table), jnp.int32),
    beams=beams,
    length=length,
    eos=EOS,
    length_penalty=penalty,
    early_stopping=early,
    reorder=reorder,
  )


def log_prob(table, row, tokens):
  """Of a sequence up to its end."""
  total, before, last = 0.0, 0, 0
  for t, token in enumerate(tokens):
    logits = np.asarray(table[row, t, before, last], np.float64)
    total += logits[token] - np.log(np.exp(logits).sum())
    before, last = last, token
  return total


def cut(tokens):
  tokens = [int(t) for t in tokens]
  return tuple(tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens)


def test_greedy_takes_the_likeliest_and_stops_at_the_end():
  table = random_table(0, rows=8, length=5)
  out = greedy(table, 5)
  lengths = set()
  for row in range(8):
    before, last, expected = 0, 0, []
    for t in range(5):
      before, last = last, int(table[row, t, before, last].argmax())
      expected.append(last)
      if last == EOS:
        break
    lengths.add(len(expected))
    assert cut(out.tokens[row, 0]) == tuple(expected)
    np.testing.assert_array_equal(out.tokens[row, 0, len(expected) :], 0)
    np.testing.assert_allclose(out.scores[row, 0], log_prob(table, row, expected), atol=1e-5)
  assert len(lengths) > 1  # some ended early


def test_the_loop_ends_with_the_last_row():
  table = jnp.zeros((2, 9, 4, 4, 4)).at[..., EOS].set(5.0)
  calls = []

  def counting(tokens, cache):
    jax.debug.callback(lambda: calls.append(1))
    return step(table, tokens, cache)

  start = jnp.zeros((2, 1), jnp.int32)
  out = generate.greedy(counting, start_cache(1, 2), start, length=9, eos=EOS)
  jax.effects_barrier()
  assert len(calls) == 1
  np.testing.assert_array_equal(out.tokens[:, 0], [[EOS] + [0] * 8] * 2)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -1.0])
def test_a_wide_beam_finds_the_best_of_all_sequences(penalty):
  table, beams = random_table(1), 16  # more than the 9 unfinished prefixes of two tokens
  out = beam(table, beams, 3, penalty)
  every = {cut(s) for s in itertools.product(range(4), repeat=3)}
  for row in range(3):
    score = {s: log_prob(table, row, s) / len(s) ** penalty for s in every}
    best = sorted(score, key=score.get, reverse=True)[:beams]
    assert [cut(tokens) for tokens in out.tokens[row]] == best
    np.testing.assert_allclose(out.scores[row], [score[s] for s in best], atol=1e-5)


def test_a_beam_of_one_without_early_ends_is_greedy():
  table = random_table(2).at[..., EOS].set(-30.0)
  np.testing.assert_array_equal(beam(table, 1, 3, 1.0).tokens, greedy(table, 3).tokens)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 1.0]), st.booleans())
def test_beam_scores_are_what_the_model_says_of_the_tokens(seed, penalty, early):
  table = random_table(seed)
  out = beam(table, 3, 3, penalty, early)
  for row in range(3):
    found = [cut(tokens) for tokens in out.tokens[row]]
    real = np.isfinite(out.scores[row])
    assert real[0] and len({s for s, r in zip(found, real, strict=True) if r}) == real.sum()
    for tokens, score in zip(out.tokens[row][real], out.scores[row][real], strict=True):
      expected = log_prob(table, row, cut(tokens)) / len(cut(tokens)) ** penalty
      np.testing.assert_allclose(score, expected, atol=1e-5)
      assert (np.asarray(tokens)[len(cut(tokens)) :] == 0).all()
  assert (np.diff(np.where(np.isfinite(out.scores), out.scores, -1e9), axis=1) <= 0).all()


def test_early_stopping_by_hand():
  table = jnp.zeros((1, 3, 4, 4, 4))
  said = {
    (0, 0, 0): [0.01, 0.22, 0.60, 0.17],  # the end: log 0.22 = -1.514
    (1, 0, 2): [0.025, 0.80, 0.15, 0.025],  # 2 and the end: log 0.48 / 2 = -0.367
    (2, 2, 2): [0.01, 0.01, 0.01, 0.97],  # 2, 2, 3: log 0.0873 / 3 = -0.813
  }
  for place, probs in said.items():
    table = table.at[0, *place].set(jnp.log(jnp.array(probs)))
  # After two places two have ended; 2, 2 stands at log 0.09 / 2 = -1.204, better than -1.514.
  patient, early = (beam(table, 2, 3, 1.0, early) for early in (False, True))
  np.testing.assert_allclose(patient.scores[0], [-0.367, -0.813], atol=1e-3)
  np.testing.assert_array_equal(patient.tokens[0], [[2, 1, 0], [2, 2, 3]])
  np.testing.assert_allclose(early.scores[0], [-0.367, -1.514], atol=1e-3)
  np.testing.assert_array_equal(early.tokens[0], [[2, 1, 0], [1, 0, 0]])


def test_too_few_sequences_leave_places_empty():
  # With only EOS and one other token, three places hold 3 sequences and their one unfinished.
  table = random_table(3, vocab=2)
  out = beam(table, 6, 2, 1.0)
  assert np.isfinite(out.scores).sum(1).tolist() == [3, 3, 3]  # E, 0E, 00
  np.testing.assert_array_equal(out.tokens[:, 3:], 0)


def test_a_vocabulary_of_one_is_an_error():
  with pytest.raises(ValueError, match="two tokens"):
    beam(random_table(0, vocab=1), 2, 2, 1.0)


# Sampling.


def test_samples_follow_the_model():
  table = random_table(4, rows=1, length=2)
  lanes = 20_000
  out = generate.sample(
    functools.partial(step, table),
    start_cache(lanes, 1),
    jnp.zeros((1, lanes), jnp.int32),
    jax.random.key(0),
    length=2,
    eos=EOS,
  )
  found = [cut(tokens) for tokens in np.asarray(out.tokens[0])]
  for sequence in {cut(s) for s in itertools.product(range(4), repeat=2)}:
    p = np.exp(log_prob(table, 0, sequence))
    assert abs(found.count(sequence) / lanes - p) < 5 * np.sqrt(p * (1 - p) / lanes) + 1e-4
  some = [0, 7, 4000]
  expected = [log_prob(table, 0, found[i]) for i in some]
  np.testing.assert_allclose(np.asarray(out.scores[0])[some], expected, atol=1e-5)


def test_narrowing_by_hand():
  logits = jnp.log(jnp.array([0.1, 0.4, 0.05, 0.25, 0.2]))

  def kept(**how):
    return np.flatnonzero(np.isfinite(generate.narrowed(logits, **how))).tolist()

  assert kept() == [0, 1, 2, 3, 4]
  assert kept(top_k=2) == [1, 3]
  assert kept(top_p=0.39) == [1]
  assert kept(top_p=0.41) == [1, 3]
  assert kept(top_p=0.86) == [0, 1, 3, 4]
  assert kept(top_p=1e-9) == [1]
  assert kept(top_k=3, top_p=0.6) == [1, 3]  # of 0.4, 0.25, 0.2 over 0.85: 0.47, 0.76
  assert kept(top_p=0.58) == [1, 3]
  # At a temperature of 1/2 probabilities are squared: 0.16 of 0.275 in all is 0.5818.
  assert kept(temperature=0.5, top_p=0.58) == [1]
  np.testing.assert_allclose(generate.narrowed(logits, temperature=0.5), 2 * logits, rtol=1e-6)


@given(st.integers(0, 1000), st.floats(0.3, 3), st.integers(0, 12), st.floats(0.01, 1.0))
def test_narrowing_is_that_of_transformers(seed, temperature, top_k, top_p):
  torch = pytest.importorskip("torch", reason="pip install recjax[parity]")
  pytest.importorskip("transformers", reason="pip install recjax[parity]")
  from transformers.generation import logits_process as peer

  logits = np.random.default_rng(seed).normal(size=(4, 10)).astype(np.float32) * 2
  expected = peer.TemperatureLogitsWarper(temperature)(None, torch.tensor(logits))
  if top_k:
    expected = peer.TopKLogitsWarper(top_k)(None, expected)
  ordered = np.sort(torch.softmax(expected, -1).numpy())[:, ::-1].cumsum(-1)
  if np.abs(ordered - top_p).min() < 1e-5:
    return  # whether the last token is in is a matter of rounding
  if top_p < 1:
    expected = peer.TopPLogitsWarper(top_p)(None, expected)
  ours = generate.narrowed(logits, temperature=temperature, top_k=top_k, top_p=top_p)
  np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-5)


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"top_p": 0}, {"top_p": 2}, {"top_k": -1}])
def test_settings_out_of_range_are_errors(wrong):
  with pytest.raises(ValueError, match="must"):
    generate.narrowed(jnp.zeros(3), **wrong)


# Against transformers, through T5.

LENGTH = 7
SOURCE = np.random.default_rng(0).integers(2, 23, (6, 9)).astype(np.int32)
SOURCE[1, 4:] = 0
SOURCE[4, 7:] = 0


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
  torch = pytest.importorskip("torch", reason="pip install recjax[parity]")
  peer = pytest.importorskip("transformers", reason="pip install recjax[parity]")
  torch.manual_seed(0)
  config = peer.T5Config(
    vocab_size=23, d_model=16, d_kv=4, d_ff=24, num_heads=3, num_layers=2, num_decoder_layers=2,
    decoder_start_token_id=0,
  )  # fmt: skip
  model = peer.T5ForConditionalGeneration(config).eval()
  # A head of its own, so that a token is not its own likeliest successor.
  model.lm_head.weight = torch.nn.Parameter(torch.randn(23, 16) * 3)
  with torch.no_grad():
    model.lm_head.weight[EOS] *= 1.3
  folder = tmp_path_factory.mktemp("t5")
  model.save_pretrained(folder)
  return torch, model, *t5_weights.load(folder)


def rescored(pair, rows, sequences):
  """What transformers says of token sequences, a log-probability each."""
  torch, model, *_ = pair
  tokens = torch.tensor(np.asarray(sequences), dtype=torch.long)
  source = torch.tensor(SOURCE[rows], dtype=torch.long)
  read = torch.nn.functional.pad(tokens, (1, 0))[:, :-1]
  with torch.no_grad():
    logits = model(
      input_ids=source, attention_mask=(source != 0).long(), decoder_input_ids=read
    ).logits
  picked = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
  over = np.cumsum(tokens.numpy() == EOS, 1) - (tokens.numpy() == EOS) > 0
  return np.where(over, 0, picked.numpy()).sum(1)


def theirs(pair, **how):
  torch, model, *_ = pair
  source = torch.tensor(SOURCE, dtype=torch.long)
  out = model.generate(
    source,
    attention_mask=(source != 0).long(),
    max_new_tokens=LENGTH,
    do_sample=False,
    output_scores=True,
    return_dict_in_generate=True,
    eos_token_id=EOS,
    pad_token_id=0,
    **how,
  )
  tokens = out.sequences[:, 1:].numpy()
  return np.pad(tokens, ((0, 0), (0, LENGTH - tokens.shape[1]))), out


def ours(pair, search, beams=1):
  _, _, cfg, params = pair

  @jax.jit
  def run(params, source):
    mask = source != 0
    encoded = t5.encode(params, cfg, source, mask=mask)
    cache = t5.start_cache(params, cfg, encoded, source_mask=mask, beams=beams, length=LENGTH)
    return search(lambda tokens, cache: t5.decode_step(params, cfg, tokens, cache), cache)

  return run(params, SOURCE)


def test_greedy_is_that_of_transformers(pair):
  start = jnp.zeros((6, 1), jnp.int32)
  out = ours(pair, lambda f, c: generate.greedy(f, c, start, length=LENGTH, eos=EOS))
  expected, _ = theirs(pair, num_beams=1)
  assert len({cut(t) for t in expected}) > 3 and len({len(cut(t)) for t in expected}) > 1
  np.testing.assert_array_equal(out.tokens[:, 0], expected)
  scores = rescored(pair, np.arange(6), out.tokens[:, 0])
  np.testing.assert_allclose(out.scores[:, 0], scores, atol=1e-4)


@pytest.mark.parametrize(
  "penalty, early",
  [(0.0, False), (1.0, False), (1.0, True), pytest.param(2.0, False, marks=pytest.mark.slow)],
)
def test_beam_search_is_that_of_transformers(pair, penalty, early):
  beams = 4

  def search(step, cache):
    return generate.beam(
      step,
      cache,
      jnp.zeros(6, jnp.int32),
      beams=beams,
      length=LENGTH,
      eos=EOS,
      length_penalty=penalty,
      early_stopping=early,
      reorder=t5.reorder,
    )

  out = ours(pair, search, beams)
  tokens, peer = theirs(
    pair,
    num_beams=beams,
    num_return_sequences=beams,
    length_penalty=penalty,
    early_stopping=early,
  )
  tokens, scores = tokens.reshape(6, beams, -1), peer.sequences_scores.numpy().reshape(6, beams)
  np.testing.assert_allclose(out.scores, scores, atol=1e-4)
  for row, k in np.ndindex(6, beams):
    others = np.delete(scores[row], k)
    if np.abs(others - scores[row, k]).min() > 1e-4:
      assert cut(out.tokens[row, k]) == cut(tokens[row, k])
  lengths = np.array([[len(cut(t)) for t in row] for row in np.asarray(out.tokens)])
  flat = np.asarray(out.tokens).reshape(6 * beams, -1)
  said = rescored(pair, np.repeat(np.arange(6), beams), flat).reshape(6, beams)
  np.testing.assert_allclose(out.scores, said / lengths**penalty, atol=1e-4)
  assert penalty > 1 or len(set(lengths.reshape(-1).tolist())) > 1  # some end early
