"""What every system must do, whichever it is: run over all of `SYSTEMS`."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shop as shops

from recjax.data import draws, examples, interactions, loader, splits
from recjax.systems import SYSTEMS
from recjax.text import asked, indexing, instances, questions
from recjax.text.prompts import Prompt
from recjax.train import evaluate, loop, mesh, optim
from recjax.types import PAD

ITEMS, MAX_LEN = 25, 8


def log():
  """Users who walk the items in steps of one: the next item follows from the last."""
  rng = np.random.default_rng(0)
  lengths = rng.integers(4, 12, 120)
  start = np.repeat(rng.integers(0, ITEMS - 1, 120), lengths)
  place = np.concatenate([np.arange(n) for n in lengths])
  x = interactions.from_columns(
    np.repeat(np.arange(120), lengths), (start + place) % (ITEMS - 1), timestamp=place
  )
  assert x.num_items == ITEMS
  return splits.leave_one_out(x)


def codes():
  """[I, 3] distinct codes."""
  grid = np.stack(np.meshgrid(range(4), range(4), range(4), indexing="ij"), -1).reshape(-1, 3)
  return np.concatenate([np.zeros((1, 3), int), grid[np.random.default_rng(1).permutation(64)]])[
    :ITEMS
  ]


def tiger_setup(module):
  cfg = module.Config(
    levels=(4, 4, 4), user_buckets=0, dim=32, heads=2, head_dim=16, ff=64, layers=1, dropout=0.0,
    beams=ITEMS,
  )  # fmt: skip
  return cfg, module.assets(cfg, codes())


def attributes_setup(module):
  """Items share an attribute in threes; every fifth has none, every second a further one."""
  cfg = module.Config(
    num_items=ITEMS, num_attributes=12, max_len=MAX_LEN + 3, dim=32, ff=64, layers=1, dropout=0.0
  )
  rows = [[] if i % 5 == 0 else [1 + i // 3, 10 + i % 2][: 1 + i % 2] for i in range(ITEMS)]
  return cfg, module.assets(cfg, rows)


def sequential_setup(module):
  return module.Config(num_items=ITEMS, max_len=MAX_LEN + 3, dim=32, ff=64, dropout=0.0), ()


def correlated_setup(module):
  cfg, _ = sequential_setup(module)
  return cfg, module.assets(cfg, log().train)


def autoencoder_setup(module):
  cfg = module.Config(num_items=ITEMS, dim=32, state=32, latent=16, hidden=16, dropout=0.0)
  return cfg, ()


def diffusion_setup(module):
  cfg, _ = sequential_setup(module)
  return dataclasses.replace(cfg, steps=20), ()


def popularity_setup(module):
  cfg, _ = sequential_setup(module)
  return cfg, module.assets(cfg, np.bincount(log().train.item, minlength=ITEMS))


def recurrent_setup(module):
  return module.Config(num_items=ITEMS, dim=32, dropout=0.0), ()


def windowed_setup(module):
  users = log().train.num_users
  return module.Config(num_items=ITEMS, num_users=users, dim=16, dropout=0.0), ()


def plain_setup(module):
  return module.Config(num_items=ITEMS), ()


def whole(train):
  """All places of a history learned at once."""
  return examples.sequences(train, MAX_LEN)


def users_setup(module):
  return module.Config(num_users=log().train.num_users, num_items=ITEMS), ()


def users_and_graph_setup(module):
  cfg, _ = users_setup(module)
  return cfg, module.assets(cfg, log().train)


def circle():
  """[I, 2] text vectors: the walk goes around, so an item's text is like that of the next."""
  raw = np.array([0, *map(int, log().train.items[1:])])
  angle = 2 * np.pi * raw / (ITEMS - 1)
  return np.stack([np.cos(angle), np.sin(angle)], 1) * (np.arange(ITEMS) > 0)[:, None]


def content_setup(module):
  cfg = module.Config(num_items=ITEMS, half_life=0.5)
  return cfg, module.assets(cfg, circle())


