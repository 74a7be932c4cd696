"""Markov chains: the formula by dictionaries, a proper distribution, and back-off to the end."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.data import interactions
from recjax.data.errors import DataError
from recjax.systems.collaborative import markov
from recjax.types import PAD


def log(sequences, items):
  """Users with these item ids 1..items, in order; user 1 has the first sequence."""
  lengths = [len(s) for s in sequences]
  return interactions.Interactions(
    np.repeat(np.arange(1, len(lengths) + 1), lengths).astype(np.int32),
    np.concatenate([np.asarray(s, np.int32) for s in sequences]).astype(np.int32),
    interactions.with_pad(np.arange(1, len(lengths) + 1).astype(str)),
    interactions.with_pad(np.arange(1, items + 1).astype(str)),
  )


def probability(sequences, history, item, discount, items, order):
  """p(item | the last `order` of history) by recursion over dictionaries."""
  if order < 0:
    return 1 / items
  if order > len(history):
    return probability(sequences, history, item, discount, items, order - 1)
  context = tuple(history[len(history) - order :])
  followed = collections.Counter(
    s[t] for s in sequences for t in range(order, len(s)) if tuple(s[t - order : t]) == context
  )
  shorter = probability(sequences, history, item, discount, items, order - 1)
  total = followed.total()
  if not total:
    return shorter
  return max(followed[item] - discount, 0) / total + discount * len(followed) / total * shorter


def scores(sequences, history, items, **options):
  system = markov.make(markov.Config(num_items=items + 1, **options))
  params = system.fit((), log(sequences, items))
  return np.asarray(jax.jit(system.score)(params, (), {"history": jnp.asarray(history)}))


_SEQUENCES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=9), min_size=1, max_size=6)


@given(
  sequences=_SEQUENCES,
  history=st.lists(st.integers(1, 6), max_size=5),
  order=st.integers(1, 4),
  discount=st.sampled_from([0.3, 0.75, 1.0]),
)
def test_scores_are_the_logs_of_the_recursion(sequences, history, order, discount):
  padded = np.pad(np.array(history, int), (5 - len(history), 0))[None]
  got = scores(sequences, padded, 6, order=order, discount=discount)[0, 1:]
  wanted = [probability(sequences, history, i, discount, 6, order) for i in range(1, 7)]
  np.testing.assert_allclose(np.exp(got), wanted, rtol=1e-4, atol=1e-9)
  np.testing.assert_allclose(np.exp(got).sum(), 1, rtol=1e-5)


def test_one_chain_by_hand():
  # After 1 came 2 twice and 3 once; of 7 events 1 came thrice, 2 twice, 3 and 4 once.
  sequences = [[1, 2], [1, 2], [1, 3, 4]]
  got = np.exp(scores(sequences, [[1]], 4, order=1, discount=0.5))[0]
  chance = 0.5 * 4 / 7 / 4
  after_nothing = [(3 - 0.5) / 7 + chance, (2 - 0.5) / 7 + chance, *[0.5 / 7 + chance] * 2]
  rest = 0.5 * 2 / 3
  wanted = [0, 1.5 / 3, 0.5 / 3, 0] + rest * np.array(after_nothing)
  np.testing.assert_allclose(got[1:], wanted, rtol=1e-5)


def test_the_longest_context_that_was_seen_speaks_loudest():
  # 1 2 is followed by 3, 4 2 by 5: the last item alone cannot tell.
  sequences = [[1, 2, 3], [4, 2, 5]] * 3
  second = scores(sequences, [[1, 2], [4, 2]], 5, order=2)
  np.testing.assert_array_equal(second.argmax(1), [3, 5])
  first = scores(sequences, [[1, 2], [4, 2]], 5, order=1)
  np.testing.assert_allclose(first[0], first[1])


def test_no_count_goes_from_one_user_to_the_next():
  got = scores([[1, 2], [3, 4]], [[2]], 4, order=1)  # nothing followed 2
  np.testing.assert_allclose(got, scores([[1, 2], [3, 4]], [[PAD]], 4, order=1))


def test_an_empty_history_is_popularity_and_a_cold_item_has_a_chance():
  sequences = [[2, 1, 2], [2, 3]]
  got = scores(sequences, [[0, 0, 0], [0, 0, 5]], 5, order=3)  # nobody met 4 and 5
  np.testing.assert_array_equal(np.argsort(-got[0, 1:], kind="stable") + 1, [2, 1, 3, 4, 5])
  assert np.isfinite(got[:, 1:]).all() and got[0, 4] == got[0, 5]
  np.testing.assert_allclose(got[0, 1:], got[1, 1:])  # a cold item as context says nothing


def test_users_of_one_event_leave_popularity_alone():
  got = scores([[1], [2], [2]], [[1, 2]], 3, order=3)
  np.testing.assert_array_equal(np.argsort(-got[0, 1:]) + 1, [2, 1, 3])
  np.testing.assert_allclose(np.exp(got[0, 1:]).sum(), 1, rtol=1e-6)


def test_bad_settings_and_data_are_named():
  with pytest.raises(ValueError, match="order must be at least 1 and discount in"):
    markov.Config(num_items=4, order=0)
  with pytest.raises(ValueError, match="order must be at least 1 and discount in"):
    markov.Config(num_items=4, discount=1.5)
  x = log([[1, 2], [2, 3]], 3)
  with pytest.raises(ValueError, match="the events know 4 items, the config num_items=3"):
    markov.make(markov.Config(num_items=3)).fit((), x)
  with pytest.raises(DataError, match="not grouped by user"):
    markov.make(markov.Config(num_items=4)).fit((), x.take(np.array([0, 2, 1])))
