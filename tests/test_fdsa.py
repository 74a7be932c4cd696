"""FDSA: attributes weigh in an item's feature, absent ones do not; their tables are checked."""

import dataclasses
import types

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from experiments import assembly, sources
from recjax.data import interactions
from recjax.data.errors import DataError
from recjax.data.ragged import Ragged
from recjax.systems.sequential import fdsa

ROWS = [[], [2], [1, 3], [], [3], [4, 1, 2]]
CFG = fdsa.Config(
  num_items=6, num_attributes=5, max_len=6, dim=8, heads=2, layers=1, ff=16, dropout=0.0
)


@pytest.fixture(scope="module")
def made():
  system, assets = fdsa.make(CFG), fdsa.assets(CFG, ROWS)
  batch = {
    "user": jnp.array([1, 2, 3]),
    "history": jnp.array([[0, 0, 1, 5], [2, 3, 4, 1], [1, 1, 1, 1]]),
    "next": jnp.array([[0, 0, 5, 2], [3, 4, 1, 5], [2, 2, 2, 2]]),
    "weight": jnp.array([1.0, 1.0, 0.0]),
  }
  params = system.init(jax.random.key(0), assets, batch)
  # Tables as large as the layers' inputs, so that a difference in them is one in the scores.
  params = {**params, "features": jax.tree.map(lambda x: 20 * x, params["features"])}
  return compiled(system), assets, params, batch


def compiled(system):
  return system._replace(loss=jax.jit(system.loss), score=jax.jit(system.score))


def test_a_feature_is_the_attention_weighted_mean_of_the_attributes(made):
  _, assets, params, _ = made
  p = jax.tree.map(np.asarray, params["features"])
  module = fdsa.Features(CFG.num_attributes, CFG.dim)
  got = module.apply({"params": params["features"]}, assets["attributes"])
  for item, row in enumerate(ROWS):
    vectors = p["attributes"][row]
    hidden = np.tanh(vectors @ p["hidden"]["kernel"] + p["hidden"]["bias"])
    e = np.exp(hidden @ p["weigh"]["kernel"][:, 0])
    wanted = (e / e.sum()) @ vectors if row else np.zeros(CFG.dim)
    np.testing.assert_allclose(got[item], wanted, atol=1e-5)


def test_absent_attributes_weigh_nothing(made):
  system, assets, params, batch = made
  wider = {"attributes": jnp.pad(assets["attributes"], ((0, 0), (0, 3)))}
  table = params["features"]["attributes"]
  other = {**params, "features": {**params["features"], "attributes": table.at[0].set(1e6)}}
  wanted = system.score(params, assets, batch)
  np.testing.assert_allclose(system.score(params, wider, batch), wanted, atol=1e-5)
  np.testing.assert_allclose(system.score(other, assets, batch), wanted, atol=1e-5)
  grad = jax.jit(jax.grad(lambda p: system.loss(p, assets, batch, jax.random.key(0)).sum))(params)
  rows = np.abs(grad["features"]["attributes"]).sum(1)
  assert rows[0] == 0 and (rows[1:] > 0).all()
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grad))  # item 3 has none


def test_the_attributes_of_the_history_and_no_others_change_the_scores(made):
  system, assets, params, batch = made
  table = assets["attributes"]
  first = {name: x[:1] for name, x in batch.items()}  # items 1 and 5
  scores = system.score(params, assets, first)
  same = system.score(params, {"attributes": table.at[4, 0].set(1)}, first)
  np.testing.assert_array_equal(same, scores)
  new = system.score(params, {"attributes": table.at[1, 0].set(4)}, first)
  assert np.abs(new - scores)[:, 1:].max() > 1e-3


def test_the_loss_is_the_softmax_over_the_items_that_exist(made):
  system, assets, params, batch = made
  # Without positions, a place within a row is what the end of its prefix is.
  params = {**params, "positions": jnp.zeros_like(params["positions"])}
  out = system.loss(params, assets, batch, jax.random.key(0))
  prefixes, targets = [], []
  for row in range(2):  # the third only fills
    for at in np.flatnonzero(batch["next"][row]):
      prefixes.append(np.pad(batch["history"][row, : at + 1], (3 - at, 0)))
      targets.append(int(batch["next"][row, at]))
  scores = np.asarray(system.score(params, assets, {"history": jnp.array(prefixes)}))[:, 1:]
  losses = np.log(np.exp(scores).sum(1)) - scores[np.arange(6), np.array(targets) - 1]
  np.testing.assert_allclose(out.sum, losses.sum(), rtol=1e-5)
  assert out.weight == len(losses) == 6


