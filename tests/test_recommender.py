"""A recommender answers as its system does, by raw ids; its folder is whole or refused."""

import dataclasses
import functools
import json
import shutil
import subprocess
import sys

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import recjax
from recjax import bundle, growth, recommender
from recjax.data import interactions
from recjax.data.errors import DataError
from recjax.data.interactions import STRING
from recjax.decode import trie
from recjax.growth import Collisions, Text
from recjax.recommender import Recommender
from recjax.semid import artefact, assign, quantizer
from recjax.systems import SYSTEMS
from recjax.systems.collaborative import content
from recjax.systems.generative import tiger
from recjax.text import lsa
from recjax.types import System

COLOURS = ("red", "green", "blue", "grey")
THINGS = ("lamp", "chair", "table", "clock", "shelf", "mirror")
TITLES = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]  # 24
ITEMS = np.array(["", *(f"i{n}" for n in range(1, 25))], STRING)
USERS = np.array(["", "ada", "bob", "cyd"], STRING)
NAMES = ITEMS[1:].tolist()
MAX_LEN = 5
TEMPLATE = "{title} {brand}"
CONFIG = tiger.Config(
  levels=(4, 4, 8), user_buckets=3, dim=16, heads=2, head_dim=8, ff=32, layers=1, dropout=0.0,
  beams=len(NAMES) + 8,  # as many as there are items: the search misses none
)  # fmt: skip


def log():
  """Every user meets some of all 24 items, in the order of `ITEMS`."""
  rng = np.random.default_rng(0)
  user = rng.integers(1, 4, 300).astype(np.int32)
  item = np.concatenate([np.arange(1, 25), rng.integers(1, 25, 276)]).astype(np.int32)
  return interactions.Interactions(user, item, USERS, ITEMS)


@functools.cache
def encoder():
  return lsa.fit(TITLES, dim=6)


def vectors():
  return np.concatenate([np.zeros((1, 6), np.float32), encoder()(TITLES)])


def spread():
  """[I, 6] vectors far from ties."""
  return np.random.default_rng(3).normal(size=(25, 6)).astype(np.float32)


@functools.cache
def semantic_ids():
  """Codes by random codebooks, and a third level that counts."""
  rng = np.random.default_rng(1)
  books = tuple(jnp.asarray(rng.normal(0, 0.5, (4, 6)), jnp.float32) for _ in range(2))
  made = quantizer.Quantizer(books, jnp.zeros(6), jnp.float32(1))
  return artefact.build(ITEMS, vectors(), made, assign.count_up(8))


def batch(histories, users=None):
  """As a system is asked."""
  rows = [[0] * (MAX_LEN - len(h)) + [NAMES.index(i) + 1 for i in h] for h in histories]
  user = np.zeros(len(rows), np.int32) if users is None else np.array(users, np.int32)
  return {"user": user, "history": np.array(rows, np.int32)}


@functools.cache
def random_params(name, cfg):
  return SYSTEMS[name].make(cfg).init(jax.random.key(0), (), batch([NAMES[:3]]))


def make(name, **more):
  kept = {"items": ITEMS, "users": USERS, "max_len": MAX_LEN}
  kept["titles"] = np.array(["", *TITLES], STRING)
  module = SYSTEMS[name]
  if name == "tiger":
    ids = semantic_ids()
    assets = tiger.assets(CONFIG, ids.codes, capacity=more.pop("capacity", None))
    text = encoder()
    kept |= {
      "ids": ids,
      "collisions": Collisions("count_up", 8),
      "text": Text(TEMPLATE, text, text.fingerprint),
    }
    return Recommender(name, CONFIG, random_params(name, CONFIG), assets, **kept | more)
  if name == "sasrec":
    cfg = module.Config(num_items=25, max_len=MAX_LEN, dim=8, ff=16, layers=1)
    return Recommender(name, cfg, random_params(name, cfg), (), **kept | more)
  if name == "mf":
    cfg = module.Config(num_users=4, num_items=25, dim=8)
    return Recommender(name, cfg, random_params(name, cfg), (), **kept | more)
  cfg = module.Config(num_items=25)
  assets = content.assets(cfg, spread()) if name == "content" else ()
  return Recommender(name, cfg, module.make(cfg).fit(assets, log()), assets, **kept | more)


@pytest.fixture(scope="module")
def shop():
  return make("tiger")


KINDS = ("content", "item_knn", "popularity", "sasrec", "tiger")
HISTORIES = [NAMES[:3], NAMES[4:9], ["i20"]]


# --- Asking ---


