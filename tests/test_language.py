"""Runs in words: every way to write an item, families of questions, sums before or beside."""

import dataclasses
import json
import logging
import shutil
import types

import chex
import jax
import numpy as np
import pytest
import toy

from experiments import language, pipeline, results, settings, training
from recjax.data import interactions, loader, splits
from recjax.data.errors import DataError
from recjax.nn import t5
from recjax.semid import learn
from recjax.systems.generative import p5, t5_rating
from recjax.text import instances, prompts, t5_weights, vocab, whole_words
from recjax.train import checkpoint, evaluate, loop, stages
from recjax.types import PAD

VOCABULARY = "tokenizers/synthetic.model"


def section(families=("sequential", "direct"), **more):
  mixture = instances.Config(
    target_len=0 if set(families) <= {"sequential", "direct", "rating"} else 24,
    candidates=4,
    weights=dict.fromkeys(families, 1.0),
    size=64,
  )
  return settings.Prompts(**{"vocabulary": VOCABULARY, "instances": mixture, **more})


SIZES = {"dim": 16, "heads": 2, "head_dim": 8, "ff": 32, "layers": 1}


def config(system, task, prompts, **more):
  sizes = dict(SIZES)
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
  batch = loader.Batches(of.learned(), 16, max_len=64, seed=0)[0]
  answers = whole_words.encode(of.words, [*items, "yes", "no"])[0]
  assert batch["target"].shape[1] == answers.lengths.max()
  if method.startswith("clusters"):  # a small catalogue is split as well
    assert items[1].startswith("<cluster0_") and len({w.split("><")[0] for w in items[1:]}) > 2
  if method == "spelled":
    popular = np.bincount(ingredients.known.item).argmax()
    assert items[popular] == "0" and of.words.added[-1].startswith("<user_")


