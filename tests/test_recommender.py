"""A recommender answers as its system does, by raw ids."""

import dataclasses

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from shelf import HISTORIES, ITEMS, KINDS, MAX_LEN, NAMES, TITLES, batch, make

from recjax import recommender
from recjax.data.errors import DataError
from recjax.systems import SYSTEMS
from recjax.types import System


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


def test_few_shapes_are_compiled(compilations):
  held, compiled = make("sasrec"), compilations
  for count in (3, 4, 3):
    held.recommend([NAMES[:2]] * count, k=5, deny=[NAMES[:n] for n in range(1, count + 1)])
  assert len(compiled) == 1  # 4 rows, denied lists of 3 or 4 both in 4 places
  held.recommend([NAMES[:2]] * 5, k=5)
  assert len(compiled) == 2


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


def test_items_are_as_many_as_the_system_has():
  held = make("sasrec")
  with pytest.raises(ValueError, match="config has 24 items, the recommender 6"):
    dataclasses.replace(held, items=held.items[:7], titles=held.titles[:7])
