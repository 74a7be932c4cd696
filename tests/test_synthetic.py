"""The synthetic data follows its stated law, and the oracle knows that law exactly."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from recjax.data import synthetic, synthetic_laws, synthetic_names, synthetic_oracle
from recjax.data.synthetic import LARGE, SMALL, TINY
from recjax.types import PAD


@pytest.fixture(scope="module")
def small():
  return synthetic.generate(SMALL, seed=0)


@pytest.fixture(scope="module")
def walks():
  """Many users of three events on few items: the world, and its places [U, 3]."""
  config = dataclasses.replace(
    TINY, users=40_000, min_events=3, mean_events=3.0, max_events=3, block=40_000
  )
  world = synthetic.generate(config, seed=3)
  place = synthetic_laws.place_of(config, world.interactions.item).reshape(-1, 3)
  return world, place


def places(world):
  return synthetic_laws.place_of(world.law.config, world.interactions.item)


def test_the_seed_decides_everything():
  one, same, other = (synthetic.generate(TINY, seed) for seed in (5, 5, 6))
  for name, column in one.interactions.columns().items():
    np.testing.assert_array_equal(column, same.interactions.columns()[name])
  for name, field in one.catalog.fields.items():
    np.testing.assert_array_equal(field, same.catalog[name])
  np.testing.assert_array_equal(one.taste, same.taste)
  assert not np.array_equal(one.interactions.item[:50], other.interactions.item[:50])
  assert not np.array_equal(one.law.leads, other.law.leads)


def test_chunks_in_any_order_make_the_whole(small):
  parts = dict(zip((2, 0, 1), synthetic.chunks(SMALL, 0, blocks=(2, 0, 1)), strict=True))
  whole = list(synthetic.chunks(SMALL, 0))
  assert SMALL.blocks == len(whole) == 3
  for column in ("user", "item", "timestamp", "rating"):
    expected = getattr(small.interactions, column)
    for order in (whole, [parts[0], parts[1], parts[2]]):
      np.testing.assert_array_equal(np.concatenate([getattr(c, column) for c in order]), expected)
  with pytest.raises(ValueError, match="there are blocks 0..2, not 3"):
    next(synthetic.chunks(SMALL, 0, blocks=[3]))


def test_catalogue_chunks_make_the_whole(small):
  parts = list(synthetic.catalog_chunks(SMALL, 0, rows=100))
  assert [len(p) for p in parts] == [100, 100, 100, 100, 68]
  assert np.concatenate([p.ids[1:] for p in parts]).tolist() == small.catalog.ids[1:].tolist()
  for name, field in small.catalog.fields.items():
    joined = np.concatenate([p[name][1:] for p in parts])
    assert joined.tolist() == field[1:].tolist()


def test_the_sizes_are_what_they_say(small):
  assert (SMALL.leaves, SMALL.items, SMALL.users) == (36, 468, 3_000)
  assert (TINY.items, TINY.users) == (56, 100)
  assert LARGE.items == LARGE.users == 10_000_000
  x = small.interactions
  assert (x.num_users, x.num_items) == (3_001, 469)
  lengths = np.bincount(x.user)[1:]
  assert lengths.min() == SMALL.min_events and lengths.max() <= SMALL.max_events
  assert abs(lengths.mean() - SMALL.mean_events) < 0.5


def test_a_user_meets_each_item_once_in_the_order_of_time(small):
  x = small.interactions
  pairs = x.user.astype(np.int64) * x.num_items + x.item
  assert len(np.unique(pairs)) == len(x)
  same = np.diff(x.user) == 0
  assert (np.diff(x.user) >= 0).all()
  gap = np.diff(x.timestamp)[same]
  assert gap.min() >= 60
  within = gap <= 1_800
  assert (gap[~within] > 43_000).all(), "a pause lasts half a day at least"
  assert abs(within.mean() - 0.55) < 5 * np.sqrt(0.25 / len(gap))


def test_every_title_is_distinct_and_tells_what_the_item_is(small):
  catalog, config = small.catalog, SMALL
  assert len(set(catalog["title"].tolist())) == config.items + 1
  assert len(set(catalog.ids.tolist())) == config.items + 1
  for title, brand, path in zip(
    catalog["title"][1:], catalog["brand"][1:], catalog["categories"][1:], strict=True
  ):
    department, kind, leaf = path
    assert title.startswith(brand + " ") and title.endswith(" " + leaf[:-1])
    assert leaf.endswith(" " + kind)
    assert department in synthetic_names.KINDS
  paths = set(catalog["categories"][1:].tolist())
  assert len(paths) == config.leaves
  assert catalog["categories"][PAD] == () and catalog["title"][PAD] == ""
  assert (catalog["price"][1:] > 0).all() and np.isnan(catalog["price"][PAD])


def test_names_are_distinct_wherever_indices_are():
  every = [k for row in synthetic_names.KINDS.values() for k in row.split()]
  assert len(every) == len(set(every)) == 200
  brands = synthetic_names.brands(np.arange(synthetic_names.MAX_BRANDS)).tolist()
  assert len(set(brands)) == synthetic_names.MAX_BRANDS
  assert len(set(synthetic_names.lines(np.arange(500)).tolist())) == 500
  ids = synthetic_names.item_ids(np.arange(1, 200_000))
  assert len(np.unique(ids)) == len(ids)
  assert set(np.strings.str_len(ids)) == {10}


def test_rows_and_places_are_inverse():
  for config in (TINY, SMALL):
    rows = synthetic_laws.row_of(config, np.arange(config.items))
    assert sorted(rows.tolist()) == list(range(1, config.items + 1))
    np.testing.assert_array_equal(synthetic_laws.place_of(config, rows), np.arange(config.items))
  assert synthetic_laws.place_of(TINY, np.array([PAD]))[0] == -1
  far = np.array([0, 1, 9_999_999])
  np.testing.assert_array_equal(
    synthetic_laws.place_of(LARGE, synthetic_laws.row_of(LARGE, far)), far
  )


def test_cold_items_are_only_met_last_and_at_their_rate(small):
  x, config = small.interactions, SMALL
  is_last = np.append(x.user[1:] != x.user[:-1], True)
  is_cold = places(small) % config.width >= config.warm
  assert not is_cold[~is_last].any()
  expected = config.users * config.cold_rate
  assert abs(is_cold.sum() - expected) < 5 * np.sqrt(expected)


def test_the_first_two_successors_are_the_stated_ones(small):
  law, config = small.law, SMALL
  place = np.array([config.width * 7 + 5])  # leaf 7, the second line of the second brand
  after = law.leads[7, 0] * config.width + 5
  assert synthetic_laws.successor(law, place, np.array([0]))[0] == after
  assert synthetic_laws.successor(law, place, np.array([1]))[0] == config.width * 7 + 5 + 4
  assert law.leads[7, 0] // config.leaves_of_department == 7 // config.leaves_of_department
  titles, row = small.catalog["title"], synthetic_laws.row_of(config, np.append(place, after))
  one, other = (titles[r].split() for r in row)
  assert one[:2] == other[:2], "the same brand and line"


def test_the_other_two_successors_are_popularity_draws_fixed_by_the_seed(small):
  law, config = small.law, SMALL
  place = np.arange(config.items)
  place = place[place % config.width < config.warm]
  for nth in (2, 3):
    leaf, v = np.divmod(
      synthetic_laws.successor(law, place, np.full(len(place), nth)), config.width
    )
    np.testing.assert_array_equal(leaf, law.leads[place // config.width, nth])
    assert stats.chisquare(np.bincount(v), law.popularity * len(place)).pvalue > 1e-3
  again = synthetic_laws.tabulate(SMALL, 0)
  np.testing.assert_array_equal(
    synthetic_laws.successor(again, place, np.full(len(place), 3)), leaf * config.width + v
  )


def test_successors_are_followed_as_often_as_stated(walks):
  world, place = walks
  law, config = world.law, world.law.config
  before, now = place[:, 0], place[:, 1]  # second events: what is met again can only be the first
  for way in range(2):  # the fixed two: one cannot repeat the first event
    share = np.mean(synthetic_laws.successor(law, before, np.full(len(before), way)) == now)
    assert share > config.follow * synthetic_laws.SUCCESSORS[way]
  for item in np.argsort(-np.bincount(before))[:3]:  # the law of the second event, item by item
    seen = np.bincount(now[before == item], minlength=config.items)
    history = np.full((1, 1), synthetic_laws.row_of(config, item))
    p = _warm_law(world, history)
    assert stats.chisquare(seen[p > 0], p[p > 0] * seen.sum()).pvalue > 1e-3
    assert seen[p == 0].sum() == 0


def _warm_law(world, history):
  """[places] the oracle's law without cold items, for a middle event."""
  law = world.law._replace(config=dataclasses.replace(world.law.config, cold_rate=0.0))
  p = synthetic_oracle.oracle(dataclasses.replace(world, law=law), history)[0]
  return p[synthetic_laws.row_of(law.config, np.arange(law.config.items))]


