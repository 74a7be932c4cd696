"""Impressions -> clicks beside what was shown -> a run: the way of the news data."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import pipeline, preparation, settings, sources, tasks
from recjax import losses
from recjax.data import draws, examples, interactions, loader
from recjax.data.errors import DataError
from recjax.data.interactions import Impressions
from recjax.data.ragged import Ragged
from recjax.recommender import Recommender
from recjax.systems.news import nrms
from recjax.train import loop, optim

KINDS = ("sport", "music", "food", "money")


def shown():
  """Three impressions: two clicks, one click that is all there is, and none."""
  return Impressions(
    np.array([1, 2, 0], np.int32),
    Ragged.from_rows([[1, 2], [], [3]]),
    Ragged.from_rows([[3, 4, 5, 6], [7], [1, 2]]),
    Ragged.from_rows([[1, 0, 1, 0], [1], [0, 0]], np.float32),
    interactions.with_pad(np.array(["a", "b"])),
    interactions.with_pad(np.arange(1, 8).astype(str)),
  )


def test_a_click_is_an_example_with_its_impressions_history():
  found = examples.clicks(shown())
  batch = found.gather(np.arange(3), {"history": 3})
  wanted = {
    "user": [1, 1, 2], "target": [3, 5, 7], "impression": [0, 0, 1],
    "history": [[0, 1, 2], [0, 1, 2], [0, 0, 0]],
  }  # fmt: skip
  for name, column in wanted.items():
    np.testing.assert_array_equal(batch[name], column)
  with pytest.raises(DataError, match="nothing was taken"):
    examples.clicks(shown().take(np.array([2])))


def test_beside_a_click_stand_news_of_its_impression_that_were_left():
  x = shown()
  batches = loader.Batches(
    examples.clicks(x), 3, max_len=3, seed=0, epochs=None, transforms=[draws.shown(x, 2)]
  )
  orders = set()
  for at in range(20):
    batch = batches[at]
    assert set(batch) == {"user", "history", "candidates", "labels", "weight"}
    np.testing.assert_array_equal(batch["labels"], [[1, 0, 0]] * 3)
    for first, *others in batch["candidates"].tolist():
      assert first in (3, 5, 7) and sorted(others) == ([0, 0] if first == 7 else [4, 6])
      orders.add(tuple(others))
  assert {(4, 6), (6, 4)} <= orders  # drawn anew
  with pytest.raises(ValueError, match="at least one"):
    draws.shown(x, 0)


def test_each_click_competes_with_what_was_left_alone():
  scores = jnp.array([[1.0, 2.0, 3.0, jnp.nan], [5.0, 6.0, 0.0, 0.0]])
  labels = jnp.array([[1.0, 0, 1, 0], [1, 1, 0, 0]])
  where = jnp.array([[True, True, True, False], [True, True, False, False]])
  got = losses.taken_xent(scores, labels, where)
  wanted = np.log1p(np.exp(2 - 1)) + np.log1p(np.exp(2 - 3))  # in the second nothing was left
  np.testing.assert_allclose(got, [wanted, 2], rtol=1e-6)


def test_what_was_taken_are_events():
  x = interactions.taken(shown())
  assert x.users[x.user].tolist() == ["a", "a", "b"] and x.item.tolist() == [3, 5, 7]
  nobody = Impressions(**{**vars(shown()), "user": np.zeros(3, np.int32)})
  assert set(interactions.taken(nobody).users[1:][-1:]) == {"anyone"}


def write_mind(folder, seed=0):
  """A world where users click what is of the kind that they have read of."""
  rng = np.random.default_rng(seed)
  for part, day, count in (("train", 9, 240), ("dev", 15, 60)):
    (folder / part).mkdir(parents=True)
    news = [(f"N{i}", KINDS[i % 4]) for i in range(1, 41)]
    (folder / part / "news.tsv").write_text(
      "".join(
        f"{id_}\t{kind}\t{kind}{i % 2}\tNews {i} of {kind}!\tMore {kind}\t\t[]\t[]\n"
        for i, (id_, kind) in enumerate(news)
      )
    )
    lines = []
    for n in range(count):
      liked = rng.integers(4)
      own = rng.permutation([id_ for id_, kind in news if kind == KINDS[liked]])
      others = rng.permutation([id_ for id_, kind in news if kind != KINDS[liked]])
      candidates = rng.permutation([f"{own[0]}-1", *(f"{other}-0" for other in others[:5])])
      user = "STRANGER" if part == "dev" and not n else f"U{n % 30}"
      time = f"11/{day + n * 5 // 240}/2019 8:{n % 60:02}:00 AM"
      lines.append(f"{n}\t{user}\t{time}\t{' '.join(own[1 : 2 + n % 4])}\t{' '.join(candidates)}\n")
    (folder / part / "behaviors.tsv").write_text("".join(lines))


def config(path, **data):
  return settings.config(
    system="nrms",
    task="impressions",
    examples="impressions",
    seeds=(0,),
    batch_size=16,
    data=settings.Data(source="mind", path=str(path), max_len=4, negatives=4, **data),
    words=settings.Words(),
    model=settings.model(
      nrms.Config, title=5, word_dim=8, heads=2, head_dim=8, query=8, dropout=0.0
    ),
    train=loop.Config(steps=80, optimizer=optim.Config(rate=1e-2), eval_every=40, best="valid/auc"),
    evaluation=settings.Evaluation(batch_size=32, baselines=("popularity",)),
  )


def test_a_folder_of_mind_becomes_batches_that_say_the_same(tmp_path):
  write_mind(tmp_path / "mind")
  job = preparation.Preparation(config(tmp_path / "mind"), tmp_path / "run")
  train, valid, test = job.split
  assert [len(part) for part in job.split] == [216, 24, 60]
  assert train.timestamp.max() < valid.timestamp.min()
  title, found = job.raw.catalog["title"], examples.impressions(test)
  batch = loader.Batches(found, 60, max_len=4)[0]
  lines = (tmp_path / "mind" / "dev" / "behaviors.tsv").read_text().splitlines()
  for row, line in enumerate(lines):
    _, user, _, history, candidates = line.split("\t")
    ids = job.raw.catalog.ids
    assert test.users[batch["user"][row]] == user.replace("STRANGER", "")  # not of the training
    assert ids[batch["history"][row][batch["history"][row] > 0]].tolist() == history.split()
    told = zip(ids[batch["candidates"][row]], batch["labels"][row], strict=True)
    assert " ".join(f"{id_}-{int(label)}" for id_, label in told) == candidates
  assert title[1:].tolist() == [
    f"News {int(i[1:]) - 1} of {KINDS[int(i[1:]) % 4]}!" for i in ids[1:]
  ]
  assert {"sport", "music", "!"} <= set(job.words.words)


def test_a_run_learns_which_kind_of_news_a_user_reads(tmp_path):
  """And what it leaves recommends that kind, for users it has never seen."""
  write_mind(tmp_path / "mind")
  table = pipeline.run(config(tmp_path / "mind"), tmp_path / "run", "all")
  assert table["nrms"][0]["auc"] > 0.9
  assert 0.3 < table["popularity"][0]["auc"] < 0.7
  shop = Recommender.load(tmp_path / "run")
  answer = shop.recommend([["N1", "N5"]], k=5, deny=[["N1", "N5"]])
  assert sum("of music" in title for title in answer.titles[0]) >= 4
  assert (tmp_path / "run" / "data" / "items.jsonl").exists()


def test_news_without_an_id_goes_by_its_title(tmp_path):
  (tmp_path / "news.jsonl").write_text(
    json.dumps(
      {"id": "N1", "title": "One", "category": "news", "subcategory": "us", "abstract": "A"}
    )
    + "\n"
  )
  (tmp_path / "impressions.jsonl").write_text(
    "".join(
      json.dumps({"history": [["N1", "One"]], "candidates": [[None, f"Two {n}"], ["N1", "One"]],
                  "clicked": [0]}) + "\n"
      for n in range(10)
    )
  )  # fmt: skip
  cfg = settings.Data(source="mind_sample", path=str(tmp_path), negatives=1)
  raw = sources.read(cfg, tmp_path / "run")
  told = dict(zip(raw.catalog.ids.tolist(), raw.catalog["title"].tolist(), strict=True))
  assert told["N1"] == "One" and told["Two 3"] == "Two 3" and len(raw.catalog) == 11
  split = tasks.TASKS["impressions"].split(raw, cfg)
  assert [len(part) for part in split] == [8, 1, 1]
  with pytest.raises(ValueError, match="the source gives none"):
    tasks.TASKS["impressions"].split(raw, settings.Data(valid=0.1))


@pytest.mark.parametrize(
  "section, field, value, told",
  [
    ("data", "negatives", 0, "negatives beside each click"),
    ("evaluation", "deny_seen", True, "deny_seen"),
    (None, "examples", "events", "needs examples='impressions'"),
    (None, "task", "next_item", "needs examples='impressions'"),
  ],
)
def test_a_config_that_does_not_fit_impressions_is_told(tmp_path, section, field, value, told):
  wrong = config(tmp_path)
  setattr(wrong if section is None else wrong[section], field, value)
  with pytest.raises(ValueError, match=told):
    tasks.named(wrong)


def test_a_source_of_events_is_told_from_one_of_impressions(tmp_path):
  wrong = config(tmp_path)
  wrong.data.source, wrong.data.path, wrong.data.size = "synthetic", "", "tiny"
  with pytest.raises(ValueError, match="do not fit"):
    _ = preparation.Preparation(wrong, tmp_path / "run").raw
