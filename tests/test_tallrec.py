"""TALLRec: score and loss against a softmax written out, a planted taste, and LoRA on top of it."""

import dataclasses
import functools
import json
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data import interactions, loader
from recjax.data.errors import DataError
from recjax.data.ragged import Ragged
from recjax.data.readers import instructions
from recjax.nn import gpt, lora
from recjax.systems.llm import tallrec
from recjax.text import vocab, yes_no
from recjax.train import evaluate, loop, mesh, optim

WORDS = vocab.sentencepieces(
  pathlib.Path(__file__).parent.parent / "tokenizers" / "synthetic.model"
)
YES, NO = yes_no.answers(WORDS)
TITLES = ["", "Amber Kettle", "Steel Lamp", "Amber Lamp", "Steel Kettle"]
LM = gpt.Config(
  vocab=len(WORDS),
  dim=16,
  heads=2,
  ff=32,
  layers=1,
  max_len=128,
  dropout=0.0,
  attention_dropout=0.0,
)
CFG = tallrec.Config(
  YES, NO, LM, lora.Config(rank=4, alpha=8.0, dropout=0.0, targets=("*/kernel",))
)


def shown(count, seed=0):
  """What is amber is liked, what is steel is not; histories hold one of each, in any order."""
  rng = np.random.default_rng(seed)
  history, liked, target, label = [], [], [], []
  for _ in range(count):
    history.append(rng.permutation([rng.choice([1, 3]), rng.choice([2, 4])]))
    target.append([rng.integers(1, 5)])
    liked.append((history[-1] % 2).astype(np.float32))
    label.append([float(target[-1][0] % 2)])
  rows = {"candidates": target, "labels": label, "history": history, "history_labels": liked}
  floats = ("labels", "history_labels")
  columns = {
    n: Ragged.from_rows(r, np.float32 if n in floats else np.int32) for n, r in rows.items()
  }
  ids = interactions.strings([str(i) for i in range(5)])
  return interactions.Impressions(user=np.zeros(count, np.int32), users=ids, items=ids, **columns)


def batches(count, size, **options):
  texts, label = yes_no.told(shown(count), TITLES, noun="thing")
  found = yes_no.examples(WORDS, texts, label, max_len=48)
  return loader.Batches(found, size, max_len=48, **options)


@functools.cache
def made():
  """(system, params, batch); what LoRA adds is not zero."""
  system = tallrec.make(CFG)
  batch = {k: jnp.asarray(v) for k, v in batches(6, 6)[0].items()}
  batch["length"] = jnp.array([48, 40, 47, 3, 48, 31])  # what is beyond is no PAD, and not read
  params = jax.jit(lambda key: system.init(key, (), batch))(jax.random.key(0))
  params["lora"] = jax.tree.map(lambda x: x + 0.1, params["lora"])
  return system._replace(loss=jax.jit(system.loss), score=jax.jit(system.score)), params, batch


def test_the_prompt_is_that_of_the_published_files(tmp_path):
  texts, label = yes_no.told(shown(2), TITLES, noun="movie")
  assert '\n\n### Input:\nUser Preference: "Amber ' in texts[0] or '"Steel ' in texts[0]
  # What the reader of those files finds in ours is what ours were made of.
  records = [
    {"instruction": "?", "input": t.split("### Input:\n")[1].split("\n\n")[0], "output": o}
    for t, o in zip(texts, np.where(label > 0, "Yes.", "No.").tolist(), strict=True)
  ]
  path = tmp_path / "movie.json"
  path.write_text(json.dumps(records))
  found, told = instructions.tallrec(path), shown(2)
  for i in range(2):
    liked_first = np.argsort(-told.history_labels[i], kind="stable")
    names = [TITLES[item] for item in told.history[i][liked_first]]
    assert found.items[found.history[i]].tolist() == names
    np.testing.assert_array_equal(found.history_labels[i], [1, 0])
    assert found.items[found.candidates[i]].tolist() == [TITLES[told.candidates[i][0]]]
  np.testing.assert_array_equal(yes_no.labels([r["output"] for r in records]), label)
  with pytest.raises(DataError, match="answer 2 is 'Maybe.'"):
    yes_no.labels(["Yes.", "Maybe."])


def test_every_candidate_is_a_question_and_the_end_of_a_long_one_is_kept():
  one = shown(1)
  two = dataclasses.replace(
    one,
    candidates=Ragged.from_rows([[1, 2]]),
    labels=Ragged.from_rows([[1.0, 0.0]], np.float32),
  )
  texts, label = yes_no.told(two, TITLES)
  assert len(texts) == 2 and '"Amber Kettle"?' in texts[0] and '"Steel Lamp"?' in texts[1]
  np.testing.assert_array_equal(label, [1, 0])
  whole, cut = (yes_no.examples(WORDS, texts, label, max_len=n) for n in (500, 30))
  assert cut.dense["length"].tolist() == [30, 30] and whole.dense["length"].min() > 30
  np.testing.assert_array_equal(cut.right["source"][0], whole.right["source"][0][-30:])
  with pytest.raises(DataError, match="liked from disliked"):
    yes_no.told(dataclasses.replace(one, history_labels=None), TITLES)


