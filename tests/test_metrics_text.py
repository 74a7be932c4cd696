"""BLEU equals sacrebleu, ROUGE equals rouge-score; corpora add up."""

import collections

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.metrics import merge, text

WORDS = st.sampled_from("the a cat dog sat on mat ran".split())
SENTENCE = st.lists(WORDS, max_size=9)
CORPUS = st.lists(st.tuples(SENTENCE, SENTENCE), min_size=1, max_size=5)


@pytest.mark.parametrize(
  ("smoothing", "name", "value"),
  [
    (text.exponential_smoothing, "exp", None),
    (text.no_smoothing, "none", None),
    (text.floor_smoothing, "floor", 0.1),
    (text.add_one_smoothing, "add-k", 1),
  ],
)
@given(corpus=CORPUS, max_n=st.integers(1, 4))
def test_bleu_equals_sacrebleu(smoothing, name, value, corpus, max_n):
  sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is the reference of BLEU")
  hypotheses, references = zip(*corpus, strict=True)
  peer = sacrebleu.BLEU(
    tokenize="none", max_ngram_order=max_n, smooth_method=name, smooth_value=value
  )
  joined = [" ".join(h) for h in hypotheses], [[" ".join(r) for r in references]]
  want = peer.corpus_score(*joined).score
  got = text.bleu(hypotheses, references, max_n=max_n).finish(smoothing)
  assert got == pytest.approx(want, rel=1e-9, abs=1e-9)


def test_bleu_is_hand_arithmetic():
  got = text.bleu(["a b c".split()], ["a b d e".split()], max_n=2)
  # Unigrams 2 of 3, bigrams 1 of 2, brevity exp(1 - 4 / 3).
  assert got.hits.tolist() == [2, 1] and got.totals.tolist() == [3, 2]
  assert got.finish() == pytest.approx(100 * np.exp(-1 / 3) * np.sqrt(2 / 3 * 1 / 2))


@given(CORPUS, st.integers(0, 5))
def test_bleu_of_any_split_adds_up(corpus, cut):
  hypotheses, references = zip(*corpus, strict=True)
  parts = [text.bleu(hypotheses[s], references[s]) for s in (slice(0, cut), slice(cut, None))]
  assert merge(*parts).finish() == text.bleu(hypotheses, references).finish()
  where = np.arange(len(corpus)) < cut
  assert text.bleu(hypotheses, references, where=where).finish() == parts[0].finish()


@given(CORPUS)
def test_rouge_equals_rouge_score(corpus):
  scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is the reference")
  peer = scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
  hypotheses, references = zip(*corpus, strict=True)
  ours = {
    "rouge1": text.rouge_n(hypotheses, references, 1),
    "rouge2": text.rouge_n(hypotheses, references, 2),
    "rougeL": text.rouge_l(hypotheses, references),
  }
  for i, (h, r) in enumerate(corpus):
    for name, score in peer.score(" ".join(r), " ".join(h)).items():
      got = [x[i] for x in ours[name]]
      np.testing.assert_allclose(got, [score.precision, score.recall, score.fmeasure], rtol=1e-6)


@given(st.lists(st.integers(0, 3), max_size=80), st.lists(st.integers(0, 3), max_size=80))
def test_the_bit_parallel_subsequence_equals_the_table(a, b):
  table = np.zeros((len(a) + 1, len(b) + 1), int)
  for i, x in enumerate(a):
    for j, y in enumerate(b):
      table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
  rouge = text.rouge_l([a], [b])
  assert rouge.f1[0] == pytest.approx(2 * table[-1, -1] / max(len(a) + len(b), 1))


def test_distinct_counts_a_corpus_and_adds_up():
  first, second = [["a", "b", "a"]], [["a", "b"]]
  # Bigrams ab, ba, ab: two kinds of three.
  parts = [text.ngram_counts(c, 2) for c in (first, second)]
  assert text.distinct(parts[0] + parts[1]) == 2 / 3
  assert text.distinct(text.ngram_counts(first + second, 2)) == 2 / 3
  assert text.distinct(collections.Counter()) == 0


def test_exact_match_compares_whole_sequences():
  assert text.exact_match([[1, 2], [1], []], [(1, 2), (1, 2), ()]).tolist() == [1, 0, 1]


def test_perplexity_divides_tokens_once():
  # A uniform choice among 8 and among 2: log 8 * 1 + log 2 * 3 over 4 tokens = log 2**1.5.
  parts = [
    text.Perplexity(jnp.float32(np.log(8)), jnp.int32(1)),
    text.Perplexity(jnp.float32(3 * np.log(2)), jnp.int32(3)),
  ]
  assert merge(*parts).finish() == pytest.approx(2**1.5, rel=1e-6)
  assert text.Perplexity(jnp.float32(np.nan), jnp.int32(1)).finish() == np.inf
  assert text.Perplexity(jnp.float32(1e9), jnp.int32(1)).finish() == np.inf


def test_empty_corpora_and_texts_are_zero():
  assert text.bleu([], []).finish() == 0
  assert text.bleu([[]], [["a"]]).finish() == 0
  assert text.bleu([["a"]], [[]]).finish() == 0
  assert text.rouge_n([], [], 1).f1.shape == (0,)
  assert text.rouge_l([[]], [[]]).f1.tolist() == [0]


def test_unpaired_and_unsplit_texts_are_refused():
  with pytest.raises(ValueError, match="2 hypotheses for 1 references"):
    text.bleu([["a"], ["b"]], [["a"]])
  with pytest.raises(ValueError, match="split it first"):
    text.rouge_l(["a cat"], ["a dog"])
