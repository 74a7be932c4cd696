"""P5: one T5 of many tasks; whole words are read, items are written whole, ratings are means."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shop

from recjax.data import examples, loader
from recjax.decode import trie
from recjax.nn import t5
from recjax.systems.generative import p5
from recjax.text import arithmetic, asked, indexing, instances, objectives, prompts, questions
from recjax.text.prompts import Prompt
from recjax.train import evaluate, generated, loop, mesh, optim, task_vectors

STARS = (1, 2, 3, 4, 5)
SPLIT, SHOP, WORDS = shop.world()
WIDTH = 128


def config(words, **more):
  sizes = {"dim": 32, "heads": 2, "head_dim": 16, "ff": 64, "layers": 1, "dropout": 0.0}
  return p5.Config(vocab=len(words), whole_words=WIDTH, length=16, beams=12, **{**sizes, **more})


def batch_of(source, size=6, **options):
  return {k: jnp.asarray(v) for k, v in loader.Batches(source, size, **options)[0].items()}


@pytest.fixture(scope="module")
def untrained():
  """(config, system, assets, params, a batch of the mixture)."""
  cfg = config(WORDS)
  system, assets = p5.make(cfg), p5.assets(cfg, WORDS, SHOP.items, STARS)
  mixture = shop.mixture(SPLIT, SHOP, WORDS, weights=dict.fromkeys(prompts.TASKS, 1.0), size=60)
  batch = batch_of(mixture, max_len=WIDTH, seed=0)
  return cfg, jitted(system), assets, system.init(jax.random.key(0), assets, batch), batch


def jitted(system):
  answers = {"recommend": jax.jit(system.recommend, static_argnames="k")}
  answers |= {name: jax.jit(getattr(system, name)) for name in ("loss", "score", "generate")}
  return system._replace(**answers)


# --- What is learned ---


def test_without_whole_words_it_is_the_t5_of_texts(untrained):
  """An instance alone: the mean over its tokens is that of the batch."""
  cfg, system, assets, params, batch = untrained
  plain = jax.jit(p5.make(dataclasses.replace(cfg, whole_words=0)).loss)
  texts = jax.jit(lambda params, batch: objectives.text_to_text(params, cfg.t5, batch))
  zero = params | {"whole_words": jax.tree.map(jnp.zeros_like, params["whole_words"])}
  for at in range(3):
    one = batch | {"weight": (jnp.arange(6) == at).astype(jnp.float32)}
    found, wanted = plain({"t5": params["t5"]}, assets, one, None), texts(params["t5"], one)
    np.testing.assert_allclose(found.sum / found.weight, wanted.sum / wanted.weight, rtol=1e-5)
    read = system.loss(zero, assets, one, None)
    np.testing.assert_allclose(read.sum, found.sum, rtol=1e-6)
    assert abs(system.loss(params, assets, one, None).sum - read.sum) > 1e-3


def test_an_instance_counts_once_however_long_it_is(untrained):
  cfg, system, assets, params, batch = untrained
  target = batch["target"]
  likely = jax.nn.log_softmax(logits_of(cfg, params, batch, target))
  each = np.where(target != 0, jnp.take_along_axis(likely, target[..., None], -1)[..., 0], 0)
  lengths = (target != 0).sum(1)
  out = system.loss(params, assets, batch, None)
  np.testing.assert_allclose(out.sum, -(each.sum(1) / lengths).sum(), rtol=1e-5)
  assert out.weight == 6 and len(set(lengths.tolist())) > 1


def test_every_word_that_is_read_is_learned_and_no_other(untrained):
  cfg, system, assets, params, batch = untrained
  grad = jax.jit(jax.grad(lambda p: system.loss(p, assets, batch, None).sum))(params)
  rows = np.flatnonzero(np.abs(grad["whole_words"]["embedding"]).sum(1))
  used = np.unique(np.asarray(batch["words"])[np.asarray(batch["source"]) != 0])
  assert rows.tolist() == used.tolist()


def test_rows_that_only_fill_count_for_nothing(untrained):
  _, system, assets, params, batch = untrained
  filled = batch | {"weight": batch["weight"].at[2:].set(0)}
  other = {n: v if n == "weight" else v.at[2:].set(v[0]) for n, v in filled.items()}
  out = system.loss(params, assets, filled, None)
  assert out.weight == 2
  chex.assert_trees_all_close(out, system.loss(params, assets, other, None), rtol=1e-6)


def test_padding_changes_nothing(untrained):
  _, system, assets, params, batch = untrained
  longest = int((batch["source"] != 0).sum(1).max())
  narrow = batch | {name: batch[name][:, :longest] for name in ("words", "source")}
  assert longest < WIDTH
  wide, short = (system.loss(params, assets, x, None).sum for x in (batch, narrow))
  np.testing.assert_allclose(wide, short, rtol=1e-5)


def test_sources_with_more_words_than_rows_are_named(untrained):
  cfg, _, assets, params, batch = untrained
  few = p5.make(dataclasses.replace(cfg, whole_words=WIDTH - 1))
  with pytest.raises(ValueError, match=f"sources of {WIDTH} tokens may have more words"):
    few.loss(params, assets, batch, None)


# --- What is answered ---


@functools.partial(jax.jit, static_argnames="cfg")
def logits_of(cfg, params, batch, target):
  """[B, T, V] by the decoder over the whole target at once."""
  x = params["t5"]["embed"]["embedding"][batch["source"]]
  x = x + params["whole_words"]["embedding"][batch["words"]]
  mask = batch["source"] != 0
  encoded = t5.encode(params["t5"], cfg.t5, embeds=x, mask=mask)
  read = objectives.shift_right(target)
  return t5.decode(params["t5"], cfg.t5, read, encoded, source_mask=mask)


def likelihoods(cfg, params, batch, words, texts):
  """[B, N]: each text as the target of each question."""
  rows = words.encode(texts)
  own = {0, *(token for row in rows for token in row.tolist())}
  other = [token for token in range(cfg.vocab) if cfg.own_tokens and token not in own]
  found = []
  for row in rows.right_padded(np.arange(len(rows)), int(rows.lengths.max())):
    every = jnp.tile(row[None], (len(batch["source"]), 1))
    logits = logits_of(cfg, params, batch, every).at[..., np.array(other, int)].set(-jnp.inf)
    each = jnp.take_along_axis(jax.nn.log_softmax(logits), every[..., None], -1)[..., 0]
    found.append(jnp.where(every != 0, each, 0).sum(1))
  return np.stack(found, 1)


def uneven():
  """A shop whose items are written in one or two tokens, one as others begin."""
  tokens = [[0, 0, 0], [1, 0, 0], [2, 3, 0], [2, 0, 0], [2, 1, 0], [3, 3, 0]]
  index = indexing.Index(np.array(tokens, np.int32), ("<pad>", "<x_0>", "<x_1>", "<x_2>"))
  written = ["".join(index.vocab[t] for t in row if t) for row in tokens]
  return written, WORDS.add(index.vocab[1:])


@pytest.mark.parametrize("own_tokens", [False, True])
def test_items_of_any_length_have_the_likelihood_of_their_text(untrained, own_tokens):
  _, _, _, _, batch = untrained
  written, words = uneven()
  cfg = config(words, own_tokens=own_tokens)
  system, assets = jitted(p5.make(cfg)), p5.assets(cfg, words, written)
  params = system.init(jax.random.key(1), assets, batch)
  batch = {n: batch[n] for n in ("source", "words")}
  rows = [words.encode([text])[0] for text in written[1:]]
  assert {len(row) for row in rows} == {2, 3} and trie.levels(assets["trie"]) == 3
  wanted = likelihoods(cfg, params, batch, words, written[1:])
  scores = system.score(params, assets, batch)
  np.testing.assert_allclose(scores[:, 1:6], wanted, atol=1e-4)
  assert np.isneginf(scores[:, 0]).all() and np.isneginf(scores[:, 6:]).all()
  candidates = jnp.tile(jnp.array([[3, 1]]), (6, 1))
  some = system.score(params, assets, batch | {"candidates": candidates})
  np.testing.assert_allclose(some, wanted[:, [2, 0]], atol=1e-4)
  ranked = system.recommend(params, assets, batch, k=5)
  np.testing.assert_array_equal(ranked.ids, 1 + np.argsort(-wanted, axis=1))
  np.testing.assert_allclose(ranked.scores, -np.sort(-wanted, axis=1), atol=1e-4)


def test_denied_items_are_not_recommended(untrained):
  _, system, assets, params, batch = untrained
  deny = jnp.tile(jnp.array([[1, 5, 0]]), (6, 1))
  ranked = system.recommend(params, assets, batch | {"deny": deny}, k=12)
  assert (np.sort(ranked.ids)[:, 2:] == [2, 3, 4, 6, 7, 8, 9, 10, 11, 12]).all()


@pytest.mark.parametrize("own_tokens", [False, True])
def test_a_rating_is_the_mean_by_the_likelihoods_of_the_texts(untrained, own_tokens):
  cfg, _, _, params, batch = untrained
  cfg = dataclasses.replace(cfg, own_tokens=own_tokens)
  assets = p5.assets(cfg, WORDS, SHOP.items, STARS)
  wanted = likelihoods(cfg, params, batch, WORDS, [str(s) for s in STARS])
  chance = np.exp(wanted) / np.exp(wanted).sum(1, keepdims=True)
  found = jax.jit(p5.make_rating(cfg).score)(params, assets, batch)
  assert found.shape == (6, 1)
  np.testing.assert_allclose(found[:, 0], chance @ np.array(STARS), rtol=1e-4)


def test_a_text_is_written_greedily_up_to_its_end(untrained):
  cfg, system, assets, params, batch = untrained
  tokens = np.asarray(system.generate(params, assets, batch))
  assert tokens.shape == (6, cfg.length)
  best = logits_of(cfg, params, batch, jnp.asarray(tokens)).argmax(-1)
  np.testing.assert_array_equal(tokens, np.where(tokens == 0, 0, best))


def test_a_vocabulary_that_does_not_fit_is_named():
  with pytest.raises(ValueError, match=f"has {len(WORDS)} tokens.*room for 1000"):
    p5.assets(dataclasses.replace(config(WORDS), vocab=1000), WORDS, SHOP.items)
  with pytest.raises(ValueError, match="items 1 and 2 have the same codes"):
    p5.assets(config(WORDS), WORDS, ["", SHOP.items[1], SHOP.items[1]])


def test_a_pretrained_t5_keeps_what_it_knows_and_new_tokens_are_fresh(untrained):
  cfg, _, _, params, _ = untrained
  known = len(shop.PIECES)
  old = t5.init(jax.random.key(7), dataclasses.replace(cfg.t5, vocab=known + 28))  # rows to spare
  found = p5.from_t5(params, old, known=known)
  chex.assert_trees_all_equal(found["t5"]["encoder"], old["encoder"])
  chex.assert_trees_all_equal(found["whole_words"], params["whole_words"])
  table, fresh = (tree["t5"]["embed"]["embedding"] for tree in (found, params))
  np.testing.assert_array_equal(table[:known], old["embed"]["embedding"][:known])
  np.testing.assert_array_equal(table[known:], fresh[known:])
  other = t5.init(jax.random.key(7), dataclasses.replace(cfg.t5, ff=8))
  with pytest.raises(ValueError, match="not of these sizes"):
    p5.from_t5(params, other, known=known)
  with pytest.raises(ValueError, match="do not go into"):
    p5.from_t5(params, old, known=known + 29)


def test_a_t5_with_a_head_of_its_own_brings_it(untrained):
  """Gated and not tied, as v1.1 and Flan are; the decoder is deeper than the encoder."""
  cfg = config(WORDS, gated=True, tied=False, scaled=False, decoder_layers=2)
  assert (cfg.t5.layers, cfg.t5.decoder_layers, cfg.t5.gated) == (1, 2, True)
  assert not cfg.t5.tied and not cfg.t5.scaled and config(WORDS).t5.decoder_layers == 1
  known = len(shop.PIECES)
  fresh = {"t5": t5.init(jax.random.key(0), cfg.t5)}
  old = t5.init(jax.random.key(7), dataclasses.replace(cfg.t5, vocab=known + 28))
  found = p5.from_t5(fresh, old, known=known)["t5"]
  head = found["head"]["kernel"]
  np.testing.assert_array_equal(head[:, :known], old["head"]["kernel"][:, :known])
  np.testing.assert_array_equal(head[:, known:], fresh["t5"]["head"]["kernel"][:, known:])
  tied = {name: tree for name, tree in old.items() if name != "head"}
  with pytest.raises(ValueError, match="one has a head of its own"):
    p5.from_t5(fresh, tied, known=known)


# --- All tasks at once ---


def fit(system, assets, source, steps, *, rate=3e-3, params=None, batch_size=64, max_len=96):
  train = loader.Batches(source, batch_size, max_len=max_len, seed=0, epochs=None)
  cfg = loop.Config(steps=steps, optimizer=optim.Config(rate=rate, schedule="cosine"))
  one = mesh.make_mesh(devices=jax.devices()[:1])
  begin = None if params is None else lambda fresh: params
  return jax.device_get(loop.fit(system, assets, train, cfg, mesh=one, init_from=begin).params)


@pytest.fixture(scope="module")
def learned():
  """A mixture learned in prompts that leave the last of each family out."""
  cfg = config(WORDS, dim=48, layers=2)
  system, assets = p5.make(cfg), p5.assets(cfg, WORDS, SHOP.items, STARS)
  seen, unseen = prompts.hold_out(prompts.collection())
  weights = {"sequential": 3.0, "rating": 1.0, "explanation": 1.0, "summary": 1.0, "direct": 1.0}
  mixture = shop.mixture(SPLIT, SHOP, WORDS, chosen=seen, weights=weights, size=20000)
  params = fit(system, assets, mixture, 700)
  return cfg, system, assets, params, seen, {p.task: p for p in unseen}


def suites(cfg, system, shop_of, words, valid, chosen):
  """The ranking and rating suites of held-out events in the given prompts."""
  sequential, rating = chosen
  q = questions.sequential(examples.next_events(SPLIT.train, valid))
  settings = instances.Config(target_len=16)
  ranked = asked.ranked(instances.Instances([q], [sequential], shop_of, words, settings))
  rated = asked.rated(
    instances.Instances([questions.rating(valid)], [rating], shop_of, words, settings)
  )
  batches = [loader.Batches(source, 40, max_len=96) for source in (ranked, rated)]
  return [
    evaluate.Suite("sequential", batches[0], evaluate.ranking_by_list(system, (1, 5))),
    evaluate.Suite("rating", batches[1], evaluate.rating(p5.make_rating(cfg))),
  ]


def report_of(learned, chosen):
  cfg, system, assets, params, _, _ = learned
  one = mesh.make_mesh(devices=jax.devices()[:1])
  found = suites(cfg, system, SHOP, WORDS, SPLIT.valid, chosen)
  return evaluate.evaluate(params, assets, found, mesh=one)


def named(seen, task, name):
  return next(p for p in seen if (p.task, p.name) == (task, name))


@pytest.mark.slow
def test_each_task_of_the_mixture_is_learned(learned):
  """Held-out events in seen prompts: hits by beams, stars, and the words of reviews."""
  cfg, system, assets, params, seen, _ = learned
  report = report_of(learned, [named(seen, "sequential", "next"), named(seen, "rating", "stars")])
  assert report["sequential/recall@1"] > 0.5 and report["sequential/ndcg@5"] > 0.7
  assert report["rating/rmse"] < 0.5 and report["rating/mae"] < 0.4  # a constant: 1.4
  one = mesh.make_mesh(devices=jax.devices()[:1])
  for task, make, name in (
    ("explanation", questions.explanation, "say"),
    ("summary", questions.summary, "short"),
  ):
    source = instances.Instances(
      [make(SPLIT.valid)], [named(seen, task, name)], SHOP, WORDS, instances.Config(target_len=16)
    )
    said, wanted = generated.texts(
      params, assets, loader.Batches(source, 40, max_len=96), system=system, decode=WORDS.decode,
      mesh=one,
    )  # fmt: skip
    scores = generated.scores(said, wanted)
    assert len(said) == len(SPLIT.valid) and scores["rougeL"] > 0.85 and scores["exact_match"] > 0.6
    assert wanted[0] == source[0].text.target


@pytest.mark.slow
def test_prompts_that_were_never_seen_are_understood(learned):
  """Zero-shot: chance hits one of twelve; the best constant is off by the ratings' deviation."""
  unseen = learned[-1]
  report = report_of(learned, [unseen["sequential"], unseen["rating"]])
  assert report["sequential/recall@1"] > 0.3
  assert report["rating/rmse"] < SPLIT.valid.rating.std()


