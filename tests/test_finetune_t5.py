"""Fine-tuning a T5 on pairs: it learns to reverse words, keeps its answers, names what is bad."""

import functools
import json
import logging
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import pairs, settings
from experiments.configs import t5_pairs
from recjax.data.errors import DataError
from recjax.nn import t5
from recjax.text import t5_weights, vocab
from recjax.train import generated, mesh

ROOT = pathlib.Path(__file__).parent.parent
VOCAB = str(ROOT / "tokenizers" / "synthetic.model")
# One token each.
WORDS = "White Amber Black Teal Steel Olive Navy Silver Light Wood".split()


def config(**train):
  found = t5_pairs.get_config()
  found.model.update(dim=64, heads=2, head_dim=32, ff=128, layers=1, decoder_layers=1, dropout=0.0)
  found.model.update(tied=False, scaled=False)
  found.pairs.update(batch_size=64, source_len=6, target_len=5)
  found.train.update(steps=900, eval_every=450, save_every=450, patience=0)
  found.train.optimizer.update(name="adamw", rate=2e-3)
  found.train.update(train)
  return found


def texts(seed, count):
  """Two or three words, and the same backwards."""
  rng = np.random.default_rng(seed)
  rows = [rng.choice(WORDS, rng.integers(2, 4)).tolist() for _ in range(count)]
  return [" ".join(r) for r in rows], [" ".join(r[::-1]) for r in rows]


def write(path, rows):
  if path.suffix == ".tsv":
    lines = ["input\ttarget", *("\t".join(r) for r in rows)]
  else:
    lines = [json.dumps({"target": t, "input": i, "id": 3}) for i, t in rows]
  path.write_text("\n".join(lines) + "\n")
  return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp("pairs")
  sizes = {"train.tsv": 3000, "valid.jsonl": 70, "test.tsv": 90}
  found = {}
  for seed, (name, size) in enumerate(sizes.items()):
    found[name.split(".")[0]] = write(folder / name, zip(*texts(seed, size), strict=True))
  return found


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
  """A run that was cut after 100 steps and went on to 900; on one device, which is quicker."""
  workdir = tmp_path_factory.mktemp("run")
  alone = functools.partial(mesh.make_mesh, devices=jax.devices()[:1])
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(mesh, "make_mesh", alone)
    first = pairs.run(config(steps=100), files, workdir, vocabulary=VOCAB)
    last = pairs.run(config(), files, workdir, vocabulary=VOCAB)
  return workdir, first, last


def test_it_learns_to_reverse_and_goes_on_where_it_was(finished, files, caplog):
  workdir, first, last = finished
  assert last["exact_match"] > 0.9 > first["exact_match"]
  assert last["rougeL"] > 0.9 and last["valid/accuracy"] > 0.95
  with caplog.at_level(logging.INFO, "recjax"):
    again = pairs.run(config(), files, workdir, vocabulary=VOCAB)
  assert "goes on from step 900 of 900" in caplog.text
  assert again == last == json.loads((workdir / "metrics.json").read_text())


def test_every_test_pair_is_answered_in_the_order_of_the_file(finished, files):
  workdir, _, metrics = finished
  rows = [json.loads(line) for line in (workdir / "predictions.jsonl").read_text().splitlines()]
  inputs, targets = texts(2, 90)
  assert [r["input"] for r in rows] == inputs and [r["target"] for r in rows] == targets
  right = np.mean([r["prediction"] == r["target"] for r in rows])
  np.testing.assert_allclose(right, metrics["exact_match"], rtol=1e-6)


def test_the_model_it_leaves_can_be_started_from(finished, files, tmp_path):
  workdir, _, last = finished
  cfg, _ = t5_weights.load(workdir / "model")
  assert (cfg.dim, cfg.layers, cfg.vocab) == (64, 1, len(vocab.t5(VOCAB)))
  found = config(steps=1, eval_every=0)
  found.train.optimizer.rate = 0.0
  again = pairs.run(found, files, tmp_path, model=str(workdir / "model"))
  np.testing.assert_allclose(again["exact_match"], last["exact_match"], atol=1e-6)
  np.testing.assert_allclose(again["valid/loss"], last["valid/loss"], rtol=1e-4)