def hybrid_setup(module):
  cfg = module.Config(num_items=ITEMS, dim=32, negatives=20)
  return cfg, module.assets(cfg, circle())


def users_text_and_graph_setup(module):
  cfg, _ = users_setup(module)
  return cfg, module.assets(cfg, log().train, circle())


def tower_setup(module):
  users = log().train.num_users
  return module.Config(num_users=users, num_items=ITEMS, factors=8, tower=(32, 16, 8)), ()


def rated(train):
  """Each event with a rating that follows from its item."""
  return examples.events(interactions.replace(train, rating=np.float32(1 + train.item % 5)))


def shown(train):
  """Each event as an impression: the item that was taken, and half of the others, that were not."""
  found = examples.prefixes(train)
  taken = found.dense["target"][:, None]
  steps = np.random.default_rng(2).permuted(
    np.tile(np.arange(1, ITEMS - 1), (len(taken), 1)), axis=1
  )
  others = 1 + (taken - 1 + steps[:, :12]) % (ITEMS - 1)
  columns = {
    "user": found.dense["user"],
    "candidates": np.concatenate([taken, others], 1).astype(np.int32),
    "labels": np.tile(np.eye(1, 13, dtype=np.float32), (len(taken), 1)),
  }
  return examples.Examples(columns, found.left)


def titles():
  """[I, 3] words: the walk goes around, and a title ends with the word that the next begins with.

  Some end with a word that many have.
  """
  raw = np.array([0, *map(int, log().train.items[1:])])
  more = np.where(raw % 3, 1 + ITEMS, PAD)
  return np.stack([2 + raw, 2 + (raw + 1) % (ITEMS - 1), more], 1)


NEWS = {"num_items": ITEMS, "num_words": ITEMS + 2, "title": 3, "word_dim": 16, "query": 8}


def nrms_setup(module):
  cfg = module.Config(**NEWS, heads=2, head_dim=16, dropout=0.0)
  return cfg, module.assets(cfg, titles())


def naml_setup(module):
  cfg = module.Config(
    **NEWS, num_categories=4, num_subcategories=8, abstract=3, category_dim=4, dim=32, dropout=0.0
  )
  at = np.arange(ITEMS)
  return cfg, module.assets(cfg, titles(), titles() * (at % 2)[:, None], at % 4, at % 8)


def ebnr_setup(module):
  """Without the pretraining its articles' encoder has to learn here."""
  sizes = {name: NEWS[name] for name in ("num_items", "num_words", "title")}
  cfg = module.Config(**sizes, num_categories=4, dim=32, tuned=True)
  return cfg, module.assets(cfg, titles(), np.arange(ITEMS) % 4)


def npa_setup(module):
  users = log().train.num_users
  cfg = module.Config(**NEWS, num_users=users, user_dim=4, filters=32, dropout=0.0)
  return cfg, module.assets(cfg, titles())


def lstur_setup(module):
  cfg = module.Config(
    **NEWS, num_users=log().train.num_users, num_categories=4, num_subcategories=8,
    category_dim=4, filters=24, dropout=0.0, masked=0.0,
  )  # fmt: skip
  at = np.arange(ITEMS)
  return cfg, module.assets(cfg, titles(), at % 4, at % 8)


def social_setup(module):
  """A user's friend is the next user."""
  x = interactions.replace(log().train, rating=np.float32(1 + log().train.item % 5))
  user = np.arange(1, x.num_users)
  links = interactions.Links(user, np.roll(user, 1), x.users)
  cfg = module.Config(
    num_users=x.num_users, num_items=ITEMS, dim=16, neighbours=6, friends=3, dropout=0.0
  )
  return cfg, module.assets(cfg, x, links)


def in_words(found):
  """Prompts of the last two items; an item is a word of its own."""
  train = log().train
  index = indexing.randomly(ITEMS, seed=0)
  shop = instances.domain(train, index)
  ask = Prompt("sequential", "{history} ?", "{target}", "next")
  cfg = instances.Config(target_len=2, max_history=2)
  words = instances.vocabulary(shops.PIECES, index, train.num_users)
  return instances.Instances([questions.sequential(found)], [ask], shop, words, cfg)


