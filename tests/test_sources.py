"""Data of one's own, and what a config says of it."""

import json

import numpy as np
import pytest

from experiments import settings, sources
from recjax.data.errors import DataError

EVENTS = "uid,sku,at\nu,b,2024-01-02\nu,a,2024-01-01T10:00:00+02:00\nv,a,2024-01-03\n"
NAMED = {"user": "uid", "item": "sku", "rating": "rating", "timestamp": "at"}


def data(path, **fields):
  return settings.Data(source="tables", path=str(path), **fields)


def table(folder, name, rows):
  path = folder / name
  path.write_text("\n".join(map(json.dumps, rows)) + "\n")
  return path


def test_a_csv_of_ones_own_names_its_columns(write, tmp_path):
  raw = sources.read(data(write("log.csv", EVENTS), columns=NAMED), tmp_path)
  x = raw.interactions
  assert x.items[x.item].tolist() == ["a", "b", "a"] and x.rating is None
  assert raw.catalog["title"].tolist() == x.items.tolist()
  assert np.diff(x.timestamp).tolist() == [16 * 3600, 24 * 3600]


def test_a_column_that_is_not_there_is_named_with_the_flag(write, tmp_path):
  path = write("log.csv", EVENTS)
  with pytest.raises(DataError, match="no column 'user'. Say which of uid, sku, at it is"):
    sources.read(data(path), tmp_path)
  with pytest.raises(DataError, match="there is no column 'stars'"):
    sources.read(data(path, columns={**NAMED, "rating": "stars"}), tmp_path)


@pytest.mark.parametrize("form", ["items.jsonl", "items.jsonl.gz"])
def test_items_stand_beside_the_events_with_what_is_known_of_them(write, tmp_path, form):
  write("interactions.csv", "user,item\nu,a\nu,b\nv,a\n")
  rows = [{"item": "b", "title": "Bee"}, {"item": "a", "title": "Ant"}, {"item": "c"}]
  write(form, "\n".join(map(json.dumps, rows)))
  raw = sources.read(data(tmp_path), tmp_path)
  titles = dict(zip(raw.catalog.ids.tolist(), raw.catalog["title"].tolist(), strict=True))
  assert titles == {"": "", "a": "Ant", "b": "Bee", "c": ""}
  assert raw.interactions.items.tolist()[-1] == "c" and set(raw.catalog.fields) == {"title"}
  met = sources.read(data(tmp_path, unmet=False), tmp_path)
  assert sorted(met.interactions.items.tolist()) == ["", "a", "b"]


def test_items_that_the_catalogue_lacks_are_named_or_titled_by_their_ids(write, tmp_path):
  events = write("log.csv", "user,item\nu,a\nu,b\nv,c\n")
  items = str(table(tmp_path, "known.jsonl", [{"item": "a", "title": "Ant"}]))
  with pytest.raises(DataError, match=r"2 items .*: [bc], [bc] .*data.undescribed=True"):
    sources.read(data(events, catalog=items), tmp_path)
  raw = sources.read(data(events, catalog=items, undescribed=True), tmp_path)
  titles = dict(zip(raw.catalog.ids.tolist(), raw.catalog["title"].tolist(), strict=True))
  assert titles == {"": "", "a": "Ant", "b": "b", "c": "c"}


def test_what_a_core_drops_does_not_come_back_from_the_catalogue(write, tmp_path):
  events = "user,item\n" + "".join(f"u{i},a\nu{i},b\n" for i in range(3)) + "u0,rare\n"
  rows = [{"item": i, "title": i} for i in ("a", "b", "rare", "never")]
  items = str(table(tmp_path, "known.jsonl", rows))
  raw = sources.read(data(write("log.csv", events), catalog=items, item_core=2), tmp_path)
  assert sorted(raw.interactions.items.tolist()) == ["", "a", "b"]


def test_of_what_is_met_again_the_first_time_may_count_alone(write, tmp_path):
  path = write("log.csv", "user,item,timestamp\nu,a,3\nu,b,2\nu,a,1\n")
  kept = sources.read(data(path), tmp_path).interactions
  first = sources.read(data(path, repeats="first"), tmp_path).interactions
  assert kept.items[kept.item].tolist() == ["a", "b", "a"]
  assert first.items[first.item].tolist() == ["a", "b"] and first.timestamp.tolist() == [1, 2]


def test_a_bad_line_stops_or_is_counted(write, tmp_path):
  path = write("log.csv", "user,item,timestamp\nu,a,3\nu,,2\n")
  with pytest.raises(DataError, match="log.csv:3: the item id is empty"):
    sources.read(data(path), tmp_path)
  x = sources.read(data(path, on_error="skip"), tmp_path).interactions
  assert len(x) == 1 and x.skipped.count == 1


def test_what_a_source_would_not_read_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="data.catalog is of tables, .*'synthetic' does not read it"):
    sources.read(settings.Data(catalog="items.jsonl"), tmp_path)
  with pytest.raises(ValueError, match="data.repeats is keep or first, not 'last'"):
    sources.read(settings.Data(repeats="last"), tmp_path)
  with pytest.raises(DataError, match="no table of events. Name it interactions"):
    sources.read(data(tmp_path), tmp_path)


def test_reviews_of_each_shop_come_with_what_they_are_about(tmp_path):
  reviews = table(
    tmp_path,
    "review.json",
    [{"user_id": "u", "business_id": "b", "stars": 4, "date": "2018-07-07 22:09:11"}],
  )
  about = table(tmp_path, "business.json", [{"business_id": "b", "name": "Bar"}])
  cfg = settings.Data(source="yelp", path=str(reviews), catalog=str(about))
  raw = sources.read(cfg, tmp_path)
  assert raw.catalog["title"].tolist() == ["", "Bar"] and len(raw.interactions) == 1
