"""Data of one's own that is odd: small, blank, alike, with few events; a run says what it does."""

import collections
import json
import logging

import numpy as np
import pytest

from experiments import pipeline, settings, tasks
from recjax.data.errors import DataError
from recjax.recommender import Recommender
from recjax.semid import learn
from recjax.systems.collaborative import ials
from recjax.systems.generative import tiger
from recjax.systems.sequential import sasrec
from recjax.train import loop, optim


def log(users=30, items=8, each=5):
  """A walk over the items, times out of order in the file."""
  rows = [(u, (u + n) % items, n) for u in range(users) for n in range(each)]
  lines = [f"u{u},i{item},{n}" for u, item, n in sorted(rows, key=lambda r: (r[2] * 7) % 5)]
  return "user,item,timestamp\n" + "\n".join(lines) + "\n"


def titled(folder, titles):
  path = folder / "items.jsonl"
  rows = [{"item": f"i{n}", "title": title} for n, title in enumerate(titles)]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


def config(module, path, model, data, **sections):
  return settings.config(
    system=module.__name__.rpartition(".")[2],
    task="next_item",
    seeds=(0,),
    batch_size=8,
    data=settings.Data(source="tables", path=str(path), max_len=5, **data),
    model=settings.model(module.Config, **model),
    train=loop.Config(steps=2, optimizer=optim.Config(warmup=1)),
    evaluation=settings.Evaluation(batch_size=16, ks=(5,), by_score=False),
    **sections,
  )


def sasrec_config(path, **data):
  sizes = {"max_len": 5, "dim": 8, "heads": 1, "layers": 1}
  return config(sasrec, path, sizes, data, examples="sequences")


def tiger_config(path, **data):
  sizes = {"dim": 16, "heads": 2, "head_dim": 8, "ff": 16, "layers": 1, "user_buckets": 0}
  ids = settings.SemanticIds(learn.Config(method="rqkmeans", sizes=()), policy="optimal")
  text = settings.Text(template="{title}", dim=0)
  sizes |= {"item_causal": True, "softmax": "children"}
  return config(tiger, path, sizes, data, examples="rows", semantic_ids=ids, text=text)


def test_fewer_items_than_a_list_shows_and_titles_with_strange_ends_of_lines(write, tmp_path):
  titles = ["Soap\u2028bar \x85 blue", "", *(f"Lamp {n}" for n in range(6))]
  config = sasrec_config(write("log.csv", log()), catalog=titled(tmp_path, titles))
  table = pipeline.run(config, tmp_path / "run", "all")
  assert 0 <= table["sasrec"][0]["recall@5"] <= 1
  with (tmp_path / "run" / "recommendations.jsonl").open(encoding="utf-8") as file:
    shown = [json.loads(line) for line in file]
  assert len(shown) == 30 and all(sorted(r["items"]) == [f"i{n}" for n in range(8)] for r in shown)
  page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
  assert "<li>i1</li>" in page or "<li class=hit>i1</li>" in page  # it has no title
  assert "<li></li>" not in page and page.count("class=hit") == 12  # one a user, by its id


def test_so_many_users_validate_and_test_as_the_config_says(write, tmp_path, monkeypatch):
  asked, suites = {}, tasks.InIds.suites

  def told(self, name, system, rater, before, events):
    asked[name] = len(np.unique(events.user))
    return suites(self, name, system, rater, before, events)

  monkeypatch.setattr(tasks.InIds, "suites", told)
  config = sasrec_config(write("log.csv", log()))
  config.evaluation.valid_users = 7
  pipeline.run(config, tmp_path / "run", "evaluate")
  assert asked == {"valid": 7, "": 30}
  config.evaluation.test_users = 9  # the same parameters, measured on fewer
  pipeline.run(config, tmp_path / "run", "evaluate")
  assert asked[""] == 9
  for name in ("valid_users", "test_users"):
    with config.unlocked(), pytest.raises(ValueError, match=f"{name} is a number of users, or 0"):
      config.evaluation[name] = -1
      pipeline.Run(config, tmp_path / "run")
    config.evaluation[name] = 0


def test_times_under_another_name_are_asked_for(write, tmp_path, caplog):
  caplog.set_level(logging.WARNING, "experiments")
  path = write("log.csv", log().replace("timestamp", "when"))
  run = pipeline.Run(sasrec_config(path), tmp_path / "run")
  assert run.raw.interactions.timestamp is None
  assert "no column 'timestamp', so events count in the order of the file" in caplog.text
  assert "one of when: --config.data.columns.timestamp=..." in caplog.text
  caplog.clear()
  named = {**settings.Data().columns, "timestamp": ""}
  assert len(pipeline.Run(sasrec_config(path, columns=named), tmp_path / "two").raw.interactions)
  assert "timestamp" not in caplog.text  # said to be absent


def test_a_run_of_parts_at_random_ends_though_times_go_back(write, tmp_path):
  """Validation events are put among those learned from; of several tested items all are hits."""
  sections = {"examples": "events", "task": "top_n", "seeds": (0,), "batch_size": 8}
  config = settings.config(
    system="ials",
    data=settings.Data(source="tables", path=str(write("log.csv", log(each=8))), max_len=5),
    model=settings.model(ials.Config, dim=4),
    evaluation=settings.Evaluation(batch_size=16, ks=(5,), deny_seen=True, by_score=False),
    **sections,
  )
  job = pipeline.Run(config, tmp_path / "run")
  table = pipeline.run(config, tmp_path / "run", "all")
  assert 0 < table["ials"][0]["recall@5"] <= 1
  tested = collections.Counter(job.split.test.users[job.split.test.user].tolist())
  shown = job.shown(tmp_path / "run" / "recommendations.jsonl", count=100)
  assert max(tested.values()) > 1 and len(shown) == len(tested)
  for user in shown:  # eight items in all: whatever is tested and not denied is listed
    assert sum(user["hit"]) == tested[user["user"]] == user["next"].count(",") + 1
  assert "<h2>Learning</h2>" not in (tmp_path / "run" / "report.html").read_text()


