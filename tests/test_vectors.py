"""Item vectors: the text of an item, parts and cache on disk, and what damage does to them."""

import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.data import synthetic
from recjax.data.errors import DataError
from recjax.data.interactions import Catalog, strings
from recjax.text import lsa, vectors

FULL = "title: {title} brand: {brand} categories: {categories} price: {price}"
TITLE = "{title}"


def catalog(titles):
  return Catalog(
    strings(["", *(f"i{n}" for n in range(len(titles)))]), {"title": strings(["", *titles])}
  )


@dataclasses.dataclass
class Letters:
  """An encoder that counts a, b and c, and remembers what it was asked."""

  fingerprint: str = "letters"
  dim: int = 3
  fails_at: str = "never"
  asked: list = dataclasses.field(default_factory=list)

  def __call__(self, texts, *, tick):
    if self.fails_at in texts:
      raise KeyboardInterrupt
    self.asked += texts
    tick(len(texts))
    return np.array([[t.count(c) for c in "abc"] for t in texts], np.float32)


def test_a_field_of_arrays_reads_like_one_of_lists():
  several = np.empty(4, object)
  several[:] = ["", np.array(["red ", "lamp"], object), np.array([]), [np.nan, "x"]]
  items = Catalog(strings(["", "x", "y", "z"]), {"categories": several})
  assert vectors.render(items, "of {categories}") == ["", "of red, lamp", "of", "of nan, x"]


def test_a_template_is_filled_from_the_fields():
  categories = np.empty(3, object)
  categories[:] = [(), ("Beauty", "Nails"), ()]
  items = Catalog(
    strings(["", "x", "y"]),
    {
      "title": strings(["", "Red  polish\n", ""]),
      "categories": categories,
      "price": np.array([np.nan, 19.99, np.nan], np.float32),
      "year": np.array([0, 2014, 0]),
    },
  )
  template = "title: {title} categories: {categories} price: {price} year: {year}"
  assert vectors.render(items, template) == [
    "",
    "title: Red polish categories: Beauty, Nails price: 19.99 year: 2014",
    "title: categories: price: year: 0",
  ]
  assert vectors.render(items, "{{{title}}} {title}") == ["", "{Red polish} Red polish", "{}"]
  assert vectors.render(items, "none") == ["", "none", "none"]
  assert vectors.render(items, "") == ["", "", ""]


@pytest.mark.parametrize(
  ("value", "told"), [(5.0, "5"), (100.3, "100.3"), (0.1, "0.1"), (1e-3, "0.001"), (np.nan, "")]
)
def test_a_price_is_written_as_it_was_read(value, told):
  items = Catalog(strings(["", "x"]), {"price": np.array([np.nan, value], np.float32)})
  assert vectors.render(items, "{price}")[1] == told


def test_a_missing_text_is_empty():
  items = Catalog(strings(["", "x"]), {"title": np.array(["", None], object)})
  assert vectors.render(items, "title: {title}") == ["", "title:"]


@pytest.mark.parametrize("template", ["{titel}", "{title.x}", "{}", "{title!r}", "{title:>9}"])
def test_a_field_that_is_not_there_is_told_with_those_that_are(template):
  items = synthetic.generate(synthetic.TINY).catalog
  with pytest.raises(DataError, match=r"are \{title\}, \{brand\}, .*\{price\}"):
    vectors.render(items, f"a {template} b")


def test_rows_are_those_of_the_catalogue_and_pad_is_zero():
  out = vectors.item_vectors(catalog(["aab", "", "cc"]), "a{title}", Letters())
  np.testing.assert_array_equal(out, [[0, 0, 0], [3, 1, 0], [1, 0, 0], [1, 0, 2]])
  assert out.dtype == np.float32


def test_an_empty_catalogue_has_the_row_of_pad():
  assert vectors.item_vectors(catalog([]), TITLE, Letters()).shape == (1, 3)


def test_parts_change_nothing(tmp_path):
  items = catalog(["ab" * n for n in range(11)])
  expected = vectors.item_vectors(items, TITLE, Letters())
  for part in (1, 3, 11, 50):
    out = vectors.item_vectors(items, TITLE, Letters(), cache=tmp_path / str(part), part=part)
    np.testing.assert_array_equal(out, expected)


def test_what_is_kept_is_not_computed_again(tmp_path):
  items, first, second = catalog(["a", "bb", "c"]), Letters(), Letters()
  expected = vectors.item_vectors(items, TITLE, first, cache=tmp_path)
  out = vectors.item_vectors(items, TITLE, second, cache=tmp_path)
  np.testing.assert_array_equal(out, expected)
  assert (len(first.asked), len(second.asked)) == (3, 0)
  assert [p.suffix for p in tmp_path.iterdir()] == [".safetensors"], "parts are cleared away"


