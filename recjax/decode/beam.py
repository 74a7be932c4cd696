"""Beam search over the items of a trie, whole on the device, for any model with a step function.

  step(params, tokens [B, K], cache) -> (logits [B, K, V], cache)

reads the last code of each beam and scores the next. `params` stay where they are: what a user's
beams share (an encoder's keys) belongs there, or where `reorder(cache, parents [B, K]) -> cache`
leaves it alone; by default every array of the cache of rank two or more leads with [B, K] and
follows its beams. A search begins with one beam a user. The children of each beam's node are
gathered, their logits with them, and the best of all K * W continuations are the next beams; a
beam that cannot become an item is never kept alive, so a result is always an item, once.

`search` returns the likeliest, `diverse` searches in groups (Vijayakumar et al., AAAI 2018,
https://arxiv.org/abs/1610.02424), `sample` draws without replacement (Kool et al., ICML 2019,
https://arxiv.org/abs/1903.06059); they differ only in how they choose among continuations. All are
pure functions to be jitted by the caller, with `step`, `k` and `beams` static.

Ties go to the beam that ranked higher, then to the smaller code. An item of probability zero is
not a result.

B batch, K beams, W children gathered a beam, V codes, L levels, G groups, D listed items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recjax.decode import trie as tries
from recjax.decode.trie import NONE, Trie
from recjax.types import PAD, Array, Key, Params, Ranked

Cache = Any
Step = Callable[[Params, Array, Cache], tuple[Array, Cache]]
Reorder = Callable[[Cache, Array], Cache]
# (logits [B, K, V], those of the children [B, K, W], -inf where there is none) -> [B, K], what
# is subtracted from a logit to make it a log-probability.
Normalizer = Callable[[Array, Array], Array]

UNROLLED = 8  # levels: more are a loop, which compiles one level only


class Beams(NamedTuple):
  """Prefixes, a row's distinct and best first."""

  node: Array  # [B, K] int32, NONE: a dead beam
  token: Array  # [B, K] int32, the code just chosen
  score: Array  # [B, K] float32 log-likelihood, -inf: a dead beam
  cache: Cache
  extra: Any  # what a choice carries along with its beams


@dataclasses.dataclass(frozen=True)
class Continuations:
  """Every child of every beam."""

  node: Array  # [B, K, W] int32
  code: Array  # [B, K, W] int32
  score: Array  # [B, K, W] float32 log-likelihood, -inf where there is none
  depth: int | Array  # of these nodes


# (continuations, extra) -> (which of a row's K * W, best first [B, K'], extra)
Choose = Callable[[Continuations, Any], tuple[Array, Any]]


def over_vocabulary(logits: Array, children: Array) -> Array:
  """Probabilities over all V codes, as published systems score: the impossible has a share."""
  del children
  return jax.nn.logsumexp(logits, axis=-1)


def over_children(logits: Array, children: Array) -> Array:
  """Probabilities over what the trie allows: the catalogue's add up to one."""
  del logits
  return jax.nn.logsumexp(children, axis=-1)


class Family(NamedTuple):
  """The children of nodes, and what the model says of them."""

  logits: Array  # [B, K, V] float32
  first: Array  # [B, K] int32, the first child of each node
  code: Array  # [B, K, W] int32
  where: Array  # [B, K, W] bool, there is a child
  chosen: Array  # [B, K, W] float32 its logit, -inf where there is none


def family(trie: Trie, node: Array, logits: Array, lanes: Array) -> Family:
  """Gathers the children of nodes [B, K] in W lanes (`trie["root"]` or `trie["lane"]`)."""
  if logits.shape != (*node.shape, trie["root"].size):
    raise ValueError(
      f"the step's logits have shape {logits.shape}; the trie needs "
      f"{(*node.shape, trie['root'].size)}: as many codes as the `vocab` it was built with"
    )
  logits = logits.astype(jnp.float32)
  first, stop = tries.children(trie, node)
  child = first[..., None] + lanes[None, None]  # [B, K, W]
  code, where = tries.code(trie, child), child < stop[..., None]
  chosen = jnp.where(where, jnp.take_along_axis(logits, code, axis=-1), -jnp.inf)
  return Family(logits, first, code, where, chosen)


