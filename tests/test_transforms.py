"""Augmentations keep what they promise, row by row; the index arithmetic equals plain loops."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.data import transforms
from recjax.data.ragged import Ragged
from recjax.types import PAD

T, ITEMS, MASK = 8, 30, 99
SIMILAR = jnp.array([PAD, *range(ITEMS + 1, 2 * ITEMS)])  # i -> i + 30
FEW = jnp.stack([SIMILAR, jnp.zeros_like(SIMILAR), SIMILAR + ITEMS * (SIMILAR > 0)], axis=1)
FRACTIONS = st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0])
HISTORIES = st.lists(
  st.lists(st.integers(1, ITEMS - 1), max_size=T, unique=True), min_size=4, max_size=4
)
SEEDS = st.integers(0, 2**31 - 1)
ALL = {
  "crop": functools.partial(transforms.crop, keep=0.6),
  "mask": functools.partial(transforms.mask, rate=0.5, mask_id=MASK),
  "reorder": functools.partial(transforms.reorder, ratio=0.7),
  "substitute": functools.partial(transforms.substitute, rate=0.5, similar=FEW),
  "insert": functools.partial(transforms.insert, rate=0.5, similar=FEW),
}


# The fractions are static, as they are where a loss calls these.
crop = jax.jit(transforms.crop, static_argnames="keep")
mask = jax.jit(transforms.mask, static_argnames=("rate", "mask_id"))
reorder = jax.jit(transforms.reorder, static_argnames="ratio")
substitute = jax.jit(transforms.substitute, static_argnames="rate")
insert = jax.jit(transforms.insert, static_argnames="rate")


def history_of(rows):
  return jnp.asarray(transforms.left_pad(rows, T))


def items_of(row):
  row = np.asarray(row)
  items = row[row != PAD].tolist()
  assert row.tolist() == [PAD] * (len(row) - len(items)) + items, "PAD stays at the left"
  return items


@given(HISTORIES, FRACTIONS, SEEDS)
def test_crop_is_a_contiguous_part_of_the_stated_length(rows, keep, seed):
  out = crop(jax.random.key(seed), history_of(rows), keep=keep)
  for row, new in zip(rows, out, strict=True):
    new = items_of(new)
    whole = {0.0: 0, 0.3: len(row) * 3 // 10, 0.5: len(row) // 2}
    whole |= {0.7: len(row) * 7 // 10, 1.0: len(row)}
    assert len(new) == max(whole[keep], min(len(row), 1))
    assert any(row[i : i + len(new)] == new for i in range(len(row) + 1))


def test_crop_begins_everywhere_alike():
  history = jnp.tile(jnp.arange(1, 9)[None], (4_000, 1))
  out = np.asarray(crop(jax.random.key(0), history, keep=0.5))
  starts = np.bincount(out[:, 4], minlength=6)[1:]  # the first item kept: 1..5
  np.testing.assert_allclose(starts, 800, atol=5 * np.sqrt(800 * 0.8))


@given(HISTORIES, FRACTIONS, SEEDS)
def test_mask_keeps_the_unmasked_and_says_where(rows, rate, seed):
  history = history_of(rows)
  out, where = mask(jax.random.key(seed), history, rate=rate, mask_id=MASK)
  np.testing.assert_array_equal(out, np.where(where, MASK, history))
  assert not (np.asarray(where) & (np.asarray(history) == PAD)).any()
  if rate in (0.0, 1.0):
    np.testing.assert_array_equal(where, (np.asarray(history) != PAD) & (rate == 1.0))


@given(HISTORIES, FRACTIONS, SEEDS)
def test_reorder_is_a_permutation_of_one_span(rows, ratio, seed):
  out = reorder(jax.random.key(seed), history_of(rows), ratio=ratio)
  for row, new in zip(rows, out, strict=True):
    new = items_of(new)
    assert sorted(new) == sorted(row)
    moved = [i for i, (a, b) in enumerate(zip(row, new, strict=True)) if a != b]
    assert not moved or moved[-1] - moved[0] < int(len(row) * ratio + 1e-9)


def test_reorder_of_everything_makes_every_order_alike():
  history = jnp.tile(jnp.array([[PAD, 1, 2, 3]]), (4_000, 1))
  out = np.asarray(reorder(jax.random.key(1), history, ratio=1.0))
  orders, counts = np.unique(out, axis=0, return_counts=True)
  assert len(orders) == 6
  np.testing.assert_allclose(counts, 4_000 / 6, atol=5 * np.sqrt(667))


@given(HISTORIES, FRACTIONS, SEEDS)
def test_substitute_replaces_only_by_similar_items(rows, rate, seed):
  history = history_of(rows)
  out = substitute(jax.random.key(seed), history, rate=rate, similar=FEW)
  for row, new in zip(rows, out, strict=True):
    new = items_of(new)
    assert len(new) == len(row)
    for a, b in zip(row, new, strict=True):
      assert b in (a, a + ITEMS, a + 2 * ITEMS)
      assert rate != 0.0 or a == b
      assert rate != 1.0 or a != b


def test_substitute_leaves_items_that_have_none_similar():
  history = jnp.array([[PAD, 1, 2, 3]])
  for similar in (jnp.array([0, 7, 0, 9]), jnp.array([[8, 8], [7, 0], [0, 0], [0, 9]])):
    out = substitute(jax.random.key(0), history, rate=1.0, similar=similar)
    np.testing.assert_array_equal(out, [[PAD, 7, 2, 9]])


def test_several_similar_items_are_equally_likely():
  history, similar = jnp.full((1_000, 8), 1), jnp.array([[0, 0, 0], [5, 0, 6]])
  out = substitute(jax.random.key(0), history, rate=1.0, similar=similar)
  assert abs(float((out == 5).mean()) - 0.5) < 5 * np.sqrt(0.25 / 8_000)
  assert set(np.unique(out)) == {5, 6}


@given(HISTORIES, FRACTIONS, SEEDS)
def test_insert_puts_similar_items_before_and_keeps_the_last(rows, rate, seed):
  out = insert(jax.random.key(seed), history_of(rows), rate=rate, similar=SIMILAR)
  for row, new in zip(rows, out, strict=True):
    new = items_of(new)
    old = [i for i in new if i < ITEMS]
    assert old == row[len(row) - len(old) :]
    assert len(new) == T or len(old) == len(row)  # nothing goes but for want of room
    for at, item in enumerate(new):
      assert item < ITEMS or new[at + 1] == item - ITEMS
    if rate == 1.0:
      assert new == [x for i in row for x in (i + ITEMS, i)][-T:]
    if rate == 0.0:
      assert new == row


def test_the_key_decides():
  history = jnp.tile(jnp.arange(1, 9)[None], (4_000, 1))
  one, same, other = (every(jax.random.key(seed), history) for seed in (3, 3, 4))
  chex.assert_trees_all_equal(one, same)
  for name in ALL:
    a, b = (jax.tree.leaves(x[name])[0] for x in (one, other))
    assert (a != b).any()
    assert len(np.unique(a, axis=0)) >= 5, "rows differ from each other"  # 8 - 4 + 1 crops


@pytest.mark.parametrize("name", ["mask", "substitute", "insert"])
def test_every_item_is_chosen_at_the_rate(name):
  history = jnp.tile(jnp.array([[PAD] * 4 + [1, 2, 3, 4]]), (4_000, 1))
  out = jax.tree.leaves(every(jax.random.key(0), history)[name])[0]
  new = int(((out != PAD) & (out > 4)).sum())
  assert abs(new / 16_000 - 0.5) < 5 * np.sqrt(0.25 / 16_000)


def all_of_them(key, history, rows=None):
  return {name: apply(key, history, rows=rows) for name, apply in ALL.items()}


every = jax.jit(all_of_them)


def test_jit_equals_eager():
  rows = [[], [4], [3, 1, 2], [9, 8, 7, 6, 5, 4, 3, 2], [5], [1, 2, 3, 4, 5], [6, 7], [2, 4, 6, 8]]
  args = jax.random.key(7), history_of(rows), jnp.arange(8)
  chex.assert_trees_all_equal(every(*args), all_of_them(*args))


def test_what_happens_to_a_row_does_not_depend_on_its_batch():
  key, rows = jax.random.key(5), jnp.arange(100, 108)
  history = jnp.tile(jnp.arange(1, 9)[None], (8, 1))
  whole = every(key, history, rows)
  order = jnp.array([6, 2, 3])
  part = every(key, history[order], rows[order])
  chex.assert_trees_all_equal(part, jax.tree.map(lambda x: x[order], whole))


def test_sharding_changes_nothing():
  key, rows = jax.random.key(5), jnp.arange(100, 108)
  history = jnp.tile(jnp.arange(1, 9)[None], (8, 1))
  whole = every(key, history, rows)
  mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  spread = jax.device_put(
    (history, rows), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  )
  chex.assert_trees_all_equal(every(key, *spread), whole)


@pytest.mark.parametrize("width", [1, 3])
def test_empty_and_single_histories_survive(width):
  history = jnp.zeros((2, width), jnp.int32).at[1, -1].set(6)
  for out in jax.tree.leaves(every(jax.random.key(0), history)):
    if out.dtype == bool:  # where `mask` did something
      assert not out[0].any()
      continue
    assert out.shape == history.shape
    assert not out[0].any()
    assert out[1, -1] != PAD


def test_fractions_outside_of_0_and_1_are_refused():
  history, key = jnp.ones((1, 2), jnp.int32), jax.random.key(0)
  with pytest.raises(ValueError, match="keep must lie in"):
    transforms.crop(key, history, keep=1.5)
  with pytest.raises(ValueError, match="ratio must lie in"):
    transforms.reorder(key, history, ratio=-0.1)
  with pytest.raises(ValueError, match="rate must lie in"):
    transforms.mask(key, history, rate=20, mask_id=3)


def test_left_pad_keeps_the_last():
  out = transforms.left_pad([[], [1], [1, 2, 3, 4]], 3)
  np.testing.assert_array_equal(out, [[0, 0, 0], [0, 0, 1], [2, 3, 4]])
  assert out.dtype == np.int32
  assert transforms.left_pad([], 3).shape == (0, 3)


LENGTHS = st.lists(st.integers(0, 12), max_size=6).map(lambda x: np.array(x, np.int64))


@given(LENGTHS, st.integers(1, 6), st.integers(1, 7))
def test_sliding_windows_equal_a_loop(lengths, window, stride):
  expected = []
  for row, length in enumerate(lengths.tolist()):
    stops = list(range(length, min(length, window), -stride)) + [min(length, window)]
    for stop in sorted(set(stops)) if length else []:
      expected.append((row, max(stop - window, 0), stop))
  out = list(zip(*transforms.sliding_windows(lengths, window, stride), strict=True))
  assert out == expected


@given(LENGTHS, st.integers(0, 3))
def test_all_prefixes_equal_a_loop(lengths, least):
  expected = [(r, s) for r, n in enumerate(lengths) for s in range(least, n + 1)]
  assert list(zip(*transforms.all_prefixes(lengths, least), strict=True)) == expected


def test_prefixes_and_windows_are_rows_of_a_ragged():
  x = Ragged.from_rows([[1, 2, 3], [], [4]])
  row, stop = transforms.all_prefixes(x.lengths)
  prefixes = Ragged(x.values, x.start[row], x.start[row] + stop)
  assert [p.tolist() for p in prefixes] == [[1], [1, 2], [1, 2, 3], [4]]
  row, start, stop = transforms.sliding_windows(x.lengths, 2)
  windows = Ragged(x.values, x.start[row] + start, x.start[row] + stop)
  assert [w.tolist() for w in windows] == [[1, 2], [2, 3], [4]]


def test_windows_of_nothing_are_refused():
  with pytest.raises(ValueError, match="window and stride must be at least 1"):
    transforms.sliding_windows(np.array([3]), 0)
  with pytest.raises(ValueError, match="min_len must not be negative"):
    transforms.all_prefixes(np.array([3]), -1)
