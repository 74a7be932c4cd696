"""Ratings by a head on a T5: both heads, on both states, against NumPy; and a planted law."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shop

from recjax.data import loader
from recjax.nn import t5
from recjax.systems.generative import t5_rating
from recjax.text import asked, instances, prompts, questions
from recjax.train import evaluate, loop, mesh, optim

SPLIT, SHOP, WORDS = shop.world(users=40)
HEADS = ("classes", "regression")


def config(**more):
  sizes = {"dim": 16, "heads": 2, "head_dim": 8, "ff": 32, "layers": 1, "decoder_layers": 1}
  stars = {"values": (1.0, 2.0, 3.0, 4.0, 5.0)}
  return t5_rating.Config(vocab=len(WORDS), **{**sizes, **stars, "dropout": 0.0, **more})


def batches(x, size, **options):
  stars = [p for p in prompts.collection() if (p.task, p.name) == ("rating", "stars")]
  source = asked.rated(instances.Instances([questions.rating(x)], stars, SHOP, WORDS))
  return loader.Batches(source, size, max_len=32, **options)


def made(cfg):
  """(system, params, batch), the head not at its zero."""
  system = t5_rating.make(cfg)
  batch = {k: jnp.asarray(v) for k, v in batches(SPLIT.train, 6, seed=0)[0].items()}
  params = system.init(jax.random.key(0), (), batch)
  bias = params["head"]["bias"]
  params["head"]["bias"] = bias + jnp.linspace(-0.5, 0.8, len(bias))
  return system._replace(loss=jax.jit(system.loss), score=jax.jit(system.score)), params, batch


@functools.partial(jax.jit, static_argnames="cfg")
def states_of(cfg, params, source):
  """The encoder's states, and the decoder's logits at its first place where it has one."""
  states = t5.encode(params, cfg.t5, source)
  if not cfg.decoder_layers:
    return states, None
  start = jnp.zeros((len(source), 1), jnp.int32)
  return states, t5.decode(params, cfg.t5, start, states, source_mask=source != 0)[:, 0]


def heads(cfg, params, batch):
  """What the head says [B, R], of the state written out."""
  states, logits = states_of(cfg, params["t5"], batch["source"])
  if cfg.decoder_layers:
    # The decoder's logits are its state times the table (over sqrt D): the state is solved for.
    table = np.asarray(params["t5"]["embed"]["embedding"], np.float64)
    state = np.linalg.lstsq(table, np.asarray(logits, np.float64).T, rcond=None)[0].T
    state = state * cfg.dim**0.5
  else:
    real = np.asarray(batch["source"]) != 0
    state = np.stack([s[m].mean(0) for s, m in zip(np.asarray(states), real, strict=True)])
  return state @ np.asarray(params["head"]["kernel"]) + np.asarray(params["head"]["bias"])


@pytest.mark.parametrize("decoder_layers", [1, 0])
def test_classes_are_learned_by_cross_entropy_and_answered_by_their_mean(decoder_layers):
  cfg = config(values=(1.0, 2.0, 4.0, 5.0), decoder_layers=decoder_layers)
  system, params, batch = made(cfg)
  given = jnp.array([1.0, 2.0, 4.0, 5.0, 4.4, 1.2])
  batch = batch | {"ratings": given, "weight": jnp.array([1.0, 1, 1, 1, 1, 0])}
  out = heads(cfg, params, batch)
  chance = np.exp(out) / np.exp(out).sum(1, keepdims=True)
  np.testing.assert_allclose(
    system.score(params, (), batch)[:, 0], chance @ np.array(cfg.values), rtol=1e-4
  )
  found = system.loss(params, (), batch, None)
  nearest = [0, 1, 2, 3, 2]
  np.testing.assert_allclose(found.sum, -np.log(chance[np.arange(5), nearest]).sum(), rtol=1e-4)
  assert found.weight == 5 and found.metrics["accuracy"][1] == 5
  assert found.metrics["accuracy"][0] == sum(out[:5].argmax(1) == nearest)


@pytest.mark.parametrize("decoder_layers", [1, 0])
def test_a_regression_is_learned_by_squared_error_and_kept_within_the_scale(decoder_layers):
  cfg = config(regression=True, values=(0.5, 4.0), decoder_layers=decoder_layers)
  system, params, batch = made(cfg)
  batch = batch | {"weight": jnp.array([1.0, 1, 0, 1, 1, 1])}
  predicted = 2.25 + 1.75 * heads(cfg, params, batch)[:, 0]
  keep = np.array([0, 1, 3, 4, 5])
  wanted = ((predicted - np.asarray(batch["ratings"]))[keep] ** 2).sum()
  found = system.loss(params, (), batch, None)
  np.testing.assert_allclose(found.sum, wanted, rtol=1e-3)
  assert found.weight == 5
  score = system.score(params, (), batch)
  assert score.shape == (6, 1)
  np.testing.assert_allclose(score[:, 0], np.clip(predicted, 0.5, 4.0), rtol=1e-3)
  far = params | {"head": {**params["head"], "bias": jnp.array([9.0])}}
  assert (system.score(far, (), batch) == 4.0).all()


@pytest.mark.parametrize("decoder_layers", [1, 0])
def test_padding_changes_no_rating(decoder_layers):
  system, params, batch = made(config(decoder_layers=decoder_layers))
  wide = {"source": jnp.pad(batch["source"], ((0, 0), (0, 9)))}
  narrow = {"source": batch["source"]}
  found = (system.score(params, (), x) for x in (wide, narrow))
  np.testing.assert_allclose(*found, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_stars_that_follow_from_the_item_are_learned(head):
  """Held-out pairs of known items; the best constant is off by 1.4."""
  cfg = config(regression=head == "regression")
  system = t5_rating.make(cfg)
  one = mesh.make_mesh(devices=jax.devices()[:1])
  train = batches(SPLIT.train, 32, seed=0, epochs=None)
  settings = loop.Config(steps=120, optimizer=optim.Config(rate=1e-2, schedule="cosine"))
  params = loop.fit(system, (), train, settings, mesh=one).params
  suite = evaluate.Suite("test", batches(SPLIT.test, 40), evaluate.rating(system))
  report = evaluate.evaluate(params, (), [suite], mesh=one)
  assert report["test/rmse"] < 0.7 and report["test/mae"] < 0.5


def test_ratings_that_are_no_scale_are_named():
  for values in ((3.0,), (2.0, 1.0), (1.0, 1.0)):
    with pytest.raises(ValueError, match="two or more and ascending"):
      config(values=values)
