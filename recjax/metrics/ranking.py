"""Metrics of ranked lists and of ranks, one value an example [B], 0 where `where` is False.

Two ways lead here. A system that answers with lists: `hits(ids, relevant)` [B, K] and
`count(relevant)` [B] feed recall, precision, hit_rate, ndcg, mrr and average_precision. A system
that scores the whole catalogue: `ranks` [B] feed `recall_at`, `ndcg_at`, `mrr_at`, without a sort;
`ranks_of_many` [B, R] feeds the list metrics through `hits_at`. Both give the same numbers.

A rank is 0-based and is the place that `jax.lax.top_k` gives: the number of items with a greater
score, or an equal score and a lower id (-0 equals 0). So a constant scorer ranks by id, and a
target gains nothing from ties. PAD is never a candidate; `deny` [B, N] names the items a user
must not be shown. An item whose score is NaN or -inf is never recommended: as a target it is
UNRANKED, which is worth 0 at every k, and as a competitor it beats nobody. UNRANKED too is a
target that is PAD, denied, or out of range.

Anything computed over sampled negatives carries `sampled_` in its name, here (`sampled_ranks`)
and in every report ("sampled_recall@10"): it is not comparable with the full ranking.

B examples, I items (PAD included), K places of a list, R relevant items, C candidates, D width.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np

from recjax.metrics.additive import keep, ratio
from recjax.types import PAD, Array

UNRANKED = int(np.iinfo(np.int32).max)  # the rank of what is never recommended


def ranks(
  scores: Array, target: Array, *, deny: Array | None = None, where: Array | None = None
) -> Array:
  """The rank [B] of `target` [B] among all items of `scores` [B, I]; where False, UNRANKED."""
  chex.assert_rank([scores, target], [2, 1])
  many = ranks_of_many(scores, jnp.asarray(target)[:, None], deny=deny)[:, 0]
  return many if where is None else jnp.where(where, many, UNRANKED)


def ranks_of_many(
  scores: Array, targets: Array, *, deny: Array | None = None, where: Array | None = None
) -> Array:
  """Ranks [B, R] of several relevant items a user, `targets` [B, R] padded with PAD.

  The relevant items compete with each other too, as in a list. A repeated target is UNRANKED
  the second time. One pass over the scores for each of the R columns.
  """
  chex.assert_rank([scores, targets], 2)
  scores = jnp.asarray(scores, jnp.float32)
  targets = jnp.asarray(targets, jnp.int32)
  if deny is not None:
    rows = jnp.arange(len(scores))[:, None]
    scores = scores.at[rows, deny].set(-jnp.inf, mode="drop")
  mine = jnp.take_along_axis(scores, targets, axis=1, mode="fill", fill_value=jnp.nan)  # [B, R]
  ids = jnp.arange(scores.shape[1], dtype=jnp.int32)[None]  # [1, I]

  def above(column):
    score, target = (x[:, None] for x in column)  # [B, 1]
    # One fused pass: compare and count, nothing of size [B, I] is written.
    better = (scores > score) | ((scores == score) & (ids < target))
    return jnp.sum(better & (ids != PAD), axis=1, dtype=jnp.int32)

  if targets.shape[1] == 1:
    rank = above((mine[:, 0], targets[:, 0]))[:, None]
  else:
    rank = jax.lax.map(above, (mine.T, targets.T)).T  # [B, R]
  ranked = (targets > PAD) & (mine > -jnp.inf) & ~repeated(targets)  # NaN > -inf is False
  if where is not None:
    ranked &= where[:, None]
  return jnp.where(ranked, rank, UNRANKED)


def dot_ranks(
  queries: Array,
  items: Array,
  target: Array,
  *,
  deny: Array | None = None,
  where: Array | None = None,
  block: int = 128,
) -> Array:
  """`ranks` of `queries` [B, D] @ `items` [I, D].T, `block` users at a time.

  The scores of one block stay in the cache, and [B, I] is never held: B may be all the users.
  On several devices, call it under `shard_map`, each with its own users: blocks are taken in turn.
  """
  chex.assert_rank([queries, items, target], [2, 2, 1])

  def one(example):
    query, target, deny, where = jax.tree.map(lambda x: x[None], example)
    # Sums in float32 also for bfloat16 vectors, whose rounded scores would tie.
    scores = jnp.matmul(query, items.T, preferred_element_type=jnp.float32)
    return ranks(scores, target, deny=deny, where=where)[0]

  return jax.lax.map(one, (queries, target, deny, where), batch_size=block)


def sampled_ranks(
  scores: Array, candidates: Array, target: Array, *, where: Array | None = None
) -> Array:
  """The rank [B] of `target` [B] among its `candidates` [B, C] with `scores` [B, C].

  The rules of `ranks`, over the ids that were sampled: PAD and repeats do not count, ties go to
  the lower id. A target that is not among its candidates is UNRANKED.
  """
  chex.assert_rank([scores, candidates, target], [2, 2, 1])
  chex.assert_equal_shape([scores, candidates])
  scores = jnp.asarray(scores, jnp.float32)
  candidates, target = jnp.asarray(candidates), jnp.asarray(target)[:, None]
  is_target = candidates == target  # [B, C]
  column = jnp.argmax(is_target, axis=1)[:, None]
  mine = jnp.take_along_axis(scores, column, axis=1)  # [B, 1]
  better = (scores > mine) | ((scores == mine) & (candidates < target))
  competes = (candidates != PAD) & ~is_target & ~repeated(candidates)
  rank = jnp.sum(better & competes, axis=1, dtype=jnp.int32)
  ranked = is_target.any(axis=1) & (target[:, 0] > PAD) & (mine[:, 0] > -jnp.inf)
  if where is not None:
    ranked &= where
  return jnp.where(ranked, rank, UNRANKED)


def recall_at(ranks: Array, k: int, where: Array | None = None) -> Array:
  """1 if the target is among the first k: with one target, recall and hit rate are the same."""
  return keep((ranks < k) & (ranks != UNRANKED), where)


def ndcg_at(ranks: Array, k: int, where: Array | None = None) -> Array:
  """1 / log2(rank + 2) within the first k; the ideal of one target is 1."""
  return keep(recall_at(ranks, k) / jnp.log2(ranks.astype(jnp.float32) + 2), where)


def mrr_at(ranks: Array, k: int = UNRANKED, where: Array | None = None) -> Array:
  """1 / (rank + 1) within the first k (by default, anywhere)."""
  return keep(recall_at(ranks, k) / (ranks.astype(jnp.float32) + 1), where)


def hits(ids: Array, relevant: Array) -> Array:
  """Which places of the lists `ids` [B, K] hold one of `relevant` [B, R]: bool [B, K].

  PAD never hits; an item that a list repeats hits once.
  """
  chex.assert_rank([ids, relevant], 2)
  found = jnp.any(ids[:, :, None] == relevant[:, None, :], axis=2)
  return found & (ids != PAD) & ~repeated(ids)


def hits_at(ranks: Array, k: int) -> Array:
  """The first k places of the lists in which the relevant items hold `ranks` [B, R]."""
  places = jnp.arange(k, dtype=ranks.dtype)[None, :, None]
  return jnp.any(ranks[:, None, :] == places, axis=2)


def count(relevant: Array) -> Array:
  """How many distinct items `relevant` [B, R] holds, PAD not counted: int32 [B]."""
  return jnp.sum((relevant != PAD) & ~repeated(relevant), axis=1, dtype=jnp.int32)


def recall(hits: Array, relevant: Array, k: int, where: Array | None = None) -> Array:
  """The share of the `relevant` [B] items that the first k places hold."""
  return keep(ratio(_first(hits, k).sum(axis=1), relevant), where)


def precision(hits: Array, k: int, where: Array | None = None) -> Array:
  """The share of the first k places that hold a relevant item; empty places are misses."""
  return keep(_first(hits, k).sum(axis=1) / k, where)


def hit_rate(hits: Array, k: int, where: Array | None = None) -> Array:
  """1 if any of the first k places holds a relevant item."""
  return keep(_first(hits, k).any(axis=1), where)


def mrr(hits: Array, k: int, where: Array | None = None) -> Array:
  """1 / (1 + the place of the first relevant item), 0 if the first k places hold none."""
  first = _first(hits, k)
  return keep(first.any(axis=1) / (1.0 + jnp.argmax(first, axis=1)), where)


def average_precision(hits: Array, relevant: Array, k: int, where: Array | None = None) -> Array:
  """AP@k, whose mean is MAP@k: the precisions at the hits, summed, over min(k, `relevant`).

  So a list whose k places all hit scores 1, however many more items are relevant.
  """
  first = _first(hits, k)
  precisions = jnp.cumsum(first, axis=1) / jnp.arange(1, k + 1, dtype=jnp.float32)[None]
  return keep(ratio(jnp.sum(precisions, axis=1, where=first), jnp.minimum(relevant, k)), where)


def ndcg(hits: Array, relevant: Array, k: int, where: Array | None = None) -> Array:
  """Binary NDCG@k: hits discounted by log2(place + 2), over those of an ideal list."""
  discounts = _discounts(k)
  gained = jnp.sum(discounts[None], axis=1, where=_first(hits, k))
  ideal = jnp.concatenate([jnp.zeros(1), jnp.cumsum(discounts)])  # by the number of hits
  return keep(ratio(gained, ideal[jnp.minimum(relevant, k)]), where)


def graded_ndcg(gains: Array, relevant: Array, k: int, where: Array | None = None) -> Array:
  """NDCG@k of graded lists: `gains` [B, K] at each place, `relevant` [B, R] all the user's gains.

  Gains are taken as they are: pass ratings for the linear form, 2**ratings - 1 for the other.
  """
  chex.assert_rank([gains, relevant], 2)
  ideal = -jnp.sort(-jnp.asarray(relevant, jnp.float32), axis=1)[:, :k]  # [B, min(R, k)]
  gained = jnp.sum(_places(gains, k) * _discounts(k)[None], axis=1)
  best = jnp.sum(ideal * _discounts(k)[None, : ideal.shape[1]], axis=1)
  return keep(ratio(gained, best), where)


def _discounts(k: int) -> Array:
  return 1 / jnp.log2(jnp.arange(2, k + 2, dtype=jnp.float32))  # [k]


def _first(hits: Array, k: int) -> Array:
  return _places(hits, k) > 0  # bool [B, k]


def _places(lists: Array, k: int) -> Array:
  chex.assert_rank(lists, 2)
  if not 0 < k <= lists.shape[1]:
    raise ValueError(f"k={k}, but the lists hold {lists.shape[1]} places: recommend k of them")
  return lists[:, :k]


def repeated(ids: Array) -> Array:
  """True [B, N] where a row has held the same id at an earlier place."""
  same = ids[:, :, None] == ids[:, None, :]  # [B, N, N]
  earlier = np.tri(ids.shape[1], k=-1, dtype=bool)[None]
  return jnp.any(same & earlier, axis=2)
