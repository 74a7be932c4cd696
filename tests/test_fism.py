"""FISM by loops over sets: scores, the loss, and that an item never speaks for itself."""

import blocks
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data import examples
from recjax.systems.collaborative import fism

ITEMS, DIM = 9, 3


def made(**fields):
  system = fism.make(fism.Config(ITEMS, DIM, **fields))
  params = system.init(jax.random.key(0), (), {})
  return system, {**params, "bias": jnp.linspace(-1, 1, ITEMS)}


def score(params, met, item, without=None, alpha=0.5):
  """b_i + n^-alpha * the sum over the set, the item `without` left out."""
  p = jax.tree.map(lambda x: np.asarray(x, float), params)
  left = sorted(set(met) - {without})
  total = sum((p["p"][j] for j in left), np.zeros(DIM))
  return p["bias"][item] + max(len(left), 1) ** -alpha * total @ p["q"][item]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_scores_are_those_of_the_set_without_the_item(alpha):
  system, params = made(alpha=alpha)
  history = jnp.array([[0, 5, 2, 7], [0, 0, 0, 3], [0, 0, 0, 0]])
  every = system.score(params, (), {"history": history})
  for row, met in zip(every, ({5, 2, 7}, {3}, set()), strict=True):
    wanted = [score(params, met, i, without=i, alpha=alpha) for i in range(1, ITEMS)]
    np.testing.assert_allclose(row[1:], wanted, atol=1e-6)


def test_order_repeats_and_padding_change_nothing():
  system, params = made()
  a = system.score(params, (), {"history": jnp.array([[2, 5, 7]])})
  b = system.score(params, (), {"history": jnp.array([[0, 7, 5, 2, 5, 5]])})
  np.testing.assert_allclose(a, b, atol=1e-6)


def window():
  """Users who met 2 5 7 (5 twice) and 1 4, one with a single item twice, and a row that fills."""
  columns = {
    "history": [[2, 5, 5], [0, 0, 1], [0, 0, 6], [3, 3, 4]],
    "next": [[5, 5, 7], [0, 0, 4], [0, 0, 6], [3, 4, 5]],
    "candidates": [[1, 8], [6, 7], [1, 2], [1, 2]],
    "weight": [1.0, 1.0, 1.0, 0.0],
  }
  return {k: jnp.asarray(v) for k, v in columns.items()}


def test_a_window_teaches_every_item_of_its_set_from_the_others():
  system, params = made(penalty=0.0, bias_penalty=0.0)
  wanted, count = 0.0, 0
  for met, drawn in (({2, 5, 7}, (1, 8)), ({1, 4}, (6, 7))):  # 6 alone: nothing to learn
    for i in met:
      gaps = [score(params, met, i, i) - score(params, met, j, i) - 1 for j in drawn]
      wanted, count = wanted + np.mean(np.square(gaps)), count + 1
  out = system.loss(params, (), window(), None)
  np.testing.assert_allclose(out.sum, wanted, rtol=1e-5)
  assert out.weight == count == 5


def test_a_target_is_taken_out_of_its_own_history():
  system, params = made(penalty=0.0, bias_penalty=0.0)
  given = {
    "history": jnp.array([[2, 5, 7]]),
    "target": jnp.array([5]),
    "candidates": jnp.array([[1]]),
    "weight": jnp.ones(1),
  }
  grad = jax.jit(jax.grad(lambda p: system.loss(p, (), given, None).sum))(params)
  assert not grad["p"][5].any()
  assert grad["p"][2].any() and grad["p"][7].any() and grad["q"][5].any()


def test_a_negative_that_lies_in_the_set_counts_for_nothing():
  system, params = made(penalty=0.1, bias_penalty=0.1)
  given = {
    "history": jnp.array([[0, 2, 6, 7]]),
    "target": jnp.array([5]),
    "candidates": jnp.array([[7, 1, 3]]),
    "weight": jnp.ones(1),
  }
  less = given | {"candidates": jnp.array([[1, 3]])}
  found, wanted = (
    jax.value_and_grad(lambda p, x=x: system.loss(p, (), x, None).sum)(params)
    for x in (given, less)
  )
  chex.assert_trees_all_close(found, wanted, rtol=1e-5)


def test_the_penalty_falls_on_the_rows_of_the_batch():
  given = {
    "history": jnp.array([[0, 2, 2, 7]]),
    "target": jnp.array([5]),
    "candidates": jnp.array([[1, 3]]),
    "weight": jnp.ones(1),
  }
  (plain, params), (heavy, _) = made(penalty=0.0, bias_penalty=0.0), made(penalty=2, bias_penalty=3)
  p = jax.tree.map(np.asarray, params)
  share = np.array([1, 0.5, 0.5])[:, None]  # the negatives as one
  wanted = 2 * ((p["p"][[2, 7]] ** 2).sum() + (share * p["q"][[5, 1, 3]] ** 2).sum())
  wanted += 3 * (share[:, 0] * p["bias"][[5, 1, 3]] ** 2).sum()
  added = heavy.loss(params, (), given, None).sum - plain.loss(params, (), given, None).sum
  np.testing.assert_allclose(added, wanted, rtol=1e-4)


def test_without_negatives_there_is_nothing_to_compare_with():
  with pytest.raises(ValueError, match="negatives is 0: a target is compared with drawn items"):
    fism.Config(ITEMS, negatives=0)


@pytest.mark.parametrize("packed", [True, False])
def test_it_finds_what_was_withheld_of_a_block(packed):
  train, _ = blocks.log()
  system = fism.make(fism.Config(train.num_items, 16))
  found = examples.sequences(train, blocks.ITEMS) if packed else examples.prefixes(train)
  params = blocks.learned(system, (), found, steps=300)
  assert blocks.found(system, (), params) > 0.9