def test_dropout_takes_part_in_training_alone(made):
  plain, assets, params, batch = made
  system = compiled(fdsa.make(dataclasses.replace(CFG, dropout=0.5)))
  one, two = (system.loss(params, assets, batch, jax.random.key(i)).sum for i in range(2))
  assert one != two
  wanted = plain.score(params, assets, batch)
  np.testing.assert_array_equal(system.score(params, assets, batch), wanted)


def test_a_table_pads_each_items_attributes_and_drops_repeats():
  rows = [[], [2, 2, 1], [], [3]]
  wanted = [[0, 0], [2, 1], [0, 0], [3, 0]]
  np.testing.assert_array_equal(fdsa.table(rows, 4, 4), wanted)
  np.testing.assert_array_equal(fdsa.table(Ragged.from_rows(rows), 4, 4), wanted)
  np.testing.assert_array_equal(fdsa.table([[], []], 2, 1), [[0], [0]])


@given(st.lists(st.lists(st.integers(1, 9), max_size=6), max_size=8))
def test_a_table_holds_each_attribute_of_an_item_once(rows):
  table = fdsa.table([[], *rows], len(rows) + 1, 10)
  assert table.shape[1] == max([1, *(len(set(row)) for row in rows)])
  for row, got in zip([[], *rows], table.tolist(), strict=True):
    assert [a for a in got if a] == list(dict.fromkeys(row))
    assert got == sorted(got, key=lambda a: a == 0)  # none after the last


def test_names_are_numbered_by_first_appearance():
  names = np.array([(), ("Nails", "OPI"), (), ("OPI", "Hair")], object)
  ids, found = fdsa.numbered(names)
  assert found.tolist() == ["", "Nails", "OPI", "Hair"]
  assert [ids[i].tolist() for i in range(4)] == [[], [1, 2], [], [2, 3]]


def ingredients(**fields):
  """Two users' events with items a and b, of which the catalogue tells these fields."""
  x = interactions.from_columns(["u", "u", "v"], ["a", "b", "a"])
  catalog = interactions.Catalog(x.items, {"title": x.items, **fields})
  return types.SimpleNamespace(raw=sources.Raw(x, catalog), known=x)


def objects(*rows):
  column = np.empty(len(rows), object)
  column[:] = rows
  return column


PATHS = objects((), ("Beauty", "Nails"), ("Beauty",))
BRANDS = interactions.strings(["", "", "OPI"])


@pytest.mark.parametrize("name", ["fdsa", "s3rec"])
@pytest.mark.parametrize(
  "fields, wanted",
  [
    ({"categories": PATHS, "brand": BRANDS}, [[0, 0], [1, 2], [1, 3]]),
    ({"categories": PATHS}, [[0, 0], [1, 2], [1, 0]]),
    ({"brand": BRANDS}, [[0], [0], [1]]),
    ({"brand": BRANDS, "attributes": objects((), ("7",), ("9",))}, [[0], [1], [2]]),
  ],
)
def test_a_catalogue_gives_attributes_or_categories_and_brand(name, fields, wanted):
  built = assembly.build(name, None, ingredients(**fields))
  np.testing.assert_array_equal(built.assets["attributes"], wanted)
  assert built.config.num_attributes == 1 + np.max(wanted)


@pytest.mark.parametrize("fields", [{}, {"brand": interactions.strings(["", "", ""])}])
def test_a_catalogue_without_any_of_them_is_an_error(fields):
  with pytest.raises(DataError, match=r"`categories` or `brand`.* it has title.* Take a source"):
    assembly.build("fdsa", None, ingredients(**fields))


@pytest.mark.parametrize(
  "rows, said",
  [
    ([[], [1]], "attributes for 2 items, the config says 3"),
    ([[], [1], [0]], r"item 2 has attribute 0, outside 1\.\.4"),
    ([[], [1, 5], [7]], r"item 1 has attribute 5, outside 1\.\.4 \(2 such"),
    ([[], [1], [-2]], "item 2 has attribute -2"),
    ([[1], [1], [2]], "row 0 is PAD's"),
    ([[], ["OPI"], [2]], "item 1 has .*OPI.* `numbered`"),
    ([[], [1.5], [2]], "item 1 has .*1.5.* whole numbers"),
  ],
)
def test_wrong_attributes_are_named(rows, said):
  cfg = dataclasses.replace(CFG, num_items=3)
  with pytest.raises(DataError, match=said):
    fdsa.assets(cfg, rows)


def test_too_long_a_history_is_named(made):
  system, assets, params, _ = made
  with pytest.raises(ValueError, match="a history of 7 is longer than max_len 6"):
    system.score(params, assets, {"history": jnp.ones((1, 7), int)})
