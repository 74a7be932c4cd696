"""Runs in words: every way to write an item, families of questions, sums before or beside."""

import json
import types

import jax
import numpy as np
import pytest
import toy

from experiments import language, pipeline, results, settings
from recjax.data import splits
from recjax.semid import learn
from recjax.systems.generative import p5, t5_rating
from recjax.text import instances
from recjax.train import loop, stages
from recjax.types import PAD

VOCABULARY = "tokenizers/synthetic.model"


def section(families=("sequential", "direct"), **more):
  mixture = instances.Config(
    target_len=24, candidates=4, weights=dict.fromkeys(families, 1.0), size=64
  )
  return settings.Prompts(**{"vocabulary": VOCABULARY, "instances": mixture, **more})


def config(system, task, prompts, **more):
  sizes = {"dim": 16, "heads": 2, "head_dim": 8, "ff": 32, "layers": 1}
  if system is p5:
    sizes |= {"whole_words": 128, "length": 8, "beams": 12}
  else:
    sizes |= {"decoder_layers": 0, "gated": False}
  name = system.__name__.rpartition(".")[2]
  sections = {
    "system": name,
    "task": task,
    "examples": "prompts",
    "seeds": (0,),
    "batch_size": 16,
    "data": settings.Data(source="synthetic", size="tiny", max_len=128),
    "prompts": prompts,
    "model": settings.model(system.Config, **sizes),
    "train": loop.Config(steps=4),
    "evaluation": settings.Evaluation(by_score=False, batch_size=64),
  }
  return settings.config(**{**sections, **more})


@pytest.fixture(scope="module")
def ingredients(tmp_path_factory):
  """Events, catalogue and semantic ids of a tiny shop."""
  ids = settings.SemanticIds(quantizer=learn.Config(method="rqkmeans", sizes=(6, 4)))
  more = {"semantic_ids": ids, "text": settings.Text(dim=8)}
  return pipeline.Run(config(p5, "prompts", section(), **more), tmp_path_factory.mktemp("shop"))


@pytest.mark.parametrize("method", [*language.INDEXES, "spelled"])
def test_every_index_names_each_item_once(ingredients, method):
  index = settings.Index(method="popularity" if method == "spelled" else method)
  index = settings.Index(method=index.method, spelled=method == "spelled", title_words=2)
  of = language.Language(section(index=index), ingredients)
  items = of.domain.items
  assert len(items) == ingredients.known.num_items and items[PAD] == ""
  assert len(set(items)) == len(items)
  cfg = p5.Config(vocab=len(of.words))
  leaves = p5.assets(cfg, of.words, items)["trie"]["item"]
  assert sorted(np.asarray(leaves[: len(items) - 1])) == list(range(1, len(items)))
  if method == "spelled":
    popular = np.bincount(ingredients.known.item).argmax()
    assert items[popular] == "0" and of.words.added[-1].startswith("<user_")


def test_a_run_answers_in_items_stars_and_texts(tmp_path):
  families = ("sequential", "rating")
  table = pipeline.run(
    config(p5, "prompts", section(families, sums="vector", index=settings.Index(spelled=True)),
           pretrain=loop.Config(steps=2), pretrain_batch_size=8,
           train=loop.Config(steps=4, best="valid/sequential/ndcg@10")),
    tmp_path,
    "all",
  )  # fmt: skip
  row = table["p5"][0]
  for family in ("sequential", "sequential_unseen"):
    assert 0 <= row[f"{family}/recall@5"] <= row[f"{family}/recall@10"] <= 1
  assert row["rating/rmse"] >= row["rating/mae"] > 0 and "rating_unseen/rmse" in row
  shown = [json.loads(line) for line in (tmp_path / "recommendations.jsonl").open()]
  assert len(shown) == 100 and all(len(set(r["items"])) == 10 and r["history"] for r in shown)
  assert (tmp_path / "seed_0" / "pretrain" / "checkpoints").exists()
  assert not (tmp_path / "recommender").exists()
  grid = results.render(table).splitlines()
  assert grid[0].split()[0] == "p5" and len(grid) > len(row) - 2  # many metrics: a row each


