"""Studies of a finished run: exact lists bound beams, temperature varies, cold items are mixed."""

import numpy as np
import pytest

from experiments import pipeline, settings, studies
from recjax.data.errors import DataError
from recjax.decode import topk
from recjax.metrics import beyond
from recjax.semid import learn
from recjax.systems.generative import tiger_lm
from recjax.train import loop, optim
from recjax.types import Ranked


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A tiny shop of which a fifth of the tested items is cold."""
  config = settings.config(
    system="tiger_lm",
    task="next_item",
    examples="sequences",
    seeds=(0,),
    batch_size=32,
    data=settings.Data(source="synthetic", size="tiny", max_len=10, cold=0.2),
    text=settings.Text(template="{categories} {title}", dim=16),
    semantic_ids=settings.SemanticIds(
      quantizer=learn.Config(method="rqkmeans", sizes=(8, 32)), policy="optimal"
    ),
    model=settings.model(
      tiger_lm.Config, dim=16, heads=2, head_dim=8, ff=32, layers=1, dropout=0.0, beams=10
    ),
    train=loop.Config(steps=60, optimizer=optim.Config(rate=1e-2)),
    evaluation=settings.Evaluation(by_score=False, batch_size=64, deny_seen=True),
  )
  return studies.Finished(pipeline.Run(config, tmp_path_factory.mktemp("run")), users=60)


def test_a_wide_beam_finds_what_exact_scores_find(run):
  rows = studies.beam(run)
  assert list(rows) == ["10 beams", "20 beams", "50 beams", "exact"]
  assert rows["50 beams"] == pytest.approx(rows["exact"], abs=1e-6)
  assert 0 < rows["exact"]["ndcg@10"] < rows["exact"]["recall@10"] <= 1


def test_lists_drawn_hotter_are_more_varied(run, monkeypatch):
  monkeypatch.setattr(studies, "TEMPERATURES", (0.5, 3.0))
  rows = studies.diversity(run)
  assert list(rows) == ["beam search", "temperature 0.5", "temperature 3"]
  assert rows["temperature 3"]["entropy"] > rows["temperature 0.5"]["entropy"] > 0


def test_cold_items_are_found_where_they_are_mixed_in_and_only_there(run):
  cold, known = run.job.cold, run.job.before_test
  assert 0 < cold.sum() and not cold[known.item].any() and cold[run.job.split.test.item].any()
  rows = studies.cold(run)
  assert len(rows) == 2 * len(studies.RATES)
  for name in ("tiger_lm", "nearest"):
    assert rows[f"{name}, 0% cold"]["cold"] == 0
    shares = [rows[f"{name}, {rate:.0%} cold"]["others"] for rate in studies.RATES]
    assert shares == sorted(shares, reverse=True)
  assert rows["nearest, 30% cold"]["cold"] > 0
  warm = studies.Finished(run.job)
  warm.job.__dict__["_split"] = (run.job.split, np.zeros_like(cold))
  with pytest.raises(ValueError, match=r"no item of this run is cold.*data.cold"):
    studies.cold(warm)


def test_mixed_lists_hold_the_best_of_both_in_order():
  one = Ranked(np.array([[1, 2, 3], [1, 2, 3]]), np.array([[3.0, 2.0, 1.0]] * 2, np.float32))
  other = Ranked(np.array([[7, 8, 9], [7, 0, 0]]), np.array([[2.5, -1.0, -2.0], [0.5, -9, -9]]))
  other = other._replace(scores=other.scores.astype(np.float32))
  found = topk.mixed(one, other, 2)
  np.testing.assert_array_equal(found.ids, [[1, 7, 8], [1, 2, 7]])  # the second lacks one
  np.testing.assert_array_equal(topk.mixed(one, other, 0).ids, one.ids)
  with pytest.raises(ValueError, match="4 of 3 results"):
    topk.mixed(one, other, 4)


def test_entropy_is_that_of_the_groups():
  group = np.array([0, 5, 5, 6, 7])
  ids = np.array([[1, 2, 3, 0], [1, 2, 0, 0], [1, 3, 4, 0], [0, 0, 0, 0]])
  p = np.array([2 / 3, 1 / 3])
  wanted = [-(p * np.log(p)).sum(), 0, np.log(3), 0]
  np.testing.assert_allclose(beyond.entropy(ids, group), wanted, atol=1e-6)


def test_another_config_than_the_runs_is_refused(run, tmp_path):
  studies.check_config(run.job.config, run.job.workdir)
  other = run.job.config.copy_and_resolve_references()
  other.model.dropout = 0.5
  with pytest.raises(DataError, match="another config: model differ"):
    studies.check_config(other, run.job.workdir)
  with pytest.raises(DataError, match="there is no run"):
    studies.check_config(other, tmp_path)
