"""Losses as pure functions. Each returns (sum, weight): what counted, and how much of it.

Masks are True = keep, named `where`, and broadcast against the loss of one example. Nothing
is divided here; `types.Loss` carries both numbers to the one place that divides. All in float32.
A masked-out example may hold anything, NaN included, and changes neither value nor gradient.

Letters: [...] any leading axes, I classes, M negatives, C candidates.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from recjax.nn import linear
from recjax.types import Array

Total = tuple[Array, Array]  # (sum, weight), both []


def total(values: Array, where: Array | None = None) -> Total:
  """Sums per-example values; `where` may be a mask or weights of at most their rank."""
  values = values.astype(jnp.float32)
  if where is None:
    return values.sum(), jnp.float32(values.size)
  _check_mask(values, where)
  weight = where.astype(jnp.float32).reshape(where.shape + (1,) * (values.ndim - where.ndim))
  weight = jnp.broadcast_to(weight, values.shape)
  return jnp.where(weight != 0, values * weight, 0.0).sum(), weight.sum()


def possible(score: Array, ids: Array, count: int) -> Array:
  """`score` where its ids are of 0..count - 1, else NaN: indexing would learn the last row's."""
  return jnp.where((ids >= 0) & (ids < count), score, jnp.nan)


def softmax_xent(
  logits: Array,  # [..., I]
  labels: Array,  # [...] int
  where: Array | None = None,
  *,
  smoothing: float = 0.0,
  z_loss: float = 0.0,
) -> Total:
  """Softmax cross-entropy; label smoothing spreads over all I, z-loss is z * log(Z)^2 (T5X).

  Classes with a logit of -inf are left out, of the smoothing too. A label that is none of the
  classes has no loss but NaN, which stops a training.
  """
  _check_shape("labels", labels, logits.shape[:-1])
  logits, labels = _quiet(logits, where), _quiet(labels, where)
  log_z = jax.nn.logsumexp(logits, axis=-1)
  picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  loss = log_z - jnp.where(labels < 0, jnp.nan, picked)  # too large a label is NaN already
  if smoothing:
    there = jnp.isfinite(logits)
    mean = jnp.where(there, logits, 0.0).sum(-1) / jnp.maximum(there.sum(-1), 1)
    loss = (1 - smoothing) * loss + smoothing * (log_z - mean)
  if z_loss:
    loss += z_loss * jnp.square(log_z)
  return total(loss, where)


def linear_softmax_xent(
  states: Array,  # [B, ..., D]
  table: Array,  # [I, D]
  labels: Array,  # [B, ...] int
  where: Array | None = None,
  *,
  bias: Array | None = None,  # [I]
  block: int | None = None,  # rows that each device puts to the table at a time
) -> Total:
  """`softmax_xent(states @ table.T + bias, labels, where)` that never holds all the logits.

  The rows that count are put in front and `block` of them at a time meet the table, so padding
  costs nothing; while their logits are in the cache their gradient is made too, and kept, which
  is three products where recomputing takes four. Rows are grouped so that devices that split B
  each work on their own. Gradients are of first order, by reverse mode; none flows to `where`.
  """
  return linear_softmax_xent_hits(states, table, labels, where, bias=bias, block=block)[:2]


