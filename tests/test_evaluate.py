"""Evaluation: the same figures wherever it runs, and a rating is asked of its own item."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data import examples, interactions, loader
from recjax.decode import topk
from recjax.systems.collaborative import popularity
from recjax.train import evaluate, mesh
from recjax.types import System


def events():
  rng = np.random.default_rng(0)
  user = np.repeat(np.arange(37), 5)
  return interactions.from_columns(
    user, rng.integers(0, 30, len(user)), rating=rng.normal(size=len(user))
  )


@pytest.mark.parametrize("devices", [None, 1, 2])
def test_any_number_of_devices_gives_the_same_metrics(devices):
  x = events()
  system = popularity.make(popularity.Config(num_items=x.num_items))
  params = system.fit((), x)
  asked = loader.Batches(examples.next_events(x.take(x.user == 0), x), 16, max_len=6)
  everywhere = mesh.make_mesh()
  measure = evaluate.ranking_by_list(system)
  found = evaluate.evaluate(
    params, (), [evaluate.Suite("", asked, measure, devices)], mesh=everywhere
  )
  one = evaluate.evaluate(
    params, (), [evaluate.Suite("", asked, measure)], mesh=mesh.make_mesh(devices=jax.devices()[:1])
  )
  assert found == pytest.approx(one, abs=1e-6) and found["recall@10"] > 0


def test_a_score_of_nan_is_never_right_and_labels_are_not_told():
  label = np.array([[0], [0], [0], [1]], np.float32)
  pairs = {"label": label, "answer": label[:, 0].astype(np.int32)}
  for shape, measure in (((1,), evaluate.probability), ((2,), evaluate.classes)):
    logit = np.full((4, *shape), np.nan, np.float32)
    logit[3] = 5 if shape == (1,) else (0, 5)

    def score(params, assets, batch):
      assert "labels" not in batch
      return batch["logit"]

    labels = pairs["label" if shape == (1,) else "answer"]
    asked = loader.Batches(examples.Examples({"labels": labels, "logit": logit}), 2, max_len=1)
    suite = evaluate.Suite("", asked, measure(System(score=score)))
    one = mesh.make_mesh(devices=jax.devices()[:1])
    assert evaluate.evaluate({}, (), [suite], mesh=one)["accuracy"] == 1 / 4


def test_of_equal_scores_zeros_of_either_sign_are_in_order():
  scores = jnp.array([[-5.0, -0.0, 0.0, 0.0, -0.0]])
  assert topk.rank(scores, {}, k=4).ids.tolist() == [[1, 2, 3, 4]]


def test_a_rating_is_asked_of_its_own_item_and_not_told():
  x = events()

  def score(params, assets, batch):
    assert "ratings" not in batch and "target" not in batch
    return batch["candidates"].astype(jnp.float32)

  asked = loader.Batches(examples.events(x), 16, max_len=1)
  suite = evaluate.Suite("", asked, evaluate.rating(System(score=score)))
  found = evaluate.evaluate({}, (), [suite])
  error = x.item - x.rating
  assert found["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-5)
  assert found["mae"] == pytest.approx(np.mean(np.abs(error)), rel=1e-5)
