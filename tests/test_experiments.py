"""Configs, tasks and sources of the launcher."""

import ast
import pathlib
import types

import ml_collections
import numpy as np
import pytest

from experiments import assembly, pairs, settings, sources, tasks, yes_no
from recjax.data import interactions, splits
from recjax.data.errors import DataError
from recjax.data.interactions import Impressions
from recjax.data.ragged import Ragged
from recjax.nn import gpt, t5
from recjax.systems import SYSTEMS
from recjax.train import loop

CONFIGS = sorted(pathlib.Path(settings.__file__).parent.glob("configs/*.py"))
SECTIONS = {
  "data": settings.Data,
  "text": settings.Text,
  "words": settings.Words,
  "semantic_ids": settings.SemanticIds,
  "prompts": settings.Prompts,
  "pairs": pairs.Pairs,
  "yes_no": yes_no.YesNo,
  "train": loop.Config,
  "pretrain": loop.Config,
  "evaluation": settings.Evaluation,
}
PLAIN = {"system", "task", "examples", "seeds", "batch_size", "pretrain_batch_size", "devices"}
# Fields of a model that the data gives; anything does here.
GIVEN = {"num_items": 9, "num_users": 9, "num_attributes": 9, "vocab": 9, "values": (1.0, 2.0)}
GIVEN |= {"num_words": 9, "num_categories": 9, "num_subcategories": 9}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_says_what_it_claims_and_builds(path):
  told = ast.get_docstring(ast.parse(path.read_text()))
  config = settings.load(str(path))
  assert set(config) <= SECTIONS.keys() | PLAIN | {"model"}
  built = {n: settings.build(cls, config[n]) for n, cls in SECTIONS.items() if n in config}
  assert config.train.best is None or config.train.best.removeprefix("-").startswith("valid/")
  if "pairs" in config:
    assert "python -m experiments.finetune_t5" in told and "Hardware" in told
    settings.build(t5.Config, config.model)
    return
  if "yes_no" in config:
    assert "python -m experiments.tune_yes_no" in told and "Hardware" in told
    assert f"--config=experiments/configs/{path.name}" in told and config.system in SYSTEMS
    settings.build(gpt.Config, config.model)
    return
  assert f"--config=experiments/configs/{path.name}" in told and "core" in told.lower()
  assert config.system in SYSTEMS and config.task in tasks.TASKS
  assert config.examples in tasks.EXAMPLES and config.data.source in sources.SOURCES
  assert config.batch_size > 0 and len(config.seeds)
  module = SYSTEMS[config.system]
  given = {n: x for n, x in GIVEN.items() if n in module.Config.__dataclass_fields__}
  module.make(settings.build(module.Config, config.get("model", settings.config()), **given))
  for other in built["evaluation"].compare:
    assert settings.load(str(path.parents[2] / other)).task == config.task


def test_every_field_of_a_section_can_be_a_flag():
  hidden = set(dir(ml_collections.ConfigDict()))
  for cls in SECTIONS.values():
    assert not hidden & cls.__dataclass_fields__.keys()


def test_a_flag_may_set_what_is_none_by_default():
  config = settings.config(
    model=settings.model(SYSTEMS["sasrec"].Config), train=loop.Config(steps=3)
  )
  assert config.train.best is None and config.model.t is None and config.train.profile is None
  config.update_from_flattened_dict({"train.best": "valid/x", "model.t": 0.5})
  config.update_from_flattened_dict({"train.compute_dtype": "bfloat16", "train.profile": (2, 5)})
  built = settings.build(loop.Config, config.train)
  assert (built.best, built.compute_dtype, built.profile) == ("valid/x", "bfloat16", (2, 5))
  with pytest.raises(TypeError):
    config.train.best = 3


def test_a_section_that_there_is_not_is_named():
  with pytest.raises(ValueError, match="pre_train"):
    settings.config(pre_train=loop.Config(steps=3))


def test_the_readme_lists_every_suite_and_no_other():
  folder = pathlib.Path(settings.__file__).parent
  suites = {path.stem for path in (folder / "benchmarks").glob("*.py")} - {"__init__", "timing"}
  told = (folder.parent / "README.md").read_text().partition("Suites: `")[2].partition("`")[0]
  assert set(told.split()) == suites


def log():
  return interactions.from_columns(
    np.repeat([7, 8, 9], 4), np.tile([1, 2, 3, 4], 3), timestamp=np.tile(np.arange(4), 3)
  )


def raw(**more):
  return sources.Raw(log(), **more)


def test_leave_one_out_or_the_split_that_the_data_brings():
  task = tasks.TASKS["next_item"]
  split = task.split(raw(), settings.Data())
  assert [len(part) for part in split] == [6, 3, 3]
  given = splits.Split(log().take(np.arange(4)), log().take(np.arange(0)), log())
  assert task.split(raw(split=given), settings.Data()) is given


def test_a_random_split_leaves_a_tenth_for_each_part_and_users_in_order():
  many = interactions.from_columns(np.arange(100) % 7, np.arange(100) % 11)
  split = tasks.TASKS["rating"].split(sources.Raw(many), settings.Data(split_seed=3))
  assert [len(part) for part in split] == [80, 10, 10]
  assert all((np.diff(part.user) >= 0).all() for part in split)
  other = tasks.TASKS["rating"].split(sources.Raw(many), settings.Data(split_seed=4))
  assert not np.array_equal(split.test.item, other.test.item)