@pytest.mark.parametrize("name", KINDS)
def test_the_answers_are_those_of_the_system(name):
  held = make(name)
  answers = held.recommend(HISTORIES, k=24)
  own = jax.jit(SYSTEMS[name].make(held.config).recommend, static_argnames="k")
  ranked = own(held.params, held.assets, batch(HISTORIES), k=24)
  assert answers.ids == [ITEMS[row].tolist() for row in np.asarray(ranked.ids)]
  np.testing.assert_allclose(answers.scores, ranked.scores, atol=1e-5)
  for ids, titles in zip(answers.ids, answers.titles, strict=True):
    assert titles == [TITLES[NAMES.index(i)] for i in ids]


def test_of_a_long_history_the_last_items_are_read(shop):
  long, last, first = NAMES[:12], NAMES[12 - MAX_LEN : 12], NAMES[:MAX_LEN]
  one, two, three = shop.recommend([long, last, first], k=24).scores
  assert one == two and one != three


def test_more_histories_than_are_answered_at_a_time_keep_their_order(monkeypatch):
  held = make("sasrec")
  every = [[NAMES[n % 24], NAMES[n * 7 % 24]] for n in range(11)]
  whole = held.recommend(every, k=3)
  monkeypatch.setattr(recommender, "ROWS", 4)
  parts = held.recommend(every, k=3)
  assert parts.ids == whole.ids and len(whole.ids) == 11
  np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-5)


def test_users_are_raw_ids():
  held = make("mf")
  users = ["cyd", "ada", "bob"]
  ranked = (
    SYSTEMS["mf"].make(held.config).recommend(held.params, (), batch(HISTORIES, [3, 1, 2]), k=4)
  )
  answers = held.recommend(HISTORIES, k=4, users=users)
  assert answers.ids == [ITEMS[row].tolist() for row in np.asarray(ranked.ids)]
  with pytest.raises(DataError, match="mf learns a vector for each user, and row 1 names none"):
    held.recommend(HISTORIES, users=["cyd", None, "bob"])
  with pytest.raises(DataError, match="mf learns a vector for each user, and row 0"):
    held.recommend(HISTORIES)


def test_a_user_changes_tigers_answer_and_a_new_one_is_none(shop):
  same = [NAMES[:2]] * 3
  ada, bob, new = shop.recommend(same, k=24, users=["ada", "bob", None]).scores
  assert ada != bob and new == shop.recommend(same, k=24).scores[0]


def lists(least, most):
  return st.lists(st.sampled_from(NAMES), min_size=least, max_size=most)


@pytest.mark.parametrize(("name", "deny_seen"), [("tiger", True), ("item_knn", False)])
def test_only_known_allowed_and_undenied_items_come_each_once_and_all_of_them(name, deny_seen):
  held = make(name, deny_seen=deny_seen)

  # The first row's lists are long, so that all draws have one shape and compile once.
  @hypothesis.given(
    st.tuples(lists(5, 8), lists(17, 24), lists(17, 24)),
    st.tuples(lists(1, 8), lists(0, 8), lists(0, 24)),
    st.booleans(),
    st.booleans(),
  )
  @hypothesis.settings(max_examples=20)
  def check(one, two, allows, denies):
    histories, allow, deny = map(list, zip(one, two, strict=True))
    answers = held.recommend(
      histories, 24, allow=allow if allows else None, deny=deny if denies else None
    )
    for row, ids in enumerate(answers.ids):
      left = set(allow[row]) if allows else set(NAMES)
      left -= set(deny[row]) if denies else set()
      left -= set(histories[row]) if deny_seen else set()
      assert len(ids) == len(left) and set(ids) == left
      assert (np.diff(answers.scores[row]) <= 0).all()
      assert np.isfinite(answers.scores[row]).all()

  check()


def test_fewer_are_asked_for_than_are_left():
  held = make("sasrec", deny_seen=True)
  every = held.recommend(HISTORIES, k=24, deny=[["i9"]] * 3)
  for k in (1, 7):
    answers = held.recommend(HISTORIES, k, deny=[["i9"]] * 3)
    assert answers.ids == [ids[:k] for ids in every.ids]


def test_few_shapes_are_compiled():
  held = make("sasrec")
  compiled = recommender._answer(held.system, held.config)
  compiled.clear_cache()
  for count in (3, 4, 3):
    held.recommend([NAMES[:2]] * count, k=5, deny=[NAMES[:n] for n in range(1, count + 1)])
  assert compiled._cache_size() == 1  # 4 rows, denied lists of 3 or 4 both in 4 places
  held.recommend([NAMES[:2]] * 5, k=5)
  assert compiled._cache_size() == 2


