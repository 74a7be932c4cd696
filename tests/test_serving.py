"""The export answers as the recommender does, in a process without it."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from shelf import HISTORIES, MAX_LEN, NAMES, batch, make

from recjax import bundle
from recjax.data.errors import DataError
from recjax.decode import trie

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


@pytest.mark.parametrize("name", ["sasrec", "content", "popularity", "tiger, packed", "tiger_lm"])
def test_any_system_is_exported_for_any_batch(name, tmp_path):
  held = make(name)
  folder = held.export(tmp_path / "served", k=5)
  f = jax.export.deserialize((folder / "recommend.stablehlo").read_bytes())
  flat = [bundle.flatten(tree) for tree in (held.params, held.assets)]
  wanted = held.recommend(HISTORIES, k=5)
  for count in (1, 3):
    question = asked(HISTORIES[:count], [[]] * count, MAX_LEN)
    got = f.call(*flat, question)
    assert [[NAMES[i - 1] for i in row] for row in np.asarray(got["ids"])] == wanted.ids[:count]
    np.testing.assert_allclose(got["scores"], wanted.scores[:count], atol=1e-5)
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
