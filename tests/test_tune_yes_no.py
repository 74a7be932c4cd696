"""Tuning a pretrained model on yes-or-no questions: what is left of a run, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import settings, yes_no
from experiments.configs import tallrec_movie
from recjax.data.errors import DataError
from recjax.nn import gpt, lora
from recjax.text import gpt_weights, lora_weights
from recjax.text import yes_no as asked

END = "<|endoftext|>"


def records(count, seed):
  rng = np.random.default_rng(seed)
  films = [f'"Film {i} (19{50 + i})"' for i in range(20)]
  return [
    {
      "instruction": asked.INSTRUCTION.format(noun="movie"),
      "input": f"User Preference: {films[i]}\nUser Unpreference: \n"
      f"Whether the user will like the target movie {films[j]}?",
      "output": "Yes." if (i + j) % 2 else "No.",
    }
    for i, j in rng.integers(0, 20, (count, 2))
  ]


GPT2 = gpt.Config(vocab=330, dim=16, heads=2, ff=32, layers=1, max_len=192)
LLAMA = dataclasses.replace(gpt.LLAMA, vocab=330, dim=16, heads=2, ff=32, layers=1, max_len=192)


def drawn(cfg):
  noise = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: gpt.init(jax.random.key(0), cfg))
  return jax.tree.map(lambda x: np.float32(0.1 * noise.normal(size=x.shape)), shapes)


def pretrained(folder):
  """A small LLaMA with byte pairs, as a download would lie there."""
  tokenizers = pytest.importorskip("tokenizers")
  made = tokenizers.Tokenizer(tokenizers.models.BPE())
  made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = tokenizers.decoders.ByteLevel()
  alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=LLAMA.vocab, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
  )
  made.train_from_iterator([t for r in records(50, 9) for t in r.values()], trainer)
  gpt_weights.save(folder, LLAMA, drawn(LLAMA), entries={"eos_token_id": 0})
  made.save(str(folder / "tokenizer.json"))


@pytest.fixture
def config(tmp_path):
  found = tallrec_movie.get_config()
  for name, size, seed in (("train", 60, 0), ("valid", 20, 1), ("test", 20, 2)):
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(records(size, seed)))
    found.yes_no[name] = str(path)
  found.yes_no.update(shots=16, batch_size=8, max_len=128, vocabulary="")
  found.yes_no.model = str(tmp_path / "model")
  found.train.update(steps=2, eval_every=2, save_every=2)
  return found


def test_a_pretrained_model_is_adapted_measured_and_its_adapter_kept(config, tmp_path):
  pretrained(tmp_path / "model")
  workdir = tmp_path / "run"
  table = yes_no.run(config, workdir, record=tmp_path / "kept", name="mine")
  (row,) = table["tallrec"]
  assert row["seed"] == 0 and 0 <= row["auc"] <= 1 and row["log_loss"] > 0
  kept = json.loads((tmp_path / "kept" / "mine.json").read_text())
  assert kept["systems"]["tallrec"]["mean"]["auc"]["mean"] == row["auc"]
  assert kept["config"]["yes_no"]["model"] == "/".join((tmp_path / "model").parts[-2:])
  rules, base = gpt_weights.rules(LLAMA), drawn(LLAMA)
  adapter, changes = lora_weights.load(workdir / "seed_0" / yes_no.ADAPTER, rules, base)
  assert adapter.rank == lora.Config.rank and len(adapter.targets) == 2  # query and value
  assert all(np.any(x) for x in jax.tree.leaves(changes))  # B too: it was learned


@pytest.mark.parametrize("adapted", [True, False])
def test_what_peft_does_not_know_is_kept_as_a_whole_model(config, tmp_path, adapted):
  cfg, params = settings.build(yes_no.YesNo, config.yes_no), {"base": drawn(GPT2)}
  expected = params["base"]
  if adapted:
    changes = lora.init(jax.random.key(0), params["base"], cfg.lora)
    params["lora"] = jax.tree.map(lambda x: x + 0.1, changes)
    expected = lora.merged(expected, params["lora"], cfg.lora)
  yes_no.keep(tmp_path, cfg, GPT2, params)
  kept, found = gpt_weights.load(tmp_path / yes_no.MODEL)
  assert kept == GPT2
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_what_does_not_fit_is_told_before_any_work(config, tmp_path):
  def refused(message, error=ValueError, **wrong):
    bad = config.copy_and_resolve_references()
    with bad.unlocked():
      bad.yes_no.update(wrong)
    with pytest.raises(error, match=message):
      yes_no.run(bad, tmp_path / "run")
    assert not (tmp_path / "run").exists()

  refused("yes_no.test names no file", test="")
  refused("give yes_no.model, a folder to adapt, or yes_no.vocabulary", vocabulary="x.model")
  refused("no tokenizer.json", DataError, model=str(tmp_path))
  pretrained(tmp_path / "model")
  bad = records(2, 0)
  bad[1]["output"] = "Maybe."
  (tmp_path / "bad.json").write_text(json.dumps(bad))
  refused("answer 2 is 'Maybe.'", DataError, valid=str(tmp_path / "bad.json"))
  with pytest.raises(ValueError, match="shots is 99, but there are 60"):
    config.yes_no.shots = 99
    yes_no.run(config, tmp_path / "run")


def test_shots_are_drawn_by_the_seed():
  from recjax.data.examples import Examples

  every = Examples({"labels": np.arange(50)})
  a, again, b = (yes_no.drawn(every, 8, seed).dense["labels"] for seed in (0, 0, 1))
  np.testing.assert_array_equal(a, again)
  assert len(set(a.tolist())) == 8 and set(a) != set(b)
  assert yes_no.drawn(every, 0, 0) is every
  assert settings.build(yes_no.YesNo, tallrec_movie.get_config().yes_no).shots == 0