@pytest.mark.slow
def test_items_of_another_shop_are_recommended_by_the_same_parameters(learned):
  """Zero-shot: others walk fewer items, numbered otherwise but written in the tokens learned."""
  cfg, system, assets, params, seen, _ = learned
  step = {SHOP.items[i]: SHOP.items[j] for i, j in _walk(SPLIT.train)}
  path = [SHOP.items[1]]
  while len(path) < 6:
    path.append(step[path[-1]])
  other = dataclasses.replace(SHOP, items=["", *path[::-1]])  # item 6 comes first, then 5, 4 ...
  theirs = p5.assets(cfg, WORDS, other.items)
  ask = named(seen, "sequential", "follow")
  history = [[6, 5], [5, 4], [4, 3], [3, 2]]
  users = np.arange(1, 5)
  asks = questions.sequential(
    examples.Examples(
      {"user": users, "target": np.array([h[-1] - 1 for h in history])},
      {"history": instances.Ragged.from_rows(history)},
    )
  )
  source = asked.ranked(instances.Instances([asks], [ask], other, WORDS))
  batch = batch_of(source, 4, max_len=96)
  ranked = system.recommend(params, theirs, batch, k=6)
  assert (np.sort(ranked.ids) == np.arange(1, 7)[None]).all()
  assert np.mean(ranked.ids[:, 0] == batch["target"]) >= 0.75


