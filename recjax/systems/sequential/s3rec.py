"""S3-Rec (Zhou et al., CIKM 2020), https://arxiv.org/abs/2008.07873.

A Transformer that looks both ways is pretrained to tell an item by its attributes (AAP), a masked
item by its context (MIP), a masked item's attributes by the context (MAP), and a masked segment by
its context (SP). The same parameters then read histories causally, as SASRec does.

`make_pretrain` and `make` are the two systems; SHARED says which parameters the second takes from
the first. Both learn from `examples.sequences`; pretraining reads a history and the item after it
as one sequence, and so takes `examples.prefixes` too.

As the authors' code, unlike the paper: AAP starts from the encoder's state, not from the item's own
vector; the newest item is always masked. Unlike both: MIP and SP compare unbounded scores (there
each passes a sigmoid before the difference is taken); a negative item is any but the own one;
whole sequences are read, where the code reads each of their prefixes (`examples.prefixes` gives
these); fine-tuning takes the softmax over all items, not one negative. SP's negative is a segment
of the row before in the batch, so rows are coupled: it is the row before in the whole batch,
whatever the devices, but in one micro-batch where gradients are accumulated.

B batch, T history (left-padded), A attributes of one item, K attributes in all (none, 0, included),
D width, I items (PAD included).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from recjax import losses
from recjax.data import negatives
from recjax.data.ragged import Ragged
from recjax.decode import topk
from recjax.losses import Total
from recjax.nn import attention, transformer
from recjax.nn.dropout import Dropout
from recjax.systems.sequential import fdsa
from recjax.types import PAD, Array, Key, Loss, System, unpacked

SHARED = {"items": "items", "encoder": "encoder"}  # ours -> theirs, for `Stage.init_from`


@dataclasses.dataclass(frozen=True)
class Config:
  num_items: int  # I
  num_attributes: int  # K
  max_len: int = 50  # the longest T
  dim: int = 64  # D
  heads: int = 2
  layers: int = 2
  ff: int = 256
  dropout: float = 0.5
  masked: float = 0.2  # share of items that pretraining hides
  aap: float = 0.2  # weights of the four losses
  mip: float = 1.0
  map: float = 1.0
  sp: float = 0.5


class Encoder(nn.Module):
  cfg: Config

  @nn.compact
  def __call__(self, x: Array, there: Array, *, causal: bool, train: bool) -> Array:
    """Item vectors x [B, T, D], real where `there` [B, T] -> states [B, T, D]."""
    cfg, length = self.cfg, x.shape[1]
    if length > cfg.max_len:
      raise ValueError(
        f"a history of {length} is longer than max_len {cfg.max_len}: cut it in the loader,"
        " or raise max_len"
      )
    normal = nn.initializers.normal(0.02)
    positions = self.param("positions", normal, (cfg.max_len, cfg.dim))
    x = nn.LayerNorm(name="norm")(x + positions[:length][::-1][None])
    x = Dropout(cfg.dropout)(jnp.where(there[..., None], x, 0), train=train)
    where = attention.as_mask(there)
    return transformer.Encoder(
      cfg.layers, cfg.heads, cfg.ff, cfg.dropout, norm_first=False, std=0.02, name="blocks"
    )(x, where & attention.causal(length) if causal else where, train=train)


def associated_attributes(
  states: Array,  # [..., D]
  bilinear: Array,  # [D, D]
  attributes: Array,  # [K, D], row 0 is no attribute
  owned: Array,  # [..., A] the item's own, 0 for none
  where: Array,  # [...] items that are seen
) -> Total:
  """AAP: sigmoid cross-entropy, summed over all attributes."""
  return _attributes(states @ bilinear @ attributes.T, owned, where)


def masked_items(
  states: Array,  # [..., D]
  bilinear: Array,  # [D, D]
  positive: Array,  # [..., D] the vector of the item that is hidden
  negative: Array,  # [..., D] of another item
  where: Array,  # [...] items that are hidden
) -> Total:
  """MIP, with one negative."""
  return _pairs(states @ bilinear, positive, negative, where)


def masked_attributes(
  states: Array,  # [..., D]
  bilinear: Array,  # [D, D]
  attributes: Array,  # [K, D], row 0 is no attribute
  owned: Array,  # [..., A]
  where: Array,  # [...] items that are hidden
) -> Total:
  """MAP: as AAP, but the state has not seen the item."""
  return _attributes(states @ bilinear @ attributes.T, owned, where)


def segments(
  context: Array,  # [B, D] the sequence without its segment
  bilinear: Array,  # [D, D]
  positive: Array,  # [B, D] the segment
  negative: Array,  # [B, D] a segment of another sequence
  where: Array,  # [B]
) -> Total:
  """SP, with one negative."""
  return _pairs(context @ bilinear, positive, negative, where)


def _attributes(logits: Array, owned: Array, where: Array) -> Total:
  every = jax.nn.softplus(logits[..., 1:]).sum(-1)
  own = jnp.where(owned != fdsa.NONE, jnp.take_along_axis(logits, owned, axis=-1), 0).sum(-1)
  return losses.total(every - own, where)


def _pairs(query: Array, positive: Array, negative: Array, where: Array) -> Total:
  return losses.bpr((query * positive).sum(-1), (query * negative).sum(-1)[..., None], where)


def row_before(real: Array) -> Array:
  """[B] the nearest row before each that is `real`, from the last on round; -1 without another."""
  rows = jnp.arange(len(real))
  until = jax.lax.cummax(jnp.where(real, rows, -1))  # the last real row up to each
  before = jnp.concatenate([jnp.array([-1]), until[:-1]])
  before = jnp.where(before >= 0, before, until[-1])
  return jnp.where(before == rows, -1, before)


def draw_segments(key: Key, sequence: Array, other: Array) -> tuple[Array, Array]:
  """A segment of up to half of each row of `sequence`, and as long a one of the rows `other`.

  Gives where the segment is, [B, T], and the other's items at these places; an `other` that is too
  short goes round.
  """
  size_key, start_key, other_key = jax.random.split(key, 3)
  width = sequence.shape[1]
  length, others = ((x != PAD).sum(1) for x in (sequence, other))
  size = jax.random.randint(size_key, length.shape, 1, jnp.maximum(length // 2, 1) + 1)
  start = jax.random.randint(start_key, length.shape, 0, jnp.maximum(length - size, 0) + 1)
  begin = jax.random.randint(other_key, length.shape, 0, jnp.maximum(others - size, 0) + 1)
  place = jnp.arange(width)[None] - (width - length)[:, None] - start[:, None]  # 0: it begins here
  inside = (place >= 0) & (place < size[:, None]) & (sequence != PAD)
  at = (begin[:, None] + place) % jnp.maximum(others, 1)[:, None] + (width - others)[:, None]
  return inside, jnp.take_along_axis(other, jnp.minimum(at, width - 1), axis=1)


def assets(cfg: Config, attributes: Sequence[Sequence[int]] | Ragged) -> Mapping[str, Array]:
  """What pretraining reads of the catalogue: ids of the attributes of each of I items."""
  return {"attributes": jnp.asarray(fdsa.table(attributes, cfg.num_items, cfg.num_attributes))}


def make_pretrain(cfg: Config) -> System:
  encoder = Encoder(cfg)

  def init(key, assets, batch):
    key, attribute_key, mask_key, *keys = jax.random.split(key, 7)
    normal = jax.nn.initializers.normal(0.02)
    tasks = dict(zip(("aap", "mip", "map", "sp"), keys, strict=True))
    only = {
      "attributes": normal(attribute_key, (cfg.num_attributes, cfg.dim)),
      "mask": normal(mask_key, (cfg.dim,)),
      **{name: normal(k, (cfg.dim, cfg.dim)) for name, k in tasks.items()},
    }
    return {**_init(cfg, encoder, key), "pretrain": only}

  def loss(params, assets, batch, key):
    unpacked(batch)
    only, table = params["pretrain"], params["items"]
    mask_key, item_key, segment_key, dropout_key = jax.random.split(key, 4)
    last = batch["next"][:, -1] if "next" in batch else batch["target"]
    sequence = jnp.concatenate([batch["history"], last[:, None]], axis=1)[:, -cfg.max_len :]
    there = sequence != PAD
    counts = (batch["weight"] > 0)[:, None] & there
    chosen = jax.random.uniform(mask_key, sequence.shape) < cfg.masked
    hidden = there & chosen.at[:, -1].set(True)

    # A row that only fills lends no segment, and a real one without another has no negative.
    before = row_before(counts.any(1))
    inside, other = draw_segments(segment_key, sequence, sequence[jnp.maximum(before, 0)])
    pairs = counts.any(1) & (before >= 0) & (there.sum(1) >= 2)

    # Four readings of each row: items hidden, segment hidden, and all but a segment hidden.
    items = jnp.stack([sequence, sequence, sequence, other], axis=1)  # [B, 4, T]
    masks = jnp.stack([hidden, inside, ~inside, ~inside], axis=1)
    x = jnp.where(masks[..., None], only["mask"][None, None, None], table[items])
    x = x.reshape(-1, *x.shape[2:])  # [4 B, T, D]
    states = encoder.apply(
      {"params": params["encoder"]},
      x,
      jnp.repeat(there, 4, axis=0),
      causal=False,
      train=True,
      rngs={"dropout": dropout_key},
    ).reshape(*items.shape, cfg.dim)
    read, context, positive, negative = (states[:, i] for i in range(4))
    context, positive, negative = (s[:, -1] for s in (context, positive, negative))

    owned = assets["attributes"][sequence]  # [B, T, A]
    others = negatives.other(item_key, sequence, 1, cfg.num_items)[..., 0]
    args = only["attributes"], owned
    parts = {
      "aap": associated_attributes(read, only["aap"], *args, counts & ~hidden),
      "mip": masked_items(read, only["mip"], table[sequence], table[others], counts & hidden),
      "map": masked_attributes(read, only["map"], *args, counts & hidden),
      "sp": segments(context, only["sp"], positive, negative, pairs),
    }
    weights = {"aap": cfg.aap, "mip": cfg.mip, "map": cfg.map, "sp": cfg.sp}
    # Sums over all that count, as the authors' code adds them: its epoch's loss, not four means.
    total = sum(weights[name] * part[0] for name, part in parts.items())
    return Loss(total, counts.any(1).sum().astype(jnp.float32), parts)

  return System(init, loss)


def make(cfg: Config) -> System:
  encoder = Encoder(cfg)

  def states(params, batch, key=None):
    there = batch["history"] != PAD
    rngs = None if key is None else {"dropout": key}
    x = params["items"][batch["history"]]
    variables = {"params": params["encoder"]}
    return encoder.apply(variables, x, there, causal=True, train=key is not None, rngs=rngs)

  def init(key, assets, batch):
    return _init(cfg, encoder, key)

  def loss(params, assets, batch, key):
    unpacked(batch)
    target, table = batch["next"], params["items"]
    where = (target != PAD) & (batch["weight"] > 0)[:, None]
    x = states(params, batch, key)  # [B, T, D]
    return Loss(*losses.linear_softmax_xent(x, table[1:], target - 1, where))

  def every(params, batch):
    return states(params, batch)[:, -1] @ params["items"].T  # [B, I]

  def score(params, assets, batch):
    return topk.scores(every(params, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, batch), batch, k=k)

  def embed(params, assets, batch):
    return states(params, batch)[:, -1]

  return System(init, loss, recommend=recommend, score=score, embed=embed)


def _init(cfg: Config, encoder: Encoder, key: Key) -> dict:
  item_key, key = jax.random.split(key)
  x, there = jnp.zeros((1, 1, cfg.dim)), jnp.ones((1, 1), bool)
  return {
    "items": jax.nn.initializers.normal(0.02)(item_key, (cfg.num_items, cfg.dim)),
    "encoder": encoder.init(key, x, there, causal=False, train=False)["params"],
  }
