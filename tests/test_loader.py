"""Examples, the batch plan, the loader's exact position, records and TFDS on disk."""

import collections
import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.data import examples, interactions, loader, prepare, records, splits, storage, tfds
from recjax.data.errors import DataError
from recjax.data.ragged import Ragged


def log(counts):
  """A log in which user u has counts[u] events, of items 1, 2, 3 ... in order."""
  user = np.repeat(np.arange(len(counts)), counts)
  item = np.concatenate([np.arange(n) for n in counts])
  x = interactions.from_columns(user, item, timestamp=item)
  return interactions.renumber(
    x, x.users, interactions.with_pad(interactions.strings(np.arange(max(counts)).astype(str)))
  )


def rows(source, max_len):
  return source.gather(np.arange(len(source)), source.widths(max_len))


def test_prefixes_are_every_event_with_what_came_before():
  batch = rows(examples.prefixes(log([3, 1, 2])), 4)
  assert batch["history"].tolist() == [[0, 0, 0, 1], [0, 0, 1, 2], [0, 0, 0, 1]]
  assert batch["target"].tolist() == [2, 3, 2]
  assert batch["user"].tolist() == [1, 1, 3]


def test_sequences_shift_by_one_and_keep_the_last_events():
  batch = rows(examples.sequences(log([5, 1, 2]), 3), 3)
  assert batch["history"].tolist() == [[2, 3, 4], [0, 0, 1]]
  assert batch["next"].tolist() == [[3, 4, 5], [0, 0, 2]]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 8), st.integers(1, 8))
def test_windows_cover_every_transition_and_never_leave_the_user(counts, max_len, stride):
  counts = [*counts, 2]
  batch = rows(examples.sequences(log(counts), max_len, stride=min(stride, max_len)), max_len)
  seen = collections.Counter()
  for user, history, following in zip(
    *(batch[k] for k in ("user", "history", "next")), strict=True
  ):
    real = history > 0
    assert (following[real] == history[real] + 1).all() and (following[~real] == 0).all()
    seen.update((int(user), int(i)) for i in history[real])
  wanted = {(u + 1, i) for u, n in enumerate(counts) for i in range(1, n)}
  assert set(seen) == wanted


def test_even_batches_have_as_many_places_whatever_their_width():
  source = examples.prefixes(log([30, 9, 40, 12, 25]))
  even = loader.Batches(source, 2, max_len=[4, 9, 24], seed=3, even=True)
  sizes = {batch["history"].shape[::-1] for batch in map(even.__getitem__, range(len(even)))}
  assert sizes == {(4, 12), (9, 4), (24, 2)}
  seen = collections.Counter()
  for i in range(len(even)):
    batch = even[i]
    real = batch["weight"] > 0
    seen.update(zip(batch["user"][real].tolist(), batch["target"][real].tolist(), strict=True))
    assert even.bucket(i) == [4, 9, 24].index(batch["history"].shape[1])
  assert len(seen) == len(source) == seen.total()
  assert even.mean_size == sum(len(even[i]["user"]) for i in range(len(even))) / len(even)


def test_processes_share_even_batches_out():
  source = examples.prefixes(log([30, 9, 40]))
  how = {"max_len": [4, 24], "seed": 0, "even": True}
  whole = loader.Batches(source, 4, **how)
  parts = [loader.Batches(source, 4, shard=(n, 2), **how) for n in range(2)]
  for i in range(len(whole)):
    both = np.concatenate([part[i]["target"] for part in parts])
    np.testing.assert_array_equal(both, whole[i]["target"])


def test_next_events_see_all_earlier_ones_of_either_table():
  x = prepare.order(log([4, 3]), ties=prepare.file_order)
  split = splits.leave_one_out(x)
  batch = rows(examples.next_events(interactions.concat(split[:2]), split.test), 5)
  assert batch["history"].tolist() == [[0, 0, 1, 2, 3], [0, 0, 0, 1, 2]]
  assert batch["target"].tolist() == [4, 3]
  rolling = rows(examples.next_events(split.train, interactions.concat(split[1:])), 3)
  order = np.lexsort([rolling["target"], rolling["user"]])
  assert rolling["history"][order].tolist() == [[0, 1, 2], [1, 2, 3], [0, 0, 1], [0, 1, 2]]


def test_targets_that_were_met_before_are_counted():
  x = interactions.from_columns([1, 1, 1, 2, 2, 3], [7, 8, 7, 8, 9, 9], timestamp=np.arange(6))
  assert examples.again(examples.prefixes(x)) == 1 / 3  # 8 after 7; 7 after 7, 8; 9 after 8
  assert examples.again(examples.next_events(x, x.take(np.arange(0)))) == 0