def test_what_is_attainable_is_of_the_last_events_of_all_users(tmp_path):
  for task, core, drawn, known in (
    ("next_item", 0, 0, True),
    ("next_item", 2, 0, False),
    ("next_item", 0, 50, False),
    ("top_n", 0, 0, False),
  ):
    config = settings.config(
      system="popularity",
      task=task,
      examples="events",
      seeds=(0,),
      batch_size=8,
      data=settings.Data(size="tiny", user_core=core),
      model={},
      evaluation=settings.Evaluation(ks=(5,), test_users=drawn),
    )
    job = pipeline.Run(config, tmp_path / f"{task}{core}{drawn}")
    _ = job.raw
    assert bool(job.attainable()) == known


def test_items_of_another_name_have_semantic_ids_made_anew(write, tmp_path):
  titles = [f"{c} {t}" for c in ("red", "blue", "green") for t in ("soap", "lamp", "book")]
  for name in ("i", "j"):
    path = write("log.csv", log(items=len(titles)).replace(",i", f",{name}"))
    path.write_text(path.read_text().replace(f",{name}tem", ",item"))
    catalog = titled(tmp_path, titles)
    items = tmp_path / "items.jsonl"
    items.write_text(items.read_text().replace(': "i', f': "{name}'))
    pipeline.run(tiger_config(path, catalog=catalog), tmp_path / "run", "all")
    assert Recommender.load(tmp_path / "run").recommend([[f"{name}1"]], k=1).ids[0][0][0] == name


def test_published_ids_that_are_not_there_are_named(write, tmp_path):
  config = tiger_config(
    write("log.csv", log(items=9)), catalog=titled(tmp_path, [f"Lamp {n}" for n in range(9)])
  )
  config.semantic_ids.published = str(tmp_path / "none.json")
  with pytest.raises(DataError, match="none.json"):
    pipeline.run(config, tmp_path / "run", "tokenize")


def test_a_rating_that_the_task_would_not_use_may_be_blank(write, tmp_path):
  path = write("log.csv", log().replace("timestamp", "timestamp,rating").replace(",4\n", ",4,\n"))
  lines = path.read_text().splitlines()
  path.write_text("\n".join(x if x.count(",") == 3 else x + ",5" for x in lines) + "\n")
  assert len(pipeline.Run(sasrec_config(path), tmp_path / "run").raw.interactions) == 150


@pytest.mark.parametrize(
  "each, said", [(2, "no user has three events"), (3, "two events to learn")]
)
def test_users_of_too_few_events_are_told_before_any_work(write, tmp_path, each, said):
  for make in (sasrec_config, tiger_config):
    with pytest.raises(DataError, match=f"{said}.*data.columns.user"):
      pipeline.run(make(write("log.csv", log(each=each))), tmp_path / make.__name__, "all")


def test_items_known_by_their_ids_alone_have_no_words(write, tmp_path):
  with pytest.raises(DataError, match="nothing is known of the items but their ids.*data.catalog"):
    pipeline.run(tiger_config(write("log.csv", log())), tmp_path / "run", "tokenize")


def test_more_that_is_alike_than_codes_gets_a_level_that_counts(write, tmp_path, caplog):
  """Nobody chose the sizes, so they do not fail; new items are told apart in the same way."""
  caplog.set_level(logging.WARNING, "experiments")
  titles = [f"{c} {t}" for c in ("red", "blue", "green") for t in ("soap", "lamp", "book")]
  titles += [""] * 25
  path = write("log.csv", log(items=len(titles), users=40))
  config = tiger_config(path, catalog=titled(tmp_path, titles))
  pipeline.run(config, tmp_path / "run", "all")
  assert "25 of 34 items have no text, or none of known words" in caplog.text
  assert "a further level of 64 codes counts within what is alike" in caplog.text
  again = pipeline.Run(config, tmp_path / "run")
  assert again.collisions == ("count_up", 64) and again.ids.sizes[-1] == 64
  assert len(np.unique(again.ids.codes, axis=0)) == len(titles) + 1
  shop = Recommender.load(tmp_path / "run")
  grown = shop.add_items([{"id": "new", "title": "red soap"}])
  assert grown.recommend([["i0", "i1"]], k=3, allow=[["new"]]).ids == [["new"]]
  for row, said in (
    ({"id": "odd", "title": "qwerty"}, "no word of the text of new item 'odd' is known"),
    ({"id": " ", "title": "red"}, "the id of no item"),
    ("red soap", "new item 0 is 'red soap', not what is known of it"),
  ):
    with pytest.raises(DataError, match=said):
      shop.add_items([row])
  with pytest.raises(DataError, match="a list of rows.*brackets"):
    shop.add_items({"id": "new", "title": "red soap"})
  config.semantic_ids.quantizer.sizes = (4, 4)
  with pytest.raises(DataError, match="codes tell them apart.*semantic_ids.policy=count_up"):
    pipeline.run(config, tmp_path / "chosen", "tokenize")