@pytest.mark.parametrize(
  ("asked", "said"),
  [
    (([["i1", "i99"]],), r"no item 'i99' \(history 0\) among the 24"),
    (([["i1"], []],), "history 1 is empty"),
    ((["i1", "i2"],), "must be a list of lists"),
    (("i1",), "must be a list of lists"),
    (([["i1"]], 25), "k is 25, but there are 24 items"),
    (([["i1"]], 0), "k is 0"),
  ],
)
def test_questions_that_make_no_sense_say_so(shop, asked, said):
  with pytest.raises(DataError, match=said):
    shop.recommend(*asked)


def test_lists_and_users_that_do_not_fit_say_so(shop):
  for lists, said in (
    ({"deny": [["i77"]]}, r"no item 'i77' \(deny 0\)"),
    ({"allow": [["i1"], ["i2"]]}, "`allow` has 2 lists for 1 histories"),
    ({"deny": ["i1"]}, "`deny` must be a list of lists"),
    ({"users": ["eve"]}, r"no user 'eve' \(row 0\) among the 3"),
    ({"users": "ada"}, "a list of 1 raw ids"),
  ):
    with pytest.raises(DataError, match=said):
      shop.recommend([["i1"]], 3, **lists)


def test_a_system_that_is_asked_by_something_else_says_so(monkeypatch):
  class Other:
    @dataclasses.dataclass(frozen=True)
    class Config:
      pass

    @staticmethod
    def make(cfg):
      return System(recommend=lambda params, assets, batch, *, k: batch["source"])

  monkeypatch.setitem(SYSTEMS, "other", Other)
  held = dataclasses.replace(make("popularity"), system="other", config=Other.Config())
  with pytest.raises(DataError, match="other is asked by 'source', not by histories"):
    held.recommend(HISTORIES)


def test_nothing_asked_is_nothing_answered(shop):
  assert shop.recommend([]) == ([], [], [])


# --- Folders ---


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


# --- New items ---

NEW = [
  {"id": "n1", "title": "green lamp", "brand": "Lux"},
  {"id": "n2", "title": "grey clock", "brand": None, "price": 3},
]


def test_tiger_codes_new_items_as_the_quantiser_says_and_keeps_the_old(shop):
  grown = shop.add_items(NEW)
  assert grown.ids.codes[:25].tolist() == shop.ids.codes.tolist()
  made = encoder()(["green lamp Lux", "grey clock"])
  np.testing.assert_array_equal(grown.ids.codes[25:, :2], shop.ids.quantizer.encode(made))
  for code in grown.ids.codes[25:]:  # counted on from the old ones that share its codes
    alike = (shop.ids.codes[1:, :2] == code[:2]).all(1).sum()
    assert code[2] >= alike
  offsets = np.array([1, 5, 9])
  np.testing.assert_array_equal(
    grown.assets["tokens"][1:27], np.asarray(grown.ids.codes[1:]) + offsets
  )
  answers = grown.recommend([["n1"]] * 3, k=26, allow=[["n2"], NAMES, ["n1", "i1", "i2"]])
  assert answers.titles[0] == ["grey clock"] and set(answers.ids[2]) == {"n1", "i1", "i2"}
  assert "n1" not in shop.items


def test_old_items_keep_their_scores_beside_new_ones(shop):
  grown = shop.add_items(NEW)
  old = grown.recommend(HISTORIES, k=26, allow=[NAMES] * 3)
  wanted = shop.recommend(HISTORIES, k=24)
  assert old.ids == wanted.ids
  np.testing.assert_allclose(old.scores, wanted.scores, atol=1e-5)
  every = grown.recommend(HISTORIES, k=26, allow=[[*NAMES, "n1", "n2"]] * 3)
  assert all(set(ids) == {*NAMES, "n1", "n2"} for ids in every.ids)


def test_tiger_compiles_nothing_within_the_capacity_and_doubles_past_it(shop):
  held = make("tiger", capacity=25)
  compiled = recommender._answer(held.system, held.config)
  held.recommend(HISTORIES, k=24)
  before = compiled._cache_size()
  inside = held.add_items(NEW[:1])
  inside.recommend([["n1"], ["i2"], ["i3"]], k=24)
  assert compiled._cache_size() == before
  assert jax.tree.map(jnp.shape, inside.assets) == jax.tree.map(jnp.shape, held.assets)
  past = inside.add_items(NEW[1:])
  assert past.assets["trie"]["item"].shape == (50,)
  assert past.assets["tokens"].shape == (51, 3)
  answers, wanted = past.recommend(HISTORIES, k=24), shop.add_items(NEW).recommend(HISTORIES, k=24)
  assert answers.ids == wanted.ids
  np.testing.assert_allclose(answers.scores, wanted.scores, atol=1e-5)
  assert compiled._cache_size() > before


