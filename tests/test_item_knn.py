"""Item-kNN and the neighbourhoods it shares with user-kNN: against NumPy and `implicit`."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from recjax.data import interactions
from recjax.systems.collaborative import item_knn, neighbours
from recjax.types import PAD


def log(table):
  """Interactions of a table [U, I] of counts, its first row and column being PAD."""
  table = np.asarray(table)
  user, item = np.nonzero(table)
  times = table[user, item]
  ids = [interactions.with_pad(np.arange(1, n).astype(str)) for n in table.shape]
  return interactions.Interactions(
    np.repeat(user, times).astype(np.int32), np.repeat(item, times).astype(np.int32), *ids
  )


def table(seed=0, users=40, items=25, top=4):
  """Random counts in which every item and every user has an event."""
  rng = np.random.default_rng(seed)
  found = rng.integers(1, top, (users, items)) * (rng.random((users, items)) < 0.2)
  found[np.arange(1, users), rng.integers(1, items, users - 1)] += 1
  found[rng.integers(1, users, items - 1), np.arange(1, items)] += 1
  found[PAD], found[:, PAD] = 0, 0
  return found


def similarities(counts, name, shrink=0.0, k1=1.2, b=0.75):
  """[N, N] of the rows of dense counts [N, F], by the formulas as they are written."""
  counts = counts.astype(np.float64)
  length = counts.sum(1, keepdims=True)
  number = max(int((length > 0).sum()), 1)
  idf = np.log(number) - np.log1p((counts > 0).sum(0, keepdims=True))
  x = {
    "cosine": lambda: counts,
    "tfidf": lambda: np.sqrt(counts) * idf,
    "bm25": lambda: (
      idf * counts * (k1 + 1) / (counts + k1 * (1 - b + b * length * number / length.sum()))
    ),
  }[name]()
  dot = x @ x.T
  if name != "bm25":
    norm = np.maximum(np.linalg.norm(x, axis=1), 1e-12)
    dot = dot / norm[:, None] / norm[None]
  common = (counts > 0).astype(float) @ (counts > 0).T
  np.fill_diagonal(dot, 0)
  return dot * (common / np.maximum(common + shrink, 1e-12))


def fitted(found, **options):
  return item_knn.make(item_knn.Config(num_items=found.shape[1], **options)).fit((), log(found))


def scores(params, history, num_items, **options):
  system = item_knn.make(item_knn.Config(num_items=num_items, **options))
  return np.asarray(system.score(params, (), {"history": jnp.asarray(history)}))


@given(
  seed=st.integers(0, 1000),
  name=st.sampled_from(["cosine", "tfidf", "bm25"]),
  shrink=st.sampled_from([0.0, 3.0]),
  k=st.integers(1, 30),
)
def test_neighbours_are_those_of_brute_force(seed, name, shrink, k):
  found = table(seed, users=12, items=10)
  params = fitted(found, weighting=name, shrink=shrink, neighbours=k)
  wanted = similarities(found.T, name, shrink)
  for item in range(10):
    ids, sims = params["ids"][item], params["sims"][item]
    best = np.sort(wanted[item])[::-1][:k]
    best = np.pad(best[best > 1e-12], (0, k))[:k]
    np.testing.assert_allclose(sims, best, rtol=1e-5)
    np.testing.assert_allclose(sims[sims > 0], wanted[item][ids[sims > 0]], rtol=1e-5)
    assert (ids[sims == 0] == PAD).all() and len(set(ids[sims > 0])) == (sims > 0).sum()


def test_of_equally_similar_items_the_lower_comes_first():
  # Items 1 to 4 are met by users 1 and 2, item 5 by user 1 alone.
  found = np.zeros((3, 6), int)
  found[1, 1:], found[2, 1:5] = 1, 1
  params = fitted(found, neighbours=2)
  np.testing.assert_array_equal(params["ids"][1:], [[2, 3], [1, 3], [1, 2], [1, 2], [1, 2]])
  np.testing.assert_allclose(params["sims"][1], 1)
  np.testing.assert_allclose(params["sims"][5], 1 / np.sqrt(2))  # 1 / (sqrt(1) sqrt(2))


def test_shrinkage_halves_a_similarity_of_as_many_users():
  found = np.zeros((7, 4), int)
  found[1:5, [1, 2]], found[5:, 3], found[1, 3] = 1, 1, 1
  plain, shrunk = fitted(found), fitted(found, shrink=4.0)
  assert plain["sims"][1, 0] == 1 and shrunk["sims"][1, 0] == 0.5  # 4 users: 4 / (4 + 4)
  np.testing.assert_allclose(shrunk["sims"][1, 1], plain["sims"][1, 1] / 5)  # 1 user: 1 / (1 + 4)


@pytest.mark.parametrize("name", ["cosine", "tfidf", "bm25"])
def test_the_size_of_a_block_changes_nothing(monkeypatch, name):
  found = table(1)
  whole = fitted(found, weighting=name, shrink=2.0)
  monkeypatch.setattr(neighbours, "_ENTRIES", 30)
  cut = fitted(found, weighting=name, shrink=2.0)
  np.testing.assert_array_equal(whole["ids"], cut["ids"])
  np.testing.assert_array_equal(whole["sims"], cut["sims"])


def test_weights_are_those_of_implicit():
  theirs = pytest.importorskip("implicit.nearest_neighbours", reason="compares with implicit")
  found = table()[1:, 1:].T  # items by users, as implicit weighs them
  met = scipy.sparse.csr_array(found.astype(float))
  weighed = [
    ("tfidf", theirs.tfidf_weight(scipy.sparse.csr_matrix(met)), {}),
    (
      "bm25",
      theirs.bm25_weight(scipy.sparse.csr_matrix(met), K1=100, B=0.8),
      {"k1": 100, "b": 0.8},
    ),
    (
      "bm25",
      theirs.bm25_weight(scipy.sparse.csr_matrix(met), K1=1.2, B=0.5),
      {"k1": 1.2, "b": 0.5},
    ),
  ]
  for name, wanted, options in weighed:
    ours = neighbours.weigh(met, neighbours.weighting(name, **options)).matrix
    np.testing.assert_allclose(ours.toarray(), wanted.toarray(), rtol=1e-12)


@pytest.mark.parametrize("name", ["cosine", "tfidf", "bm25"])
def test_scores_are_those_of_implicit(name):
  theirs = pytest.importorskip("implicit.nearest_neighbours", reason="compares with implicit")
  found = table(2)
  users, items = found.shape
  kind = {"cosine": "Cosine", "tfidf": "TFIDF", "bm25": "BM25"}[name]
  peer = getattr(theirs, f"{kind}Recommender")(K=items, num_threads=1)
  met = scipy.sparse.csr_matrix(found[1:, 1:].astype(np.float64))
  peer.fit(met, show_progress=False)
  history = np.zeros((users - 1, found.sum(1).max()), int)
  for row, counts in zip(history, found[1:], strict=True):
    row[len(row) - counts.sum() :] = np.repeat(np.arange(items), counts)
  ours = scores(fitted(found, weighting=name), history, items, weighting=name)
  for user in range(users - 1):
    # Theirs are also neighbours of themselves, which matters to what the user has met alone.
    ids, wanted = peer.recommend(user, met[user], N=items, filter_already_liked_items=True)
    there = wanted > 0
    np.testing.assert_allclose(ours[user, ids[there] + 1], wanted[there], rtol=1e-5)
    unmet = (found[user + 1] == 0) & (np.arange(items) > 0)
    assert (ours[user, unmet] > 0).sum() == there.sum() > 0


def test_an_item_met_twice_speaks_twice():
  found = table(3)
  params = fitted(found)
  once, twice = scores(params, [[0, 7], [7, 7]], found.shape[1])
  there = once > 0
  assert there.any()
  np.testing.assert_allclose(twice[there], 2 * once[there], rtol=1e-6)


def test_where_no_neighbour_speaks_popularity_does_behind_all_others():
  # 1 and 2 go together; 3 was met by three, 4 by one, and 5 by nobody.
  found = np.zeros((6, 6), int)
  found[1, [1, 2]], found[2:5, 3], found[5, 4] = 1, 1, 1
  answers = scores(fitted(found), [[0, 0], [0, 1]], 6)
  np.testing.assert_array_equal(np.argsort(-answers[0], kind="stable"), [3, 1, 2, 4, 5, 0])
  np.testing.assert_array_equal(np.argsort(-answers[1], kind="stable"), [2, 3, 1, 4, 5, 0])
  assert np.isfinite(answers[:, 1:]).all()


def test_bad_settings_and_data_are_named():
  with pytest.raises(ValueError, match="no weighting 'bm52'; there is cosine, tfidf, bm25"):
    item_knn.make(item_knn.Config(num_items=5, weighting="bm52"))
  with pytest.raises(ValueError, match="the events know 25 items, the config num_items=20"):
    item_knn.make(item_knn.Config(num_items=20)).fit((), log(table()))
