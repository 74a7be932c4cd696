import collections
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracing import counted

from recjax.data.ragged import Ragged
from recjax.decode import fm_index
from recjax.types import PAD

VOCAB = 5
FOLLOWING, EXTEND = jax.jit(fm_index.following), jax.jit(fm_index.extend)
ITEMS = jax.jit(fm_index.items, static_argnames="width")


def substrings(rows, items):
  """{string: [(item, next token or None)] of each occurrence}."""
  found = collections.defaultdict(list)
  for item, row in zip(items, rows, strict=True):
    for i in range(len(row)):
      for j in range(i + 1, len(row) + 1):
        found[tuple(row[i:j])].append((item, row[j] if j < len(row) else None))
  return found


def span_of(index, strings):
  """The spans of strings of one length."""
  span = fm_index.everywhere(index, (len(strings),))
  for tokens in np.array(strings).T:
    span = EXTEND(index, span, jnp.array(tokens))
  return span


identifiers = st.lists(
  st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=7), min_size=1, max_size=9
)


@settings(max_examples=40)
@given(rows=identifiers, owners=st.integers(0, 10**6))
def test_every_string_has_the_hits_items_and_successors_of_a_scan(rows, owners):
  items = np.random.default_rng(owners).integers(1, 4, len(rows))  # several rows an item
  ragged = Ragged.from_rows(rows)
  index = fm_index.build(ragged, VOCAB, items=items, capacity=80, every=8)
  found = substrings(rows, items.tolist())
  # All strings of two tokens, whether they occur or not, and some longer ones padded to 12.
  pairs = [(a, b) for a in range(VOCAB) for b in range(VOCAB)]
  for strings in (pairs, [(a,) for a in range(VOCAB)], [tuple(r) for r in rows if len(r) == 7]):
    if not strings:
      continue
    strings = strings + strings[:1] * (25 - len(strings))
    span = span_of(index, strings)
    following = np.array(FOLLOWING(index, span))
    hit_items = np.array(ITEMS(index, span, width=80))
    for at, string in enumerate(strings):
      hits = found.get(string, [])
      assert span.hits[at] == len(hits)
      after = [token for _, token in hits if token is not None]
      np.testing.assert_array_equal(following[at], np.bincount(after, minlength=VOCAB))
      distinct = sorted({item for item, _ in hits})
      assert hit_items[at].tolist() == distinct + [PAD] * (80 - len(distinct))


def test_before_the_first_token_everything_that_occurs_is_allowed():
  index = fm_index.build(Ragged.from_rows([[], [3, 1, 1], [4]]), VOCAB)
  span = fm_index.everywhere(index)
  assert fm_index.following(index, span).tolist() == [0, 2, 0, 1, 1]
  assert fm_index.allowed(index, span).tolist() == [False, True, False, True, True]


def test_a_string_stops_at_the_end_of_its_identifier():
  # 1 2 and 3 4 stand side by side, yet 2 3 is no string of either.
  index = fm_index.build(Ragged.from_rows([[], [1, 2], [3, 4]]), VOCAB)
  span = span_of(index, [(2, 3), (1, 2)])
  assert span.hits.tolist() == [0, 1]
  assert not fm_index.allowed(index, span).any()


def test_what_is_no_token_finds_nothing_and_stays_nothing():
  index = fm_index.build(Ragged.from_rows([[], [1, 2], [3, 4]]), VOCAB)
  for bad in (-1, VOCAB, 10**6):
    span = fm_index.extend(index, fm_index.everywhere(index), jnp.int32(bad))
    assert span.hits == 0
    assert fm_index.extend(index, span, jnp.int32(1)).hits == 0


def test_generation_inside_jit_only_writes_substrings():
  rng = np.random.default_rng(0)
  rows = [[]] + [rng.integers(0, 40, rng.integers(3, 12)).tolist() for _ in range(60)]
  index = fm_index.build(Ragged.from_rows(rows), 40)
  wish = jnp.array(rng.normal(size=(4, 6, 40)), jnp.float32)  # [T, B, V] what a model would like

  @jax.jit
  def generate(index, wish):
    def write(span, liked):
      masked = jnp.where(fm_index.allowed(index, span), liked, -jnp.inf)
      token = jnp.where(masked.max(-1) > -jnp.inf, masked.argmax(-1), -1)
      return fm_index.extend(index, span, token), token

    return jax.lax.scan(write, fm_index.everywhere(index, (6,)), wish)

  _, tokens = generate(index, wish)
  known = substrings(rows, range(len(rows)))
  for string in np.array(tokens).T.tolist():
    written = string[: string.index(-1)] if -1 in string else string
    assert tuple(written) in known
    # It stopped early only where nothing follows in any identifier.
    assert len(written) == 4 or all(t is None for _, t in known[tuple(written)])


def test_a_changed_text_keeps_every_shape_and_compiles_once():
  def rows(seed, count):
    rng = np.random.default_rng(seed)
    return Ragged.from_rows([[]] + [rng.integers(0, VOCAB, 5) for _ in range(count)])

  index = fm_index.build(rows(0, 20), VOCAB, capacity=200)
  traced = []
  answer = jax.jit(counted(functools.partial(fm_index.extend, token=jnp.int32(2)), traced))
  for seed, count in ((0, 20), (1, 5), (2, 33)):
    index = fm_index.rebuild(index, rows(seed, count))
    hits = answer(index, fm_index.everywhere(index)).hits
    assert hits == (rows(seed, count).values == 2).sum()
  assert len(traced) == 1


def test_beyond_the_capacity_the_arrays_double_and_say_so(caplog):
  few, many = ([[]] + [[1, 2, 3]] * n for n in (20, 60))
  index = fm_index.build(Ragged.from_rows(few), VOCAB, capacity=128)
  with caplog.at_level(logging.INFO, logger="absl"):
    grown = fm_index.rebuild(index, Ragged.from_rows(many))
  assert grown["last"].size == 256
  assert [r.message for r in caplog.records] == ["fm_index: 240 places, capacity doubled to 256"]
  assert span_of(grown, [(2, 3)]).hits.tolist() == [60]


BAD = [
  ([[], []], None, "no row has a token"),
  ([[1], [2]], None, "row 0 is PAD and must be empty"),
  ([[], [1, 7]], None, "row 1 has token 7, outside 0..4"),
  ([[], [1, -2]], None, "row 1 has token -2, outside 0..4"),
  ([[], [1]], [1], "`items` names 1 items for 2 rows"),
]


@pytest.mark.parametrize(("rows", "items", "message"), BAD)
def test_bad_identifiers_are_refused_by_name(rows, items, message):
  with pytest.raises(ValueError, match=message):
    fm_index.build(Ragged.from_rows(rows), VOCAB, items=items)
  with pytest.raises(ValueError, match="capacity 2 is less than the 3 places"):
    fm_index.build(Ragged.from_rows([[], [1, 2]]), VOCAB, capacity=2)
