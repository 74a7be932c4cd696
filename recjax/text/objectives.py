"""What a text-to-text model learns from: pairs of token rows, packed or in buckets, and the loss.

`Pairs` come from two files of text, from one by corrupting spans (T5) or by splitting each row
(prefix language modelling). They are a source for `data.loader`, whose length buckets go by the
source row; `pack` puts several pairs into one row, told apart by segment ids.

A batch: source [B, S], target [B, T], both PAD at the right, and of packed pairs also
source_segments [B, S] and target_segments [B, T], 1 for a row's first pair, 0 where padding is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from recjax import losses
from recjax.data.ragged import Ragged
from recjax.nn import attention, t5
from recjax.types import PAD, Array, Batch, Key, Loss, Params


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
  """E rows to read and E rows to write, each with its end token; no token is PAD."""

  source: Ragged
  target: Ragged
  source_segments: Ragged | None = None  # of packed pairs, beside `source`
  target_segments: Ragged | None = None

  def __post_init__(self):
    sizes = {name: len(rows) for name, rows in self._columns().items()}
    if len(set(sizes.values())) > 1:
      raise ValueError(f"the columns must be equally long, they have {sizes} rows")

  def __len__(self) -> int:
    return len(self.source)

  @property
  def lengths(self) -> np.ndarray:
    """[E] of the sources: what bucketing goes by."""
    return self.source.lengths

  def widths(self, max_len: int) -> dict[str, int]:
    """Sources of up to `max_len` tokens, and every target whole."""
    target = int(max(self.target.lengths.max(initial=1), 1))
    return {n: max_len if n.startswith("source") else target for n in self._columns()}

  def gather(self, rows: np.ndarray, widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The batch of these rows. A row that does not fit is an error: cut, it would lose its end."""
    for name, column in self._columns().items():
      longest = int(column.lengths[rows].max(initial=0))
      if longest > widths[name]:
        raise ValueError(
          f"a {name} of {longest} tokens does not fit in {widths[name]}; encode with "
          f"max_len={widths[name]}, or give the loader a greater max_len"
        )
    return {n: c.right_padded(rows, widths[n]) for n, c in self._columns().items()}

  def take(self, rows: np.ndarray) -> Pairs:
    return Pairs(**{name: column.take(rows) for name, column in self._columns().items()})

  def _columns(self) -> dict[str, Ragged]:
    columns = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    return {name: column for name, column in columns.items() if column is not None}


def pack(pairs: Pairs, *, source_len: int, target_len: int) -> Pairs:
  """As many consecutive pairs in a row as `source_len` and `target_len` tokens hold.

  Pairs keep their order, so shuffle them first (`pairs.take`). A row is closed by the first pair
  that does not fit.
  """
  if pairs.source_segments is not None:
    raise ValueError("these pairs are packed already")
  sides, ends = (pairs.source, pairs.target), []
  for name, rows, room in zip(("source", "target"), sides, (source_len, target_len), strict=True):
    longest = int(rows.lengths.max(initial=0))
    if longest > room:
      raise ValueError(f"a {name} of {longest} tokens does not fit in {room}: encode with max_len")
    ends.append(np.concatenate([[0], np.cumsum(rows.lengths)]))
  first = [0]
  while first[-1] < len(pairs):  # over packed rows, each found by bisection
    fits = [
      np.searchsorted(end, end[first[-1]] + room, side="right") - 1
      for end, room in zip(ends, (source_len, target_len), strict=True)
    ]
    first.append(int(min(fits)))
  bounds = np.array(first)
  segment = np.arange(len(pairs)) - np.repeat(bounds[:-1], np.diff(bounds)) + 1  # [E]
  packed = []
  for rows, end in zip(sides, ends, strict=True):
    flat, lengths = _flat(rows), np.diff(end[bounds])
    segments = np.repeat(segment, rows.lengths).astype(np.int32)
    packed.append((Ragged.from_lengths(flat, lengths), Ragged.from_lengths(segments, lengths)))
  (source, source_segments), (target, target_segments) = packed
  return Pairs(source, target, source_segments, target_segments)


def windows(tokens: Ragged, length: int) -> Ragged:
  """All rows end to end, cut every `length` tokens; a lone last token joins the row before."""
  flat = _flat(tokens)
  start = np.arange(0, len(flat), length)
  stop = np.minimum(start + length, len(flat))
  if len(start) > 1 and stop[-1] - start[-1] == 1:
    start, stop = start[:-1], np.append(stop[:-2], stop[-1])
  return Ragged(flat, start, stop)