@pytest.mark.slow
def test_a_prompt_of_ones_own_is_answered(learned):
  cfg, system, assets, params, *_ = learned
  own = Prompt("sequential", "after {history} , what comes next ?", "{target}", "own")
  report = report_of(learned, [own, named(learned[4], "rating", "called")])
  assert report["sequential/recall@5"] > 0.6


def _walk(x):
  """(item, the item that follows it) of every step."""
  same = x.user[1:] == x.user[:-1]
  return set(zip(x.item[:-1][same].tolist(), x.item[1:][same].tolist(), strict=True))


# --- Arithmetic before, task vectors after ---


def test_a_task_vector_of_sums_teaches_sums_and_is_taken_away_exactly(untrained):
  cfg, system, assets, base, _ = untrained
  sums = arithmetic.Sums(WORDS, 8, highest=3)
  tuned = fit(p5.make(cfg), assets, sums, 200, params=base, batch_size=8, max_len=24)
  vector = task_vectors.difference(tuned, base)
  edited = task_vectors.Edited(base).add("sums", vector)
  asked_sums = loader.Batches(sums, 8, max_len=24)
  one = mesh.make_mesh(devices=jax.devices()[:1])

  def right(params):
    said, wanted = generated.texts(
      params, assets, asked_sums, system=system, decode=WORDS.decode, mesh=one
    )
    return generated.scores(said, wanted)["exact_match"]

  chex.assert_trees_all_equal(edited.params, tuned)
  assert right(edited.params) == 1.0 > right(base)
  chex.assert_trees_all_equal(edited.remove("sums").params, base)
  # On top of another training of the same base: neither is lost in the sum.
  shift = jax.tree.map(lambda x: x + 1e-4, base)
  both = edited.add("shift", task_vectors.difference(shift, base))
  chex.assert_trees_all_equal(both.remove("sums").params, shift)
  assert right(both.params) > 0.9