def test_a_grown_recommender_is_saved_and_loaded_like_any(shop, tmp_path):
  grown = shop.add_items(NEW)
  again = Recommender.load(grown.save(tmp_path / "kept"))
  histories = [["n1", "i3"], ["n2"], ["i1"]]
  assert again.recommend(histories, k=24) == grown.recommend(histories, k=24)
  more = again.add_items([{"id": "n3", "title": "blue shelf", "brand": ""}])
  assert more.ids.sid("n3")[:2] == tuple(shop.ids.quantizer.encode(encoder()(["blue shelf"]))[0])


def test_a_given_vector_stands_for_the_text(shop):
  vector = vectors()[7]
  one = shop.add_items([{"id": "n", "title": "?", "vector": vector}])
  assert one.ids.sid("n")[:2] == one.ids.sid(NAMES[6])[:2]
  for bad in (vector[:3], np.full(6, np.nan)):
    with pytest.raises(DataError, match="vector of new item 'n' must be 6 finite numbers"):
      shop.add_items([{"id": "n", "title": "?", "vector": bad}])


def test_a_sentence_encoder_is_a_folder_and_must_be_the_same(shop, tmp_path, monkeypatch):
  class Words:
    dim, fingerprint = 6, "words 1"

    def __call__(self, texts, *, tick):
      assert texts == ["green lamp Lux"]
      return vectors()[7:8]

  asked = []
  monkeypatch.setattr(growth.encoders, "load", lambda path: asked.append(path) or Words())
  held = dataclasses.replace(shop, text=Text(TEMPLATE, "/models/words", "words 1"))
  held = Recommender.load(held.save(tmp_path / "kept"))
  grown = held.add_items(NEW[:1])
  assert grown.ids.sid("n1")[:2] == grown.ids.sid(NAMES[6])[:2] and asked == ["/models/words"]
  monkeypatch.setattr(Words, "fingerprint", "words 2")
  with pytest.raises(DataError, match="/models/words: another encoder than the one of the run"):
    held.add_items(NEW[:1])


def test_content_ranks_a_new_item_beside_the_one_it_equals():
  held, history = make("content"), [["i2", "i7"]]
  grown = held.add_items([{"id": "n", "title": "again", "vector": 3 * spread()[7]}])
  ids, scores, _ = (x[0] for x in grown.recommend(history, k=25))
  assert scores[ids.index("n")] == pytest.approx(scores[ids.index("i7")], abs=1e-6)
  old, wanted = grown.recommend(history, k=24, deny=[["n"]]), held.recommend(history, k=24)
  assert old.ids == wanted.ids
  np.testing.assert_allclose(old.scores, wanted.scores, atol=1e-6)
  np.testing.assert_array_equal(grown.assets["vectors"][:25], held.assets["vectors"])
  with pytest.raises(DataError, match="keeps no text encoder"):
    held.add_items([{"id": "n", "title": "again"}])


@pytest.mark.parametrize(
  ("rows", "said"),
  [
    ([{"id": "i3", "title": "x", "brand": ""}], "'i3' is there already .known"),
    ([{"id": "n", "title": "x", "brand": ""}] * 2, "new item 1: 'n' is there already .twice"),
    ([{"id": "n", "title": "x"}], "'n' lacks brand: its text is '{title} {brand}'"),
    ([{"id": "n"}], "new item 0 has no 'title'"),
    ([{"id": 5, "title": "x"}], "new item 0 has no 'id' that is a string"),
    ([{"id": "", "title": "x"}], "the id of no item"),
  ],
)
def test_new_items_that_cannot_be_say_why(shop, rows, said):
  with pytest.raises(DataError, match=said):
    shop.add_items(rows)


def test_too_many_of_one_code_overflow_with_a_remedy(shop):
  rows = [{"id": f"n{n}", "title": "?", "vector": vectors()[7]} for n in range(9)]
  with pytest.raises(assign.Overflow, match="8 codes tell them"):
    shop.add_items(rows)


@pytest.mark.parametrize("name", ["sasrec", "item_knn", "popularity", "mf"])
def test_systems_that_learn_each_item_must_be_trained_again(name):
  with pytest.raises(DataError, match=f"{name} learns .*Train it again.*content and tiger"):
    make(name).add_items(NEW)


def test_ids_that_others_made_cannot_grow(shop):
  held = dataclasses.replace(shop, ids=dataclasses.replace(shop.ids, quantizer=None))
  with pytest.raises(DataError, match="no quantiser to code new ones"):
    held.add_items(NEW)


