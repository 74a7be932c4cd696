"""Draws beside events: negatives never met, users alike, the same whatever the process."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

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


@hypothesis.given(st.lists(st.integers(1, 23), min_size=1, max_size=40), st.integers(2, 9))
def test_rows_hold_every_step_of_every_history_once(lengths, max_len):
  lengths = [*lengths, 2]  # one event alone has no next
  users = np.repeat(np.arange(len(lengths)), lengths)
  x = interactions.from_columns(users, np.arange(len(users)), timestamp=np.arange(len(users)))
  found, wanted = examples.rows(x, max_len), examples.sequences(x, max_len, stride=max_len)
  every = [e.gather(np.arange(len(e)), e.widths(max_len)) for e in (found, wanted)]
  steps = [
    sorted(
      zip(b["history"][b["next"] > 0].tolist(), b["next"][b["next"] > 0].tolist(), strict=True)
    )
    for b in every
  ]
  assert steps[0] == steps[1]
  history, segment = every[0]["history"], every[0]["segment"]
  assert ((segment > 0) == (history > 0)).all()
  same = (segment[:, 1:] == segment[:, :-1]) & (segment[:, 1:] > 0)
  assert (every[0]["next"][:, :-1][same] == history[:, 1:][same]).all()  # a segment is one history
  step = np.diff(segment, axis=1)
  assert ((step == 0) | (step == 1)).all()
  assert (found.left["history"].lengths <= max_len).all()
  full = sum(found.left["history"].lengths) / max_len
  assert len(found) <= 1 + 1.5 * full  # best fit


def test_a_system_that_would_mix_the_histories_of_a_row_is_refused():
  config = settings.config(
    system="gru4rec", task="next_item", examples="rows", data=settings.Data()
  )
  with pytest.raises(ValueError, match="which gru4rec would mix"):
    tasks.named(config)