def test_ratings_are_told_by_a_head_as_well(tmp_path):
  run = config(t5_rating, "rating_prompts", section(("rating",)))
  row = pipeline.run(run, tmp_path, "all")["t5_rating"][0]
  assert set(row) == {"seed", *(f"rating{k}/{m}" for k in ("", "_unseen") for m in ("rmse", "mae"))}


def test_what_is_written_is_compared_with_what_users_wrote(ingredients):
  """The task `summary` on the shop's events with a summary for each; the answers are fixed."""
  x = ingredients.known
  told = x.fields | {"summary": np.array([f"good number {i % 3}" for i in range(len(x))])}
  text = np.array(["a long tale about it"] * len(x))
  told = type(x)(**{**vars(x), "text": text, "fields": told})
  events = told.take(np.arange(24))
  run = types.SimpleNamespace(
    known=told,
    raw=ingredients.raw,
    data=settings.Data(max_len=64),
    evaluation=settings.Evaluation(batch_size=8),
  )
  of = language.Language(section(("summary",)), run)
  said = of.words.batch(["good number 1"], 12)[0]

  def answer(params, assets, batch, *, key=None):
    return jax.numpy.broadcast_to(said, (len(batch["source"]), len(said)))

  found = of.written({}, (), toy.make(4)._replace(generate=answer), events)
  assert found["summary/exact_match"] == pytest.approx(1 / 3)
  assert 0.6 < found["summary_unseen/rouge1"] < 1


def test_the_scale_of_a_task_vector_is_what_validates_best(tmp_path):
  """A system of one number: training moves it by `a`, sums by `b`; the measure wants a + b / 2."""
  from recjax.data import examples, loader
  from recjax.types import Loss, System

  def towards(goal):
    def loss(params, assets, batch, key):
      return Loss((params["x"] - goal) ** 2, jax.numpy.float32(1), {})

    return System(lambda key, assets, batch: {"x": jax.numpy.float32(1.0)}, loss)

  source = examples.events(splits.leave_one_out(toy.log()).train)
  cfg = loop.Config(steps=300, optimizer=loop.optim.Config(rate=0.1))
  stage = stages.Stage(
    "sums", towards(3.0), (), loader.Batches(source, 8, max_len=1, seed=0, epochs=None), cfg
  )
  tuned = loop.fit(towards(10.0), (), stage.train, cfg)

  def measure(params):
    return {"near": -abs(float(params["x"]) - 11.0)}

  same = language.added(tuned, stage, lambda p: p, measure, "near", workdir=tmp_path)
  assert same.metrics["sums_scale"] == 0.5
  assert float(same.params["x"]) == pytest.approx(11.0, abs=0.05)
  with pytest.raises(ValueError, match="the metric that chooses its scale"):
    language.added(tuned, stage, lambda p: p, measure, None, workdir=tmp_path)


def test_what_a_config_lacks_is_named(ingredients, tmp_path):
  of = types.SimpleNamespace()
  for wrong, said in (
    ({"families": ()}, "names no family"),
    ({"vocabulary": ""}, "needs a vocabulary"),
    ({"sums": "last"}, "first, vector or nothing"),
  ):
    with pytest.raises(ValueError, match=said):
      language.Language(section(**wrong), of)
  with pytest.raises(ValueError, match="no index 'size'; there is random"):
    _ = language.Language(section(index=settings.Index(method="size")), ingredients).index
  yes_or_no = tmp_path / "prompts.jsonl"
  lines = [
    {"task": "direct", "name": str(i), "source": f"{i} : is {{candidate}} for {{user}} ?",
     "target": "{answer}"}
    for i in range(2)
  ]  # fmt: skip
  yes_or_no.write_text("\n".join(map(json.dumps, lines)))
  with pytest.raises(ValueError, match="no prompt of 'direct' is answered by {target}"):
    language.Language(section(("direct",), file=str(yes_or_no)), of)
  with pytest.raises(ValueError, match="a section `prompts`"):
    pipeline.Run(config(p5, "next_item", section()), tmp_path)
  with pytest.raises(ValueError, match="needs a section `pretrain`"):
    pipeline.Run(config(p5, "prompts", section(sums="first")), tmp_path).train(0)


def test_help_tells_each_weight_of_the_mixture():
  run = config(p5, "prompts", section())
  told = pipeline.describe(run)
  assert "--config.prompts.instances.weights.direct=1.0\n" in told
  assert "--config.prompts.sums=  # learned as" in told