def asked_in_words(before, x):
  found = examples.next_events(before, x)
  answer = examples.Examples({"target": found.dense["target"]}, {"history": found.left["history"]})
  return asked.Asked(in_words(found), answer)


def text_setup(module):
  source = in_words(examples.prefixes(log().train))
  cfg = module.Config(
    vocab=len(source.words), dim=32, heads=2, head_dim=16, ff=64, layers=1, dropout=0.0,
    whole_words=16, length=4, beams=ITEMS,
  )  # fmt: skip
  return cfg, module.assets(cfg, source.words, source.domain.items)


# name -> (module) -> (config, assets), where a config needs more than the number of items.
SETUPS = {
  "p5": text_setup,
  "graphrec": social_setup,
  "neumf": tower_setup,
  "ebnr": ebnr_setup,
  "lstur": lstur_setup,
  "naml": naml_setup,
  "npa": npa_setup,
  "nrms": nrms_setup,
  "mf": users_setup,
  "content": content_setup,
  "hybrid": hybrid_setup,
  "text_graph": users_text_and_graph_setup,
  "lightgcn": users_and_graph_setup,
  "acvae": autoencoder_setup,
  "dreamrec": diffusion_setup,
  "dros": popularity_setup,
  "fdsa": attributes_setup,
  "s3rec": attributes_setup,
  "adaptssr": sequential_setup,
  "bert4rec": sequential_setup,
  "caser": windowed_setup,
  "cl4srec": sequential_setup,
  "coserec": correlated_setup,
  "duorec": sequential_setup,
  "gru4rec": recurrent_setup,
  "sasrec": sequential_setup,
  "tiger": tiger_setup,
  "tiger_lm": tiger_setup,
}
# name -> (train) -> examples to learn from, where they are not one prefix a row.
EXAMPLES = {
  "p5": lambda train: in_words(examples.prefixes(train)),
  "graphrec": rated,
  "neumf": examples.events,
  "ebnr": shown,
  "lstur": shown,
  "naml": shown,
  "npa": shown,
  "nrms": shown,
  "fism": whole,
  "mf": examples.events,
  "text_graph": examples.events,
  "lightgcn": examples.events,
  "acvae": whole,
  "dreamrec": whole,
  "dros": whole,
  "fdsa": whole,
  "s3rec": whole,
  "adaptssr": whole,
  "bert4rec": whole,
  "cl4srec": whole,
  "coserec": whole,
  "gru4rec": whole,
  "sasrec": whole,
  "tiger_lm": whole,
}
# name -> (examples) -> what is drawn anew for each batch of them.
DRAWN = {"duorec": draws.same_target}
# name -> (before, events) -> what is asked, where it is not a history.
ASKED = {"p5": asked_in_words}
# Those that answer ratings, or yes and no, and nothing else; each has its own tests.
RATERS = {"t5_rating", "tallrec"}
# What a wider batch has more of, and on which side.
PADDED = {"history": (3, 0), "alike": (3, 0), "next": (3, 0), "source": (0, 3), "words": (0, 3)}
# Those whose loss draws something for each place, so that a wider batch draws another.
DRAWS = {
  "acvae": "noise is drawn for each place, padded or not",
  "bert4rec": "which places are masked is drawn over all of them",
  "cl4srec": "which places are masked or shuffled is drawn over all of them",
  "coserec": "which places change is drawn over all of them",
  "dreamrec": "noise is drawn for each place, padded or not",
  "fism": "negatives are drawn for each place, padded or not",
  "hybrid": "ids are left out at random, place by place",
}
# Those that compare a target with the batch's `candidates`, and draw nothing else.
GIVEN = {"fism", "lightgcn", "mf", "neumf"}
# Those that have a row of their own for each user.
USERS = {"caser", "graphrec", "ials", "lightgcn", "lstur", "mf", "neumf", "npa", "text_graph"}
# name -> (steps, learning rate), where the default does not suit.
TRAINING = {
  "acvae": (250, 1e-2),
  "dreamrec": (300, 1e-2),
  "fism": (150, 1e-2),
  "graphrec": (150, 1e-2),
  "gru4rec": (200, 1e-2),
  "hybrid": (150, 1e-2),
  "lightgcn": (200, 1e-2),
  "mf": (200, 1e-2),
  "neumf": (250, 1e-2),
  "text_graph": (200, 1e-2),
  "tiger": (600, 3e-3),
  "tiger_lm": (300, 3e-3),
}