def gain(logit: Array, normal: Array, ended: Array) -> Array:
  """The log-probability of a code; after the end of an identifier what follows is certain."""
  # Where every code is impossible -inf, not NaN.
  return jnp.where(ended, 0.0, jnp.where(logit > -jnp.inf, logit - normal, -jnp.inf))


def follow(cache: Cache, parents: Array) -> Cache:
  """The cache in which beam k continues what beam parents[b, k] began."""

  def take(x):
    if jnp.ndim(x) < 2:
      return x
    rows = x.reshape(*x.shape[:2], -1)  # whole rows: twice as fast as an index for each axis
    taken = jnp.take_along_axis(rows, parents[..., None], axis=1)
    return taken.reshape(*parents.shape, *x.shape[2:])

  return jax.tree.map(take, cache)


def search(
  step: Step,
  params: Params,
  start: Array,  # [B] int32, the token before the first code
  cache: Cache,  # of one beam a user
  trie: Trie,
  *,
  k: int,
  beams: int | None = None,  # K, where wider than k
  allow: Array | None = None,  # [B, D] item ids (PAD ignored): these and no others
  deny: Array | None = None,  # [B, D] item ids (PAD ignored): none of these
  normalizer: Normalizer = over_vocabulary,
  reorder: Reorder = follow,
) -> Ranked:
  """The k likeliest items of each user that so many beams find."""
  beams = _width(k, beams)

  def choose(new, extra):
    return _best(new.score, beams), extra

  descent = _Descent(step, params, trie, normalizer, reorder, choose)
  found = descent.run(start, cache, _listed(trie, allow, deny), ())
  return _ranked(trie, found, k)


def diverse(
  step: Step,
  params: Params,
  start: Array,  # [B]
  cache: Cache,
  trie: Trie,
  *,
  k: int,
  groups: int,  # G
  penalty: float = 0.5,  # of a code, for each beam of an earlier group that chose it here
  beams: int | None = None,
  allow: Array | None = None,
  deny: Array | None = None,
  normalizer: Normalizer = over_vocabulary,
  reorder: Reorder = follow,
) -> Ranked:
  """Beams in groups that avoid, level by level, the codes that earlier groups chose.

  Scores are log-likelihoods, without the penalty. Unlike in the paper no item is found twice, and
  a group that cannot fill its beams below its own prefixes takes what is likeliest of the rest.
  """
  beams = _width(k, beams)
  if groups < 1 or beams % groups:
    raise ValueError(f"{beams} beams do not divide into {groups} groups; change one of them")
  each = beams // groups

  def full(new, nodes):
    """[B, K, W] True where as many beams hold the prefix as it has items that are open."""
    held = _count(nodes[:, None], [nodes])[:, 0]
    room = _room(trie, nodes, new.depth, allow, deny)
    return _count(new.node, [jnp.where(held >= room, nodes, NONE)]) > 0

  def choose(new, extra):
    width = new.node.shape[2]
    chosen, codes, nodes = [], [], []
    for g in range(groups):
      # At the root all groups share the one beam; below, each has its own.
      begin = 0 if new.node.shape[1] == 1 else g * each
      own = dataclasses.replace(
        new,
        **{x: getattr(new, x)[:, begin : begin + each] for x in ("node", "code", "score")},
      )  # [B, K / G, W]
      score = own.score
      if g:
        score = score - penalty * _count(own.code, codes)
        score = jnp.where(full(own, jnp.concatenate(nodes, 1)), -jnp.inf, score)
      at = _best(score, each)
      chosen.append(jnp.where(at < 0, at, at + begin * width))
      codes.append(_pick(own.code, at, -1))
      nodes.append(_pick(own.node, at, NONE))

    def fill(chosen):
      once = jnp.where(_repeated(new)[..., None], -jnp.inf, new.score)
      chosen, held = list(chosen), list(nodes)
      for g in range(groups):
        closed = full(new, jnp.concatenate(held, 1)) | (_count(new.node, [held[g]]) > 0)
        rest = _best(jnp.where(closed, -jnp.inf, once), each)
        place = jnp.arange(each)[None] - (chosen[g] >= 0).sum(1, keepdims=True)
        rest = jnp.take_along_axis(rest, jnp.maximum(place, 0), axis=1)
        chosen[g] = jnp.where(place < 0, chosen[g], rest)
        held[g] = _pick(new.node, chosen[g], NONE)
      return tuple(chosen)

    short = (jnp.concatenate(chosen, 1) < 0).any()
    chosen = jax.lax.cond(short, fill, lambda chosen: chosen, tuple(chosen))
    return jnp.concatenate(chosen, 1), extra

  descent = _Descent(step, params, trie, normalizer, reorder, choose, groups)
  found = descent.run(start, cache, _listed(trie, allow, deny), ())
  return _ranked(trie, _sorted(found), k)


