"""TIGER, with an encoder and without: packed is the loss of all prefixes; codes are checked."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tracing import counted

from recjax.data import examples, interactions, loader
from recjax.systems.generative import tiger, tiger_lm

T, ITEMS = 4, 20
CFG = tiger.Config(
  levels=(4, 4, 3), user_buckets=5, dim=16, heads=2, head_dim=8, ff=32, layers=2, dropout=0.0,
  item_causal=True,
)  # fmt: skip
LM = tiger_lm.Config(
  levels=(4, 4, 3), user_buckets=0, dim=16, heads=2, head_dim=8, ff=32, layers=2, dropout=0.0
)
CAUSAL = {
  "tiger": (tiger, CFG),
  "level": (tiger, dataclasses.replace(CFG, softmax="level")),
  "children": (tiger, dataclasses.replace(CFG, softmax="children")),
  "recency": (tiger, dataclasses.replace(CFG, recency=3)),
  "lm": (tiger_lm, LM),
  "lm_children": (tiger_lm, dataclasses.replace(LM, softmax="children")),
  "lm_users": (tiger_lm, dataclasses.replace(LM, user_buckets=5)),
}


@pytest.fixture(params=CAUSAL)
def causal(request):
  """(system, assets): those that learn every place of a history at once."""
  module, cfg = CAUSAL[request.param]
  return module.make(cfg), module.assets(cfg, codes())


def codes(items=ITEMS):
  grid = np.stack(np.meshgrid(range(4), range(4), range(3), indexing="ij"), -1).reshape(-1, 3)
  rows = grid[np.random.default_rng(0).permutation(48)][: items - 1]
  return np.concatenate([np.full((1, 3), -1), rows])


def packed_batch():
  """Two users of unequal histories, and a row that only fills."""
  rng = np.random.default_rng(1)
  items = rng.integers(1, ITEMS, (3, T + 1))
  items[0, :2] = 0
  history, following = items[:, :-1], items[:, 1:]
  following = np.where(history == 0, 0, following)
  weight = np.array([1.0, 1.0, 0.0], np.float32)
  columns = {"user": np.array([3, 8, 8]), "history": history, "next": following, "weight": weight}
  return {k: jnp.asarray(v) for k, v in columns.items()}


def unpacked(batch):
  """The same targets, one prefix an example."""
  rows = []
  columns = (np.asarray(batch[k]) for k in ("user", "history", "next"))
  for user, history, following in zip(*columns, strict=True):
    for at in np.flatnonzero(following):
      prefix = np.concatenate([np.zeros(T - 1 - at, int), history[: at + 1]])
      rows.append((user, prefix, following[at]))
  user, history, target = map(np.array, zip(*rows, strict=True))
  weight = np.repeat([1.0, 0.0], [len(rows) - T, T]).astype(np.float32)  # the last row fills
  columns = {"user": user, "history": history, "target": target, "weight": weight}
  return {k: jnp.asarray(v) for k, v in columns.items()}


def graded(system, assets):
  """(params, batch) -> ((the loss's sum, its weight), the gradient)."""

  def loss(params, batch):
    out = system.loss(params, assets, batch, jax.random.key(1))
    return out.sum, out.weight

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def test_the_packed_loss_and_gradient_are_those_of_all_prefixes(causal):
  (system, assets), batch = causal, packed_batch()
  params = system.init(jax.random.key(0), assets, batch)
  run = graded(system, assets)
  (total, weight), grad = run(params, batch)
  (wanted, count), wanted_grad = run(params, unpacked(batch))
  assert weight == count == 3 * (2 + 4)
  np.testing.assert_allclose(total, wanted, rtol=1e-5)
  chex.assert_trees_all_close(grad, wanted_grad, atol=1e-4)


@pytest.mark.parametrize("softmax", ["vocabulary", "children"])
def test_histories_that_share_a_row_do_not_see_each_other(softmax):
  """Rows of several histories have the loss and the gradient of each history in a row alone."""
  cfg = dataclasses.replace(CFG, user_buckets=0, recency=3, softmax=softmax)
  system, assets = tiger.make(cfg), tiger.assets(cfg, codes())
  lengths = np.array([6, 3, 2, 5, 4, 2, 3])
  rng = np.random.default_rng(3)
  x = interactions.Interactions(
    np.repeat(np.arange(1, 8), lengths).astype(np.int32),
    rng.integers(1, ITEMS, lengths.sum()).astype(np.int32),
    interactions.with_pad(np.arange(1, 8)),
    interactions.with_pad(np.arange(1, ITEMS)),
    timestamp=np.arange(lengths.sum()),
  )
  found = examples.rows(x, 6), examples.sequences(x, 6, stride=6)
  shared, apart = (
    {k: jnp.asarray(v) for k, v in loader.Batches(e, len(e), max_len=6)[0].items()} for e in found
  )
  assert len(shared["next"]) < len(apart["next"]) and shared["segment"].max() > 1
  params = system.init(jax.random.key(0), assets, apart)
  run = graded(system, assets)
  (total, weight), grad = run(params, shared)
  (wanted, count), wanted_grad = run(params, apart)
  assert weight == count == 3 * (lengths - 1).sum()
  np.testing.assert_allclose(total, wanted, rtol=1e-5)
  chex.assert_trees_all_close(grad, wanted_grad, atol=1e-4)


def test_a_row_of_several_users_has_no_user_token():
  batch = packed_batch() | {"segment": jnp.ones((3, T), jnp.int32)}
  system, assets = tiger.make(CFG), tiger.assets(CFG, codes())
  params = system.init(jax.random.key(0), assets, batch)
  with pytest.raises(ValueError, match="set user_buckets=0"):
    system.loss(params, assets, batch, jax.random.key(1))


def test_the_score_of_a_target_is_what_the_loss_says(causal):
  (system, assets), batch = causal, unpacked(packed_batch())
  params = system.init(jax.random.key(0), assets, batch)
  lost = jax.jit(system.loss)(params, assets, batch, jax.random.key(1)).sum
  question = {"user": batch["user"], "history": batch["history"]}
  asked = question | {"candidates": batch["target"][:, None]}
  scores = jax.jit(system.score)(params, assets, asked)[:, 0]
  np.testing.assert_allclose(-jnp.where(batch["weight"] > 0, scores, 0).sum(), lost, rtol=1e-4)


def test_an_empty_history_is_scored_as_it_was_learned(causal):
  (system, assets), batch = causal, unpacked(packed_batch())
  batch |= {"history": batch["history"].at[0].set(0), "user": batch["user"].at[0].set(0)}
  params = system.init(jax.random.key(0), assets, batch)
  only = batch | {"weight": jnp.zeros(len(batch["weight"])).at[0].set(1)}
  lost = system.loss(params, assets, only, jax.random.key(1)).sum
  question = {"user": batch["user"], "history": batch["history"]}
  scores = system.score(params, assets, question | {"candidates": batch["target"][:, None]})
  np.testing.assert_allclose(-scores[0, 0], lost, rtol=1e-4)


@pytest.mark.parametrize("name", ["tiger", "lm_users"])
def test_an_unknown_user_is_no_bucket(name):
  module, cfg = CAUSAL[name]
  cfg = dataclasses.replace(cfg, softmax="level")  # the table is the head's too: of codes alone
  system, assets, batch = module.make(cfg), module.assets(cfg, codes()), unpacked(packed_batch())
  params = system.init(jax.random.key(0), assets, batch)
  other = jax.tree.map(jnp.copy, params)
  other["embed"]["embedding"] = other["embed"]["embedding"].at[-cfg.user_buckets :].add(1.0)
  for user, same in ((0, True), (5, False), (3, False)):
    asked = {"user": jnp.full_like(batch["user"], user), "history": batch["history"]}
    scores = (system.score(p, assets, asked)[:, 1:ITEMS] for p in (params, other))
    assert np.allclose(*scores) == same


def test_no_target_sees_what_comes_after_it(causal):
  (system, assets), batch = causal, packed_batch()
  params = system.init(jax.random.key(0), assets, batch)

  def first_only(history):
    only = jnp.where(jnp.arange(T)[None] == 1, batch["next"], 0)
    given = batch | {"history": history, "next": only, "weight": jnp.array([0.0, 1.0, 0.0])}
    return system.loss(params, assets, given, jax.random.key(1)).sum

  # Without an encoder the history is also what the answer's later codes follow.
  after = 2 if "encoder" in params else 3
  changed = batch["history"].at[1, after:].set(7)
  assert first_only(batch["history"]) == first_only(changed)
  assert first_only(batch["history"]) != first_only(batch["history"].at[1, 1].set(7))


def test_packing_needs_an_item_causal_encoder():
  cfg = dataclasses.replace(CFG, item_causal=False)
  system, assets = tiger.make(cfg), tiger.assets(cfg, codes())
  params = system.init(jax.random.key(0), assets, packed_batch())
  with pytest.raises(ValueError, match="need item_causal=True"):
    system.loss(params, assets, packed_batch(), jax.random.key(1))


def test_codes_that_do_not_fit_the_levels_are_named():
  with pytest.raises(ValueError, match=r"shape \(20, 2\) are not of 3 levels"):
    tiger.assets(CFG, codes()[:, :2])
  with pytest.raises(ValueError, match=r"below \(4, 4, 3\) level by level"):
    tiger.assets(CFG, codes() + np.array([0, 0, 1]))
  with pytest.raises(ValueError, match="whole numbers, not float64"):
    tiger.assets(CFG, codes() * 1.0)
  wide = dataclasses.replace(CFG, levels=(256, 256))
  full = np.array([[0, 0], [255, 3], [7, 255]])
  small = tiger.assets(wide, full.astype(np.uint8))["tokens"]
  np.testing.assert_array_equal(small[1:3], [[256, 260], [8, 512]])
  twice = codes()
  twice[5] = twice[9]
  with pytest.raises(ValueError, match="have the same codes"):
    tiger.assets(CFG, twice)


@pytest.mark.parametrize("softmax", ["level", "children"])
def test_the_probabilities_of_a_catalogue_add_up_to_one(softmax):
  """Over levels where every code is an item; over children whatever the catalogue."""
  cfg = dataclasses.replace(CFG, softmax=softmax)
  full = np.stack(np.meshgrid(range(4), range(4), range(3), indexing="ij"), -1).reshape(-1, 3)
  table = np.concatenate([np.full((1, 3), -1), full]) if softmax == "level" else codes()
  batch = packed_batch()
  system, assets = tiger.make(cfg), tiger.assets(cfg, table)
  params = system.init(jax.random.key(0), assets, batch)
  question = {k: batch[k] for k in ("user", "history")}
  scores = jax.jit(system.score)(params, assets, question)
  np.testing.assert_allclose(jax.nn.logsumexp(scores, axis=1), 0, atol=1e-4)


def test_a_softmax_that_is_not_known_is_named():
  with pytest.raises(ValueError, match="one of vocabulary, level, children, not 'all'"):
    tiger.Config(softmax="all")


def test_a_catalogue_that_grows_within_its_capacity_compiles_nothing():
  system, batch = tiger.make(CFG), packed_batch()
  question = {k: batch[k] for k in ("user", "history")}
  small = tiger.assets(CFG, codes(15), capacity=40)
  params = system.init(jax.random.key(0), small, batch)
  traced = []
  recommend = jax.jit(counted(system.recommend, traced), static_argnames="k")
  recommend(params, small, question, k=5)
  ranked = recommend(params, tiger.assets(CFG, codes(20), capacity=40), question, k=19)
  assert sorted(ranked.ids[0].tolist()) == list(range(1, 20))
  recommend(params, tiger.assets(CFG, codes(18), capacity=40), question, k=19)
  assert traced == [{"k": 5}, {"k": 19}]