def most_met(system, assets, params, batch):
  """Whether the first five are met as often as the five that are met most."""
  count = np.bincount(log().train.item, minlength=ITEMS)
  found = count[np.asarray(system.recommend(params, assets, batch, k=5).ids)]
  return (found == np.sort(count)[::-1][:5]).all(1)


def rated_as_told(system, assets, params, batch):
  """Whether an item is rated within half a step of what all gave it."""
  rating = 1 + np.arange(1, ITEMS) % 5
  return abs(np.asarray(system.score(params, assets, batch))[:, 1:ITEMS] - rating) < 0.5


# What is planted, where it is not the next step of the walk.
PLANTED = {"graphrec": rated_as_told, "popularity": most_met}


@pytest.fixture(scope="module", params=sorted(SYSTEMS.keys() - RATERS))
def made(request):
  """(name, system, assets, params, batch, learned): trained a little on the planted walk.

  `batch` asks, `learned` is one that the loss takes.
  """
  name = request.param
  cfg, assets = SETUPS.get(name, plain_setup)(SYSTEMS[name])
  assert dataclasses.is_dataclass(cfg) and cfg.__dataclass_params__.frozen
  system = SYSTEMS[name].make(cfg)
  split = log()
  one = mesh.make_mesh(devices=jax.devices()[:1])
  found = EXAMPLES.get(name, examples.prefixes)(split.train)
  drawn = [DRAWN[name](found)] if name in DRAWN else []
  train = loader.Batches(found, 64, max_len=MAX_LEN, seed=0, epochs=None, transforms=drawn)
  if system.fit is not None:
    params = loop.solve(system, assets, split.train, mesh=one).params
  else:
    steps, rate = TRAINING.get(name, (200, 3e-3))
    cfg = loop.Config(steps=steps, optimizer=optim.Config(rate=rate, schedule="cosine"))
    params = loop.fit(system, assets, train, cfg, mesh=one).params
  asks = ASKED.get(name, examples.next_events)(split.train, split.valid)
  batch = loader.Batches(asks, 32, max_len=MAX_LEN)[0]
  jitted = system._replace(
    loss=system.loss and jax.jit(system.loss),
    recommend=jax.jit(system.recommend, static_argnames="k"),
    score=system.score and jax.jit(system.score),
  )
  batch, learned = ({k: jnp.asarray(v) for k, v in b.items()} for b in (batch, train[0]))
  if jitted.index is not None:
    assets = jitted.index(params, assets)
  return name, jitted, assets, params, batch, learned


def question(batch):
  return {k: v for k, v in batch.items() if k != "target"}


def test_it_learns_a_planted_pattern(made):
  name, system, assets, params, batch, learned = made
  if name in PLANTED:
    assert PLANTED[name](system, assets, params, question(batch)).mean() >= 0.9
    return
  asked = question(batch) | {"deny": batch["history"]}  # no walk meets an item twice
  hit = system.recommend(params, assets, asked, k=5).ids == batch["target"][:, None]
  assert float(hit.any(1).mean()) >= 0.9


def test_loss_and_gradients_are_finite(made):
  name, system, assets, params, batch, learned = made
  if system.loss is None:
    assert system.fit is not None
    return
  key = jax.random.key(0)
  grads, out = jax.grad(
    lambda p: (lambda o: (o.sum, o))(system.loss(p, assets, learned, key)), has_aux=True
  )(params)
  assert out.weight > 0
  chex.assert_tree_all_finite((grads, out.sum))
  assert any(np.any(g) for g in jax.tree.leaves(grads))