# --- Export ---

ALONE = """
import sys
sys.modules["recjax"] = None
import jax, jax.export, numpy as np, safetensors.numpy
folder, *rest = sys.argv[1:]
load = safetensors.numpy.load_file
f = jax.export.deserialize(open(folder + "/recommend.stablehlo", "rb").read())
for assets, asked, out in zip(rest[::3], rest[1::3], rest[2::3]):
  np.savez(out, **f.call(load(folder + "/params.safetensors"), load(assets), dict(np.load(asked))))
assert not [name for name in sys.modules if name.startswith(("recjax.", "flax"))]
print(",".join(f.platforms))
"""


def alone(folder, asked, tmp_path):
  """The artefact's answers to (assets, question), in a process that has no recjax."""
  files = []
  for n, (assets, question) in enumerate(asked):
    np.savez(tmp_path / f"asked{n}.npz", **question)
    files += [assets, tmp_path / f"asked{n}.npz", tmp_path / f"answer{n}.npz"]
  command = [sys.executable, "-I", "-c", ALONE, *map(str, [folder, *files])]
  done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stdout.strip() == "cpu,cuda,tpu"
  return [dict(np.load(path)) for path in files[2::3]]


def asked(histories, deny, width):
  denied = np.zeros((len(histories), width), np.int32)
  for row, each in zip(denied, deny, strict=True):
    row[: len(each)] = [NAMES.index(i) + 1 for i in each]
  return batch(histories) | {"deny": denied}


def test_the_export_answers_the_same_without_recjax_and_takes_a_changed_trie(shop, tmp_path):
  folder = shop.export(tmp_path / "served", k=6, deny=3)
  items = [json.loads(line)["id"] for line in (folder / "items.jsonl").open()]
  assert items == NAMES
  histories, deny = [*HISTORIES, NAMES[2:4]], [["i1", "i2", "i3"], [], ["i5"], []]
  wanted = shop.recommend(histories, k=6, deny=deny)
  # The best item of the first history is taken out of the catalogue.
  gone = NAMES.index(wanted.ids[0][0]) + 1
  tokens = np.array(shop.assets["tokens"][:25])
  tokens[gone] = -1
  less = {**shop.assets, "trie": trie.rebuild(shop.assets["trie"], tokens)}
  (tmp_path / "less.safetensors").write_bytes(bundle.dump(less))
  three, four = (asked(histories[:n], deny[:n], 3) for n in (3, 4))
  every = folder / "assets.safetensors"
  *got, changed = alone(
    folder, [(every, three), (every, four), (tmp_path / "less.safetensors", four)], tmp_path
  )
  for n, answer in zip((3, 4), got, strict=True):
    assert [[items[i - 1] for i in row] for row in answer["ids"]] == wanted.ids[:n]
    np.testing.assert_allclose(answer["scores"], wanted.scores[:n], atol=1e-5)
  assert gone in got[1]["ids"] and gone not in changed["ids"]


@pytest.mark.parametrize("name", ["sasrec", "content", "popularity"])
def test_any_system_is_exported_for_any_batch(name, tmp_path):
  held = make(name)
  folder = held.export(tmp_path / "served", k=5)
  f = jax.export.deserialize((folder / "recommend.stablehlo").read_bytes())
  flat = [bundle.flatten(tree) for tree in (held.params, held.assets)]
  for count in (1, 2, 3):
    question = asked(HISTORIES[:count], [[]] * count, MAX_LEN)
    got = f.call(*flat, question)
    wanted = held.recommend(HISTORIES[:count], k=5)
    assert [[NAMES[i - 1] for i in row] for row in np.asarray(got["ids"])] == wanted.ids
    np.testing.assert_allclose(got["scores"], wanted.scores, atol=1e-5)
  said = (folder / "README.txt").read_text()
  assert "int32 [b, 5]" in said and "cpu, cuda, tpu" in said


def test_a_system_that_must_know_how_many_rows_it_is_asked_is_not_exported(tmp_path):
  with pytest.raises(ValueError, match="has to know how many rows"):
    make("user_knn").export(tmp_path / "served")
  assert list(tmp_path.iterdir()) == []


def test_sizes_that_cannot_be_are_said_before_anything_is_exported(shop, tmp_path):
  for sizes, said in (({"k": 25}, "k is 25"), ({"deny": 0}, "deny is 0")):
    with pytest.raises(DataError, match=said):
      shop.export(tmp_path / "served", **sizes)
  assert not (tmp_path / "served").exists()