def test_a_given_training_part_lends_what_validates_if_asked_to():
  many = interactions.from_columns(np.arange(100) % 7, np.arange(100) % 11)
  given = splits.Split(
    many.take(np.arange(80)), many.take(np.arange(0)), many.take(np.arange(80, 100))
  )
  split = tasks.TASKS["top_n"].split
  assert split(sources.Raw(many, split=given), settings.Data()) is given
  held = split(sources.Raw(many, split=given), settings.Data(valid=0.25))
  assert [len(part) for part in held] == [60, 20, 20]
  pairs = [list(zip(part.user, part.item, strict=True)) for part in held]
  assert sorted(pairs[0] + pairs[1]) == sorted(zip(given.train.user, given.train.item, strict=True))
  rated = tasks.TASKS["rating"].split
  assert len(rated(sources.Raw(many, split=given), settings.Data(valid=0.25)).valid) == 20
  assert len(rated(sources.Raw(many, split=given), settings.Data()).valid) == 8
  own = sources.Raw(many, split=given._replace(valid=given.test))
  assert split(own, settings.Data()) is own.split
  for task, source in (("top_n", own), ("top_n", sources.Raw(many)), ("next_item", own)):
    with pytest.raises(ValueError, match="data.valid is"):
      tasks.TASKS[task].split(source, settings.Data(valid=0.25))


def shown(*candidates):
  x = log()
  rows = Ragged.from_lengths(np.concatenate(candidates), np.array([len(c) for c in candidates]))
  nothing = Ragged.from_lengths(np.zeros(0, np.int32), np.zeros(len(candidates), int))
  labels = Ragged.from_lengths(np.zeros(len(rows.values), np.float32), rows.lengths)
  users = np.arange(1, len(candidates) + 1)
  return Impressions(users, nothing, rows, labels, x.users, x.items)


def test_the_given_candidates_go_to_their_users():
  given = raw(candidates=shown([4, 1], [2, 4], [4, 3]))
  split = tasks.TASKS["sampled"].split(given, settings.Data())
  found = tasks.TASKS["sampled"].asked(given, split.train, split.test)
  np.testing.assert_array_equal(found.dense["candidates"], [[4, 1], [2, 4], [4, 3]])
  with pytest.raises(ValueError, match="not among its user's candidates"):
    wrong = raw(candidates=shown([3, 1], [2, 4], [4, 3]))
    tasks.TASKS["sampled"].asked(wrong, split.train, split.test)
  with pytest.raises(ValueError, match="brings no candidates"):
    tasks.TASKS["sampled"].asked(raw(), split.train, split.test)


def test_what_validates_among_candidates_is_some_users_last_event_among_items_not_met():
  x = interactions.from_columns(np.repeat(np.arange(8), 5), np.arange(40) * 7 % 29)
  kept = np.arange(40) % 5
  given = splits.Split(x.take(kept < 4), x.take(kept > 4), x.take(kept == 4))
  tests = shown(*([item, 1, 2] for item in given.test.item))
  source = sources.Raw(x, split=given, candidates=tests)
  task = tasks.TASKS["sampled"]
  split = task.split(source, settings.Data(valid=0.5))
  assert [len(part) for part in split] == [28, 4, 8]
  last = {user: given.train.item[given.train.user == user][-1] for user in split.valid.user}
  assert len(last) == 4 and list(last.values()) == split.valid.item.tolist()
  found = task.asked(source, split.train, split.valid)
  assert found.dense["candidates"].shape == (4, 3)
  for user, row in zip(found.dense["user"], found.dense["candidates"], strict=True):
    met = set(given.train.item[given.train.user == user].tolist())
    assert row[0] == last[user] and len(set(row.tolist())) == 3
    assert not met.intersection(row[1:].tolist())
  asked = task.asked(source, split.train, split.test)
  np.testing.assert_array_equal(asked.dense["candidates"][:, 0], given.test.item)
  with pytest.raises(ValueError, match="data.valid is"):
    task.split(raw(candidates=tests), settings.Data(valid=0.5))


def test_a_path_is_looked_for_below_the_data_folder(tmp_path, monkeypatch):
  (tmp_path / "shop").mkdir()
  monkeypatch.setenv("RECJAX_DATA", str(tmp_path))
  assert sources.path_of("shop") == tmp_path / "shop"
  assert sources.path_of(str(tmp_path)) == tmp_path


def test_what_is_not_there_is_named(tmp_path):
  with pytest.raises(ValueError, match="no data source 'web'; there is"):
    sources.read(settings.Data(source="web"), tmp_path)
  with pytest.raises(DataError, match="no such file"):
    sources.read(settings.Data(source="ncf", path=str(tmp_path)), tmp_path)
  with pytest.raises(ValueError, match="no system 'sasrek'; there is"):
    assembly.build("sasrek", None, None)
  with pytest.raises(FileNotFoundError, match="no config nowhere.py"):
    settings.load("nowhere.py")


@pytest.mark.parametrize(
  "system, field, wrong, right, unsaid",
  [
    ("sasrec", "num_items", 9, 5, None),
    ("tiger", "levels", (3, 3), (4, 2), (256, 256, 256, 256)),
  ],
)
def test_what_the_data_gives_a_model_is_not_said_otherwise(system, field, wrong, right, unsaid):
  ids = types.SimpleNamespace(sizes=(4, 2), codes=np.array([[-1, -1], *np.ndindex(4, 1)]))
  of = types.SimpleNamespace(raw=raw(), ids=ids)
  for said in (right, unsaid):
    section = settings.config(model={} if said is None else {field: said}).model
    assert getattr(assembly.build(system, section, of).config, field) == right
  with pytest.raises(ValueError, match=rf"model.{field} is .*, and the data gives .*: leave it"):
    assembly.build(system, settings.config(model={field: wrong}).model, of)
