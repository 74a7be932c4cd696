"""Metrics of generated text: BLEU, ROUGE, distinct-n, exact match, perplexity.

They take lists of token sequences (words or ids; the tokeniser is the caller's choice and part of
any number) and run on the host. BLEU and distinct-n are of a corpus, so they are statistics that
add up; ROUGE and exact match give one value an example [B].

BLEU is in per cent, as sacrebleu prints it; everything else lies in 0 .. 1, as rouge-score has it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np

from recjax.metrics.additive import ratio
from recjax.types import Array

Tokens = Sequence[Hashable]
# (hits [N], totals [N]) -> precisions [N], of n-grams of 1 .. N tokens.
Smoothing = Callable[[np.ndarray, np.ndarray], np.ndarray]


def no_smoothing(hits: np.ndarray, totals: np.ndarray) -> np.ndarray:
  """One order without a hit makes BLEU 0."""
  return ratio(hits, totals)


def exponential_smoothing(hits: np.ndarray, totals: np.ndarray) -> np.ndarray:
  """The i-th order without a hit counts as 1 / 2**i hits (NIST's mteval; sacrebleu's default)."""
  missed = (hits == 0) & (totals > 0)
  return ratio(np.where(missed, 0.5 ** np.cumsum(missed), hits), totals)


def floor_smoothing(hits: np.ndarray, totals: np.ndarray) -> np.ndarray:
  """An order without a hit counts as a tenth of one."""
  return ratio(np.where(hits == 0, 0.1, hits), totals)


def add_one_smoothing(hits: np.ndarray, totals: np.ndarray) -> np.ndarray:
  """One hit more of one n-gram more, for n above 1 (Lin and Och, 2004)."""
  extra = (np.arange(len(hits)) > 0).astype(int)
  return ratio(hits + extra, totals + extra)


class Bleu(NamedTuple):
  """Corpus BLEU before the division."""

  hits: np.ndarray  # [N] int64, n-grams also in the reference, clipped
  totals: np.ndarray  # [N] int64, n-grams of the hypotheses
  length: np.ndarray  # [] int64, tokens of the hypotheses
  reference_length: np.ndarray  # [] int64

  def finish(self, smoothing: Smoothing = exponential_smoothing) -> float:
    """BLEU-N in per cent; 0 without a common token or with hypotheses too short for N."""
    if not self.hits.any():
      return 0.0
    precisions = smoothing(np.asarray(self.hits), np.asarray(self.totals))
    if not precisions.all():
      return 0.0
    brevity = min(0.0, 1.0 - float(self.reference_length) / float(self.length))
    return 100.0 * math.exp(brevity + float(np.log(precisions).mean()))


def bleu(
  hypotheses: Sequence[Tokens],
  references: Sequence[Tokens],
  *,
  max_n: int = 4,
  where: np.ndarray | None = None,
) -> Bleu:
  """BLEU-`max_n` of the corpus that `where` [B] keeps."""
  counts = bleu_counts(hypotheses, references, max_n=max_n)
  return bleu_of(counts if where is None else counts[np.asarray(where, bool)])


def bleu_of(counts: np.ndarray) -> Bleu:
  """The sum of the rows that `bleu_counts` gave, or of a resample of them."""
  total = counts.sum(axis=0)
  n = (len(total) - 2) // 2
  return Bleu(total[:n], total[n : 2 * n], total[-2], total[-1])


def bleu_counts(
  hypotheses: Sequence[Tokens], references: Sequence[Tokens], *, max_n: int = 4
) -> np.ndarray:
  """int64 [B, 2 N + 2]: hits and totals by order, then both lengths, of each example."""
  _same_length(hypotheses, references)
  rows = np.zeros((len(hypotheses), 2 * max_n + 2), np.int64)
  for row, hypothesis, reference in zip(rows, hypotheses, references, strict=True):
    for n in range(1, max_n + 1):
      guessed = ngrams(hypothesis, n)
      row[n - 1] = (guessed & ngrams(reference, n)).total()
      row[max_n + n - 1] = guessed.total()
    row[-2:] = len(hypothesis), len(reference)
  return rows


class Rouge(NamedTuple):
  """One value an example, [B] float32."""

  precision: np.ndarray
  recall: np.ndarray
  f1: np.ndarray


def rouge_n(hypotheses: Sequence[Tokens], references: Sequence[Tokens], n: int) -> Rouge:
  """ROUGE-N: shared n-grams over those of the hypothesis, of the reference, and harmonic."""
  pairs = _pairs(hypotheses, references)
  return _rouge(
    [(ngrams(h, n) & ngrams(r, n)).total() for h, r in pairs],
    [max(len(h) - n + 1, 0) for h, _ in pairs],
    [max(len(r) - n + 1, 0) for _, r in pairs],
  )


def rouge_l(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> Rouge:
  """ROUGE-L: the longest common subsequence over either length, of the whole text."""
  pairs = _pairs(hypotheses, references)
  return _rouge(
    [_common_subsequence(h, r) for h, r in pairs],
    [len(h) for h, _ in pairs],
    [len(r) for _, r in pairs],
  )


def _rouge(shared: list[int], guessed: list[int], wanted: list[int]) -> Rouge:
  both, guess, want = (np.array(x, np.int64) for x in (shared, guessed, wanted))
  # 2 P R / (P + R) with the common counts cancelled.
  parts = ratio(both, guess), ratio(both, want), ratio(2 * both, guess + want)
  return Rouge(*(np.asarray(x, np.float32) for x in parts))


def _common_subsequence(a: Tokens, b: Tokens) -> int:
  """Its length, a row of the dynamic programme at a time as the bits of one integer."""
  places: dict[Hashable, int] = {}
  for i, token in enumerate(a):
    places[token] = places.get(token, 0) | 1 << i
  row = full = (1 << len(a)) - 1  # a zero bit: the subsequence grows at this place
  for token in b:
    match = row & places.get(token, 0)
    row = ((row + match) | (row - match)) & full
  return len(a) - row.bit_count()


def ngram_counts(sequences: Sequence[Tokens], n: int) -> Counter:
  """All n-grams of a corpus; counters of two corpora add with `+`."""
  total: Counter = Counter()
  for sequence in sequences:
    total.update(ngrams(sequence, n))
  return total


def distinct(counts: Counter) -> float:
  """Distinct-n: different n-grams over all n-grams of the corpus; 0 if there are none."""
  return len(counts) / max(counts.total(), 1)


def exact_match(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> np.ndarray:
  """1 where every token agrees, float32 [B]."""
  pairs = _pairs(hypotheses, references)
  return np.array([list(h) == list(r) for h, r in pairs], np.float32)


class Perplexity(NamedTuple):
  nll: Array  # [] float32, -log of the tokens' probabilities, natural, summed
  tokens: Array  # [] int32

  def finish(self) -> float:
    """e to the mean nll: inf when it overflows, or is NaN; 1 without any token."""
    mean = float(ratio(np.asarray(self.nll), np.asarray(self.tokens)))
    return math.exp(mean) if mean < 700 else math.inf


def ngrams(tokens: Tokens, n: int) -> Counter:
  """How often each run of n tokens occurs."""
  return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def _pairs(
  hypotheses: Sequence[Tokens], references: Sequence[Tokens]
) -> list[tuple[Tokens, Tokens]]:
  _same_length(hypotheses, references)
  return list(zip(hypotheses, references, strict=True))


def _same_length(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> None:
  if len(hypotheses) != len(references):
    raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references: give pairs")
  for text in (*hypotheses[:1], *references[:1]):
    if isinstance(text, str):
      raise ValueError(f"{text[:40]!r} is a string, not tokens: split it first")
