"""The main job on tiny data, in a process of its own as a user starts it."""

import json
import pathlib
import subprocess
import sys

import pytest

from experiments import pipeline, settings
from recjax.data.errors import DataError
from recjax.recommender import Recommender
from recjax.semid import artefact, learn
from recjax.systems.collaborative import mf
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
    found.append(run.evaluate({})["item_knn"])
  assert found[0] == found[1]


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


def test_a_signal_in_a_comparison_leaves_no_half_trained_row(tmp_path, monkeypatch):
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
  assert pipeline.run(config, run, "all", record=tmp_path / "kept") == {}
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


def test_each_stage_may_be_run_alone_after_those_before_it(tmp_path, caplog):
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
  caplog.clear()
  with caplog.at_level("INFO"):
    pipeline.run(config, tmp_path, "tokenize")
  assert "item vectors: unchanged" in caplog.text and "semantic ids: unchanged" in caplog.text
  other = config.copy_and_resolve_references()
  other.semantic_ids.quantizer.sizes = (4, 8)
  pipeline.run(other, tmp_path, "tokenize")  # another quantiser is another stage, not an error
  assert artefact.load(tmp_path / "semantic_ids").sizes[:2] == (4, 8)
