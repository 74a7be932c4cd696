"""What a recommender saves answers the same; a folder is whole or refused."""

import dataclasses
import shutil

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from shelf import HISTORIES, ITEMS, KINDS, TITLES, make

import recjax
from recjax import bundle
from recjax.data.errors import DataError
from recjax.data.interactions import STRING
from recjax.recommender import Recommender


@pytest.mark.parametrize("name", [*KINDS, "mf"])
def test_what_was_saved_answers_the_same(name, tmp_path):
  held = make(name, deny_seen=name != "mf")
  folder = held.save(tmp_path / "run" / "recommender")
  users = ["ada", "bob", "cyd"]
  wanted = held.recommend(HISTORIES, k=6, users=users)
  for path in (tmp_path / "run", folder):
    again = Recommender.load(path)
    assert again.recommend(HISTORIES, k=6, users=users) == wanted
    assert again.config == held.config and repr(again) == repr(held)
    assert (again.deny_seen, again.max_len) == (held.deny_seen, held.max_len)
  assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["recommender"]


def test_titles_and_ids_of_any_letters_survive(tmp_path):
  odd = ["a\u2028b", 'say "no"', "x/y\\z", "木の椅子", "tab\tand\rreturn", "\x85"]
  titles = np.array(["", *odd, *TITLES[6:]], STRING)
  folder = make("popularity", titles=titles).save(tmp_path / "kept")
  again = Recommender.load(folder)
  assert again.titles.tolist() == titles.tolist() and again.items.tolist() == ITEMS.tolist()


def test_a_flipped_byte_of_any_file_is_an_error(shop, tmp_path):
  folder = shop.save(tmp_path / "kept")
  files = [path for path in folder.rglob("*") if path.is_file()]
  assert {"recommender.json", "quantizer.safetensors", "lsa.safetensors"} <= {p.name for p in files}
  for path in files:
    whole = path.read_bytes()
    for at in {0, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
      path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
      with pytest.raises(DataError, match=path.name):
        Recommender.load(folder)
    path.unlink()
    with pytest.raises(DataError, match=path.name):
      Recommender.load(folder)
    path.write_bytes(whole)
  assert Recommender.load(folder).recommend(HISTORIES, 24) == shop.recommend(HISTORIES, 24)


def test_a_byte_of_the_description_cannot_change_wherever_it_is(tmp_path):
  folder = make("popularity").save(tmp_path / "kept")
  path = folder / "recommender.json"
  whole = path.read_bytes()
  for at in range(len(whole)):
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(DataError, match="recommender.json"):
      bundle.read(folder, "recommender.json")


def rewritten(folder, **changes):
  """The folder as another version would have written it."""
  about = bundle.read(folder, "recommender.json") | changes
  copy = folder.with_name("copy")
  shutil.copytree(folder, copy)
  (copy / "recommender.json").unlink()

  def fill(part):
    shutil.copytree(copy, part, dirs_exist_ok=True)

  bundle.write(folder, "recommender.json", about, fill)
  shutil.rmtree(copy)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"format": 7}, "of format 7, written by recjax 0.1.0; .* reads 1"),
    ({"system": "oracle"}, "no system 'oracle' in recjax"),
    ({"config": {"num_items": 25, "depth": 3}}, "does not fit popularity .* 'depth'"),
    ({"config": {}}, "does not fit popularity .* 'num_items'"),
  ],
)
def test_a_folder_of_another_version_says_which(tmp_path, changes, said):
  folder = make("popularity").save(tmp_path / "kept")
  rewritten(folder, **changes)
  with pytest.raises(DataError, match=said):
    Recommender.load(folder)