def sample(
  step: Step,
  params: Params,
  start: Array,  # [B]
  cache: Cache,
  trie: Trie,
  *,
  key: Key,
  k: int,
  temperature: float = 1.0,
  allow: Array | None = None,
  deny: Array | None = None,
  normalizer: Normalizer = over_vocabulary,
  reorder: Reorder = follow,
) -> Ranked:
  """k items drawn without replacement, code by code among those that are possible; best first.

  With k = 1 this is ancestral sampling. Scores are log-likelihoods at this temperature.
  """
  if not temperature > 0:
    raise ValueError(f"temperature {temperature} is not positive; `search` finds the likeliest")

  def tempered(params, tokens, cache):
    logits, cache = step(params, tokens, cache)
    return logits.astype(jnp.float32) / temperature, cache

  def choose(new, extra):
    # Of each beam: its log-probability among what is possible, and that with Gumbel noise.
    key, own, raised = extra  # [B, K]
    key, now = jax.random.split(key)
    possible = new.score > -jnp.inf  # [B, K, W]
    score = jnp.where(possible, new.score, -1e30)
    own = own[..., None] + jax.nn.log_softmax(score)
    noisy = jnp.where(possible, own + jax.random.gumbel(now, own.shape), -1e30)
    # Given that the greatest child of a beam equals the beam (appendix B.3).
    v = raised[..., None] - noisy + jnp.log(-jnp.expm1(noisy - noisy.max(-1, keepdims=True)))
    noisy = raised[..., None] - jnp.maximum(v, 0) - jnp.log1p(jnp.exp(-jnp.abs(v)))
    noisy = jnp.where(possible, noisy, -jnp.inf)
    at = _best(noisy, k)
    return at, (key, _pick(own, at, -jnp.inf), _pick(noisy, at, -jnp.inf))

  descent = _Descent(tempered, params, trie, normalizer, reorder, choose)
  root = jnp.zeros((start.shape[0], 1))
  extra = key, root, root
  found = descent.run(start, cache, _listed(trie, allow, deny), extra)
  return _ranked(trie, _sorted(found), k)


@dataclasses.dataclass(frozen=True)
class _Descent:
  """From the root to the leaves, a level at a time."""

  step: Step
  params: Params
  trie: Trie
  normalizer: Normalizer
  reorder: Reorder
  choose: Choose
  groups: int = 1

  def run(self, start: Array, cache: Cache, listed: _Listed | None, extra: Any) -> Beams:
    levels = tries.levels(self.trie)
    root = jnp.zeros((start.shape[0], 1), jnp.int32)
    beams = Beams(root, start[:, None].astype(jnp.int32), root.astype(jnp.float32), cache, extra)

    def advance(beams, level):
      return self.advance(beams, level, listed, self.trie["lane"]), None

    beams = self.advance(beams, 0, listed, self.trie["root"])
    if levels <= UNROLLED:
      for level in range(1, levels):
        beams, _ = advance(beams, level)
      return beams
    return jax.lax.scan(advance, beams, jnp.arange(1, levels))[0]

  def advance(self, beams: Beams, level, listed: _Listed | None, lanes: Array) -> Beams:
    logits, cache = self.step(self.params, beams.token, beams.cache)
    new, first = self.continuations(beams, logits, level, listed, lanes)
    at, extra = self.choose(new, beams.extra)  # [B, K']
    score = _pick(new.score, at, -jnp.inf)
    beam = jnp.maximum(at, 0) // lanes.size
    node = jnp.take_along_axis(first, beam, axis=1) + at % lanes.size
    node = jnp.where(score > -jnp.inf, node, NONE)
    return Beams(node, tries.code(self.trie, node), score, self.reorder(cache, beam), extra)

  def continuations(
    self, beams: Beams, logits: Array, level, listed: _Listed | None, lanes: Array
  ) -> tuple[Continuations, Array]:
    """Every child of every beam, and the first child of each [B, K]."""
    found = family(self.trie, beams.node, logits, lanes)
    normal = self.normalizer(found.logits, found.chosen)  # [B, K]
    done = tries.ended(self.trie, beams.node)[..., None]
    score = beams.score[..., None] + gain(found.chosen, normal[..., None], done)
    where = found.where & (beams.score > -jnp.inf)[..., None]
    if listed is not None:
      where &= listed.open(beams.node, found.first, level, lanes.size, self.groups)
    score = jnp.where(where, score, -jnp.inf)
    node = found.first[..., None] + lanes[None, None]
    return Continuations(node, found.code, score, level + 1), found.first


