"""Words: ids by frequency, padding at the right, vectors of a text file."""

import numpy as np
import pytest

from recjax.data.errors import DataError
from recjax.text import words


def test_words_are_numbered_by_how_often_they_occur():
  vocabulary = words.fit(["The cat, the dog", "the Cat!", ""])
  assert vocabulary.words == ("the", "cat", "!", ",", "dog")
  assert len(vocabulary) == 7  # with PAD and the unknown word
  assert words.fit(["the cat", "the dog"], least=2).words == ("the",)


def test_a_text_is_cut_and_padded_at_the_right_and_a_strange_word_is_unknown():
  vocabulary = words.Words(("the", "cat"))
  found = vocabulary.batch(["The cat", "a cat the cat the", ""], 4)
  np.testing.assert_array_equal(found, [[2, 3, 0, 0], [1, 3, 2, 3], [0, 0, 0, 0]])


def test_a_table_starts_from_the_vectors_of_a_file(tmp_path):
  path = tmp_path / "vectors.txt"
  path.write_text("cat 1 2 3\nhorse 7 7 7\nthe -1 -2 -3\n")
  vocabulary = words.Words(("the", "dog", "cat"))
  table = words.vectors(path, vocabulary)
  assert table.shape == (5, 3) and table.dtype == np.float32
  np.testing.assert_array_equal(table[[0, 2, 4]], [[0, 0, 0], [-1, -2, -3], [1, 2, 3]])
  assert np.unique(table[[1, 3]]).size == 6  # drawn


@pytest.mark.parametrize(
  "text, told", [("cat one", "not numbers"), ("cat 1\nthe 1 2", "unlike"), ("dog 1", "none of")]
)
def test_a_file_that_holds_no_vectors_is_an_error(tmp_path, text, told):
  path = tmp_path / "vectors.txt"
  path.write_text(text)
  with pytest.raises(DataError, match=told):
    words.vectors(path, words.Words(("the", "cat")))


def test_texts_without_words_are_an_error():
  with pytest.raises(DataError, match="no word occurs 2 times"):
    words.fit(["a b c"], least=2)
  with pytest.raises(ValueError, match="read at least one"):
    words.Words(("a",)).batch(["a"], 0)
