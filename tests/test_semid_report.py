"""The report: every figure by hand, published ids by the same functions, the table, the figure."""

import json

import jax
import numpy as np
import pytest

from recjax.data.errors import DataError
from recjax.semid import artefact, report, rqkmeans

CODES = np.array([[0, 0], [0, 1], [0, 1], [1, 0]])


def test_use_and_collisions_by_hand():
  found = report.measure(CODES, sizes=(4, 2))
  assert found.used == (2, 2) and found.prefixes == (2, 3) and found.sizes == (4, 2)
  assert found.collisions == pytest.approx(1 - 3 / 4)
  three, one = 3 / 4, 1 / 4
  assert found.perplexity[0] == pytest.approx(np.exp(-three * np.log(three) - one * np.log(one)))
  assert found.perplexity[1] == pytest.approx(2)


def test_purity_by_hand():
  # First code 0: a, a, b, of which 2 agree; 1: b. Both codes: only the unknown leaves (0, 1) pure.
  assert report.purity(CODES, np.array(["a", "a", "b", "b"])) == (3 / 4, 3 / 4)
  assert report.purity(CODES, np.array(["a", "", "b", "b"])) == (2 / 3, 1)
  with pytest.raises(DataError, match="no item has a category"):
    report.purity(CODES, np.array([""] * 4))


def test_neighbours_by_hand():
  # On a line: 0 and 1 are each other's nearest, 3's is 1 (2 away), 9's is 3.
  found = report.neighbours(CODES, np.array([[0.0], [1.0], [3.0], [9.0]]))
  # First codes agree for 0, 1 and 3; both codes for 3 alone.
  assert found == (3 / 4, 1 / 4)


def test_neighbours_do_not_depend_on_where_the_vectors_lie():
  rng = np.random.default_rng(0)
  x, codes = rng.normal(size=(200, 4)), rng.integers(0, 3, (200, 2))
  expected = report.neighbours(codes, x)
  assert report.neighbours(codes, x + 1e4) == expected == report.neighbours(codes, 1e-30 * x)
  x[3, 1] = np.nan
  with pytest.raises(DataError, match="finite"):
    report.neighbours(codes, x)


def test_a_sample_of_neighbours_is_of_all_items():
  rng = np.random.default_rng(0)
  codes, x = rng.integers(0, 3, (90, 2)), rng.normal(size=(90, 4))
  far = np.square(x[:, None] - x[None]).sum(-1)
  np.fill_diagonal(far, np.inf)
  same = codes[:, 0] == codes[far.argmin(1), 0]
  assert report.neighbours(codes, x)[0] == pytest.approx(same.mean())
  rows = np.unique(np.linspace(0, 89, 10).astype(int))
  assert report.neighbours(codes, x, sample=10)[0] == pytest.approx(same[rows].mean())


def test_reconstruction_is_a_share_of_the_variance():
  x = np.array([[0.0, 0.0], [2.0, 0.0]])
  assert report.reconstruction(x, x) == 0
  assert report.reconstruction(x, np.array([[1.0, 0.0]] * 2)) == 1  # the mean for all


def test_a_whole_report_with_table_json_and_figure(tmp_path):
  x = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
  made = rqkmeans.residual(x, (8, 8), jax.random.key(0))
  codes = made.encode(x)
  codes = np.concatenate([codes, np.zeros((200, 1), int)], 1)
  found = report.measure(
    codes, vectors=x, category=np.where(x[:, 0] > 0, "up", "down"), quantizer=made
  )
  assert found.collisions == found.collisions_before > 0
  assert 0 < found.reconstruction < 0.5 and 0.5 < found.purity[0] < found.purity[1] <= 1
  assert found.neighbours[0] > 3 / 8
  again = json.loads(found.json())
  assert again["items"] == 200 and tuple(again["used"]) == found.used
  table = found.table().splitlines()
  assert table[0].startswith("| level | codes | used |") and table[2].startswith("| 1 | 8 | 8 |")
  assert "before the policy" in table[-1]
  report.figure(codes, tmp_path / "ids.png", vectors=x, title="ids")
  report.figure(codes, tmp_path / "bare.png")
  assert (tmp_path / "ids.png").read_bytes()[:4] == b"\x89PNG"
  bare = report.measure(CODES)
  assert "| - | - |" in bare.table() and "variance" not in bare.table()


def test_bad_arguments_are_named():
  with pytest.raises(DataError, match="without PAD"):
    report.measure(np.array([[-1, -1], [0, 0]]))
  with pytest.raises(DataError, match="3 vectors for 4 items"):
    report.measure(CODES, vectors=np.zeros((3, 2)))
  with pytest.raises(DataError, match="at least two items"):
    report.neighbours(CODES[:1], np.zeros((1, 2)))


PUBLISHED = ["letter", "tiger_nonameuntitled_rqkmeans", "tiger_nonameuntitled_rqvae"]
PUBLISHED += ["unigenrec_rqkmeans", "unigenrec_rqvae_faiss"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_ids_of_beauty_have_the_stated_shapes(real_data, name):
  found = artefact.published(real_data / "amazon14_p5" / "Beauty" / f"sid_{name}.json.gz")
  measured = report.measure(found.codes[1:])
  assert measured.items == 12_101
  distinct = round((1 - measured.collisions) * 12_101)
  assert distinct == (12_088 if name == "letter" else 12_101)
