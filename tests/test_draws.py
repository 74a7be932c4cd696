"""Draws beside events: negatives never met, users alike, the same whatever the process."""

import numpy as np
import pytest

from experiments import settings, tasks
from recjax.data import draws, examples, interactions, loader, negatives

MET = {"a": "wxyz", "b": "w", "c": "xy"}


def events(**more):
  pairs = [(user, item) for user, items in {**MET, **more}.items() for item in items]
  users, items = map(list, zip(*pairs, strict=True))
  return interactions.from_columns(users, items, timestamp=np.arange(len(pairs)))


def batches(x, *transforms, size=8, **more):
  return loader.Batches(
    examples.events(x), size, max_len=1, seed=3, epochs=None, transforms=transforms, **more
  )


def test_negatives_beside_events_were_not_met():
  x = events(d="v")
  made = batches(x, draws.beside(negatives.Positives.of(x), 5))
  pairs = set(zip(x.user.tolist(), x.item.tolist(), strict=True))
  seen = set()
  for i in range(30):
    batch = made[i]
    assert batch["candidates"].shape == (8, 5)
    rows = zip(batch["user"].tolist(), batch["candidates"].tolist(), strict=True)
    drawn = {(user, item) for user, row in rows for item in row}
    assert not drawn & pairs
    assert set(zip(batch["user"].tolist(), batch["target"].tolist(), strict=True)) <= pairs
    seen |= drawn
  wanted = {(u, i) for u in range(1, 5) for i in range(1, x.num_items)} - pairs
  assert seen == wanted


def test_users_are_drawn_alike_and_then_their_items():
  x = events()
  made = batches(x, draws.by_user(negatives.Positives.of(x)), size=64)
  drawn = [made[i] for i in range(100)]
  user = np.concatenate([b["user"] for b in drawn])
  target = np.concatenate([b["target"] for b in drawn])
  pairs = set(zip(x.user.tolist(), x.item.tolist(), strict=True))
  assert set(zip(user.tolist(), target.tolist(), strict=True)) == pairs
  share = np.bincount(user, minlength=4)[1:] / len(user)
  np.testing.assert_allclose(share, 1 / 3, atol=0.03)  # 5 standard deviations
  of_a = np.bincount(target[user == 1], minlength=5)[1:] / (user == 1).sum()
  np.testing.assert_allclose(of_a, 1 / 4, atol=0.05)
  again = batches(x, draws.by_user(negatives.Positives.of(x)), size=64)[7]
  np.testing.assert_array_equal(again["target"], drawn[7]["target"])


def test_a_config_draws_what_it_names_and_what_cannot_be_drawn_is_told():
  x = events()
  cfg = settings.Data(negatives=2)
  assert tasks.drawn("events", settings.Data(), x) == []
  rated = interactions.replace(x, rating=np.ones(len(x), np.float32))
  with pytest.raises(ValueError, match="ratings would stay those of other events"):
    batches(rated, draws.by_user(negatives.Positives.of(rated)))[0]
  with pytest.raises(ValueError, match="has met 4 of 4 items"):
    batches(x, *tasks.drawn("events", cfg, x))[0]