def span_corruption(
  tokens: Ragged,
  *,
  sentinels: Sequence[int],  # the ids of <extra_id_0>, <extra_id_1>, ...
  eos: int,
  seed: int,
  density: float = 0.15,
  mean_span: float = 3.0,
) -> Pairs:
  """T5's pretraining (Raffel et al., 2020, 3.1.4): say what stood in spans that were cut out.

  Of each row a share `density` of the tokens goes, in spans of `mean_span` on average. In the
  source a sentinel stands for each span; the target is each sentinel and what it stands for. As
  in T5's code a row begins with what is kept and ends with a span, and no sentinel closes it.
  """
  _check_rows(tokens)
  lengths, rng = tokens.lengths, np.random.default_rng(seed)
  noise = np.clip(np.rint(lengths * density).astype(np.int64), 1, lengths - 1)
  spans = np.maximum(np.rint(noise / mean_span).astype(np.int64), 1)
  spans = np.minimum(spans, lengths - noise)  # each span follows at least one kept token
  if spans.max(initial=0) > len(sentinels):
    raise ValueError(
      f"{spans.max()} spans need as many sentinels, there are {len(sentinels)}: cut the text "
      "into shorter `windows`, or add sentinels to the vocabulary"
    )
  # Kept and cut pieces in turn: [kept 0, cut 0, kept 1, ...] of every row.
  pieces = np.stack([_split(rng, lengths - noise, spans), _split(rng, noise, spans)], 1).reshape(-1)
  cut = np.repeat(np.arange(len(pieces)) % 2 == 1, pieces)  # [N]
  begins = np.zeros(len(cut), bool)
  begins[(np.cumsum(pieces) - pieces)[1::2]] = True
  nth = _within(spans)  # [spans in all]: 0, 1, ... in each row
  flat, row = _flat(tokens), np.repeat(np.arange(len(tokens)), lengths)
  marks = np.asarray(sentinels)[nth]

  source = flat.copy()
  source[begins] = marks
  keep = ~cut | begins
  source = Ragged.from_lengths(source[keep], np.bincount(row[keep], minlength=len(tokens)))
  target = np.repeat(flat[cut], 1 + begins[cut])
  target[np.flatnonzero(begins[cut]) + np.arange(len(marks))] = marks
  target = Ragged.from_lengths(target, noise + spans)
  return Pairs(_append(source, eos), _append(target, eos))


def prefix_lm(tokens: Ragged, *, eos: int, seed: int) -> Pairs:
  """The beginning of each row, cut at a random place, is the source; the rest is the target."""
  _check_rows(tokens)
  middle = tokens.start + np.random.default_rng(seed).integers(1, tokens.lengths)
  before = Ragged(tokens.values, tokens.start, middle)
  after = Ragged(tokens.values, middle, tokens.stop)
  return Pairs(_append(before, eos), _append(after, eos))


def shift_right(target: Array, segments: Array | None = None) -> Array:
  """What a decoder reads [B, T]: PAD, then the target; PAD again where a packed pair begins."""
  read = jnp.pad(target, ((0, 0), (1, 0)))[:, :-1]
  if segments is None:
    return read
  return jnp.where(segments == jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1], read, PAD)


def text_to_text(params: Params, cfg: t5.Config, batch: Batch, key: Key | None = None) -> Loss:
  """The cross-entropy of a T5 over every target token of a batch, packed or not."""
  source, target = batch["source"], batch["target"]
  segments, target_segments = batch.get("source_segments"), batch.get("target_segments")
  mask, source_mask, target_mask = source != PAD, source != PAD, None
  if segments is not None:
    mask = attention.same_segment(segments, segments)
    source_mask = attention.same_segment(target_segments, segments)
    target_mask = attention.same_segment(target_segments, target_segments)
  encoder_key, decoder_key = (None, None) if key is None else jax.random.split(key)
  encoded = t5.encode(params, cfg, source, mask=mask, key=encoder_key)
  states = t5.decode(
    params,
    cfg,
    shift_right(target, target_segments),
    encoded,
    source_mask=source_mask,
    mask=target_mask,
    states=True,
    key=decoder_key,
  )
  where = (target != PAD).astype(jnp.float32)
  if "weight" in batch:  # a row that only fills the batch counts for nothing
    where = where * batch["weight"][:, None]
  head = t5.head(params, cfg)
  total, weight, hits = losses.linear_softmax_xent_hits(states, head, target, where)
  return Loss(total, weight, {"accuracy": (hits, weight)})


def _check_rows(tokens: Ragged) -> None:
  short = np.flatnonzero(tokens.lengths < 2)
  if len(short):
    raise ValueError(
      f"row {short[0]} has {tokens.lengths[short[0]]} tokens, and it takes two to split one "
      f"({len(short)} such rows): leave them out, or join rows by `windows`"
    )


def _split(rng: np.random.Generator, total: np.ndarray, parts: np.ndarray) -> np.ndarray:
  """Sizes >= 1 of `parts[i]` pieces of `total[i]`, each way of cutting equally likely; all flat."""
  row, place = np.repeat(np.arange(len(total)), total), _within(total)
  draw = np.where(place == 0, -1.0, rng.random(len(row)))  # a piece begins at the row's start
  order = np.lexsort((draw, row))
  begins = np.zeros(len(row), bool)
  begins[order] = place < np.repeat(parts, total)  # and at the parts - 1 least draws
  return np.diff(np.append(np.flatnonzero(begins), len(row)))


def _within(lengths: np.ndarray) -> np.ndarray:
  """0, 1, ..., lengths[i] - 1 for each i, flat."""
  return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _flat(rows: Ragged) -> np.ndarray:
  """The values of all rows, end to end."""
  return rows.values[np.repeat(rows.start, rows.lengths) + _within(rows.lengths)]


def _append(rows: Ragged, token: int) -> Ragged:
  lengths = rows.lengths
  flat = np.insert(_flat(rows), np.cumsum(lengths), token)
  return Ragged.from_lengths(flat, lengths + 1)
