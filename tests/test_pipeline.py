"""The main job on tiny data, in a process of its own as a user starts it."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from experiments import assembly, pipeline, settings, tasks
from recjax.data import loader
from recjax.data.errors import DataError
from recjax.recommender import Recommender
from recjax.semid import artefact, learn
from recjax.systems.collaborative import hybrid, mf
from recjax.systems.generative import tiger
from recjax.train import checkpoint, loop, optim

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = "--config=experiments/configs/tiger_synthetic.py"
TINY = (
  "--config.data.size=tiny",
  "--config.text.dim=16",
  "--config.semantic_ids.quantizer.sizes=(8,32)",
  "--config.evaluation.compare=()",
  "--config.model.layers=1",
  "--config.model.dim=32",
  "--config.batch_size=32",
  "--config.train.steps=40",
  "--config.train.eval_every=20",
  "--config.train.save_every=20",
)


@pytest.fixture
def launch(as_user):
  def launched(*arguments):
    command = [sys.executable, "-m", "experiments.run", CONFIG, *arguments]
    return subprocess.run(
      command, cwd=ROOT, env=as_user, capture_output=True, text=True, timeout=300
    )

  return launched


def test_raw_files_to_recommendations_and_back_where_it_was(launch, tmp_path):
  workdir = f"--workdir={tmp_path / 'run'}"
  first = launch(workdir, *TINY)
  assert first.returncode == 0, first.stderr[-3000:]
  assert "best attainable" in first.stdout and "item_knn" in first.stdout
  results = json.loads((tmp_path / "run" / "results.json").read_text())
  assert set(results["systems"]) == {"tiger", "popularity", "item_knn", "best attainable"}
  assert results["systems"]["tiger"]["seeds"][0]["seed"] == 0 and results["training_seconds"] > 0
  assert results["config"]["model"]["levels"] == [8, 32]
  lines = (tmp_path / "run" / "recommendations.jsonl").read_text().splitlines()
  shown = [json.loads(line) for line in lines]
  assert len(shown) == 100 and all(len(set(r["items"])) == 10 for r in shown)
  assert all(r["titles"][0] and r["history"] for r in shown)
  page = (tmp_path / "run" / "report.html").read_text()
  assert page.count("<img") == 2 and page.count('class="user"') == 12
  assert "http" not in page  # nothing is fetched: the page holds all it shows
  answered = Recommender.load(tmp_path / "run").recommend([shown[0]["history"]], k=3)
  assert answered.ids == [shown[0]["items"][:3]]
  again = launch(workdir, *TINY)
  assert again.stdout == first.stdout
  assert "semantic ids: unchanged" in again.stderr and "goes on from step 40" in again.stderr
  changed = launch(workdir, *TINY, "--config.model.dim=16")
  assert changed.returncode != 0 and "made with another config" in changed.stderr


def test_help_prints_every_field_and_a_typo_is_an_error(launch):
  told = launch("--mode=help").stdout
  for line in (
    "model.item_causal=True  # the encoder",
    "train.optimizer.warmup=100  # steps",
    "data.max_len=20",
    "task='next_item'  # how events are split",
  ):
    assert f"--config.{line}" in told
  typo = launch("--mode=help", "--config.model.dmi=3")
  assert typo.returncode != 0 and "dmi" in typo.stderr
  unsaid = launch()
  assert unsaid.returncode != 0 and "--workdir is needed" in unsaid.stdout + unsaid.stderr


def test_sections_become_dataclasses_and_unknown_keys_are_named():
  config = settings.config(train=loop.Config(steps=3, optimizer=optim.Config(rate=0.5)))
  built = settings.build(loop.Config, config.train)
  assert built == loop.Config(steps=3, optimizer=optim.Config(rate=0.5))
  model = settings.config(model=settings.model(tiger.Config)).model
  model.unlock()
  model.dmi = 3
  with pytest.raises(ValueError, match=r"Config has no \['dmi'\]; it has \['beams'"):
    settings.build(tiger.Config, model)


def test_a_run_that_predicts_ratings_ends_with_its_errors(tmp_path):
  config = settings.config(
    system="mf",
    task="rating",
    examples="events",
    seeds=(0, 1),
    batch_size=64,
    data=settings.Data(source="synthetic", size="tiny", max_len=1),
    model=settings.model(mf.Config, dim=4),
    train=loop.Config(steps=4),
    evaluation=settings.Evaluation(),
  )
  table = pipeline.run(config, tmp_path, "all", name="mf", record=tmp_path / "kept")
  assert [set(row) for row in table["mf"]] == [{"seed", "rmse", "mae"}] * 2
  assert table["mf"][0]["rmse"] > table["mf"][0]["mae"] > 0
  assert (tmp_path / "kept" / "mf.json").exists() and (tmp_path / "report.html").exists()
  assert not (tmp_path / "recommendations.jsonl").exists()


def test_a_baseline_reads_whole_histories_however_little_the_system_reads(tmp_path):
  found = []
  for max_len in (2, 20):
    config = settings.config(
      system="popularity",
      task="next_item",
      examples="events",
      seeds=(0,),
      batch_size=32,
      data=settings.Data(source="synthetic", size="tiny", max_len=max_len),
      model={},
      train=loop.Config(steps=1),
      evaluation=settings.Evaluation(ks=(5,), baselines=("item_knn",)),
    )
    run = pipeline.Run(config, tmp_path / str(max_len))
    assert run.before_test.num_users < len(run.before_test) / 2
    found.append(run.solve_baselines()["item_knn"])
  assert found[0] == found[1]


def test_a_batch_of_whole_histories_has_fewer_rows_where_they_are_long(tmp_path, monkeypatch):
  run = pipeline.Run(small(evaluation=settings.Evaluation(ks=(5,), batch_size=64)), tmp_path)
  system = assembly.build("item_knn", None, run).system
  longest, found = np.bincount(run.before_test.user).max(), []
  for most, rows in ((99, 64), (16, 16), (1, 8)):  # rows split over eight devices
    monkeypatch.setattr(tasks, "_PLACES", int(most * longest))
    suites = tasks.InIds(run).whole(system, run.before_test, run.split.test)
    shapes = [batch["history"].shape for batch in loader.load(suites[0].batches)]
    assert {size for size, _ in shapes} == {rows} and max(t for _, t in shapes) == longest > 8
    found.append(loop.solve(system, (), run.before_test, suites=suites).metrics)
  assert found[1] == pytest.approx(found[0]) and found[2] == pytest.approx(found[0])


def test_a_baseline_that_fails_loses_nothing_of_the_system(tmp_path, monkeypatch):
  config = small(evaluation=settings.Evaluation(ks=(5,), baselines=("popularity",)))

  def fails(*parts, **more):
    raise MemoryError

  monkeypatch.setattr(pipeline.loop, "solve", fails)
  with pytest.raises(MemoryError):
    pipeline.run(config, tmp_path, "evaluate")
  assert set(json.loads((tmp_path / "results.json").read_text())["systems"]) == {"mf"}


def small(**more):
  sections = {
    "system": "mf",
    "task": "next_item",
    "examples": "events",
    "seeds": (0,),
    "batch_size": 32,
    "data": settings.Data(source="synthetic", size="tiny", max_len=8),
    "model": settings.model(mf.Config, dim=4),
    "train": loop.Config(steps=4),
    "evaluation": settings.Evaluation(ks=(5,)),
  }
  return settings.config(**{**sections, **more})


@pytest.mark.parametrize(
  "change",
  [
    {"batch_size": 16},
    {"model.penalty": 0.5},
    {"data.negatives": 2},
    {"examples": "users"},
    {"train.optimizer.rate": 0.5},
  ],
)
def test_what_training_depends_on_may_not_change_under_a_run(tmp_path, change):
  pipeline.run(small(), tmp_path, "train")
  kept = (tmp_path / "config.json").read_text()
  other = small()
  other.update_from_flattened_dict(change)
  (name,) = change
  with pytest.raises(
    checkpoint.CheckpointError, match=f"another config: .*{name.split('.')[-1]}: "
  ):
    pipeline.run(other, tmp_path, "train")
  assert (tmp_path / "config.json").read_text() == kept  # the refused one is not the run's


def files(folder):
  return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def with_ids(**more):
  ids = settings.SemanticIds(quantizer=learn.Config(method="rqkmeans", sizes=(4, 4)))
  sections = {
    "system": "hybrid",
    "examples": "prefixes",
    "model": settings.model(hybrid.Config, dim=4),
    "text": settings.Text(dim=8),
    "semantic_ids": ids,
    "train": loop.Config(steps=4, best="valid/ndcg@5"),
  }
  return small(**{**sections, **more})


def test_a_run_that_is_refused_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
  pipeline.run(with_ids(), tmp_path, "train")
  kept = files(tmp_path)
  for change, value in (
    ("text.dim", 16),
    ("semantic_ids.quantizer.sizes", (4, 8)),
    ("train.optimizer.rate", 0.5),
    ("evaluation.deny_seen", True),
    ("system", "content"),
  ):
    other = with_ids()
    other.update_from_flattened_dict({change: value})
    field = change.split(".")[-1]
    for mode in ("prepare", "embed", "tokenize", "train"):
      with pytest.raises(checkpoint.CheckpointError, match=rf"another config: .*{field}: "):
        pipeline.run(other, tmp_path, mode)
      assert files(tmp_path) == kept, (change, mode)
  read = pipeline.preparation.sources.read

  def fewer(*where):
    raw = read(*where)
    return dataclasses.replace(
      raw, interactions=raw.interactions.take(np.arange(1, len(raw.interactions)))
    )

  monkeypatch.setattr(pipeline.preparation.sources, "read", fewer)
  with pytest.raises(checkpoint.CheckpointError, match="another config: data: "):
    pipeline.run(with_ids(), tmp_path, "prepare")
  assert files(tmp_path) == kept


def test_a_folder_that_was_moved_is_no_other_config(tmp_path):
  def run(path):
    ids = settings.SemanticIds(published=path)
    return pipeline.Run(with_ids(semantic_ids=ids), tmp_path)

  run("/here/beauty/ids.json").train(0)
  pipeline.training.check(run("/there/of/beauty/ids.json"))
  with pytest.raises(checkpoint.CheckpointError, match="'beauty/ids.json' then, 'toys/ids.json' n"):
    pipeline.training.check(run("/here/toys/ids.json"))


@pytest.mark.parametrize(
  "more, told",
  [
    ({"evaluation": settings.Evaluation(baselines=("mf",))}, "not 'mf': name a config of it"),
    ({"evaluation": settings.Evaluation(baselines=("bestseller",))}, "no system 'bestseller'"),
    ({"evaluation": settings.Evaluation(compare=("nowhere.py",))}, "no config nowhere.py"),
    ({"train": loop.Config(steps=4, best="valid/ndcg@20")}, "20 is not in evaluation.ks"),
    ({"train": loop.Config(steps=4, best="ndcg@5")}, "names no metric: there are valid/..."),
    ({"task": "rating", "examples": "users"}, "not for 'rating'"),
    ({"examples": "prefixes", "data": settings.Data(negatives=1)}, "data.negatives goes with"),
  ],
)
def test_what_cannot_be_measured_is_told_before_any_training(tmp_path, more, told):
  with pytest.raises((ValueError, FileNotFoundError), match=told):
    pipeline.run(small(**more), tmp_path, "all")
  assert not list(tmp_path.glob("seed_*/checkpoints/step_*"))


def test_a_section_that_a_stage_needs_and_lacks_is_named(tmp_path):
  with pytest.raises(ValueError, match="no section `text`"):
    pipeline.run(small(), tmp_path, "embed")
  with pytest.raises(ValueError, match="no section `semantic_ids`"):
    pipeline.run(small(), tmp_path, "tokenize")


def test_a_signal_in_a_comparison_leaves_no_half_trained_row(tmp_path, monkeypatch, capsys):
  rival = tmp_path / "rival.py"
  rival.write_text(
    "import test_pipeline as here\n\n\ndef get_config():\n  return here.small(batch_size=16)\n"
  )
  config = small(evaluation=settings.Evaluation(ks=(5,), compare=(str(rival),)))
  trained = pipeline.training.train

  def stopped(job, seed):
    result = trained(job, seed)
    return result._replace(stopped_by=15) if job.config.batch_size == 16 else result

  monkeypatch.setattr(pipeline.training, "train", stopped)
  run = tmp_path / "run"
  with pytest.raises(SystemExit) as end:
    pipeline.run(config, run, "all", record=tmp_path / "kept")
  assert end.value.code == 128 + 15 and "the same command goes on" in capsys.readouterr().out
  assert list(json.loads((run / "results.json").read_text())["systems"]) == [
    "mf",
    "best attainable",
  ]
  assert not (tmp_path / "kept").exists()
  monkeypatch.undo()
  table = pipeline.run(config, run, "all")
  assert list(table) == ["mf", "best attainable", "rival"]
  again = json.loads((run / "results.json").read_text())
  assert again["training_seconds"] > 0


def test_a_world_of_another_size_is_refused(tmp_path):
  pipeline.run(small(), tmp_path, "prepare")
  with pytest.raises(DataError, match="a world of size 'tiny', not 'small'"):
    pipeline.run(small(data=settings.Data(source="synthetic", size="small")), tmp_path, "prepare")


def test_each_stage_may_be_run_alone_after_those_before_it(tmp_path, caplog, monkeypatch):
  ids = settings.SemanticIds(quantizer=learn.Config(method="rqkmeans", sizes=(4, 4)))
  config = small(
    system="content", model={}, text=settings.Text(dim=8), semantic_ids=ids, seeds=(0,)
  )
  left = {
    "prepare": "config.json",
    "embed": "vectors/*.safetensors",
    "tokenize": "semantic_ids/report.json",
    "train": "seed_0/checkpoints/step_*",
    "evaluate": "results.json",
    "recommend": "recommendations.jsonl",
  }
  for mode, file in left.items():
    assert mode == "prepare" or not list(tmp_path.glob(file))
    pipeline.run(config, tmp_path, mode)
    assert list(tmp_path.glob(file))
    # Of what was measured or recommended before, perhaps of other parameters, no page is made.
    assert (tmp_path / "report.html").exists() == (mode in ("evaluate", "recommend"))
  assert 'class="user"' not in (tmp_path / "report.html").read_text()
  caplog.clear()
  monkeypatch.setattr(pipeline.preparation.lsa, "fit", None)  # nor is it fitted again
  with caplog.at_level("INFO"):
    pipeline.run(config, tmp_path, "tokenize")
  for what in ("lsa", "item vectors", "semantic ids"):
    assert f"{what}: unchanged" in caplog.text
  other = config.copy_and_resolve_references()
  other.semantic_ids.quantizer.sizes = (4, 8)
  pipeline.run(other, tmp_path, "tokenize")  # another quantiser is another stage, not an error
  assert artefact.load(tmp_path / "semantic_ids").sizes[:2] == (4, 8)
