"""AUC over a whole set and over each user's examples (UAUC, GAUC): exact, and one that adds up.

Exact AUC needs every (score, label) at once, because a pair may span two batches: gather them
(8 bytes an example), then call `auc`, `user_auc`. Where that is too much, `histogram` is an
additive statistic of fixed size; its `finish` gives the AUC with the pairs of one bin counted
as ties, and a bound on the error that this makes: half the share of such pairs.

Ties count half; a NaN score is the worst possible one, as in `impressions`. Examples are counted
in int32 (up to 2^31), each positive's share of the negatives lies in [0, 1], and the sum of the
shares is all that float32 rounds.

N examples, G groups (users).
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from recjax.metrics.additive import Mean, everywhere, mean, ratio
from recjax.metrics.impressions import worst_if_nan
from recjax.types import Array


class GroupAuc(NamedTuple):
  auc: Array  # [G], 0 where undefined
  defined: Array  # [G] bool, the group has both classes
  count: Array  # [G] int32, examples in the group


def auc(scores: Array, labels: Array, where: Array | None = None) -> Array:
  """Area under the ROC curve of `scores` [N]; 0 if there is one class only."""
  groups = jnp.zeros(jnp.shape(scores), jnp.int32)
  shares, positive, _ = _shares(scores, labels, groups, num_groups=1, where=where)
  return ratio(jnp.sum(shares), jnp.sum(positive))


def user_auc(
  scores: Array, labels: Array, users: Array, *, num_users: int, where: Array | None = None
) -> Mean:
  """UAUC: the mean of the AUC of each user with both classes. All of a user's examples at once."""
  of_users = group_auc(scores, labels, users, num_groups=num_users, where=where)
  return mean(of_users.auc, of_users.defined)


def weighted_user_auc(
  scores: Array, labels: Array, users: Array, *, num_users: int, where: Array | None = None
) -> Mean:
  """GAUC: `user_auc` with each user weighted by the number of examples."""
  of_users = group_auc(scores, labels, users, num_groups=num_users, where=where)
  return mean(of_users.auc, of_users.defined, of_users.count)


def group_auc(
  scores: Array, labels: Array, groups: Array, *, num_groups: int, where: Array | None = None
) -> GroupAuc:
  """The exact AUC of each group; `groups` [N] holds 0 .. G - 1."""
  shares, positive, groups = _shares(scores, labels, groups, num_groups=num_groups, where=where)
  positives = jax.ops.segment_sum(positive.astype(jnp.int32), groups, num_groups)
  count = jax.ops.segment_sum(jnp.ones_like(groups), groups, num_groups)
  total = jax.ops.segment_sum(shares, groups, num_groups)
  return GroupAuc(ratio(total, positives), (positives > 0) & (positives < count), count)


def _shares(
  scores: Array, labels: Array, groups: Array, *, num_groups: int, where: Array | None
) -> tuple[Array, Array, Array]:
  """Sorted by group and score: the share of its group's negatives that each positive beats [N]
  (0 for a negative), which examples are positive [N], and their groups [N] (G if masked)."""
  chex.assert_rank(scores, 1)
  where = everywhere(scores) if where is None else jnp.asarray(where, bool)
  chex.assert_equal_shape([scores, labels, groups, where])
  groups = jnp.where(where, groups, num_groups)  # sorted last, dropped by the sums
  scores = worst_if_nan(scores, labels)
  order = jnp.lexsort((scores, groups))
  scores, groups, where = scores[order], groups[order], where[order]
  positive = (jnp.asarray(labels)[order] > 0) & where
  negative = (~positive & where).astype(jnp.int32)

  changes = groups[1:] != groups[:-1]
  first_of_group = _with_edge(changes, first=True)
  last_of_group = _with_edge(changes, first=False)
  changes |= scores[1:] != scores[:-1]
  first_of_tie, last_of_tie = _with_edge(changes, first=True), _with_edge(changes, first=False)

  upto = jnp.cumsum(negative)  # negatives up to here, in all groups
  before = upto - negative
  below = _from_first(before, first_of_tie) - _from_first(before, first_of_group)
  tied = _from_last(upto, last_of_tie) - _from_first(before, first_of_tie)
  negatives = _from_last(upto, last_of_group) - _from_first(before, first_of_group)
  wins = below.astype(jnp.float32) + 0.5 * tied.astype(jnp.float32)
  return jnp.where(positive, ratio(wins, negatives), 0.0), positive, groups


def _with_edge(changes: Array, *, first: bool) -> Array:
  """[N] whether an element is the first (or last) of its run, from the changes [N - 1] between."""
  edge = jnp.ones(1, bool)
  return jnp.concatenate([edge, changes] if first else [changes, edge])


def _from_first(rising: Array, first: Array) -> Array:
  """The value at the first element of each run, throughout the run; `rising` never falls."""
  return jax.lax.cummax(jnp.where(first, rising, 0))


def _from_last(rising: Array, last: Array) -> Array:
  """The value at the last element of each run, throughout the run."""
  most = jnp.iinfo(jnp.int32).max
  return jax.lax.cummin(jnp.where(last, rising, most), reverse=True)


class AucHistogram(NamedTuple):
  """How many examples of each class fell into each bin of the scores, in ascending order."""

  positive: Array  # [bins] int32
  negative: Array  # [bins] int32

  def finish(self) -> dict[str, Array]:
    """The AUC, and how far from the exact one it can be at most."""
    share = ratio(self.positive, self.positive.sum())
    below = ratio(self.negative.cumsum() - self.negative, self.negative.sum())
    tied = ratio(self.negative, self.negative.sum()) / 2
    return {"auc": (share * (below + tied)).sum(), "auc_error": (share * tied).sum()}


def histogram(
  scores: Array, labels: Array, where: Array | None = None, *, bits: int = 18
) -> AucHistogram:
  """Bins by the leading `bits` of the score's float32 pattern: any range, finer near zero."""
  where = everywhere(scores) if where is None else jnp.asarray(where, bool)
  chex.assert_equal_shape([scores, labels, where])
  scores = worst_if_nan(scores, labels)
  scores = jnp.where(scores == 0, 0.0, scores)  # -0 and 0 are one score
  pattern = jax.lax.bitcast_convert_type(scores, jnp.int32)
  # As unsigned integers, patterns of positive floats ascend and those of negative ones descend.
  flip = jnp.where(pattern < 0, jnp.uint32(0xFFFFFFFF), jnp.uint32(0x80000000))
  ordered = jax.lax.bitcast_convert_type(pattern, jnp.uint32) ^ flip
  bins = (ordered >> jnp.uint32(32 - bits)).astype(jnp.int32)
  positive = jnp.asarray(labels) > 0

  def counts(mask):
    return jnp.zeros(1 << bits, jnp.int32).at[bins].add((mask & where).astype(jnp.int32))

  return AucHistogram(counts(positive), counts(~positive))
