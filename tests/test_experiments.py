"""Configs, tasks and sources of the launcher."""

import ast
import pathlib

import numpy as np
import pytest

from experiments import assembly, settings, sources, tasks
from recjax.data import interactions, splits
from recjax.data.errors import DataError
from recjax.data.interactions import Impressions
from recjax.data.ragged import Ragged
from recjax.systems import SYSTEMS
from recjax.train import loop

CONFIGS = sorted(pathlib.Path(settings.__file__).parent.glob("configs/*.py"))
TASKED = [path for path in CONFIGS if "system=" in path.read_text()]


@pytest.mark.parametrize("path", TASKED, ids=lambda p: p.stem)
def test_a_config_says_what_it_claims_and_builds(path):
  told = ast.get_docstring(ast.parse(path.read_text()))
  assert f"--config=experiments/configs/{path.name}" in told and "core" in told.lower()
  config = settings.load(str(path))
  assert config.system in SYSTEMS and config.task in tasks.TASKS
  assert config.examples in tasks.EXAMPLES
  settings.build(settings.Data, config.data)
  settings.build(settings.Evaluation, config.evaluation)
  settings.build(loop.Config, config.train)
  known = {f for f in SYSTEMS[config.system].Config.__dataclass_fields__}
  assert set(config.get("model", {})) <= known
  assert config.data.source in sources.SOURCES


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