def test_another_text_template_or_encoder_is_computed_anew(tmp_path):
  vectors.item_vectors(catalog(["a", "bb"]), TITLE, Letters(), cache=tmp_path)
  for titles, template, fingerprint in (
    (["a", "bc"], TITLE, "letters"),
    (["ab", "b"], TITLE, "letters"),  # the same letters, cut otherwise
    (["a", "bb"], "{title} ", "letters"),
    (["a", "bb"], TITLE, "others"),
  ):
    encoder = Letters(fingerprint=fingerprint)
    vectors.item_vectors(catalog(titles), template, encoder, cache=tmp_path)
    assert len(encoder.asked) == 2, (titles, template, fingerprint)


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
  items = catalog(list("abcabcabc"))
  stopped = Letters(fails_at="b")
  with pytest.raises(KeyboardInterrupt):
    vectors.item_vectors(items, TITLE, stopped, cache=tmp_path, part=1)
  assert stopped.asked == ["a"]
  again = Letters()
  out = vectors.item_vectors(items, TITLE, again, cache=tmp_path, part=1)
  assert again.asked == list("bcabcabc")
  np.testing.assert_array_equal(out, vectors.item_vectors(items, TITLE, Letters()))


def test_parts_of_another_size_are_not_mixed(tmp_path):
  items = catalog(list("abcabcab"))
  with pytest.raises(KeyboardInterrupt):
    vectors.item_vectors(items, TITLE, Letters(fails_at="c"), cache=tmp_path, part=2)
  out = vectors.item_vectors(items, TITLE, Letters(), cache=tmp_path, part=3)
  np.testing.assert_array_equal(out, vectors.item_vectors(items, TITLE, Letters()))


@given(st.data())
def test_damage_is_said_and_made_good(tmp_path_factory, data):
  """Any bit flipped, any end cut off: the answer is right, with a warning if the file was not."""
  cache, items = tmp_path_factory.mktemp("cache"), catalog(["a", "bb", "c"])
  expected = vectors.item_vectors(items, TITLE, Letters(), cache=cache)
  (path,) = cache.iterdir()
  good = path.read_bytes()
  at = data.draw(st.integers(0, len(good) - 1))
  bad = bytearray(good[: at + data.draw(st.sampled_from([0, len(good)]))])
  if len(bad) == len(good):
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
  path.write_bytes(bad)
  with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    out = vectors.item_vectors(items, TITLE, Letters(), cache=cache)
  np.testing.assert_array_equal(out, expected)
  if said:
    assert "is damaged" in str(said[0].message) and str(path) in str(said[0].message)
    assert path.read_bytes() == good, "it is written anew"


def test_a_damaged_value_is_never_returned(tmp_path):
  items = catalog(["a", "bb", "c"])
  expected = vectors.item_vectors(items, TITLE, Letters(), cache=tmp_path)
  (path,) = tmp_path.iterdir()
  data = bytearray(path.read_bytes())
  data[-1] ^= 64  # the last float's exponent
  path.write_bytes(data)
  with pytest.warns(UserWarning, match="checksum"):
    out = vectors.item_vectors(items, TITLE, Letters(), cache=tmp_path)
  np.testing.assert_array_equal(out, expected)


def test_a_damaged_part_is_computed_anew(tmp_path):
  items = catalog(list("abcab"))
  with pytest.raises(KeyboardInterrupt):
    vectors.item_vectors(items, TITLE, Letters(fails_at="c"), cache=tmp_path, part=1)
  path = sorted(tmp_path.rglob("*.safetensors"))[0]
  path.write_bytes(path.read_bytes()[:-1])
  again = Letters()
  with pytest.warns(UserWarning, match="is damaged"):
    vectors.item_vectors(items, TITLE, again, cache=tmp_path, part=1)
  assert again.asked == list("acab")


def test_a_vector_that_is_no_number_is_an_error_and_nothing_is_kept(tmp_path):
  class Broken(Letters):
    def __call__(self, texts, *, tick):
      return np.array([[np.nan if t == "bad" else 1.0] * 3 for t in texts])

  with pytest.raises(ValueError, match="row 2 is not finite; its text: 'bad'"):
    vectors.item_vectors(catalog(["a", "bad"]), TITLE, Broken(), cache=tmp_path)
  assert not list(tmp_path.rglob("*.safetensors"))
  with pytest.raises(ValueError, match="gave .*not"):
    vectors.item_vectors(catalog(["a"]), TITLE, Letters(dim=4))


def test_the_bar_is_quiet_when_nobody_watches(capfd):
  vectors.item_vectors(catalog(["a", "b"]), TITLE, Letters())
  assert capfd.readouterr() == ("", "")


def test_a_catalogue_becomes_vectors_in_one_call_by_lsa(tmp_path):
  items = synthetic.generate(synthetic.TINY).catalog
  encoder = lsa.fit(vectors.render(items, FULL)[1:], dim=8)
  out = vectors.item_vectors(items, FULL, encoder, cache=tmp_path, part=10)
  assert out.shape == (len(items) + 1, 8)
  np.testing.assert_array_equal(out[0], 0)
  np.testing.assert_allclose(np.linalg.norm(out[1:], axis=1), 1, rtol=1e-5)
