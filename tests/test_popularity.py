"""Popularity counts events, for whoever asks."""

import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data import interactions
from recjax.systems.collaborative import popularity


def log():
  """Item 1 is met once, item 2 three times, of which twice by one user, item 3 twice."""
  return interactions.from_columns([7, 7, 7, 8, 8, 9], [4, 5, 5, 5, 6, 6])


@pytest.mark.parametrize(
  "asked", [{"history": jnp.zeros((2, 3), int)}, {"user": jnp.array([1, 0])}]
)
def test_every_event_counts_and_any_column_asks(asked):
  system = popularity.make(popularity.Config(num_items=5))  # item 4 is never met
  params = system.fit((), log())
  scores = np.asarray(system.score(params, (), asked))
  np.testing.assert_array_equal(scores[:, 1:], [[1, 3, 2, 0]] * 2)
  ranked = system.recommend(params, (), asked, k=3)
  np.testing.assert_array_equal(ranked.ids, [[2, 3, 1]] * 2)


def test_a_catalogue_smaller_than_the_events_is_named():
  with pytest.raises(ValueError, match="the events know 4 items, the config num_items=3"):
    popularity.make(popularity.Config(num_items=3)).fit((), log())