def test_what_is_no_finished_run_is_told_apart(tmp_path):
  with pytest.raises(DataError, match="no such folder"):
    Recommender.load(tmp_path / "nowhere")
  with pytest.raises(DataError, match="neither a finished run's workdir nor"):
    Recommender.load(tmp_path)
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(DataError, match="has not finished.*Start it again with the same config"):
    Recommender.load(tmp_path)
  (tmp_path / "config.json").write_text('{"system": "p5", "prompts": {}}')
  with pytest.raises(DataError, match="a run in words leaves no recommender.*results.json"):
    Recommender.load(tmp_path)
  (tmp_path / "recommender").mkdir()
  with pytest.raises(DataError, match="no recommender.json"):
    Recommender.load(tmp_path)


def test_saving_replaces_a_recommender_and_nothing_else(tmp_path):
  folder = make("popularity").save(tmp_path / "kept")
  make("item_knn").save(folder)
  assert Recommender.load(folder).system == "item_knn"
  precious = tmp_path / "precious"
  precious.mkdir()
  (precious / "thesis.tex").write_text("42")
  with pytest.raises(DataError, match="not written over"):
    make("popularity").save(precious)
  assert (precious / "thesis.tex").read_text() == "42"


def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
  held = make("popularity")
  folder = held.save(tmp_path / "kept")
  monkeypatch.setattr(Recommender, "_write_items", lambda self, path: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    make("item_knn").save(folder)
  assert Recommender.load(folder).recommend([["i1"]]) == held.recommend([["i1"]])


def test_a_save_that_was_killed_between_two_renamings_loses_nothing(tmp_path):
  folder, old, part = (tmp_path / name for name in ("kept", ".kept.old", ".kept.part"))
  make("popularity").save(folder).rename(old)
  assert Recommender.load(folder).system == "popularity" and not old.exists()
  folder.rename(old)
  part.mkdir()  # unfinished
  make("item_knn").save(folder)
  assert Recommender.load(folder).system == "item_knn"
  folder.rename(part)
  make("popularity").save(tmp_path / "other").rename(old)
  assert Recommender.load(folder).system == "item_knn"  # what was being put there


def test_a_save_through_a_link_replaces_what_it_points_to(tmp_path):
  make("popularity").save(tmp_path / "first")
  (tmp_path / "current").symlink_to(tmp_path / "first")
  for name in ("item_knn", "popularity"):
    make(name).save(tmp_path / "current")
    assert (tmp_path / "current").is_symlink()
    assert Recommender.load(tmp_path / "first").system == name


def test_a_folder_written_anew_while_it_is_read_is_an_error(tmp_path, monkeypatch):
  folder = make("popularity").save(tmp_path / "kept")
  load = bundle.load

  def slow(path):
    if path.name.startswith("params"):
      make("item_knn").save(folder)
    return load(path)

  monkeypatch.setattr(bundle, "load", slow)
  with pytest.raises(DataError, match="written anew while it was read.*Load it again"):
    Recommender.load(folder)


def test_a_system_and_items_that_do_not_belong_together_are_refused(shop):
  with pytest.raises(DataError, match="no system 'oracle'"):
    dataclasses.replace(shop, system="oracle")
  with pytest.raises(ValueError, match="25 items and 24 titles"):
    dataclasses.replace(shop, titles=shop.titles[:-1])
  with pytest.raises(ValueError, match="of other items, or in another order"):
    dataclasses.replace(shop, items=np.concatenate([ITEMS[:1], ITEMS[:0:-1]]))
  with pytest.raises(TypeError, match="'b' is a list"):
    bundle.dump({"a": np.ones(2), "b": [1, 2]})


def test_arrays_of_any_type_and_layout_survive(tmp_path):
  tree = {"a": {"b": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3).T, "c": jnp.float32(2)}}
  (tmp_path / "x").write_bytes(bundle.dump(tree))
  again = bundle.load(tmp_path / "x")
  chex.assert_trees_all_equal(again, tree)
  chex.assert_trees_all_equal_shapes_and_dtypes(again, tree)


def test_the_package_names_it():
  assert recjax.Recommender is Recommender and "Recommender" in dir(recjax)
