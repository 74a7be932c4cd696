"""The two towers of ids and texts; and the mixing of two systems by their scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_item_knn import log, table

from recjax.data import examples, interactions, loader
from recjax.systems.collaborative import content, hybrid, item_knn, mixing, popularity
from recjax.train import loop, mesh, optim
from recjax.types import PAD

ITEMS, T, GROUPS = 41, 6, 4
CFG = hybrid.Config(num_items=ITEMS, dim=16, max_len=4, negatives=20)


def vectors():
  """[I, 6]: items 1 to 40 in four groups in turn, each with a direction, and noise."""
  rng = np.random.default_rng(0)
  found = 0.2 * rng.standard_normal((ITEMS, 6)).astype(np.float32)
  found[np.arange(1, ITEMS), np.arange(1, ITEMS) % GROUPS] += 1
  found[PAD] = 0
  return found


def events():
  """Users who stay in one group of items; items 37 to 40, one of each group, are never met."""
  rng = np.random.default_rng(1)
  item = 1 + rng.integers(0, 9, (200, 5)) * GROUPS + rng.integers(0, GROUPS, (200, 1))
  ids = [interactions.with_pad(np.arange(1, n).astype(str)) for n in (201, ITEMS)]
  return interactions.Interactions(
    np.repeat(np.arange(1, 201, dtype=np.int32), 5), item.reshape(-1).astype(np.int32), *ids
  )


def batch(seed=2):
  rng = np.random.default_rng(seed)
  history = rng.integers(1, ITEMS, (3, T))
  history[0, :4] = PAD
  return {
    "history": jnp.asarray(history),
    "target": jnp.array([5, 6, 7]),
    "weight": jnp.array([1.0, 1.0, 0.0]),
  }


def started(cfg=CFG, given=None):
  system, assets = hybrid.make(cfg), hybrid.assets(cfg, vectors() if given is None else given)
  params = system.init(jax.random.key(0), assets, batch())
  params["age"] = jnp.array([0.5, 0.0, -0.5, -1.0])
  return system, assets, params


def tower(params, name, ids, given):
  """[N, D] by NumPy."""
  own = np.asarray(params[name]["ids"]["embedding"])[ids]
  return own + given[ids] @ np.asarray(params[name]["text"]["kernel"])


def test_scores_are_products_of_the_towers_both_with_ids_and_texts():
  system, assets, params = started()
  given = vectors() / np.maximum(np.linalg.norm(vectors(), axis=1, keepdims=True), 1e-12)
  scores = np.asarray(system.score(params, assets, batch()))
  items = tower(params, "items", np.arange(ITEMS), given)
  for row, history in zip(scores, np.asarray(batch()["history"]), strict=True):
    # The newest item has age 0; those four and more items ago share the last weight.
    weight = np.exp(np.array([-1.0, -1.0, -1.0, -0.5, 0.0, 0.5])) * (history != PAD)
    pooled = (weight / weight.sum()) @ tower(params, "read", history, given)
    user = pooled @ np.asarray(params["out"]["kernel"]) + np.asarray(params["out"]["bias"])
    np.testing.assert_allclose(row[1:], (items @ user)[1:], rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(
    system.score(params, system.index(params, assets), batch()), scores, atol=1e-6
  )


def test_one_given_negative_is_bpr():
  cfg = hybrid.Config(num_items=ITEMS, dim=16, max_len=4, dropout=0.0, id_dropout=0.0)
  system, assets, params = started(cfg)
  asked = batch() | {"candidates": jnp.array([[9], [8], [3]])}
  scores = np.asarray(system.score(params, assets, batch()))
  gaps = [scores[0, 5] - scores[0, 9], scores[1, 6] - scores[1, 8]]  # the third row only fills
  out = system.loss(params, assets, asked, jax.random.key(1))
  np.testing.assert_allclose(out.sum, np.log1p(np.exp(-np.array(gaps))).sum(), rtol=1e-5)
  assert out.weight == 2


def test_without_negatives_there_is_nothing_to_compare_with():
  with pytest.raises(ValueError, match="negatives is 0: a target is compared with drawn items"):
    hybrid.Config(ITEMS, negatives=0)


def test_left_out_ids_leave_the_texts_alone():
  cfg = hybrid.Config(num_items=ITEMS, dim=16, max_len=4, dropout=0.0, id_dropout=0.999999)
  system, assets, params = started(cfg)
  other = jax.tree.map(jnp.copy, params)
  for name in ("items", "read"):
    other[name]["ids"]["embedding"] += 1.0
  losses = [system.loss(p, assets, batch(), jax.random.key(1)).sum for p in (params, other)]
  np.testing.assert_allclose(*losses, rtol=1e-6)
  assert not np.allclose(*(system.score(p, assets, batch()) for p in (params, other)))


def test_an_item_that_nobody_met_is_its_text_alone():
  cfg = hybrid.Config(num_items=ITEMS, dim=16, max_len=4, dropout=0.0, id_dropout=0.0)
  system, _, params = started(cfg)
  counts = np.bincount(events().item, minlength=ITEMS)
  assets = hybrid.assets(cfg, vectors(), counts)
  other = jax.tree.map(jnp.copy, params)
  for name in ("items", "read"):
    other[name]["ids"]["embedding"] = other[name]["ids"]["embedding"].at[37:].add(1.0)
  asked = {"history": jnp.array([[1, 38, 2], [3, 4, 37]])}
  scores = [system.score(p, assets, asked) for p in (params, other)]
  np.testing.assert_array_equal(*scores)
  told = [system.score(p, hybrid.assets(cfg, vectors()), asked) for p in (params, other)]
  assert not np.allclose(*told)
  with pytest.raises(ValueError, match=r"counts has shape \(3,\), there are 41 items"):
    hybrid.assets(cfg, vectors(), counts[:3])


@pytest.fixture(scope="module")
def trained():
  system, assets, _ = started()
  one = mesh.make_mesh(devices=jax.devices()[:1])
  train = loader.Batches(examples.prefixes(events()), 64, max_len=T, seed=0, epochs=None)
  cfg = loop.Config(steps=150, optimizer=optim.Config(rate=1e-2))
  return system, assets, loop.fit(system, assets, train, cfg, mesh=one).params


def test_a_user_of_a_group_is_shown_the_group(trained):
  system, assets, params = trained
  history = jnp.array([[0, 0, 0, 0, 1, 5], [0, 0, 0, 0, 2, 10]])
  ids = np.asarray(system.recommend(params, assets, {"history": history}, k=5).ids)
  assert (ids[0] % GROUPS == 1).all() and (ids[1] % GROUPS == 2).all()


def test_a_cold_item_is_told_from_others_by_its_text(trained):
  system, assets, params = trained
  history = jnp.array([[0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 2], [0, 0, 0, 0, 0, 3]])
  cold = jnp.tile(jnp.array([[37, 38, 39, 40]]), (3, 1))  # of groups 1, 2, 3, 0
  scores = system.score(params, assets, {"history": history, "candidates": cold})
  np.testing.assert_array_equal(np.asarray(scores).argmax(1), [0, 1, 2])


def test_an_empty_history_is_the_bias_and_finite(trained):
  system, assets, params = trained
  empty = {"history": jnp.zeros((1, T), jnp.int32)}
  np.testing.assert_allclose(system.embed(params, assets, empty)[0], params["out"]["bias"])
  scores = np.asarray(system.score(params, assets, empty))[0, 1:]
  assert np.isfinite(scores).all()
  assert scores[:36].mean() > scores[36:].mean()  # what users met, above what nobody did


def parts():
  """Content and popularity on the same events, as {first, second}."""
  x = events()
  cfg = content.Config(num_items=ITEMS, summary="mean")
  first, second = content.make(cfg), popularity.make(popularity.Config(ITEMS))
  assets = {"first": content.assets(cfg, vectors()), "second": ()}
  params = {"first": first.fit(assets["first"], x), "second": second.fit((), x)}
  return first, second, params, assets


def test_a_mix_adds_scores_of_mean_0_and_spread_1():
  first, second, params, assets = parts()
  asked = {"history": jnp.array([[0, 1, 5], [2, 3, 4]]), "user": jnp.array([1, 2])}
  got = mixing.mix(first, second).score(params | {"weight": 0.3}, assets, asked)
  a, b = (
    np.asarray(s.score(params[n], assets[n], asked))[:, 1:]
    for n, s in (("first", first), ("second", second))
  )
  a, b = ((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (a, b))
  np.testing.assert_allclose(got[:, 1:], 0.7 * a + 0.3 * b, atol=1e-4)
  some = asked | {"candidates": jnp.array([[3, 9], [4, 4]])}
  few = mixing.mix(first, second).score(params | {"weight": 0.3}, assets, some)
  np.testing.assert_allclose(few, jnp.take_along_axis(got, some["candidates"], 1), atol=1e-5)


def test_what_one_part_cannot_score_is_left_out_and_spoils_nothing():
  first, second, params, assets = parts()
  asked = {"history": jnp.array([[0, 1, 5], [2, 3, 4]]), "user": jnp.array([1, 2])}
  wanted = mixing.mix(first, second).score(params | {"weight": 0.3}, assets, asked)

  def score(params, assets, batch):  # with room for five items to come
    return jnp.pad(first.score(params, assets, batch), ((0, 0), (0, 5)), constant_values=-jnp.inf)

  system = mixing.mix(first._replace(score=score), second)
  got = system.score(params | {"weight": 0.3}, assets, asked)
  np.testing.assert_allclose(got[:, :ITEMS], wanted, atol=1e-5)
  assert (got[:, ITEMS:] == -np.inf).all()
  for weight in (0.0, 1.0):
    ids = system.recommend(params | {"weight": weight}, assets, asked, k=ITEMS + 4).ids
    assert set(np.unique(ids)) == set(range(ITEMS))  # every item, and PAD in the places left


def test_the_weight_is_the_one_of_the_greatest_ndcg():
  first, second, params, assets = parts()
  system, weights = mixing.mix(first, second), (0.0, 0.2, 0.6, 0.9, 1.0)
  valid = loader.Batches(examples.prefixes(events()), 64, max_len=T)
  gains = np.zeros(len(weights))
  for batch in (valid[i] for i in range(len(valid))):
    asked = {name: jnp.asarray(batch[name]) for name in ("user", "history")}
    for at, weight in enumerate(weights):
      scores = np.asarray(system.score(params | {"weight": weight}, assets, asked))[:, 1:]
      own = np.take_along_axis(scores, batch["target"][:, None] - 1, axis=1)
      rank = (scores > own).sum(1)
      gains[at] += (batch["weight"] * (rank < 5) / np.log2(rank + 2)).sum()
  assert gains.max() > gains.min() * 1.1
  found = mixing.fit_weight(system, params, assets, valid, k=5, weights=weights)
  assert found == weights[gains.argmax()]


def test_a_mixed_system_propagates_its_parts_once():
  cfg = CFG
  towers, assets, params = started(cfg)
  knn = item_knn.make(item_knn.Config(ITEMS))
  system = mixing.mix(towers, knn)
  both = {"first": params, "second": knn.fit((), log(table(items=ITEMS))), "weight": 0.5}
  indexed = system.index(both, {"first": assets, "second": ()})
  assert "items" in indexed["first"]
  asked = batch() | {"user": jnp.array([1, 2, 3])}
  np.testing.assert_allclose(
    system.recommend(both, indexed, asked, k=5).scores,
    system.recommend(both, {"first": assets, "second": ()}, asked, k=5).scores,
    atol=1e-5,
  )
