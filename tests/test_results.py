"""Results: what is kept of a run, and the tables made of it."""

import json

import pytest

from experiments import results, settings
from recjax.systems.collaborative import popularity

CONFIG = settings.config(system="popularity", seeds=(0, 1), model=settings.model(popularity.Config))
TABLE = {"popularity": [{"seed": 0, "recall@10": 0.25}, {"seed": 1, "recall@10": 0.75}]}


def test_the_mean_and_its_interval_over_seeds():
  found = results.mean(TABLE["popularity"])
  assert set(found) == {"recall@10"} and found["recall@10"]["mean"] == 0.5
  # t of 1 degree of freedom at 97.5% is 12.706; the standard error is .25
  assert found["recall@10"]["half_width"] == pytest.approx(12.706 * 0.25, rel=1e-3)
  assert "half_width" not in results.mean(TABLE["popularity"][:1])["recall@10"]


def test_a_seed_that_failed_leaves_the_mean_without_an_interval():
  rows = [{"seed": 0, "rmse": 1.0, "mae": 1.0}, {"seed": 1, "rmse": float("inf"), "mae": 2.0}]
  found = results.mean(rows)
  assert found["rmse"] == {"mean": float("inf")} and found["mae"]["half_width"] > 0
  assert "inf" in results.render({"mf": rows})


def test_a_record_holds_config_seeds_and_what_it_ran_on(tmp_path):
  results.write(tmp_path / "popularity_beauty.json", CONFIG, TABLE, 12.34)
  kept = json.loads((tmp_path / "popularity_beauty.json").read_text())
  assert kept["config"]["system"] == "popularity" and kept["training_seconds"] == 12.3
  assert kept["systems"]["popularity"]["seeds"] == TABLE["popularity"]
  assert len(kept["config_sha256"]) == 64 and kept["hardware"] and kept["date"]


def test_the_table_puts_the_published_figure_beside(tmp_path):
  results.write(tmp_path / "popularity_beauty.json", CONFIG, TABLE, 60)
  row = results.markdown(tmp_path).splitlines()[-1]
  assert row.startswith("| popularity_beauty | recall@10 0.5000 ± 3.17")
  assert "recall@10 0.0152 (S3-Rec repository)" in row and "| 2 | 1 min |" in row


def test_the_table_tells_of_how_many_users_a_figure_is(tmp_path):
  config = settings.config(system="popularity", evaluation=settings.Evaluation(test_users=2_000))
  results.write(tmp_path / "popularity_beauty.json", config, TABLE, 60)
  assert " (of 2,000 users drawn) | recall@10 0.0152" in results.markdown(tmp_path)


def test_every_published_figure_names_its_source():
  for name, figures in json.loads(results.PUBLISHED.read_text()).items():
    assert figures["source"], name
    assert all(0 < v < 10 for metric, v in figures.items() if metric != "source")


def test_a_record_names_no_place_of_this_machine(tmp_path):
  config = settings.config(system="content", text=settings.Text(encoder=str(tmp_path / "a" / "b")))
  found = results.write(
    tmp_path / "x.json", config, {"content": [{"seed": 0, "ndcg@10": 0.1}]}, 1.0
  )
  assert found["config"]["text"]["encoder"] == "a/b"
  assert str(tmp_path) not in (tmp_path / "x.json").read_text()
