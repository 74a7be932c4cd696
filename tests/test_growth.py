"""New items get their place beside the old, which keep theirs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shelf import CODED, HISTORIES, NAMES, TEMPLATE, encoder, make, spread, vectors

from recjax import growth
from recjax.data.errors import DataError
from recjax.growth import Text
from recjax.recommender import Recommender
from recjax.semid import assign

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


@pytest.mark.parametrize("name", ["tiger, packed", "tiger_lm"])
def test_where_the_last_level_tells_items_apart_a_new_one_gets_the_nearest_free_code(name):
  held = make(name)
  grown, before = held.add_items(NEW), held.ids.codes
  assert grown.ids.codes[:25].tolist() == before.tolist()
  quantizer = held.ids.quantizer
  *books, last = (np.asarray(book) for book in quantizer.codebooks)
  made = (encoder()(["green lamp Lux", "grey clock"]) - quantizer.shift[None]) / quantizer.scale
  for vector, code in zip(made, grown.ids.codes[25:], strict=True):
    for book, c in zip(books, code[:2], strict=True):
      assert c == ((vector - book) ** 2).sum(1).argmin()
      vector = vector - book[c]
    taken = before[1:][(before[1:, :2] == code[:2]).all(1), 2]
    cost = ((vector - last) ** 2).sum(1)
    assert cost.argmin() in taken  # of an old item that is like it
    cost[taken] = np.inf
    assert code[2] == cost.argmin()
  assert tuple(grown.ids.codes[25, :2]) != tuple(grown.ids.codes[26, :2])


@pytest.mark.parametrize("name", ["tiger", "tiger_lm"])
def test_old_items_keep_their_scores_beside_new_ones(name):
  held = make(name)
  grown = held.add_items(NEW)
  old = grown.recommend(HISTORIES, k=26, allow=[NAMES] * 3)
  wanted = held.recommend(HISTORIES, k=24)
  assert old.ids == wanted.ids
  np.testing.assert_allclose(old.scores, wanted.scores, atol=1e-5)
  every = grown.recommend(HISTORIES, k=26, allow=[[*NAMES, "n1", "n2"]] * 3)
  assert all(set(ids) == {*NAMES, "n1", "n2"} for ids in every.ids)


def test_of_a_softmax_over_children_the_new_take_their_share_from_the_old():
  held = make("tiger, packed")
  grown = held.add_items(NEW)
  before, after = held.recommend(HISTORIES, k=24), grown.recommend(HISTORIES, k=26)
  for k, answers in ((24, before), (26, after)):
    assert np.shape(answers.ids) == (3, k)
    np.testing.assert_allclose(np.exp(answers.scores).sum(1), 1, atol=1e-4)
  for row in range(3):
    now = dict(zip(after.ids[row], after.scores[row], strict=True))
    lost = np.array(before.scores[row]) - [now[item] for item in before.ids[row]]
    assert (lost > -1e-5).all() and (lost > 1e-3).any()


def test_tiger_compiles_nothing_within_the_capacity_and_doubles_past_it(shop, compilations):
  held = make("tiger", capacity=25)
  held.recommend(HISTORIES, k=24)
  inside = held.add_items(NEW[:1])
  inside.recommend([["n1"], ["i2"], ["i3"]], k=24)
  assert len(compilations) == 1
  assert jax.tree.map(jnp.shape, inside.assets) == jax.tree.map(jnp.shape, held.assets)
  past = inside.add_items(NEW[1:])
  assert past.assets["trie"]["item"].shape == (50,)
  assert past.assets["tokens"].shape == (51, 3)
  answers = past.recommend(HISTORIES, k=24)
  assert len(compilations) == 2
  wanted = shop.add_items(NEW).recommend(HISTORIES, k=24)
  assert answers.ids == wanted.ids
  np.testing.assert_allclose(answers.scores, wanted.scores, atol=1e-5)


@pytest.mark.parametrize("name", CODED)
def test_a_grown_recommender_is_saved_and_loaded_like_any(name, tmp_path):
  grown = make(name).add_items(NEW)
  again = Recommender.load(grown.save(tmp_path / "kept"))
  histories = [["n1", "i3"], ["n2"], ["i1"]]
  assert again.recommend(histories, k=24) == grown.recommend(histories, k=24)
  more = again.add_items([{"id": "n3", "title": "blue shelf", "brand": ""}])
  blue = grown.ids.quantizer.encode(encoder()(["blue shelf"]))[0]
  assert more.ids.sid("n3")[:2] == tuple(blue[:2])


def test_a_given_vector_stands_for_the_text(shop):
  vector = vectors()[7]
  one = shop.add_items([{"id": "n", "title": "?", "vector": vector}])
  assert one.ids.sid("n")[:2] == one.ids.sid(NAMES[6])[:2]
  for bad in (vector[:3], np.full(9, np.nan)):
    with pytest.raises(DataError, match="vector of new item 'n' must be 9 finite numbers"):
      shop.add_items([{"id": "n", "title": "?", "vector": bad}])


def test_a_sentence_encoder_is_a_folder_and_must_be_the_same(shop, tmp_path, monkeypatch):
  class Words:
    dim, fingerprint = 9, "words 1"

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


@pytest.mark.parametrize("summary", ["recent", "nearest"])
def test_content_compiles_nothing_within_its_room_and_lists_none_of_it(summary, compilations):
  held = make("content")
  held = dataclasses.replace(held, config=dataclasses.replace(held.config, summary=summary))
  new = [{"id": f"n{n}", "title": "?", "vector": -spread()[n + 1]} for n in range(8)]
  grown = held.add_items(new[:1])  # 6 rows of room
  histories = [["n0", "i3"], ["i2"], ["i3"]]
  grown.recommend(histories, k=20)
  before = len(compilations)
  inside = grown.add_items(new[1:6])
  answers = inside.recommend(histories, k=20)
  assert len(compilations) == before and inside.config.num_items == 31
  every = inside.recommend(histories, k=30)
  assert set(every.ids[0]) == {*NAMES, *(row["id"] for row in new[:6])}
  assert [ids[:20] for ids in every.ids] == answers.ids
  assert all(np.isfinite(scores).all() for scores in every.scores)
  at_once = held.add_items(new)  # more than a quarter
  assert at_once.config.num_items == 33
  alike = at_once.recommend(histories, k=20, deny=[["n6", "n7"]] * 3)
  assert alike.ids == answers.ids


@pytest.mark.parametrize(
  ("rows", "said"),
  [
    ([{"id": "i3", "title": "x", "brand": ""}], "'i3' is there already .known"),
    ([{"id": "n", "title": "x", "brand": ""}] * 2, "new item 1: 'n' is there already .twice"),
    ([{"id": "n", "title": "x"}], "'n' lacks brand: its text is '{title} {brand}'"),
    ([{"id": "n"}], "new item 0 has no 'title'"),
    ([{"id": 5, "title": "x"}], "new item 0 has no 'id' that is a string"),
    ([{"id": "", "title": "x"}], "the id of no item"),
    ([{"id": "n", "title": "\ud800"}], "new item 0: title .* holds half a character"),
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


def test_without_a_policy_for_equal_codes_nothing_grows(shop):
  with pytest.raises(DataError, match="how new items that share all codes are told apart"):
    dataclasses.replace(shop, collisions=None).add_items(NEW)


def test_ids_that_others_made_cannot_grow(shop):
  held = dataclasses.replace(shop, ids=dataclasses.replace(shop.ids, quantizer=None))
  with pytest.raises(DataError, match="no quantiser to code new ones"):
    held.add_items(NEW)