def test_first_events_are_jumps_by_taste(walks):
  world, place = walks
  law, config = world.law, world.law.config
  department = place[:, 0] // (config.width * config.leaves_of_department)
  mine = department == law.first[world.taste[1:]]
  assert abs(mine.mean() - (0.6 + 0.1 / 2)) < 5 * np.sqrt(0.25 / len(mine))
  v = np.bincount(place[:, 0] % config.width, minlength=config.width)
  zipf = 1 / (1 + np.arange(config.warm))
  expected = len(place) * zipf / zipf.sum()
  assert stats.chisquare(v[: config.warm], expected).pvalue > 1e-3
  assert v[config.warm :].sum() == 0


def test_ratings_tell_of_taste(small):
  x, law = small.interactions, small.law
  department = places(small) // (SMALL.width * SMALL.leaves_of_department)
  taste = small.taste[x.user]
  means = [
    x.rating[department == law.first[taste]].mean(),
    x.rating[department == law.second[taste]].mean(),
    x.rating[(department != law.first[taste]) & (department != law.second[taste])].mean(),
  ]
  assert means[0] > means[1] + 0.3 and means[1] > means[2] + 0.3
  assert set(np.unique(x.rating)) == {1.0, 2.0, 3.0, 4.0, 5.0}


def _slow_law(world, history, taste):
  """A middle event's law by the sentences of `synthetic_laws`, one item at a time."""
  law, config = world.law, world.law.config
  p = np.zeros(config.items)
  share = law.popularity
  leaves = config.leaves_of_department
  for j in range(config.items):
    leaf, v = divmod(j, config.width)
    z = share[v] if v < config.warm else 0.0
    jump = law.tastes[taste, leaf // leaves] / leaves * z
    if not history:
      p[j] = jump
      continue
    i = history[-1]
    for nth, likely in enumerate((0.40, 0.25, 0.20, 0.15)):
      at = synthetic_laws.successor(law, np.array([i]), np.array([nth]))[0]
      p[j] += config.follow * likely * (at == j)
    for nth, likely in enumerate((0.5, 0.3, 0.2)):
      p[j] += config.move * likely * (law.leads[i // config.width, 4 + nth] == leaf) * z
    p[j] += (1 - config.follow - config.move) * jump
  p[list(history)] = 0.0
  return p / p.sum()


def test_the_oracle_equals_the_law_written_out():
  config = dataclasses.replace(TINY, departments=3, cold_rate=0.1)
  world = synthetic.generate(config, seed=2)
  user, history, _ = synthetic_oracle.last_events(world)
  for row in (0, 7, 31):
    walk = [int(p) for p in synthetic_laws.place_of(config, history[row]) if p >= 0]
    weights = world.law.prior.copy()
    for t, item in enumerate(walk):
      weights *= [_slow_law(world, walk[:t], taste)[item] for taste in range(len(weights))]
    weights /= weights.sum()
    laws = np.stack([_slow_law(world, walk, taste) for taste in range(len(weights))])
    cold = np.zeros(config.items)
    for nth, likely in enumerate((0.5, 0.3, 0.2)):
      leaf = world.law.leads[walk[-1] // config.width, 4 + nth]
      cold[leaf * config.width + config.warm] += likely
    rows = synthetic_laws.row_of(config, np.arange(config.items))
    for known, mixture in (
      (None, weights),
      (user[row : row + 1], np.eye(len(laws))[world.taste[user[row]]]),
    ):
      out = synthetic_oracle.oracle(world, history[row : row + 1], known)[0]
      np.testing.assert_allclose(out[rows], 0.9 * mixture @ laws + 0.1 * cold, atol=1e-12)
      assert out[PAD] == 0.0


def test_the_oracle_is_a_distribution_and_survives_empty_histories(small):
  _, history, _ = synthetic_oracle.last_events(small)
  for h in (history[:50], np.zeros((2, 3), int), np.zeros((2, 0), int)):
    p = synthetic_oracle.oracle(small, h)
    np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=1e-9)
    assert (p >= 0).all()


def test_impossible_histories_are_refused(small):
  cold = synthetic_laws.row_of(SMALL, SMALL.warm)
  with pytest.raises(ValueError, match="cold item"):
    synthetic_oracle.oracle(small, np.array([[PAD, cold]]))
  with pytest.raises(ValueError, match="an item twice"):
    synthetic_oracle.oracle(small, np.array([[PAD, 4, 4]]))
  with pytest.raises(ValueError, match="k must lie in"):
    synthetic_oracle.best_attainable(small, 0)


@pytest.mark.parametrize("knows_taste", [False, True])
def test_what_the_oracle_expects_comes_true(small, knows_taste):
  user, history, target = synthetic_oracle.last_events(small)
  expected = synthetic_oracle.best_attainable(small, 10, knows_taste=knows_taste)
  p = synthetic_oracle.oracle(small, history, user if knows_taste else None)
  rank = (p > p[np.arange(len(p)), target][:, None]).sum(axis=1)
  recall, ndcg = rank < 10, (rank < 10) / np.log2(rank + 2)
  assert abs(recall.mean() - expected.recall) < 4 * recall.std() / np.sqrt(len(p))
  assert abs(ndcg.mean() - expected.ndcg) < 4 * ndcg.std() / np.sqrt(len(p))
  assert len(p) == SMALL.users


def test_the_small_world_tells_good_models_from_bad(small):
  _, history, target = synthetic_oracle.last_events(small)
  best = synthetic_oracle.best_attainable(small, 10).recall
  users, items = len(history), small.interactions.num_items
  train = history[:, :-1]  # the last of the history validates
  met = np.zeros((users, items))
  met[np.arange(users)[:, None], train] = 1
  met[:, PAD] = 0
  count = met.sum(axis=0)

  whole = met.copy()  # what is known when the last event is asked for
  whole[np.arange(users), history[:, -1]] = 1

  def recall(scores):
    scores = np.where(whole > 0, -np.inf, scores)
    scores[:, PAD] = -np.inf
    return np.mean((scores > scores[np.arange(users), target][:, None]).sum(axis=1) < 10)

  popularity = recall(np.tile(count, (users, 1)))
  cosine = met.T @ met / np.sqrt(np.maximum(np.outer(count, count), 1))
  np.fill_diagonal(cosine, 0)
  knn = recall(whole @ cosine)
  pairs = np.zeros((items, items))
  np.add.at(pairs, (train[:, :-1].ravel(), train[:, 1:].ravel()), 1)
  markov = recall(pairs[history[:, -1]] + 1e-6 * count)
  assert 0.5 < best < 0.9
  assert popularity < 0.2 * best
  assert 0.25 * best < knn < 0.6 * best
  assert 0.85 * best < markov < best


def test_raw_files_hold_the_world(small, tmp_path):
  synthetic.write(small, tmp_path / "whole")
  synthetic.write_chunks(SMALL, 0, tmp_path / "parts")
  for name in ("interactions.csv", "items.jsonl"):
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
  x = small.interactions
  with open(tmp_path / "whole" / "interactions.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == len(x)
  assert [r["user"] for r in rows] == x.users[x.user].tolist()
  assert [r["item"] for r in rows] == x.items[x.item].tolist()
  assert [float(r["rating"]) for r in rows] == x.rating.tolist()
  assert [int(r["timestamp"]) for r in rows] == x.timestamp.tolist()
  items = [json.loads(line) for line in open(tmp_path / "whole" / "items.jsonl")]
  assert [i["item"] for i in items] == small.catalog.ids[1:].tolist()
  assert items[9]["title"] == small.catalog["title"][10]
  assert tuple(items[9]["categories"]) == small.catalog["categories"][10]


def test_ten_million_items_and_users_cost_a_block():
  chunk = next(synthetic.chunks(LARGE, 0, blocks=[LARGE.blocks - 1]))
  assert chunk.user.max() == LARGE.users
  assert 1 <= chunk.item.min() and chunk.item.max() <= LARGE.items
  part = next(synthetic.catalog_chunks(LARGE, 0, rows=1_000))
  assert len(set(part["title"].tolist())) == 1_001


@pytest.mark.slow
def test_every_title_of_a_department_of_the_large_world_is_distinct():
  law = synthetic_laws.tabulate(LARGE, 0)
  rows = synthetic_laws.row_of(LARGE, np.arange(LARGE.items // LARGE.departments))
  titles = synthetic._describe(law, rows)["title"]
  assert len(np.unique(titles)) == len(rows) + 1


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"users": 0}, "users must lie in 1.."),
    ({"departments": 21}, "departments must lie in 2..20"),
    ({"kinds": 1, "modifiers": 1}, "two leaves at least"),
    ({"min_events": 40}, "min_events must lie in 1..30"),
    ({"mean_events": 50.0}, "mean_events must lie in 5..30"),
    ({"follow": 0.9, "move": 0.2}, "leave some for jumps"),
    ({"cold": 0}, "be 0 where there are no cold items"),
    ({"max_events": 400}, "meet each only once"),
  ],
)
def test_configurations_that_cannot_be_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(SMALL, **change)