def test_rows_that_only_fill_do_not_count(made):
  name, system, assets, params, batch, learned = made
  if system.loss is None:
    return
  key = jax.random.key(0)
  masked = learned | {"weight": learned["weight"].at[5:].set(0)}
  out = system.loss(params, assets, masked, key)
  other = {k: v if k == "weight" else v.at[5:].set(v[0]) for k, v in masked.items()}
  chex.assert_trees_all_close(out, system.loss(params, assets, other, key), rtol=1e-5)


def test_rows_of_several_histories_are_kept_apart_or_refused(made):
  name, system, assets, params, batch, learned = made
  if EXAMPLES.get(name) is not whole:
    return
  apart = jnp.broadcast_to(jnp.arange(learned["history"].shape[1])[None] // 3 + 1, (64, MAX_LEN))
  packed = learned | {"segment": apart}
  if getattr(SYSTEMS[name], "SEGMENTS", False):
    key = jax.random.key(0)
    one, several = (system.loss(params, assets, x, key).sum for x in (learned, packed))
    assert abs(one - several) > 1e-3
  else:
    with pytest.raises(ValueError, match="several histories.*examples.sequences"):
      system.loss(params, assets, packed, jax.random.key(0))


def test_items_and_users_beyond_the_table_are_not_learned_as_the_last(made):
  name, system, assets, params, batch, learned = made
  if system.loss is None or name == "p5":  # in words there is no such item
    return
  taken = next(column for column in ("next", "target", "candidates") if column in learned)
  for column in (taken, *(["user"] if name in USERS else [])):
    beyond = learned | {column: jnp.where(learned[column] == PAD, PAD, 9_999)}
    assert np.isnan(system.loss(params, assets, beyond, jax.random.key(0)).sum), column


def test_a_user_beyond_the_table_is_unknown(made):
  name, system, assets, params, batch, learned = made
  if name not in USERS:
    return
  for answer in (system.score, system.embed):
    if answer is not None:
      found = [
        answer(params, assets, question(batch) | {"user": jnp.full_like(batch["user"], user)})
        for user in (PAD, 9_999, -1)
      ]
      np.testing.assert_array_equal(found[0], found[1])
      np.testing.assert_array_equal(found[0], found[2])


def test_it_answers_outside_jit_and_inside(made):
  name, system, assets, params, batch, learned = made
  if system.fit is None:
    return
  plain = SYSTEMS[name].make(SETUPS.get(name, plain_setup)(SYSTEMS[name])[0])
  fitted = plain.fit(assets, log().train)
  eager = plain.recommend(fitted, assets, question(batch), k=5)
  closed = jax.jit(lambda asked: plain.recommend(fitted, assets, asked, k=5))(question(batch))
  np.testing.assert_array_equal(eager.ids, closed.ids)


@pytest.mark.parametrize("extra", [1, 3])
def test_given_candidates_that_are_pad_teach_nothing(made, extra):
  name, system, assets, params, batch, learned = made
  if name not in GIVEN:
    return
  given = jnp.tile(jnp.array([[3, 7]]), (64, 1))
  key, found = jax.random.key(0), []
  for candidates in (given, jnp.pad(given, ((0, 0), (0, extra)))):
    asked = learned | {"candidates": candidates}
    found.append(jax.value_and_grad(lambda p, x=asked: system.loss(p, assets, x, key).sum)(params))
  chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-5)


def test_padding_changes_no_answer(made):
  name, system, assets, params, batch, learned = made
  wide = question(batch) | {"history": jnp.pad(batch["history"], ((0, 0), (3, 0)))}
  a = system.recommend(params, assets, question(batch), k=10)
  b = system.recommend(params, assets, wide, k=10)
  np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)


