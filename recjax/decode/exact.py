"""The log-likelihood of every item, or of given ones, under a model with a step function.

`catalogue` walks the trie depth first in chunks of C neighbouring nodes: a prefix is read once
however many items share it, and one chunk a level is held at a time, never a level. `candidates`
reads the paths of given items side by side. Both score as `beam.search` does, whose arguments
they share, and are pure functions to be jitted by the caller.

B batch, C nodes of a chunk or candidates, V codes, L levels, I items (PAD included).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from recjax.decode import beam
from recjax.decode import trie as tries
from recjax.decode.beam import Cache, Normalizer, Reorder, Step
from recjax.decode.trie import Trie
from recjax.types import PAD, Array, Params, Ranked


def catalogue(
  step: Step,
  params: Params,
  start: Array,  # [B] int32, the token before the first code
  cache: Cache,  # of one beam a user
  trie: Trie,
  *,
  chunk: int = 256,  # C; takes the memory of a beam this wide, once a level
  normalizer: Normalizer = beam.over_vocabulary,
  reorder: Reorder = beam.follow,
) -> Array:
  """[B, I] float32, I the trie's capacity and PAD; -inf where there is no item."""
  batch, last = start.shape[0], tries.levels(trie) - 1

  def walk(level, begin, stop, token, score, cache, scores):
    """`scores` with those below the nodes begin..stop - 1 of a level filled in.

    `token` and `score` [B, C] are those nodes' codes and log-likelihoods.
    """
    logits, cache = step(params, token, cache)
    node = jnp.broadcast_to(begin + jnp.arange(token.shape[1])[None], token.shape)
    family = beam.family(trie, node, logits, trie["lane"] if level else trie["root"])
    normal = normalizer(family.logits, family.chosen)  # [B, C]
    first = tries.children(trie, begin)[0]
    end = tries.children(trie, stop)[0]

    def below(i, scores):
      child = first + i * chunk + jnp.arange(chunk)  # [C], beyond `end` in the last chunk
      parent = jnp.minimum(tries.parent(trie, child) - begin, token.shape[1] - 1)
      code = tries.code(trie, child)
      done = tries.ended(trie, begin + parent)[None]
      gain = beam.gain(family.logits[:, parent, code], normal[:, parent], done)
      total = score[:, parent] + gain  # [B, C]
      if level == last:
        return jax.lax.dynamic_update_slice(scores, total, (0, child[0] - trie["start"][-2]))
      parent, code = (jnp.broadcast_to(x[None], total.shape) for x in (parent, code))
      ahead = child[0], jnp.minimum(child[0] + chunk, end)
      return walk(level + 1, *ahead, code, total, reorder(cache, parent), scores)

    return jax.lax.fori_loop(0, (end - first + chunk - 1) // chunk, below, scores)

  # By leaf. Leaves are met in order: what a chunk writes past its end, the next overwrites.
  scores = jnp.zeros((batch, trie["item"].shape[0] + chunk))
  root = start[:, None].astype(jnp.int32), jnp.zeros((batch, 1))
  scores = walk(0, jnp.int32(0), jnp.int32(1), *root, cache, scores)
  leaf = trie["rank"]
  return jnp.where((leaf >= 0)[None], scores[:, jnp.maximum(leaf, 0)], -jnp.inf)


def candidates(
  step: Step,
  params: Params,
  start: Array,  # [B]
  cache: Cache,  # of one beam a user
  trie: Trie,
  ids: Array,  # [B, C] item ids
  *,
  normalizer: Normalizer = beam.over_vocabulary,
  reorder: Reorder = beam.follow,
) -> Array:
  """[B, C] float32; -inf for PAD and for what is not in the trie. All C are held at once."""
  nodes = tries.paths(trie, ids)  # [L, B, C]
  root = jnp.zeros((start.shape[0], 1), jnp.int32)

  def descend(carry, child, lanes):
    node, token, score, cache = carry  # of one beam at the root, of C below
    logits, cache = step(params, token, cache)
    family = beam.family(trie, node, logits, lanes)
    normal = normalizer(family.logits, family.chosen)
    code = tries.code(trie, child)  # [B, C]
    # The root's one row is read C times, each row below once.
    at = code[:, None] if node.shape[1] == 1 else code[..., None]
    logit = jnp.take_along_axis(family.logits, at, axis=2).reshape(code.shape)
    score = score + beam.gain(logit, normal, tries.ended(trie, node))
    return child, code, score, cache

  carry = (root, start[:, None].astype(jnp.int32), root.astype(jnp.float32), cache)
  *carry, cache = descend(carry, nodes[0], trie["root"])
  carry = (*carry, reorder(cache, jnp.zeros(ids.shape, jnp.int32)))

  def below(carry, child):
    return descend(carry, child, trie["lane"]), None

  unroll = len(nodes) <= beam.UNROLLED
  carry, _ = jax.lax.scan(below, carry, nodes[1:], unroll=unroll)
  return jnp.where(nodes[-1] == tries.NONE, -jnp.inf, carry[2])


def top(scores: Array, k: int) -> Ranked:
  """The k best of scores [B, I] by item id; ties go to the smaller id, NaN is never among them."""
  scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores).at[:, PAD].set(-jnp.inf)
  scores = jnp.pad(scores, ((0, 0), (0, max(0, k - scores.shape[1]))), constant_values=-jnp.inf)
  score, ids = jax.lax.top_k(scores, k)
  return Ranked(jnp.where(score > -jnp.inf, ids, PAD), score)
