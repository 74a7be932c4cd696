"""LSA against scikit-learn's TF-IDF and a dense SVD by NumPy."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.data import synthetic
from recjax.data.errors import DataError
from recjax.text import lsa

TEXTS = [
  "red nail polish",
  "red red lip balm, red!",
  "Blue nail file",
  "a guitar in blue",
  "guitar strings for a bass guitar",
  "bass strings",
  "lip balm",
  "",
]


@pytest.fixture(scope="module")
def titles():
  catalog = synthetic.generate(synthetic.SMALL).catalog
  return [f"{t} {d}" for t, d in zip(catalog["title"][1:], catalog["description"][1:], strict=True)]


def tfidf(texts, fitted):
  """What the fitted terms and weights make of texts, dense."""
  counts = lsa._counts(texts, fitted._index, fitted.shortest)
  return lsa._tfidf(counts, fitted.idf, fitted.sublinear).toarray()


@pytest.mark.parametrize("sublinear", [False, True])
@pytest.mark.parametrize("min_df", [1, 2])
@pytest.mark.parametrize("shortest", [1, 2])
def test_tfidf_is_that_of_sklearn(sublinear, min_df, shortest):
  text = pytest.importorskip("sklearn.feature_extraction.text", reason="the reference")
  reference = text.TfidfVectorizer(
    sublinear_tf=sublinear, min_df=min_df, token_pattern=rf"\b\w{{{shortest},}}\b"
  )
  expected = reference.fit_transform(TEXTS).toarray()
  fitted = lsa.fit(TEXTS, dim=2, min_df=min_df, sublinear=sublinear, shortest=shortest)
  assert list(fitted.terms) == reference.get_feature_names_out().tolist()
  np.testing.assert_allclose(fitted.idf, reference.idf_, rtol=1e-6)
  np.testing.assert_allclose(tfidf(TEXTS, fitted), expected, atol=1e-6)
  new = ["red red guitar unheard", "nothing known"]
  np.testing.assert_allclose(tfidf(new, fitted), reference.transform(new).toarray(), atol=1e-6)


def test_tfidf_by_hand():
  """Two texts, `red` in both: idf 1. `nail` in one: ln(3 / 2) + 1 = 1.405465."""
  fitted = lsa.fit(["red nail", "red", "red"], dim=1, min_df=1)
  assert fitted.terms == ("nail", "red")
  idf = np.log(4 / 2) + 1  # three texts, one with `nail`, each count one up
  np.testing.assert_allclose(fitted.idf, [idf, 1], rtol=1e-6)
  norm = np.hypot(idf, 1)
  np.testing.assert_allclose(tfidf(["red nail"], fitted), [[idf / norm, 1 / norm]], rtol=1e-6)


def test_vectors_are_those_of_a_dense_svd(titles):
  fitted = lsa.fit(titles, dim=12)
  rows = tfidf(titles, fitted).astype(np.float64)
  _, strength, directions = np.linalg.svd(rows, full_matrices=False)
  assert np.diff(strength[:13]).max() < -1e-3, "directions must be told apart for this test"
  directions = directions[:12].T
  largest = directions[np.abs(directions).argmax(0), np.arange(12)]
  directions = directions * np.sign(largest)
  np.testing.assert_allclose(fitted.directions, directions, atol=1e-4)
  expected = rows @ directions
  expected /= np.linalg.norm(expected, axis=1, keepdims=True)
  np.testing.assert_allclose(fitted(titles), expected, atol=1e-4)


def test_fitting_twice_gives_the_same_bits_and_another_start_the_same_signs(titles):
  first, second = lsa.fit(titles, dim=8), lsa.fit(titles, dim=8)
  np.testing.assert_array_equal(first.directions, second.directions)
  other = lsa.fit(titles, dim=8, seed=1)
  np.testing.assert_allclose(first.directions, other.directions, atol=1e-4)
  assert (np.take_along_axis(first.directions, abs(first.directions).argmax(0)[None], 0) > 0).all()


def test_items_alike_are_near(titles):
  """Kettles lie nearer to kettles than to violins."""
  kettles = [i for i, t in enumerate(titles) if "Kettle in" in t]
  others = [i for i, t in enumerate(titles) if "Violin in" in t]
  assert len(kettles) > 4 and len(others) > 4
  vectors = lsa.fit(titles, dim=32)(titles)
  same, apart = vectors[kettles] @ vectors[kettles].T, vectors[kettles] @ vectors[others].T
  assert same.mean() > apart.mean() + 0.2


def test_each_text_is_a_matter_of_itself(titles):
  fitted = lsa.fit(titles, dim=8)
  np.testing.assert_array_equal(fitted(titles)[5:7], fitted(titles[5:7]))


def test_a_text_without_a_known_term_is_zero_and_others_have_length_one(titles):
  vectors = lsa.fit(titles, dim=8)(["", "?!", "zyzzyva", titles[0]])
  np.testing.assert_array_equal(vectors[:3], 0)
  np.testing.assert_allclose(np.linalg.norm(vectors[3]), 1, rtol=1e-6)
  assert vectors.dtype == np.float32


@given(st.lists(st.text(alphabet="ab ,É1\n", max_size=12), max_size=6))
def test_any_texts_give_finite_vectors(texts):
  fitted = lsa.fit(TEXTS + ["aa bb", "aa bb ab"], dim=3, min_df=1)
  vectors = fitted(texts)
  assert vectors.shape == (len(texts), 3)
  norms = np.linalg.norm(vectors, axis=1)
  assert np.all(np.isclose(norms, 1, atol=1e-5) | (norms == 0))


def test_more_directions_than_there_are_to_tell_apart_are_no_harm():
  """Two texts, twenty times each, span two directions; a third adds nothing."""
  texts = ["red nail polish", "blue guitar string"] * 20
  vectors = lsa.fit(texts, dim=5)(texts)
  np.testing.assert_allclose(vectors @ vectors[0], [1, 0] * 20, atol=1e-6)


def test_a_saved_value_is_the_same_value(titles, tmp_path):
  fitted = lsa.fit(titles + ["crème brûlée"] * 2, dim=8)
  fitted.save(tmp_path / "lsa.safetensors")
  loaded = lsa.load(tmp_path / "lsa.safetensors")
  assert loaded.terms == fitted.terms and "crème" in loaded.terms
  assert loaded.fingerprint == fitted.fingerprint
  np.testing.assert_array_equal(loaded(titles), fitted(titles))
  short = lsa.fit(TEXTS, dim=3, min_df=1, shortest=1)
  short.save(tmp_path / "short.safetensors")
  loaded = lsa.load(tmp_path / "short.safetensors")
  assert "a" in loaded.terms and loaded.fingerprint == short.fingerprint
  np.testing.assert_array_equal(loaded(["a", "blue a"]), short(["a", "blue a"]))
  assert loaded(["a"]).any() and not lsa.fit(TEXTS, dim=3, min_df=1)(["a"]).any()
  with pytest.raises(ValueError, match="1 or more"):
    lsa.fit(TEXTS, dim=3, shortest=0)


def test_the_fingerprint_changes_with_what_was_fitted(titles):
  fitted = lsa.fit(titles, dim=4)
  assert fitted.fingerprint != lsa.fit(titles, dim=5).fingerprint
  assert fitted.fingerprint != dataclasses.replace(fitted, sublinear=False).fingerprint


def test_as_many_directions_as_the_texts_bear(titles):
  assert lsa.fit(TEXTS, dim=None, min_df=1).directions.shape[1] == 4  # of 8 texts
  few = lsa.fit(titles, dim=None)
  assert few.directions.shape[1] == len(few.terms) // 2 < 128


def test_too_few_texts_or_terms_say_so(titles):
  with pytest.raises(DataError, match="8 texts, and 8 terms in at least 2"):
    lsa.fit(TEXTS, dim=8)
  with pytest.raises(DataError, match="0 texts"):
    lsa.fit([], dim=1)
  with pytest.raises(DataError, match="0 words are in at least 2 of the 2 texts"):
    lsa.fit(["red lamp", "blue soap"], dim=None)
  with pytest.raises(DataError, match="Lower `dim`"):
    lsa.fit(["one two three"] * 9, dim=3)
  with pytest.raises(ValueError, match="there is at least 1, or None"):
    lsa.fit(titles, dim=0)
  with pytest.raises(TypeError, match="put it into brackets"):
    lsa.fit(titles, dim=4)("red lamp")


def test_a_missing_or_damaged_file_is_named(titles, tmp_path):
  path = tmp_path / "lsa.safetensors"
  with pytest.raises(DataError, match="no such file"):
    lsa.load(path)
  lsa.fit(titles, dim=4).save(path)
  path.write_bytes(path.read_bytes()[:-10])
  for damaged in (path, tmp_path):
    with pytest.raises(DataError, match="not a saved LSA"):
      lsa.load(damaged)