@pytest.mark.parametrize("block", [1, 1 << 22])
def test_of_sets_those_are_counted_that_hold_what_was_met_before(block, monkeypatch):
  monkeypatch.setattr(examples, "_BLOCK", block)
  # 2's set holds an item of 1's history, and 3's one of its own; 4 has no history.
  before = interactions.from_columns([1, 1, 2, 3, 4], [7, 8, 9, 8, 9], timestamp=np.arange(5))
  asked = interactions.from_columns([1, 2, 2, 3, 3, 4], [9, 7, 8, 7, 8, 7], timestamp=np.arange(6))
  before = before.take(before.user < 4)
  asked = interactions.renumber(asked, before.users, before.items)
  assert examples.again(examples.sets(before, asked)) == 1 / 4


def test_a_stride_that_would_miss_events_is_refused():
  with pytest.raises(ValueError, match="stride must lie in 1..3"):
    examples.sequences(log([12]), 3, stride=5)


def test_sets_hold_all_targets_of_a_user_even_without_a_history():
  x = log([3, 2])
  first = x.take((x.user == 1) & (x.timestamp < 1))
  batch = rows(examples.deny_seen(examples.sets(first, x.take(x.timestamp >= 1))), 2)
  assert batch["user"].tolist() == [1, 2]
  assert batch["history"].tolist() == [[0, 1], [0, 0]]
  assert batch["target"].tolist() == [[2, 3], [2, 0]]
  assert batch["deny"].tolist() == [[1], [0]]


def numbered(count, lengths=None):
  """Examples that carry their own number, and histories of the given lengths."""
  lengths = np.ones(count, np.int64) if lengths is None else np.asarray(lengths)
  history = Ragged.from_lengths(np.ones(lengths.sum(), np.int32), lengths)
  return examples.Examples({"n": np.arange(count)}, {"history": history})


def epoch_of(batches, epoch):
  start = epoch * batches.per_epoch
  return [batches[i] for i in range(start, start + batches.per_epoch)]


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 3))
def test_every_epoch_gives_each_example_once_and_masks_the_rest(count, size, epoch):
  batches = loader.Batches(numbered(count), size, max_len=2, seed=5, epochs=4)
  got = epoch_of(batches, epoch)
  assert len(got) == -(-count // size) and all(b["n"].shape == (size,) for b in got)
  real = np.concatenate([b["n"][b["weight"] == 1] for b in got])
  assert sorted(real.tolist()) == list(range(count))
  assert sum(b["weight"].sum() for b in got) == count


def test_shuffling_differs_by_epoch_and_seed_and_repeats_exactly():
  def order(seed, epoch):
    batches = loader.Batches(numbered(32), 8, max_len=1, seed=seed, epochs=None)
    return [b["n"].tolist() for b in epoch_of(batches, epoch)]

  assert order(1, 0) == order(1, 0)
  assert len({str(order(s, e)) for s in (1, 2) for e in (0, 1)}) == 4
  in_order = loader.Batches(numbered(5), 2, max_len=1)
  assert np.concatenate([in_order[i]["n"] for i in range(3)])[:5].tolist() == list(range(5))


def test_buckets_pad_to_the_narrowest_width_that_holds_the_history():
  lengths = np.random.default_rng(0).integers(0, 15, 100)
  batches = loader.Batches(numbered(100, lengths), 8, max_len=[2, 5, 10], seed=0)
  seen = []
  for batch in epoch_of(batches, 0):
    width = batch["history"].shape[1]
    for n in batch["n"][batch["weight"] == 1]:
      assert min(lengths[n], 10) <= width and (width == 2 or lengths[n] > {5: 2, 10: 5}[width])
      seen.append(int(n))
  assert sorted(seen) == list(range(100))


def test_without_histories_every_example_is_in_the_narrowest_bucket(tmp_path):
  x = examples.events(log([4, 3]))
  assert x.lengths.tolist() == [0] * 7
  records.write([x.take(np.arange(3)), x.take(np.arange(3, 7))], tmp_path / "r")
  for source in (x, records.Records(tmp_path / "r")):
    batches = loader.Batches(source, 4, max_len=[8, 16])
    seen = [b["target"][b["weight"] > 0].tolist() for b in epoch_of(batches, 0)]
    assert sum(seen, []) == x.dense["target"].tolist()


@pytest.mark.parametrize("processes", [2, 4])
def test_the_shards_of_a_batch_make_the_batch(processes):
  def draw(batch, rng):
    return batch | {"noise": rng.random(len(batch["weight"]))}

  def make(shard):
    return loader.Batches(numbered(21), 8, max_len=1, seed=3, shard=shard, transforms=[draw])

  whole, parts = make((0, 1)), [make((i, processes)) for i in range(processes)]
  for i in range(whole.per_epoch):
    for name, column in whole[i].items():
      np.testing.assert_array_equal(np.concatenate([p[i][name] for p in parts]), column)


def test_a_shard_of_filling_only_is_all_masked():
  batches = loader.Batches(numbered(9), 8, max_len=1, shard=(1, 2))
  assert batches[1]["weight"].tolist() == [0, 0, 0, 0] and batches[1]["n"].tolist() == [8] * 4


@given(st.integers(0, 12), st.integers(1, 5))
def test_a_saved_position_gives_the_exact_next_batch(taken, threads):
  batches = loader.Batches(numbered(30, np.arange(30) % 4), 4, max_len=[1, 3], seed=9, epochs=None)
  one = loader.load(batches, threads=threads)
  for _ in range(taken):
    next(one)
  position = json.loads(json.dumps(one.get_state()))
  wanted = [next(one) for _ in range(3)]
  two = loader.load(batches, threads=0, prefetch=1)
  two.set_state(position)
  for batch in wanted:
    for name, column in next(two).items():
      np.testing.assert_array_equal(column, batch[name])


def test_a_finite_run_ends():
  assert len(list(loader.load(loader.Batches(numbered(10), 4, max_len=1, seed=0, epochs=3)))) == 9


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"batch_size": 6, "shard": (0, 4)}, "does not split"),
    ({"batch_size": 0}, "does not split"),
    ({"batch_size": 4, "max_len": [5, 2]}, "ascending"),
  ],
)
def test_sizes_that_cannot_work_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    loader.Batches(numbered(10), options.pop("batch_size"), **{"max_len": 3} | options)
  with pytest.raises(ValueError, match="no examples"):
    loader.Batches(numbered(0), 4, max_len=3)