@pytest.mark.slow
def test_beams_find_what_is_likelier_and_packed_pairs_are_learned(files, tmp_path):
  found = config(steps=500)
  found.pairs.update(packed=True, beams=3, batch_size=16, source_len=24, target_len=24)
  metrics = pairs.run(found, files, tmp_path, vocabulary=VOCAB)
  assert metrics["exact_match"] > 0.5


def test_what_is_too_long_is_cut_and_counted(caplog):
  words = vocab.t5(VOCAB)
  said = pairs.Texts(["black and red " * 9, "blue"], ["small " * 30, "set"])
  cfg = pairs.Pairs(source_len=10, target_len=7)
  with caplog.at_level(logging.WARNING, "experiments"):
    encoded = pairs.encode("train", said, words, cfg)
  assert encoded.source.lengths[0] == 10 and encoded.target.lengths[0] == 7
  assert encoded.source[0][-1] == encoded.target[0][-1] == words.eos
  assert "train: 1 of 2 inputs are longer than 10 tokens" in caplog.text
  assert "train: 1 of 2 targets are longer than 7 tokens" in caplog.text
  caplog.clear()
  pairs.encode("train", pairs.Texts(["blue"], ["set"]), words, cfg)
  assert not caplog.text


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("a.tsv", "input\ttarget\nx\ty\nx\ty\tz\n", r"a\.tsv:3: 3 fields, 2 expected"),
    ("a.tsv", "input\toutput\nx\ty\n", r"a\.tsv:1: there is no column 'target'"),
    ("a.tsv", "input\ttarget\nx\ty\nx\t \n", r"a\.tsv:3: the target is empty"),
    ("a.tsv", "", r"a\.tsv: the file is empty"),
    ("a.tsv", "input\ttarget\n", r"a\.tsv: the file holds no records"),
    ("a.jsonl", '{"input": "x", "target": "y"}\n{"input": ', r"a\.jsonl:2: neither JSON"),
    (
      "a.jsonl",
      '{"input": "x", "target": "y"}\n{"input": "x"}',
      r"a\.jsonl:2: .*no field 'target'",
    ),
    ("a.jsonl", '{"input": "x", "target": 3}', r"a\.jsonl:1: target 3 is not text"),
    ("a.txt", "x\ty\n", r"cannot be told from the extension '\.txt'"),
  ],
)
def test_bad_files_are_named_with_the_line(tmp_path, name, content, message):
  path = tmp_path / name
  path.write_text(content)
  with pytest.raises(DataError, match=message):
    pairs.read(str(path))


def test_a_vocabulary_beyond_the_model_is_named(finished, files, tmp_path):
  found = config()
  found.model.vocab = 500
  with pytest.raises(DataError, match="the vocabulary has .* tokens, the model a table of 500"):
    pairs.run(found, files, tmp_path / "run", vocabulary=VOCAB)
  assert not (tmp_path / "run").exists()


def test_a_signal_ends_it_with_a_status_that_tells(files, tmp_path, monkeypatch, capsys):
  def stopped(*args, **kwargs):
    return pairs.loop.Result(None, None, {}, stopped_by=15)

  monkeypatch.setattr(pairs.loop, "fit", stopped)
  with pytest.raises(SystemExit) as end:
    pairs.run(config(), files, tmp_path, vocabulary=VOCAB)
  assert end.value.code == 128 + 15 and str(tmp_path) in capsys.readouterr().out
  assert not (tmp_path / "metrics.json").exists()


def test_scores_by_hand():
  got = generated.scores(["a b c d", "x y"], ["a b c d", "y x"])
  assert got["exact_match"] == 0.5
  np.testing.assert_allclose([got["rouge1"], got["rouge2"], got["rougeL"]], [1, 0.5, 0.75])


def test_the_sizes_of_the_config_are_those_of_t5():
  assert settings.build(t5.Config, t5_pairs.get_config().model).dim == 128


def test_the_command_says_what_is_wrong(tmp_path):
  bad = tmp_path / "bad.tsv"
  bad.write_text("input\ttarget\nx\n")
  flags = [f"--{name}={bad}" for name in ("train", "valid", "test")]
  command = [sys.executable, "-m", "experiments.finetune_t5", f"--workdir={tmp_path}", *flags]
  options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 120}
  got = subprocess.run([*command, f"--vocab={VOCAB}"], **options)
  assert got.returncode != 0 and "bad.tsv:2: 1 fields, 2 expected" in got.stdout + got.stderr
