"""Studies of a finished run: exact lists bound beams, temperature varies, cold items are mixed."""

import hashlib
import json
import types

import jax
import numpy as np
import pytest

from experiments import pipeline, settings, studies
from recjax.data.errors import DataError
from recjax.data.interactions import Catalog
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
  job = pipeline.Run(config, tmp_path_factory.mktemp("run"))
  with pytest.raises(DataError, match="has not ended: 0 of 60 steps.*Start experiments.run again"):
    studies.Finished(job)
  assert "raw" not in job.__dict__  # nothing was done
  job.train(0)
  return studies.Finished(job, users=60)


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


def test_variety_is_of_the_deepest_level_that_tells_items_apart(run):
  def items(**fields):
    columns = {}
    for name, paths in fields.items():
      columns[name] = np.empty(len(paths), object)
      columns[name][:] = paths
    return Catalog(np.array(["", "a", "b", "c"]), columns)

  deep = [(), ("shop", "x"), ("shop", "y"), ("shop", "x")]
  flat = [(), ("x",), ("y",), ("x",)]
  for paths in (deep, flat):
    _, one, other, same = studies.groups(items(categories=paths))
    assert one == same != other
  for told in ({"categories": [(), *[("all",)] * 3]}, {}):
    job = types.SimpleNamespace(raw=types.SimpleNamespace(catalog=items(**told)))
    with pytest.raises(DataError, match="diversity is of categories.*another study"):
      studies.diversity(types.SimpleNamespace(job=job))


def test_cold_items_are_found_where_they_are_mixed_in_and_only_there(run, monkeypatch):
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
  monkeypatch.setitem(warm.job.__dict__, "_split", (run.job.split, np.zeros_like(cold)))
  with pytest.raises(ValueError, match=r"no item of this run is cold.*data.cold"):
    studies.cold(warm)


def test_cold_and_other_items_are_scored_by_one_model_over_the_whole_catalogue(run):
  """Over children too, whose probabilities would else be those of each half by itself."""
  system = run.system(softmax="children")
  batch = {name: x[:3] for name, x in next(run.batches())[0].items()}
  exact = np.asarray(jax.jit(system.score)(run.params, run.assets, batch))
  recommend = jax.jit(system.recommend, static_argnames="k")
  cold = run.job.cold
  for part, asked in zip((~cold, cold), studies.halves(batch, cold), strict=True):
    ids, scores = map(np.asarray, recommend(run.params, run.assets, asked, k=10))
    for row in range(3):
      found = ids[row][ids[row] > 0]
      assert len(found) and part[found].all() and not set(found) & set(batch["deny"][row])
      np.testing.assert_allclose(scores[row][: len(found)], exact[row, found], atol=1e-4)


def test_mixed_lists_hold_the_best_of_both_in_order():
  one = Ranked(np.array([[1, 2, 3], [1, 2, 3]]), np.array([[3.0, 2.0, 1.0]] * 2, np.float32))
  other = Ranked(np.array([[7, 8, 9], [7, 0, 0]]), np.array([[2.5, -1.0, -2.0], [0.5, -9, -9]]))
  other = other._replace(scores=other.scores.astype(np.float32))
  found = topk.mixed(one, other, 2)
  np.testing.assert_array_equal(found.ids, [[1, 7, 8], [1, 2, 7]])  # the second lacks one
  np.testing.assert_array_equal(topk.mixed(one, other, 0).ids, one.ids)
  with pytest.raises(ValueError, match="4 of 3 results"):
    topk.mixed(one, other, 4)


def test_a_short_list_leaves_its_places_to_the_other():
  one = Ranked(np.array([[1, 0, 0], [0, 0, 0]]), np.array([[3, -9, -9]] * 2, np.float32))
  other = Ranked(np.array([[7, 8, 9], [7, 0, 0]]), np.array([[2, 1, 0], [2, -9, -9]], np.float32))
  found = topk.mixed(one, other, 1)
  np.testing.assert_array_equal(found.ids, [[1, 7, 8], [7, 0, 0]])
  np.testing.assert_array_equal(found.scores, [[3, 2, 1], [2, -np.inf, -np.inf]])


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
  other.train.optimizer.rate = 0.5
  with pytest.raises(DataError, match="by model.dropout, train.optimizer.rate. Give"):
    studies.check_config(other, run.job.workdir)
  with pytest.raises(DataError, match="there is no run"):
    studies.check_config(other, tmp_path)


def test_the_levels_in_use_are_told_and_are_no_difference(run, tmp_path):
  assert run.job.config.model.levels == (256, 256, 256, 256)
  run.job.keep_config()
  told = json.loads((run.job.workdir / "config.json").read_text())["model"]
  assert told["levels"] == list(run.job.ids.sizes) == [8, 32]
  studies.check_config(run.job.config, run.job.workdir)


def test_a_field_that_came_to_the_code_since_the_run_is_no_difference(run, tmp_path):
  told = json.loads((run.job.workdir / "config.json").read_text())
  del told["model"]["dropout"], told["text"]
  (tmp_path / "config.json").write_text(json.dumps(told))
  studies.check_config(run.job.config, tmp_path)


def test_a_run_that_has_no_study_is_refused_at_once(run, tmp_path):
  other = run.job.config.copy_and_resolve_references()
  other.system = "sasrec"
  with pytest.raises(DataError, match="studies are of tiger and tiger_lm; this is .* of sasrec"):
    studies.check_config(other, tmp_path)
  words = settings.config(system="p5", prompts={})
  with pytest.raises(DataError, match="a run of p5, in words"):
    studies.check_config(words, tmp_path)


def test_a_run_that_patience_ended_has_ended(run, tmp_path):
  """And one that a signal stopped has not."""
  folder = tmp_path / "seed_0" / "checkpoints" / "step_00000040"
  folder.mkdir(parents=True)
  config = run.job.config.copy_and_resolve_references()
  config.train.best, config.train.patience = "valid/ndcg@10", 3
  for stale, ended in ((2, False), (3, True)):
    meta = json.dumps({"step": 40, "meter": {"stale": stale}})
    (folder / "meta.json").write_text(meta)
    files = {"meta.json": hashlib.sha256(meta.encode()).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    if ended:
      studies.check_ended(config, tmp_path)
    else:
      with pytest.raises(DataError, match="40 of 60 steps"):
        studies.check_ended(config, tmp_path)


def test_results_are_recorded_in_a_folder_that_was_not_there(run, tmp_path, monkeypatch, capsys):
  given = {"CONFIG": run.job.config, "WORKDIR": run.job.workdir, "STUDY": "beam", "USERS": 5}
  for name, value in (given | {"RECORD": tmp_path / "new" / "results"}).items():
    monkeypatch.setattr(studies, f"_{name}", types.SimpleNamespace(value=value))

  def study(finished):
    assert (tmp_path / "new" / "results").is_dir()  # before the work
    return {"here": {"recall@10": 0.5}}

  monkeypatch.setitem(studies.STUDIES, "beam", study)
  monkeypatch.setattr(studies.launch, "prepare", lambda *, devices: None)
  named = types.SimpleNamespace(get_config_filename=lambda flag: "a/shop.py")
  monkeypatch.setattr(studies, "flags", types.SimpleNamespace(FLAGS={"config": None}))
  monkeypatch.setattr(studies, "config_flags", named)
  studies.main()
  kept = json.loads((tmp_path / "new" / "results" / "shop_beam.json").read_text())
  assert kept["beam"] == {"here": {"recall@10": 0.5}} and kept["users"] == 5
  assert "here" in capsys.readouterr().out