def linear_softmax_xent_hits(
  states: Array,
  table: Array,
  labels: Array,
  where: Array | None = None,
  *,
  bias: Array | None = None,
  block: int | None = None,
) -> tuple[Array, Array, Array]:
  """(sum, weight, hits): the same, and the weight of what has no likelier class than its label."""
  _check_shape("labels", labels, states.shape[:-1])
  _check_shape("table", table, (len(table), states.shape[-1]))
  weight = jnp.ones(labels.shape, jnp.float32)
  if where is not None:
    _check_mask(labels, where)
    shape = where.shape + (1,) * (labels.ndim - where.ndim)
    weight = jnp.broadcast_to(where.reshape(shape).astype(jnp.float32), labels.shape)
  states, table, labels, weight = linear.alike(states, table, labels, weight)
  bias = bias if bias is None else linear.alike(states, bias)[1]
  manual = jax.sharding.get_abstract_mesh().manual_axes  # inside shard_map the rows are one's own
  groups = 1 if manual else math.gcd(len(states), jax.device_count())
  rows = labels.size // groups
  states, labels, weight = (
    x.reshape(groups, rows, *x.shape[labels.ndim :]) for x in (states, labels, weight)
  )
  if block is None:  # a host's devices share its cache; an accelerator wants work
    block = max(128 // groups, 1) if jax.default_backend() == "cpu" else 1024
  block = min(block, rows)
  loss, hits = _blocks_xent(block, states, table, bias, labels, weight)
  return loss, weight.sum(), hits


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blocks_xent(block: int, states, table, bias, labels, weight) -> tuple[Array, Array]:
  return _blocks(block, states, table, bias, labels, weight, gradient=False)[0]


def _blocks_forward(block: int, *args):
  found, grads = _blocks(block, *args, gradient=True)
  return found, (grads, *args)


def _blocks_backward(block: int, kept, given):
  (of_loss, _), (grads, *args) = given, kept
  scaled = jax.tree.map(lambda g, x: (of_loss * g).astype(x.dtype), grads, tuple(args[:3]))
  return *scaled, None, None


_blocks_xent.defvjp(_blocks_forward, _blocks_backward)


def _blocks(block: int, states, table, bias, labels, weight, *, gradient: bool):
  """(loss, hits), and the loss's gradients to states [G, R, D], table [I, D], bias [I] or None."""
  groups, rows, width = states.shape
  full = -(-rows // block) * block
  pad = ((0, 0), (0, full - rows))
  order = jnp.argsort(jnp.pad(weight, pad) == 0, axis=1)  # stable: what counts comes first

  def ordered(x):
    x = jnp.pad(x, pad + ((0, 0),) * (x.ndim - 2))
    return jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1)

  weights = ordered(weight)
  counts = (weights != 0)[..., None]
  x = jnp.where(counts, ordered(states).astype(jnp.float32), 0.0)  # [G, R, D]
  labels = jnp.where(counts[..., 0], ordered(labels), 0)
  table = table.astype(jnp.float32)

  def step(i, carry):
    (loss, hits), d_x, d_table, d_bias = carry
    at = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=i * block, slice_size=block)
    some, w = at(x, axis=1), at(weights, axis=1)  # [G, N, D], [G, N]
    logits = (some.reshape(-1, width) @ table.T).reshape(groups, block, -1)
    if bias is not None:
      logits += bias[None, None]
    top = logits.max(-1, keepdims=True)
    label = at(labels, axis=1)
    said = jnp.take_along_axis(logits, label[..., None], axis=-1)
    # A label that is no row makes the loss NaN, which stops a training, not that of the last row.
    below = jnp.where((label >= 0) & (label < table.shape[0]), (top - said)[..., 0], jnp.nan)
    hits += (w * (below <= 0)).sum(1)
    e = jnp.exp(logits - top)  # [G, N, I]
    z = e.sum(-1)
    loss += (w * (jnp.log(z) + below)).sum(1)
    if not gradient:
      return (loss, hits), d_x, d_table, d_bias
    share = (w / z)[..., None]  # the softmax is e / z: divide the small side of each product
    d_rows = (e.reshape(groups * block, -1) @ table).reshape(some.shape) * share
    d_x = jax.lax.dynamic_update_slice_in_dim(d_x, d_rows, i * block, axis=1)
    d_table += jnp.einsum("gni,gnd->gid", e, some * share)
    if bias is not None:
      d_bias += jnp.einsum("gni,gn->gi", e, share[..., 0])
    return (loss, hits), d_x, d_table, d_bias

  def zeros(*shape):  # inside shard_map they vary as labels do
    return jnp.full((groups, *shape), (labels[0, 0] * 0).astype(jnp.float32))

  start = ((zeros(), zeros()), None, None, None)
  if gradient:
    d_bias = None if bias is None else zeros(*bias.shape)
    start = (start[0], zeros(*x.shape[1:]), zeros(*table.shape), d_bias)
  blocks = -(-counts.sum(1).max() // block)
  found, d_x, d_table, d_bias = jax.lax.fori_loop(0, blocks, step, start)
  loss, hits = (x.sum() for x in found)
  if not gradient:
    return (loss, hits), ()
  w, own = weights[..., None], table[labels]
  d_table = d_table.sum(0).at[labels].add(-w * x)
  if bias is not None:
    d_bias = d_bias.sum(0).at[labels].add(-weights)
  back = jnp.argsort(order, axis=1)[:, :rows, None]
  d_states = jnp.take_along_axis(d_x - w * own, back, axis=1)
  return (loss, hits), (d_states, d_table, d_bias)


def sampled_softmax_xent(
  positive: Array,  # [...] logit of the target
  negatives: Array,  # [..., M] logits of sampled items
  where: Array | None = None,
  *,
  log_q_positive: Array | None = None,  # [...]
  log_q_negatives: Array | None = None,  # [..., M]
  negatives_where: Array | None = None,  # [..., M], False drops one (an accidental hit)
) -> Total:
  """Cross-entropy over the target and a sample, each logit less log q, its sampling probability.

  With both log q, the expectation of the gradient tends to the full softmax's as M grows
  (Bengio & Senecal 2003). Leave out `log_q_positive` for the form of Yi et al. (RecSys 2019)
  only when the target is in the sample by construction.
  """
  _check_shape("negatives", negatives, positive.shape + negatives.shape[-1:])
  if log_q_positive is not None:
    positive = positive - log_q_positive
  if log_q_negatives is not None:
    negatives = negatives - log_q_negatives
  if negatives_where is not None:
    negatives = jnp.where(negatives_where, negatives, -jnp.inf)
  logits = jnp.concatenate([positive[..., None], negatives], axis=-1)
  return softmax_xent(logits, jnp.zeros(positive.shape, jnp.int32), where)


def taken_xent(
  scores: Array,  # [..., C]
  labels: Array,  # [..., C], positive: the candidate was taken
  where: Array,  # [..., C], False: no candidate
) -> Total:
  """Softmax cross-entropy of each candidate that was taken, against all that were not.

  Candidates of one list that were taken do not compete with each other; a list with nothing left
  untaken teaches nothing. The weight counts what was taken.
  """
  _check_shape("labels", labels, scores.shape)
  scores, where = _quiet(scores, where), where != 0
  taken, left = where & (labels > 0), where & (labels <= 0)
  rest = jax.nn.logsumexp(jnp.where(left, scores, -1e30), axis=-1, keepdims=True)
  return total(jax.nn.softplus(rest - scores), taken & left.any(-1, keepdims=True))


def gbce(
  positive: Array,  # [...]
  negatives: Array,  # [..., M], uniform
  where: Array | None = None,
  *,
  num_items: int,  # items that can be drawn as negatives of one example
  t: float,
  negatives_where: Array | None = None,  # [..., M], False drops one
) -> Total:
  """Generalised BCE of gSASRec (Petrov & Macdonald, RecSys 2023), eq. 7 to 9.

  The positive's probability is raised to beta = a (t (1 - 1/a) + 1/a) with a = M / num_items:
  t = 0 is plain BCE, t = 1 is calibrated for the sampling rate.
  """
  _check_shape("negatives", negatives, positive.shape + negatives.shape[-1:])
  alpha = negatives.shape[-1] / num_items
  beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
  positive, negatives = _quiet(positive, where), _quiet(negatives, where)
  pushed = _kept(jax.nn.softplus(negatives), negatives_where).sum(-1)
  return total(-beta * jax.nn.log_sigmoid(positive) + pushed, where)


def bce(logits: Array, labels: Array, where: Array | None = None) -> Total:
  """Binary cross-entropy with logits; labels in [0, 1]."""
  _check_shape("labels", labels, logits.shape)
  logits, labels = _quiet(logits, where), _quiet(labels, where)
  return total(jax.nn.softplus(logits) - labels * logits, where)


def squared(predicted: Array, wanted: Array, where: Array | None = None) -> Total:
  _check_shape("wanted", wanted, predicted.shape)
  return total(jnp.square(_quiet(predicted, where) - _quiet(wanted, where)), where)


def bpr(
  positive: Array,  # [...]
  negatives: Array,  # [..., M]
  where: Array | None = None,
  *,
  negatives_where: Array | None = None,  # [..., M], False drops one
) -> Total:
  """Bayesian personalised ranking (Rendle et al., UAI 2009): the mean over the negatives."""
  _check_shape("negatives", negatives, positive.shape + negatives.shape[-1:])
  margin = _quiet(positive, where)[..., None] - _quiet(negatives, where)
  lost = -_kept(jax.nn.log_sigmoid(margin), negatives_where).sum(-1)
  count = margin.shape[-1] if negatives_where is None else negatives_where.sum(-1)
  return total(lost / jnp.maximum(count, 1), where)


def bpr_max(
  positive: Array,  # [...]
  negatives: Array,  # [..., M]
  where: Array | None = None,
  *,
  regularization: float = 1.0,
  negatives_where: Array | None = None,  # [..., M], False drops one
) -> Total:
  """BPR-max of GRU4Rec (Hidasi & Karatzoglou, CIKM 2018): hard negatives by softmax weight."""
  _check_shape("negatives", negatives, positive.shape + negatives.shape[-1:])
  positive, negatives = _quiet(positive, where), _quiet(negatives, where)
  log_weight, negatives = _softmax_weights(negatives, negatives_where)
  # log sum_j w_j sigmoid(p - n_j), in log space so that a hopeless example keeps a gradient
  log_win = jax.nn.logsumexp(
    log_weight + jax.nn.log_sigmoid(positive[..., None] - negatives), axis=-1
  )
  penalty = (jnp.exp(log_weight) * jnp.square(negatives)).sum(-1)
  return total(_compared(-log_win + regularization * penalty, negatives_where), where)


def top1_max(
  positive: Array,  # [...]
  negatives: Array,  # [..., M]
  where: Array | None = None,
  *,
  negatives_where: Array | None = None,  # [..., M], False drops one
) -> Total:
  """TOP1-max of GRU4Rec: sigmoid(n - p) + sigmoid(n^2), weighted by the negatives' softmax."""
  _check_shape("negatives", negatives, positive.shape + negatives.shape[-1:])
  positive, negatives = _quiet(positive, where), _quiet(negatives, where)
  log_weight, negatives = _softmax_weights(negatives, negatives_where)
  loss = jax.nn.sigmoid(negatives - positive[..., None]) + jax.nn.sigmoid(jnp.square(negatives))
  return total(_compared((jnp.exp(log_weight) * loss).sum(-1), negatives_where), where)


def _kept(values: Array, keep: Array | None) -> Array:
  """0 for the negatives that are dropped."""
  return values if keep is None else jnp.where(keep, values, 0.0)


def _compared(loss: Array, keep: Array | None) -> Array:
  """0 where every negative is dropped: there is nothing to be better than."""
  return loss if keep is None else jnp.where(keep.any(-1), loss, 0.0)


def _softmax_weights(negatives: Array, keep: Array | None) -> tuple[Array, Array]:
  """Log-softmax over the negatives that are kept, and these with 0 for the dropped."""
  if keep is None:
    return jax.nn.log_softmax(negatives, axis=-1), negatives
  # Finite, so that an example whose negatives are all dropped is no NaN.
  shown = jnp.where(keep, negatives, -1e30)
  return jax.nn.log_softmax(shown, axis=-1), jnp.where(keep, negatives, 0.0)


def infonce(
  queries: Array,  # [B, D]
  keys: Array,  # [B, D]; row i is the positive of query i, the others its negatives
  where: Array | None = None,  # [B]; a row that does not count is nobody's negative either
  *,
  temperature: float,
  extra: Array | None = None,  # [M, D], further negatives of every query
  collide: Array | None = None,  # [B, B], True where a key must not be a query's negative
) -> Total:
  """InfoNCE with in-batch negatives. It couples the rows of a batch, so it sees one device's
  batch unless the caller gathers the keys, and does not accumulate over micro-batches."""
  _check_shape("keys", keys, queries.shape)
  queries, keys = queries.astype(jnp.float32), keys.astype(jnp.float32)
  if where is not None:
    queries, keys = (jnp.where(where[:, None] != 0, x, 0.0) for x in (queries, keys))
  logits = queries @ keys.T / temperature  # [B, B]
  own = jnp.eye(len(keys), dtype=bool)
  drop = jnp.zeros_like(own) if collide is None else collide
  if where is not None:
    drop = drop | (where == 0)[None, :]
  logits = jnp.where(drop & ~own, -jnp.inf, logits)
  if extra is not None:
    logits = jnp.concatenate([logits, queries @ extra.astype(jnp.float32).T / temperature], -1)
  return softmax_xent(logits, jnp.arange(len(keys)), where)


def nt_xent(
  one: Array,  # [B, D]; row i of both is the same, seen twice
  other: Array,  # [B, D]
  where: Array | None = None,  # [B]; a row that does not count is nobody's negative either
  *,
  temperature: float,
  collide: Array | None = None,  # [B, B], True where rows must not be each other's negatives
) -> Total:
  """NT-Xent (Chen et al., ICML 2020), by inner products: SimCLR gives vectors of length one.

  Each of 2 B views has its row's other view for a positive and both views of all other rows for
  negatives. It couples the rows of a batch as `infonce` does.
  """
  same = jnp.eye(len(one), dtype=bool)  # so that no view is its own negative
  same = same if collide is None else same | collide
  return infonce(
    jnp.concatenate([one, other]),
    jnp.concatenate([other, one]),
    None if where is None else jnp.tile(where, 2),
    temperature=temperature,
    collide=jnp.tile(same, (2, 2)),
  )


def multiple_pairwise_ranking(
  close: Array,  # [B] similarity of a user's two nearer views
  middle: Array,  # [B, N] similarities with the user's augmented views
  far: Array,  # [B, M] similarities with other users
  where: Array | None = None,
  *,
  weight: Array,  # [B] in [0, 1], the share of close over middle
  far_where: Array | None = None,  # [B, M]
) -> Total:
  """The ranking of AdaptSSR (Yu et al., NeurIPS 2023): close over middle over far, one BPR term.

  -log sigmoid(w (close - max middle) + (1 - w) (min middle - max far)): the hardest view on
  each side. w is the augmentation-adaptive weight; it is a constant to the gradient if the
  caller makes it one. A user with nobody far ranks close over middle alone.
  """
  _check_shape("middle", middle, close.shape + middle.shape[-1:])
  _check_shape("far", far, close.shape + far.shape[-1:])
  close, middle, far, weight = (_quiet(x, where) for x in (close, middle, far, weight))
  there = jnp.ones(far.shape, bool) if far_where is None else far_where
  hardest = jnp.max(far, axis=-1, where=there, initial=-jnp.inf)
  gap = jnp.where(there.any(-1), middle.min(-1) - hardest, 0.0)
  margin = weight * (close - middle.max(-1)) + (1 - weight) * gap
  return total(-jax.nn.log_sigmoid(margin), where)


def kl(log_p: Array, log_q: Array, where: Array | None = None) -> Total:
  """KL(p || q) of normalised log-probabilities [..., I]; 0 log 0 is 0."""
  _check_shape("log_q", log_q, log_p.shape)
  log_p, log_q = _quiet(log_p, where), _quiet(log_q, where)
  p = jnp.exp(log_p)
  gap = jnp.where(p > 0, log_p, 0.0) - jnp.where(p > 0, log_q, 0.0)
  return total((p * gap).sum(-1), where)


def _quiet(x: Array, where: Array | None) -> Array:
  """Float32 (ints stay), with 0 where masked, so that no NaN passes value or gradient."""
  if jnp.issubdtype(x.dtype, jnp.floating):
    x = x.astype(jnp.float32)
  if where is None:
    return x
  _check_mask(x, where)
  mask = jnp.broadcast_to(where.reshape(where.shape + (1,) * (x.ndim - where.ndim)), x.shape)
  return jnp.where(mask != 0, x, jnp.zeros((), x.dtype))


def _check_mask(x: Array, where: Array) -> None:
  if where.ndim > x.ndim or any(
    w not in (1, n) for w, n in zip(where.shape, x.shape, strict=False)
  ):
    raise ValueError(f"`where` of shape {where.shape} does not mask values of shape {x.shape}")


def _check_shape(name: str, x: Array, wanted: tuple[int, ...]) -> None:
  if x.shape != wanted:
    raise ValueError(f"`{name}` must have shape {wanted}, it has {x.shape}")