def some_examples(seed, count=50):
  rng = np.random.default_rng(seed)

  def ragged(dtype):
    return Ragged.from_rows([rng.integers(1, 99, rng.integers(0, 6)) for _ in range(count)], dtype)

  ratings = rng.random((count, 2)).astype(np.float32)
  return examples.Examples(
    {"user": rng.integers(0, 9, count, dtype=np.int32), "ratings": ratings},
    {"history": ragged(np.int32)},
    {"labels": ragged(np.float32), "candidates": ragged(np.int64)},
  )


def assert_same_source(source, wanted, max_len):
  assert len(source) == len(wanted) and source.widths(max_len) == wanted.widths(max_len)
  np.testing.assert_array_equal(source.lengths, wanted.lengths)
  picked = np.array([7, 7, 0, len(wanted) - 1, 3])
  got = source.gather(picked, source.widths(max_len))
  expected = wanted.gather(picked, wanted.widths(max_len))
  assert got.keys() == expected.keys()
  for name, column in expected.items():
    assert got[name].dtype == column.dtype
    np.testing.assert_array_equal(got[name], column)


def test_records_on_disk_gather_as_memory_does(tmp_path):
  x = some_examples(0)
  records.write([x.take(np.arange(20)), x.take(np.arange(20, 50))], tmp_path / "r")
  assert_same_source(records.Records(tmp_path / "r"), x, 4)
  batches = loader.Batches(records.Records(tmp_path / "r"), 8, max_len=[2, 5], seed=1)
  memory = loader.Batches(x, 8, max_len=[2, 5], seed=1)
  for a, b in zip(epoch_of(batches, 0), epoch_of(memory, 0), strict=True):
    np.testing.assert_array_equal(a["candidates"], b["candidates"])


def test_damaged_records_are_named(tmp_path):
  records.write([some_examples(0)], tmp_path / "r")
  shard = next((tmp_path / "r").glob("*.array_record"))
  whole = shard.read_bytes()
  shard.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(DataError, match="Write the folder again"):
    source = records.Records(tmp_path / "r")
    source.gather(np.arange(50), source.widths(3))
  (tmp_path / "r" / "schema.json").unlink()
  with pytest.raises(DataError, match="not a finished folder"):
    records.Records(tmp_path / "r")
  with pytest.raises(DataError, match="not empty"):
    records.write([some_examples(0)], tmp_path / "r")