@dataclasses.dataclass(frozen=True)
class _Listed:
  """What a request's list leaves open."""

  marks: tries.Marks
  allow: bool  # what is marked is open, not closed

  def open(self, node: Array, first: Array, level, width: int, groups: int) -> Array:
    """[B, K, W]. Only within a group are the beams of a user distinct, as `lanes` needs them."""
    groups = groups if node.shape[1] > 1 else 1
    node, first = (x.reshape(x.shape[0], groups, -1) for x in (node, first))
    edges = self.marks.parent[level], self.marks.child[level]
    mark = jax.vmap(tries.lanes, in_axes=(1, 1, None, None, None), out_axes=1)
    marked = mark(node, first, *edges, width).reshape(node.shape[0], -1, width)
    return marked if self.allow else ~marked


def _listed(trie: Trie, allow: Array | None, deny: Array | None) -> _Listed | None:
  if allow is not None:
    return _Listed(tries.allowed(trie, allow, deny), True)
  return None if deny is None else _Listed(tries.denied(trie, deny), False)


def _room(trie: Trie, node: Array, depth, allow: Array | None, deny: Array | None) -> Array:
  """[B, K] how many items that a request leaves open are below each node; 0 below none."""
  first, stop = tries.below(trie, node, depth)
  if allow is not None:
    return tries.listed(trie, tries.left(trie, allow, deny), first, stop)
  return stop - first - (0 if deny is None else tries.listed(trie, deny, first, stop))


def _repeated(new: Continuations) -> Array:
  """[B, K] True where an earlier beam, of another group, has the same children."""
  first, alive = new.node[..., 0], (new.score > -jnp.inf).any(-1)
  same = (first[:, :, None] == first[:, None, :]) & alive[:, None, :]  # [B, K, K]
  return (same & jnp.tri(first.shape[1], k=-1, dtype=bool)[None]).any(-1)


def _width(k: int, beams: int | None) -> int:
  beams = k if beams is None else beams
  if not 1 <= k <= beams:
    raise ValueError(f"k = {k} results need at least one and at most `beams` = {beams}")
  return beams


def _best(score: Array, count: int) -> Array:
  """[B, count] which of [B, K * W] are the best, -1 where no more are possible."""
  flat = score.reshape(score.shape[0], -1)
  score, at = jax.lax.top_k(flat, min(count, flat.shape[1]))
  at = jnp.where(score > -jnp.inf, at, -1)
  return jnp.pad(at, ((0, 0), (0, count - at.shape[1])), constant_values=-1)


def _pick(x: Array, at: Array, otherwise) -> Array:
  """[B, K'] of [B, K, W], as `_best` names them."""
  picked = jnp.take_along_axis(x.reshape(x.shape[0], -1), jnp.maximum(at, 0), axis=1)
  return jnp.where(at < 0, otherwise, picked)


def _count(x: Array, earlier: list[Array]) -> Array:
  """[B, K, W] how many of the earlier choices [B, K'] equal each."""
  return (x[..., None] == jnp.concatenate(earlier, 1)[:, None, None, :]).sum(-1)


def _sorted(found: Beams) -> Beams:
  score, at = jax.lax.top_k(found.score, found.score.shape[1])
  return found._replace(score=score, node=jnp.take_along_axis(found.node, at, axis=1))


def _ranked(trie: Trie, found: Beams, k: int) -> Ranked:
  node, score = found.node[:, :k], found.score[:, :k]
  return Ranked(jnp.where(node == NONE, PAD, tries.leaves(trie, node)), score)