def test_a_run_answers_in_items_stars_and_texts(tmp_path):
  families = ("sequential", "rating")
  table = pipeline.run(
    config(p5, "prompts", section(families, sums="vector", index=settings.Index(spelled=True)),
           pretrain=loop.Config(steps=2), pretrain_batch_size=8,
           train=loop.Config(steps=4, best="valid/sequential/ndcg@10"),
           evaluation=settings.Evaluation(by_score=False, batch_size=64, valid_users=7)),
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


def test_sources_of_any_width_are_measured_alike(ingredients):
  """In buckets of length no answer changes, and fewer places are padding."""
  of = language.Language(section(("sequential", "rating")), ingredients)
  cfg = p5.Config(vocab=len(of.words), **SIZES)
  system, rater = p5.make(cfg), p5.make_rating(cfg)
  params = system.init(jax.random.key(0), (), ())
  assets = p5.assets(cfg, of.words, of.domain.items, of.ratings)
  found, places = {}, {}
  for widths in ((), (32, 48)):
    data = dataclasses.replace(ingredients.data, buckets=widths)
    asks = dataclasses.replace(ingredients.evaluation, batch_size=16)
    in_widths = language.Language(of.cfg, changed(ingredients, data=data, evaluation=asks))
    suites = in_widths.suites("", system, rater, ingredients.before_test, ingredients.split.test)
    found[widths] = evaluate.evaluate(params, assets, suites)
    places[widths] = sum(b["source"].size for s in suites for b in loader.load(s.batches))
  assert set(found[()]) >= {"sequential/ndcg@10", "sequential_unseen/ndcg@10", "rating/rmse"}
  for name, value in found[()].items():
    np.testing.assert_allclose(found[(32, 48)][name], value, rtol=1e-5, err_msg=name)
  assert places[(32, 48)] < 0.6 * places[()], places


def changed(ingredients, **parts):
  """The shop with other parts, as a run would hold them."""
  names = ("config", "data", "evaluation", "raw", "known", "before_test", "split")
  return types.SimpleNamespace(**{name: getattr(ingredients, name) for name in names} | parts)


def test_without_titles_prompts_that_tell_them_are_left_out_aloud(ingredients, caplog):
  ids = ingredients.raw.catalog.ids
  catalog = interactions.Catalog(ids, {"title": ids})
  of = changed(ingredients, raw=dataclasses.replace(ingredients.raw, catalog=catalog))
  caplog.set_level(logging.INFO, "experiments")
  families = ("sequential", "direct", "rating", "explanation")
  told, untold = (language.Language(section(families), x) for x in (ingredients, of))
  parts = [{p for p in (*x.seen, *x.unseen) if p.fields & prompts.TITLES} for x in (told, untold)]
  assert {p.name for p in parts[0]} == {"called", "from", "after", "say", "explain"}
  assert parts[1] == set() and {p.task for p in untold.seen} == set(families)
  every = len(told.seen) + len(told.unseen)
  assert f"no titles: 6 of {every} prompts" in caplog.text  # `called` rates and is asked directly
  for method, lacking in (("title", "titles"), ("category", "categories")):
    bare = language.Language(section(index=settings.Index(method=method)), of)
    with pytest.raises(DataError, match=f"index '{method}' needs {lacking}.*Index by clusters"):
      _ = bare.index


@pytest.mark.parametrize("family", ["sequential", "direct"])
def test_what_a_user_has_met_is_denied_where_the_protocol_says_so(ingredients, family):
  of, test = language.Language(section(), ingredients), ingredients.split.test
  source = of.ranked(family, ingredients.before_test, test, deny_seen=True)
  batch = loader.Batches(source, 8, max_len=64)[0]
  before = ingredients.before_test
  for user, denied in zip(batch["user"], batch["deny"], strict=True):
    assert set(denied) - {PAD} == set(before.item[before.user == user])


def test_changed_words_are_another_run(tmp_path):
  path = tmp_path / "prompts.jsonl"
  line = {"task": "direct", "name": "own", "source": "what for {user} ?", "target": "{target}"}
  told = []
  for source in ("what for {user} ?", "what for {user} ?", "and for {user} ?"):
    path.write_text(json.dumps({**line, "source": source}))
    run = pipeline.Run(config(p5, "prompts", section(("direct",), file=str(path))), tmp_path)
    told.append(training._fingerprint(run))
  assert told[0] == told[1] and told[0]["words"] != told[2]["words"]
  assert told[0] | {"words": told[2]["words"]} == told[2]


def t5_folder(folder, *, flan=True, **more):
  """A tiny T5 as transformers saves it, its vocabulary beside it; a table with rows to spare."""
  torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
  torch.manual_seed(0)
  sizes = {"d_model": 12, "d_kv": 5, "num_heads": 3, "d_ff": 20, "num_layers": 2}
  config = transformers.T5Config(
    vocab_size=len(vocab.t5(VOCABULARY)) + 28,
    feed_forward_proj="gated-gelu" if flan else "relu",
    tie_word_embeddings=not flan,
    decoder_start_token_id=0,
    **{**sizes, "num_decoder_layers": 3, **more},
  )
  model = transformers.T5ForConditionalGeneration(config).eval()
  if flan:
    model.lm_head.weight = torch.nn.Parameter(torch.randn(config.vocab_size, 12) * 0.5)
  model.save_pretrained(folder)
  shutil.copy(VOCABULARY, folder / "spiece.model")
  return model


@pytest.mark.parametrize("system", [p5, t5_rating], ids=["p5", "t5_rating"])
@pytest.mark.parametrize("flan", [True, False], ids=["flan", "v1.0"])
def test_a_pretrained_t5_is_one_flag_away(tmp_path, system, flan):
  """Its pieces and sizes count, whatever vocabulary and sizes the config has; so do its weights."""
  model = t5_folder(tmp_path / "t5", flan=flan)
  import torch

  words = section(("rating",), vocabulary="of/another.model", pretrained=str(tmp_path / "t5"))
  run = pipeline.Run(config(system, "rating_prompts", words), tmp_path / "run")
  cfg = run.built.config
  sizes = (cfg.dim, cfg.heads, cfg.head_dim, cfg.ff, cfg.layers, cfg.decoder_layers)
  assert sizes == (12, 3, 5, 20, 2, 3) and cfg.gated == flan
  assert system is t5_rating or (cfg.tied, cfg.scaled) == (not flan, not flan)
  known = len(run.language.pieces)
  assert run.language.pieces.fingerprint == vocab.t5(VOCABULARY).fingerprint
  assert cfg.vocab == len(run.language.words) > known
  batch = loader.Batches(run.language.learned(), 4, max_len=64)[0]
  params = run.language.start(run.built.system.init(jax.random.key(0), run.built.assets, batch))
  source = run.language.words.batch(["how many stars ?", "this one is good"], 16)
  asked = np.where(source == 1, 0, source)
  with torch.no_grad():
    states = model.encoder(torch.tensor(asked).long(), torch.tensor(asked != 0).long())[0]
    start = torch.zeros((2, 1), dtype=torch.long)
    logits = model(
      encoder_outputs=(states,),
      attention_mask=torch.tensor(asked != 0).long(),
      decoder_input_ids=start,
    ).logits
  ours = t5.encode(params["t5"], cfg.t5, asked)
  real = asked != 0
  np.testing.assert_allclose(ours[real], states.numpy()[real], atol=1e-4)
  if system is p5:
    said = t5.decode(params["t5"], cfg.t5, np.zeros((2, 1), int), ours, source_mask=real)
    np.testing.assert_allclose(said[..., :known], logits.numpy()[..., :known], atol=1e-3)


def test_a_run_from_a_pretrained_t5_goes_to_its_end(tmp_path):
  t5_folder(tmp_path / "t5")
  words = section(("rating",), pretrained=str(tmp_path / "t5"))
  row = pipeline.run(config(p5, "rating_prompts", words), tmp_path / "run", "all")["p5"][0]
  assert row["rating/rmse"] > 0 and row["rating_unseen/rmse"] > 0


def test_a_folder_that_no_config_can_express_is_named(tmp_path):
  t5_folder(tmp_path / "buckets", relative_attention_num_buckets=16)
  t5_folder(tmp_path / "whole")
  (tmp_path / "whole" / "spiece.model").unlink()
  entries = json.loads((tmp_path / "buckets" / "config.json").read_text())
  for name, said in (
    ("buckets", r"sizes of .*buckets: buckets 16 \(not 32\)"),
    ("whole", r"has no .*spiece.model"),
  ):
    words = section(("rating",), pretrained=str(tmp_path / name))
    run = pipeline.Run(config(p5, "rating_prompts", words), tmp_path / "run")
    with pytest.raises(ValueError, match=said):
      _ = run.built
  alone = {**entries, "architectures": ["T5EncoderModel"], "relative_attention_num_buckets": 32}
  run.language.__dict__["pretrained"] = t5_weights.config(alone, {}), {}
  run.language.__dict__["words"] = vocab.t5(VOCABULARY)
  with pytest.raises(ValueError, match="an encoder alone, and p5 writes"):
    _ = run.language.sizes


def test_ratings_are_told_by_a_head_as_well(tmp_path):
  run = config(t5_rating, "rating_prompts", section(("rating",)))
  row = pipeline.run(run, tmp_path, "all")["t5_rating"][0]
  assert set(row) == {"seed", *(f"rating{k}/{m}" for k in ("", "_unseen") for m in ("rmse", "mae"))}


def test_a_rating_head_has_the_classes_that_the_data_has_and_no_other_family(tmp_path):
  """Half stars, and a rating that is none."""
  run = pipeline.Run(config(t5_rating, "rating_prompts", section(("rating",))), tmp_path)
  stars = run.raw.interactions.rating / 2
  stars[7] = np.nan
  x = interactions.replace(run.raw.interactions, rating=stars)
  run.__dict__["raw"] = dataclasses.replace(run.raw, interactions=x)
  assert run.built.config.values == (0.5, 1.0, 1.5, 2.0, 2.5)
  both = config(t5_rating, "rating_prompts", section(("rating", "summary")))
  with pytest.raises(ValueError, match="answers ratings alone.*has rating, summary: leave"):
    _ = pipeline.Run(both, tmp_path).built
  summing = config(t5_rating, "rating_prompts", section(("rating",), sums="first"))
  with pytest.raises(ValueError, match="cannot learn sums: leave out prompts.sums"):
    _ = pipeline.Run(summing, tmp_path).built


def test_what_is_written_is_compared_with_what_users_wrote(ingredients, tmp_path):
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

  system = toy.make(4)._replace(generate=answer)
  path = tmp_path / "texts.jsonl"
  found = of.written({}, (), system, events, path)
  assert found["summary/exact_match"] == pytest.approx(1 / 3)
  assert 0.6 < found["summary_unseen/rouge1"] < 1
  lines = [json.loads(line) for line in path.open()]
  assert [line["asks"] for line in lines] == ["summary"] * 24 + ["summary_unseen"] * 24
  for line, at in zip(lines, [*range(24)] * 2, strict=True):
    assert line["user"] == events.users[events.user[at]]
    assert line["item"] == events.items[events.item[at]]
    assert line["said"] == "good number 1" and line["wanted"] == events.fields["summary"][at]
    assert "a long tale about it" in line["asked"]
  # Of longer ones a target holds the beginning: what is compared with is still the whole.
  long = np.array([f"good number 1 {'and more ' * 9}" for _ in range(len(x))])
  longer = interactions.replace(events, summary=long[: len(events)])
  of = language.Language(section(("summary",)), run)
  found = of.written({}, (), system, longer, path)
  assert found["summary/exact_match"] == 0
  assert found["summary/rouge1"] == pytest.approx(2 * 3 / (3 + 21))


def test_a_run_on_reviews_keeps_what_it_wrote_and_shows_some(tmp_path):
  path, when = tmp_path / "reviews.json", 0
  with path.open("w") as file:
    for user in range(12):
      for item in range(6):
        when += 1
        text = {"reviewText": f"It has {item} strings. Good.", "summary": f"<{item}> strings"}
        who = {"reviewerID": f"u{user}", "asin": f"i{(user + item) % 9}", "overall": 1.0 + item % 5}
        file.write(json.dumps({**who, **text, "unixReviewTime": when}) + "\n")
  families = ("rating", "summary", "explanation")
  data = settings.Data(source="reviews", path=str(path), max_len=64)
  made = config(p5, "rating_prompts", section(families), data=data)
  made.evaluation.test_users = 5
  row = pipeline.run(made, tmp_path / "run", "all")["p5"][0]
  assert row["rating/rmse"] > 0 and {"summary/rouge1", "explanation_unseen/bleu"} <= set(row)
  told = [json.loads(x) for x in (tmp_path / "run" / "seed_0" / "texts.jsonl").open()]
  assert {x["asks"] for x in told} == {f"{f}{k}" for f in families[1:] for k in ("", "_unseen")}
  assert 0 < len({x["user"] for x in told}) <= 5
  for x in told:  # without brackets, which mark tokens
    (number,) = set(x["wanted"]) & set("012345")
    assert x["wanted"] in (f"{number} strings", f"It has {number} strings.")
    assert ("It has" in x["wanted"]) == x["asks"].startswith("explanation")
  page = (tmp_path / "run" / "report.html").read_text()
  assert "<h2>Some texts</h2>" in page and page.count('class="user"') == 12


@pytest.mark.slow
def test_more_sums_before_are_another_run(tmp_path):
  """What was tuned from the sums of before does not pass for what these lead to."""

  def trained(steps):
    more = {"pretrain": loop.Config(steps=steps), "pretrain_batch_size": 16}
    made = config(p5, "prompts", section(("direct",), sums="first"), **more)
    return pipeline.Run(made, tmp_path).train(0).params

  chex.assert_trees_all_equal(trained(2), trained(2))  # nothing is left to train
  with pytest.raises(checkpoint.CheckpointError, match="init_from"):
    trained(4)


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

  tuned = tuned._replace(seconds=100.0)
  same = language.added(tuned, stage, lambda p: p, measure, "near", workdir=tmp_path)
  assert same.metrics["sums_scale"] == 0.5 and same.seconds > 100  # of both trainings
  assert float(same.params["x"]) == pytest.approx(11.0, abs=0.05)
  with pytest.raises(ValueError, match="the metric that chooses its scale"):
    language.added(tuned, stage, lambda p: p, measure, None, workdir=tmp_path)


def test_what_a_config_lacks_is_named(ingredients, tmp_path):
  of = types.SimpleNamespace()
  for wrong, said in (
    ({"families": ()}, "names no family"),
    ({"families": ("sequential", "ratings")}, "names ratings, no family.*there is sequential"),
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
    language.Language(section(("direct",), file=str(yes_or_no), replace=True), of)
  with pytest.raises(ValueError, match="in place of ours: name a file"):
    language.Language(section(replace=True), of)
  with pytest.raises(ValueError, match="a section `prompts`"):
    pipeline.Run(config(p5, "next_item", section()), tmp_path)
  with pytest.raises(ValueError, match="needs a section `pretrain`"):
    pipeline.Run(config(p5, "prompts", section(sums="first")), tmp_path).train(0)


def test_a_family_of_weight_zero_and_prompts_with_choices_may_be_left_out(ingredients):
  cfg = section(("sequential", "direct"))
  weights = {"sequential": 2.0, "direct": 0.0}
  cfg = dataclasses.replace(cfg, instances=dataclasses.replace(cfg.instances, weights=weights))
  every, few = (
    language.Language(dataclasses.replace(cfg, choices=choices), ingredients)
    for choices in (True, False)
  )
  assert every.families == few.families == ("sequential",)
  assert {p.name for p in every.seen} == {"next", "follow", "predict", "among", "pick", "whether"}
  assert {p.name for p in few.seen} == {"next", "follow", "predict"}
  assert few.unseen == every.unseen
  learned = few.learned()
  assert len(learned) == cfg.instances.size
  assert {learned[i].text.target for i in range(len(learned))} <= set(few.domain.items)


def test_a_file_of_prompts_adds_to_ours_or_stands_alone(ingredients, tmp_path):
  path = tmp_path / "prompts.jsonl"
  lines = [
    {"task": "direct", "name": name, "source": f"{name} for {{user}} ?", "target": "{target}"}
    for name in ("one", "two")
  ]
  path.write_text("\n".join(map(json.dumps, lines)))
  names = {}
  for replace in (False, True):
    of = language.Language(section(("direct",), file=str(path), replace=replace), ingredients)
    names[replace] = [p.name for p in of.seen], [p.name for p in of.unseen]
  assert names[True] == (["one"], ["two"])
  ours = language.Language(section(("direct",)), ingredients)
  assert names[False] == (["one", "two", *(p.name for p in ours.seen)], [ours.unseen[0].name])
  path.write_text(json.dumps({**lines[0], "name": "best"}))
  with pytest.raises(ValueError, match="already: direct/best"):
    language.Language(section(("direct",), file=str(path)), None)


def test_help_tells_each_weight_of_the_mixture():
  run = config(p5, "prompts", section())
  told = pipeline.describe(run)
  assert "--config.prompts.instances.weights.direct=1.0\n" in told
  assert "--config.prompts.sums=  # learned as" in told