def test_a_tfds_data_set_is_built_and_read_without_tensorflow(tmp_path):
  x = some_examples(1)
  builder = tfds.ExamplesBuilder(name="tiny", parts={"train": x}, data_dir=tmp_path)
  with pytest.raises(DataError, match="no split 'train'.*download_and_prepare"):
    tfds.source(builder, "train")
  builder.download_and_prepare()
  got = tfds.source(builder, "train")
  # TFDS shuffles as it writes: the same examples in another, fixed order
  numbers = rows(got, 5)["ratings"][:, 0]
  back = [x.dense["ratings"][:, 0].tolist().index(n) for n in numbers]
  assert sorted(back) == list(range(50))
  assert_same_source(got, x.take(np.array(back)), 5)
  assert "tensorflow" not in sys.modules
  wide = examples.Examples({"x": np.zeros(2)})
  with pytest.raises(DataError, match="'x' is float64.*Cast it to float32"):
    tfds.ExamplesBuilder(name="wide", parts={"train": wide}, data_dir=tmp_path)


def test_interactions_come_from_a_tfds_data_source(tmp_path):
  x = log([3, 2])
  x = interactions.replace(x, rating=np.arange(5, dtype=np.float32))
  parts = {"train": examples.events(x)}
  builder = tfds.ExamplesBuilder(name="events", parts=parts, data_dir=tmp_path)
  builder.download_and_prepare()
  y = tfds.interactions(
    builder.as_data_source("train"), user="user", item="target", rating="ratings"
  )
  got = sorted(zip(y.users[y.user], y.items[y.item], y.rating.tolist(), strict=True))
  numbered_x = sorted(zip(x.user.astype(str), x.item.astype(str), x.rating.tolist(), strict=True))
  assert got == numbered_x
  with pytest.raises(DataError, match="no feature 'stars'"):
    tfds.interactions(builder.as_data_source("train"), user="user", item="target", rating="stars")


def test_prepared_events_and_maps_survive_the_disk(tmp_path):
  x = interactions.from_columns(
    np.array(["ü", 'q"\n', "ü"]),
    np.array([1, 2, 1]),
    timestamp=[3, 4, 5],
    rating=[1, 2, 3],
    behavior=["buy", "view", "buy"],
    text=["a", "", "ß"],
    fields={"summary": interactions.strings(["x", "y", "z"])},
  )
  storage.save(x, tmp_path)
  y = storage.load(tmp_path)
  assert y.behaviors == x.behaviors and y.fields.keys() == x.fields.keys()
  for name, column in {**x.columns(), "users": x.users, "items": x.items}.items():
    got = {**y.columns(), "users": y.users, "items": y.items}[name]
    assert got.dtype == column.dtype
    np.testing.assert_array_equal(got, column)


def test_no_flipped_bit_of_the_events_goes_unnoticed(tmp_path):
  rng = np.random.default_rng(0)
  x = interactions.from_columns(
    rng.integers(0, 50, 400), rng.integers(0, 90, 400), timestamp=np.arange(400)
  )
  storage.save(x, tmp_path)
  path = tmp_path / "events.parquet"
  whole = path.read_bytes()
  for _ in range(150):
    bad = bytearray(whole)
    bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
    path.write_bytes(bad)
    with pytest.raises(DataError, match="events.parquet: damaged"):
      storage.load(tmp_path)
  path.write_bytes(whole)
  np.testing.assert_array_equal(storage.load(tmp_path).item, x.item)
  path.with_suffix(".sha256").unlink()
  with pytest.raises(DataError, match="events.sha256: no such file"):
    storage.load(tmp_path)


def test_a_damaged_store_is_named(tmp_path):
  storage.save(log([3]), tmp_path)
  (tmp_path / "items.jsonl").write_text('""\n"a"\n"a"\n')
  with pytest.raises(DataError, match="items.jsonl: raw ids must be there, each once"):
    storage.load(tmp_path)
  (tmp_path / "items.jsonl").write_text('""\n{\n')
  with pytest.raises(DataError, match="items.jsonl:2: not a JSON string"):
    storage.load(tmp_path)
  (tmp_path / "items.jsonl").write_bytes(b'""\n"\xff"\n')
  with pytest.raises(DataError, match="items.jsonl: damaged"):
    storage.load(tmp_path)
  (tmp_path / "events.parquet").write_bytes(b"PAR1")
  with pytest.raises(DataError, match="events.parquet: damaged"):
    storage.load(tmp_path)
