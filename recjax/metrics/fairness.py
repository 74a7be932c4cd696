"""Is it the same for everyone? Lists under a sensitive instruction against the neutral one.

Zhang et al., "Is ChatGPT Fair for Recommendation?" (RecSys 2023), https://arxiv.org/abs/2305.07609:
ask neutrally, ask again with a sensitive value put in ("a female fan of ..."), measure how alike
the two lists are, and compare that across the values of the attribute. `jaccard`, `serp` and
`prag` are the similarities [B]; `additive.mean_by` averages them over the instructions of each
value; `disparity` gives their range (SNSR) and standard deviation (SNSV, which the paper calls a
variance). Higher is less fair.

Identical full lists score 1 under all three. Tables of the paper have another scale for SERP*:
the released code weighs rank r by K - r + 2 and divides by 2 K (K + 1), so there identical lists
of 20 score 0.274.

B instructions, K places of a list (PAD where unfilled), A values of the attribute.
"""

from __future__ import annotations

import chex
import jax.numpy as jnp
import numpy as np

from recjax.metrics.additive import Mean, keep, namespace, ratio
from recjax.metrics.ranking import count, repeated
from recjax.types import PAD, Array


def jaccard(neutral: Array, sensitive: Array, where: Array | None = None) -> Array:
  """Items in both lists over items in either (equation 2)."""
  shared = jnp.sum(_places(neutral, sensitive) < neutral.shape[1], axis=1)
  return keep(ratio(shared, count(neutral) + count(sensitive) - shared), where)


def serp(neutral: Array, sensitive: Array, where: Array | None = None) -> Array:
  """SERP*@K: shared items weighted K .. 1 by their rank in `sensitive` (equation 3)."""
  k = sensitive.shape[1]
  shared = _places(neutral, sensitive) < neutral.shape[1]  # [B, K]
  weights = jnp.arange(k, 0, -1, dtype=jnp.float32)[None]
  return keep(jnp.sum(shared * weights, axis=1) / (k * (k + 1) / 2), where)


def prag(neutral: Array, sensitive: Array, where: Array | None = None) -> Array:
  """PRAG*@K: pairs of `sensitive` in the order that `neutral` has them in (equation 4).

  An item that is missing from `neutral` ranks after all that are in it. Of K (K - 1) / 2 pairs;
  of lists with a single place, whether they agree.
  """
  k = sensitive.shape[1]
  place = _places(neutral, sensitive)  # [B, K]
  if k == 1:
    return keep(place[:, 0] == 0, where)
  in_order = place[:, :, None] < place[:, None, :]  # [B, K, K]; the first is then in `neutral`
  filled = _distinct(sensitive)[:, None, :]  # the second must be an item
  later = np.triu(np.ones((k, k), bool), k=1)[None]
  agreed = jnp.sum(in_order & filled & later, axis=(1, 2))
  return keep(agreed / (k * (k - 1) / 2), where)


def disparity(similarity: Mean) -> dict[str, Array]:
  """SNSR and SNSV (equation 1) of the similarity by value of the attribute, leaves [A].

  Values without any instruction take no part.
  """
  xp = namespace(*similarity)
  means, there = similarity.finish(), similarity.count > 0
  values = there.sum()
  high = xp.max(xp.where(there, means, -xp.inf))
  low = xp.min(xp.where(there, means, xp.inf))
  center = ratio(xp.sum(xp.where(there, means, 0.0)), values)
  variance = ratio(xp.sum(xp.where(there, (means - center) ** 2, 0.0)), values)
  some = values > 0
  return {
    "snsr": xp.where(some, high - low, 0.0),
    "snsv": xp.sqrt(variance),
    "max": xp.where(some, high, 0.0),
    "min": xp.where(some, low, 0.0),
  }


def _places(neutral: Array, sensitive: Array) -> Array:
  """Where each item of `sensitive` [B, K] stands in `neutral`; its width where it does not."""
  chex.assert_rank([neutral, sensitive], 2)
  chex.assert_equal_shape([neutral, sensitive])
  same = sensitive[:, :, None] == neutral[:, None, :]
  found = same.any(axis=2) & _distinct(sensitive)
  return jnp.where(found, jnp.argmax(same, axis=2), neutral.shape[1])


def _distinct(ids: Array) -> Array:
  """The places [B, K] that hold an item for the first time; a repeated title counts once."""
  return (ids != PAD) & ~repeated(ids)
