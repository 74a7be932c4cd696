"""The tables, their preparation and their splits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.data import interactions, prepare, splits
from recjax.data.errors import DataError, Skipped
from recjax.data.ragged import Ragged


def table(rows, **more):
  """Interactions from (user, item, time) rows."""
  user, item, time = zip(*rows, strict=True)
  return interactions.from_columns(np.array(user), np.array(item), timestamp=time, **more)


@st.composite
def logs(draw, min_size=1):
  event = st.tuples(st.integers(0, 7), st.integers(0, 9), st.integers(0, 20))
  return table(draw(st.lists(event, min_size=min_size, max_size=60)))


def raw(x):
  """The events by raw ids: what no renumbering may change."""
  return list(zip(x.users[x.user].tolist(), x.items[x.item].tolist(), strict=True))


def test_ids_are_numbered_from_one_by_first_appearance():
  x = table([("b", 30, 0), ("a", 10, 0), ("b", 10, 0)])
  assert x.user.tolist() == [1, 2, 1] and x.item.tolist() == [1, 2, 2]
  assert x.users.tolist() == ["", "b", "a"] and x.items.tolist() == ["", "30", "10"]
  assert x.num_users == 3 and x.num_items == 3


def test_a_column_of_another_length_or_an_id_out_of_range_is_an_error():
  x = table([("a", "i", 0), ("b", "j", 1)])
  with pytest.raises(ValueError, match="'rating' has 1 rows"):
    interactions.replace(x, rating=np.ones(1, np.float32))
  with pytest.raises(ValueError, match=r"`item` must lie in 1\.\.2"):
    interactions.replace(x, item=np.array([1, 3]))
  with pytest.raises(ValueError, match="PAD"):
    interactions.replace(x, items=interactions.strings(["x", "i", "j"]))


def test_blank_ids_and_times_that_are_not_whole_are_errors():
  for user, item, said in (
    (["a", ""], [1, 2], "user of row 1"),
    (["a", "b"], ["", "x"], "item of row 0"),
  ):
    with pytest.raises(DataError, match=f"the {said} is blank"):
      interactions.from_columns(user, item)
  for times, said in (([1.0, 10.1], "row 1 is 10.1"), ([np.nan, 2], "row 0 is nan")):
    with pytest.raises(DataError, match=f"time of {said}, which is no whole number"):
      interactions.from_columns([1, 1], [1, 2], timestamp=np.array(times))
  whole = interactions.from_columns([1, 1], [1, 2], timestamp=np.array([3.0, 2.0]))
  assert whole.timestamp.dtype == np.int64 and whole.timestamp.tolist() == [3, 2]


def test_behaviours_and_further_fields_follow_their_events():
  fields = {"n": np.array([5, 6])}
  x = table([("a", "i", 0), ("a", "j", 1)], behavior=["view", "buy"], fields=fields)
  y = x.take(np.array([1]))
  assert [y.behaviors[b] for b in y.behavior] == ["buy"] and y.fields["n"].tolist() == [6]


def test_concat_refuses_other_maps():
  x, y = table([("a", "i", 0)]), table([("a", "j", 0)])
  assert len(interactions.concat([x, x])) == 2
  with pytest.raises(ValueError, match="same id maps"):
    interactions.concat([x, y])


def test_a_catalogue_lines_up_with_the_items():
  x = table([("a", "j", 0), ("a", "i", 0), ("a", "k", 0)])
  known = interactions.Catalog(
    interactions.with_pad(interactions.strings(["i", "j"])),
    {"title": interactions.strings(["", "I", "J"])},
  )
  assert interactions.align(known, x.items)["title"].tolist() == ["", "J", "I", ""]
  assert interactions.missing(known, x.items) == 1
  with pytest.raises(KeyError, match="no field 'brand'; it has title"):
    known["brand"]


@given(logs())
def test_renumbering_changes_no_event(x):
  order = np.random.default_rng(0).permutation(x.num_users - 1) + 1
  users = interactions.with_pad(x.users[order])
  assert raw(interactions.renumber(x, users, x.items)) == raw(x)


def test_renumbering_without_an_id_in_use_names_it():
  x = table([("a", "i", 0), ("b", "i", 0)])
  with pytest.raises(DataError, match="user 'b' is not in the given id map"):
    interactions.renumber(x, interactions.with_pad(interactions.strings(["a"])), x.items)


def test_deduplicating_keeps_the_first_event():
  x = table([("a", "i", 5), ("b", "i", 1), ("a", "i", 3), ("a", "j", 4)])
  assert prepare.deduplicate(x).timestamp.tolist() == [5, 1, 4]
  assert len(prepare.deduplicate(x, by=("user", "item", "timestamp"))) == 4
  with pytest.raises(DataError, match="no column 'colour'"):
    prepare.deduplicate(x, by=("colour",))


@given(logs())
def test_deduplicating_equals_a_python_set(x):
  seen, keep = set(), []
  for row, event in enumerate(raw(x)):
    if event not in seen:
      keep.append(row)
    seen.add(event)
  assert raw(prepare.deduplicate(x)) == raw(x.take(np.array(keep)))


@given(logs(), st.integers(1, 4), st.integers(1, 4))
def test_the_core_is_the_largest_set_that_satisfies_itself(x, user, item):
  events = raw(x)
  while True:  # brute force
    users = [e[0] for e in events]
    items = [e[1] for e in events]
    kept = [e for e in events if users.count(e[0]) >= user and items.count(e[1]) >= item]
    if kept == events:
      break
    events = kept
  if not events:
    with pytest.raises(DataError, match="no event is left"):
      prepare.k_core(x, user=user, item=item)
  else:
    assert raw(prepare.k_core(x, user=user, item=item)) == events


@given(logs())
def test_reindexing_forgets_only_what_is_unused(x):
  y = prepare.reindex(x.take(np.arange(0, len(x), 2)))
  assert raw(y) == raw(x)[::2]
  assert len(np.unique(y.item)) == y.num_items - 1 and len(np.unique(y.user)) == y.num_users - 1


def test_a_row_tells_nothing_of_when_an_item_was_met():
  x = interactions.from_columns(np.zeros(1000, int), np.arange(1000))
  y = prepare.reindex(x)
  assert abs(np.corrcoef(np.arange(1000), y.item)[0, 1]) < 0.1
  np.testing.assert_array_equal(y.item, prepare.reindex(x).item)


TIED = [("u", "c", 2), ("u", "b", 1), ("u", "a", 2), ("u", "d", 2)]


def items_of(x):
  return "".join(x.items[x.item].tolist())


def test_ties_go_by_the_rule_that_was_named():
  x = table(TIED)
  assert items_of(prepare.order(x, ties=prepare.file_order)) == "bcad"
  assert items_of(prepare.order(x, ties=prepare.by_item_id)) == "bacd"
  orders = {items_of(prepare.order(x, ties=prepare.shuffled(seed))) for seed in range(40)}
  assert len(orders) == 6 and all(o[0] == "b" for o in orders)
  assert items_of(prepare.order(x, ties=prepare.shuffled(7))) == items_of(
    prepare.order(x, ties=prepare.shuffled(7))
  )


def test_without_timestamps_the_file_is_the_order():
  x = interactions.from_columns(np.array(["b", "a", "b"]), np.array([1, 2, 3]))
  assert raw(prepare.order(x, ties=prepare.file_order)) == [("b", "1"), ("b", "3"), ("a", "2")]


@given(logs())
def test_ordering_equals_python_sorted(x):
  wanted = sorted(range(len(x)), key=lambda i: (x.user[i], x.timestamp[i], x.items[x.item[i]], i))
  got = prepare.order(x, ties=prepare.by_item_id)
  assert raw(got) == [raw(x)[i] for i in wanted]


def test_what_needs_order_says_so():
  x = table([("a", "i", 1), ("b", "i", 1), ("a", "j", 0)])
  with pytest.raises(DataError, match="not grouped by user.*prepare.order"):
    splits.leave_one_out(x)
  backwards = table([("a", "i", 1), ("a", "j", 0)])
  with pytest.raises(DataError, match="go back in time"):
    prepare.truncate(backwards, 1)


def test_truncation_keeps_the_last_events():
  x = table([("a", i, i) for i in range(5)] + [("b", 9, 0)])
  assert prepare.truncate(x, 2).timestamp.tolist() == [3, 4, 0]


def test_leaving_one_out_by_hand():
  x = table([(user, i, i) for user, n in (("a", 4), ("b", 2), ("c", 3)) for i in range(n)])
  train, valid, test = splits.leave_one_out(x)
  assert raw(train) == [("a", "0"), ("a", "1"), ("b", "0"), ("b", "1"), ("c", "0")]
  assert raw(valid) == [("a", "2"), ("c", "1")] and raw(test) == [("a", "3"), ("c", "2")]


FRACTIONS = st.tuples(st.floats(0, 0.45), st.floats(0, 0.45))


@given(logs(), FRACTIONS, st.integers(0, 5))
def test_every_split_puts_every_event_in_one_part(x, fractions, seed):
  valid, test = fractions
  x = prepare.order(x, ties=prepare.file_order)
  stamped = interactions.replace(x, rating=np.arange(len(x), dtype=np.float32))
  for split in (
    splits.leave_one_out(stamped),
    splits.ratio(stamped, valid=valid, test=test, seed=seed),
    splits.ratio_by_user(stamped, valid=valid, test=test),
    splits.temporal(stamped, **splits.moments(stamped, valid=valid, test=test)),
  ):
    ids = np.concatenate([part.rating for part in split])
    assert sorted(ids.tolist()) == list(range(len(x)))
  # every user keeps something to train on; the ratio is honoured to the event
  by_user = splits.ratio_by_user(stamped, valid=valid, test=test)
  assert set(by_user.train.user.tolist()) == set(x.user.tolist())
  drawn = splits.ratio(stamped, valid=valid, test=test, seed=seed)
  assert len(drawn.test) == int(len(x) * test) and len(drawn.valid) == int(len(x) * valid)


def test_a_temporal_split_never_trains_on_the_future():
  x = prepare.order(table([("a", i, i) for i in range(10)]), ties=prepare.file_order)
  split = splits.temporal(x, valid_from=5, test_from=8)
  assert [len(p) for p in split] == [5, 3, 2]
  assert split.train.timestamp.max() < split.valid.timestamp.min() <= split.test.timestamp.min()
  with pytest.raises(ValueError, match="later than"):
    splits.temporal(x, valid_from=9, test_from=8)


@pytest.mark.parametrize(
  "valid, test, sizes", [(0.3, 0, [7, 3, 0]), (0, 0.3, [7, 0, 3]), (0, 0, [10, 0, 0])]
)
def test_moments_of_a_part_that_is_nothing_leave_it_empty(valid, test, sizes):
  x = prepare.order(table([("a", i, i) for i in range(10)]), ties=prepare.file_order)
  split = splits.temporal(x, **splits.moments(x, valid=valid, test=test))
  assert [len(part) for part in split] == sizes


def test_fractions_are_decimal():
  x = prepare.order(table([("a", i, i) for i in range(100)]), ties=prepare.file_order)
  for test in (0.29, 0.57, 0.58, 0.35):  # .29 * 100 is 28.999...
    assert len(splits.ratio_by_user(x, valid=0, test=test).test) == round(100 * test)


def test_fractions_that_leave_nothing_are_refused():
  x = table([("a", "i", 0)])
  with pytest.raises(ValueError, match="fractions that leave some"):
    splits.ratio(x, valid=0.5, test=0.5, seed=0)


def test_some_users_are_drawn_with_all_their_events_in_order():
  x = interactions.from_columns(np.arange(60) % 9, np.arange(60) % 11)
  some = splits.some_users(x, 4, seed=3)
  chosen = set(some.user.tolist())
  assert len(chosen) == 4
  assert raw(some) == raw(x.take(np.array([u in chosen for u in x.user.tolist()])))
  assert set(splits.some_users(x, 4, seed=4).user.tolist()) != chosen
  assert raw(splits.some_users(x, 10, seed=3)) == raw(x)
  with pytest.raises(ValueError, match="cannot draw 0 users"):
    splits.some_users(x, 0, seed=0)


def test_a_few_shots_are_drawn_in_order_and_by_seed():
  x = table([("a", i, i) for i in range(50)])
  few = splits.few_shot(x, 10, seed=3)
  assert len(few) == 10 and (np.diff(few.timestamp) > 0).all()
  assert raw(few) == raw(splits.few_shot(x, 10, seed=3)) != raw(splits.few_shot(x, 10, seed=4))
  with pytest.raises(ValueError, match="51 shots of 50"):
    splits.few_shot(x, 51, seed=0)


def test_cold_items_are_tested_and_never_trained_on():
  rng = np.random.default_rng(0)
  rows = [(u, int(i), t) for u in range(40) for t, i in enumerate(rng.integers(0, 20, 6))]
  split = splits.leave_one_out(prepare.order(table(rows), ties=prepare.file_order))
  warm, cold = splits.cold_items(split, 0.25, seed=1)
  tested = np.unique(split.test.item)
  assert cold.sum() == round(0.25 * len(tested)) and cold[tested].sum() == cold.sum()
  assert not cold[warm.train.item].any() and not cold[warm.valid.item].any()
  assert len(warm.test) == len(split.test)


def test_ragged_rows_pad_on_the_side_that_was_asked():
  r = Ragged.from_rows([[1, 2, 3], [], [4]])
  every = np.arange(3)
  assert r.left_padded(every, 2).tolist() == [[2, 3], [0, 0], [0, 4]]
  assert r.right_padded(every, 2).tolist() == [[1, 2], [0, 0], [4, 0]]
  assert r.left_padded(every, 5).tolist() == [[0, 0, 1, 2, 3], [0] * 5, [0, 0, 0, 0, 4]]
  empty = Ragged.from_rows([[], []])
  assert empty.left_padded(np.arange(2), 3).tolist() == [[0] * 3] * 2
  with pytest.raises(ValueError, match="3 values do not fill rows of 2"):
    Ragged.from_lengths(np.arange(3), np.array([1, 1]))


def test_an_error_names_file_line_and_remedy():
  error = DataError("rating 'x' is not a number", path="a.csv", line=7, remedy="Fix the line.")
  assert str(error) == "a.csv:7: rating 'x' is not a number. Fix the line."
  both = Skipped(3, ("a", "b", "c")) + Skipped(4, ("d", "e", "f"))
  assert both == Skipped(7, ("a", "b", "c", "d", "e"))