def test_score_and_loss_are_those_of_the_two_words_after_the_prompt():
  system, params, batch = made()
  merged = lora.merged(params["base"], params["lora"], CFG.lora)
  found = jax.nn.log_softmax(jax.jit(gpt.logits, static_argnums=1)(merged, LM, batch["source"]))
  expected, loss = [], 0.0
  for row, length, label in zip(found, batch["length"], batch["labels"], strict=True):
    every = row[int(length) - 1]
    expected.append([every[YES] - every[NO]])
    loss -= every[YES if label[0] else NO]
  np.testing.assert_allclose(system.score(params, (), batch), expected, atol=1e-4)
  out = system.loss(params, (), batch, jax.random.key(0))
  np.testing.assert_allclose((out.sum, out.weight), (loss, 6), rtol=1e-5)
  right = (np.asarray(expected)[:, 0] > 0) == (batch["labels"][:, 0] > 0)
  np.testing.assert_allclose(out.metrics["accuracy"], (right.sum(), 6))


def test_rows_that_only_fill_and_wider_padding_change_nothing():
  system, params, batch = made()
  masked = batch | {"weight": batch["weight"].at[3:].set(0)}
  wrong = masked | {
    "source": batch["source"].at[3:].set(5),
    "length": batch["length"].at[3:].set(0),
  }
  wide = masked | {"source": jnp.pad(masked["source"], ((0, 0), (0, 3)), constant_values=7)}
  first, *others = (system.loss(params, (), x, jax.random.key(0)) for x in (masked, wrong, wide))
  assert first.weight == 3
  for other in others:
    chex.assert_trees_all_close(first, other, rtol=1e-5)


def test_the_loss_is_the_same_on_any_number_of_devices():
  dropping = dataclasses.replace(CFG, lora=dataclasses.replace(CFG.lora, dropout=0.3))
  loss, (_, params, batch) = jax.jit(tallrec.make(dropping).loss), made()
  batch = {k: jnp.concatenate([v, v[:2]]) for k, v in batch.items()} | {
    "weight": jnp.array([1.0, 1, 0, 1, 1, 1, 0, 1])
  }
  found = []
  for count in (1, 8):
    of = mesh.make_mesh(devices=jax.devices()[:count])
    spread = mesh.put_batch(jax.device_get(batch), of)
    found.append(jax.device_get(loss(mesh.put(params, of), (), spread, jax.random.key(2))))
  chex.assert_trees_all_close(*found, rtol=1e-5)
  assert found[0].weight == 6


def test_tokens_that_cannot_be_answers_are_told():
  with pytest.raises(ValueError, match="two tokens of 0..15, they are 3, 3"):
    tallrec.Config(3, 3, dataclasses.replace(LM, vocab=16))
  with pytest.raises(ValueError, match="they are 3, 16"):
    tallrec.Config(3, 16, dataclasses.replace(LM, vocab=16))
  base = jax.eval_shape(lambda: gpt.init(jax.random.key(0), dataclasses.replace(LM, ff=8)))
  with pytest.raises(ValueError, match="other sizes than `lm`"):
    tallrec.from_gpt(made()[1], base)


def test_a_taste_is_learned_and_lora_turns_it_round_while_the_base_stays():
  one = mesh.make_mesh(devices=jax.devices()[:1])

  def learned(adapt, turned, steps, init_from=None):
    """(params, AUC) of a model that learns the taste, or that no means yes."""
    system = tallrec.make(dataclasses.replace(CFG, adapt=adapt))
    parts = []
    for count, seed in ((320, 0), (64, 1)):
      texts, label = yes_no.told(shown(count, seed), TITLES, noun="thing")
      label = 1 - label if turned else label
      parts.append(yes_no.examples(WORDS, texts, label, max_len=48))
    train = loader.Batches(parts[0], 32, max_len=48, seed=0, epochs=None)
    suite = evaluate.Suite(
      "valid", loader.Batches(parts[1], 64, max_len=48), evaluate.probability(system)
    )
    cfg = loop.Config(steps=steps, optimizer=optim.Config(rate=1e-2, schedule="cosine"))
    more = {"mesh": one, "suites": [suite], "init_from": init_from}
    result = loop.fit(system, (), train, cfg, **more)
    return result.params, result.metrics["valid/auc"]

  base, auc = learned(False, False, 100)
  assert base.keys() == {"base"} and auc > 0.95
  tuned, auc = learned(True, True, 60, lambda fresh: tallrec.from_gpt(fresh, base["base"]))
  assert auc > 0.95
  chex.assert_trees_all_equal(tuned["base"], base["base"])