def test_padding_changes_no_loss(made):
  name, system, assets, params, batch, learned = made
  if system.loss is None or not PADDED.keys() & learned.keys():
    return
  if name in DRAWS:
    pytest.skip(DRAWS[name])
  wide = {k: jnp.pad(v, ((0, 0), PADDED[k])) if k in PADDED else v for k, v in learned.items()}
  key = jax.random.key(0)
  a, b = (system.loss(params, assets, x, key) for x in (learned, wide))
  assert a.weight == b.weight > 0
  np.testing.assert_allclose(a.sum, b.sum, rtol=1e-4)


def test_an_unknown_user_gets_an_order_of_the_items(made):
  name, system, assets, params, batch, learned = made
  unknown = question(batch) | {"user": jnp.full(len(batch["history"]), PAD)}
  scores = np.asarray(system.recommend(params, assets, unknown, k=ITEMS - 1).scores)
  assert np.isfinite(scores).all() and (scores[:, 0] > scores[:, -1]).all()


def test_recommended_items_are_distinct_and_exist(made):
  name, system, assets, params, batch, learned = made
  ranked = system.recommend(params, assets, question(batch), k=ITEMS - 1)
  for ids, scores in zip(np.asarray(ranked.ids), np.asarray(ranked.scores), strict=True):
    assert sorted(ids) == list(range(1, ITEMS))
    assert (np.diff(scores) <= 0).all()


def test_denied_items_are_not_recommended_and_nothing_else_is_lost(made):
  name, system, assets, params, batch, learned = made
  deny = question(batch) | {"deny": batch["history"]}
  ranked = system.recommend(params, assets, deny, k=ITEMS - 1)
  for ids, scores, seen in zip(
    np.asarray(ranked.ids), np.asarray(ranked.scores), np.asarray(batch["history"]), strict=True
  ):
    left = sorted(set(range(1, ITEMS)) - set(seen.tolist()))
    assert sorted(ids[: len(left)]) == left
    assert (ids[len(left) :] == PAD).all() and np.isneginf(scores[len(left) :]).all()


def test_jit_equals_eager(made):
  name, system, assets, params, batch, learned = made
  few = {k: v[:2] for k, v in question(batch).items()}
  jitted = system.recommend(params, assets, few, k=10)
  eager = system.recommend.__wrapped__(params, assets, few, k=10)
  np.testing.assert_allclose(jitted.scores, eager.scores, atol=1e-4)


def test_the_loss_is_the_same_jitted_and_eager(made):
  name, system, assets, params, batch, learned = made
  if system.loss is None:
    return
  few, key = {k: v[:2] for k, v in learned.items()}, jax.random.key(0)
  jitted, eager = (f(params, assets, few, key) for f in (system.loss, system.loss.__wrapped__))
  chex.assert_trees_all_close(jitted, eager, rtol=1e-4, atol=1e-5)


def test_scores_rank_as_recommendations_do(made):
  name, system, assets, params, batch, learned = made
  if system.score is None:
    return
  ranked = system.recommend(params, assets, question(batch), k=ITEMS - 1)
  scores = system.score(params, assets, question(batch))
  assert scores.shape[1] >= ITEMS
  np.testing.assert_allclose(
    jnp.take_along_axis(scores, ranked.ids, axis=1), ranked.scores, atol=1e-4
  )
  candidates = jnp.tile(jnp.array([[3, 9, 4]]), (len(scores), 1))
  some = system.score(params, assets, question(batch) | {"candidates": candidates})
  np.testing.assert_allclose(some, scores[:, jnp.array([3, 9, 4])], atol=1e-4)


def test_both_ways_to_evaluate_agree(made):
  name, system, assets, params, batch, learned = made
  split = log()
  asks = ASKED.get(name, examples.next_events)(split.train, split.valid)
  valid = loader.Batches(asks, 64, max_len=MAX_LEN)
  suites = [
    evaluate.Suite("list", valid, evaluate.ranking_by_list(system)),
    evaluate.Suite("score", valid, evaluate.ranking_by_score(system)),
  ]
  report = evaluate.evaluate(params, assets, suites, mesh=mesh.mesh_of(params))
  for metric in ("recall@5", "ndcg@10"):
    np.testing.assert_allclose(report[f"list/{metric}"], report[f"score/{metric}"], atol=1e-6)
