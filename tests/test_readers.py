"""Readers: files, tables, and every kind of bad input, named by file and line."""

import csv
import datetime
import gzip
import io
import json
import math

import hypothesis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from reading import events

from recjax.data import readers
from recjax.data.errors import DataError
from recjax.data.readers import delimited, files

AT = {"user": "user", "item": "item", "rating": "rating", "timestamp": "timestamp"}


# Files.


@pytest.mark.parametrize("extension", ["", ".gz", ".bz2", ".xz", ".zst", ".zstd"])
def test_every_compression_reads_the_same(write, extension):
  path = write("r.csv" + extension, "user,item\nu,a\nu,b\n")
  assert events(readers.tables.interactions(path, {"user": 0, "item": 1})) == [
    ("u", "a"),
    ("u", "b"),
  ]
  assert list(files.lines(path)) == [(1, "user,item"), (2, "u,a"), (3, "u,b")]


@pytest.mark.parametrize("extension", [".gz", ".bz2", ".xz", ".zst"])
def test_a_truncated_archive_is_an_error_and_with_skip_keeps_what_was_read(write, extension):
  rng = np.random.default_rng(0)
  lines = [f"u{u} i{i}\n" for u, i in rng.integers(0, 10**6, (40_000, 2)).tolist()]
  path = write("pairs.txt" + extension, "".join(lines))
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])
  with pytest.raises(DataError, match="cut short.*Download it again") as caught:
    readers.sequences.pairs(path)
  assert caught.value.path == path
  x = readers.sequences.pairs(path, on_error="skip")
  assert 0 < len(x) < len(lines)
  assert [f"{u} {i}\n" for u, i, _ in events(x)] == lines[: len(x)]
  assert x.skipped.count == 1 and "cut short" in x.skipped.first[0]


def test_a_damaged_archive_is_an_error(write):
  path = write("pairs.txt.gz", "u a\n" * 10_000)
  content = bytearray(path.read_bytes())
  content[30] ^= 0xFF
  path.write_bytes(bytes(content))
  with pytest.raises(DataError, match="cannot be read|cut short"):
    readers.sequences.pairs(path)


def test_a_plain_file_named_gz_is_explained(tmp_path):
  path = tmp_path / "pairs.txt.gz"
  path.write_text("u a\n")
  with pytest.raises(DataError, match="not a gzip archive.*take .gz from its name"):
    readers.sequences.pairs(path)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("content, problem", [("", "empty"), ("\n \n", "no records")])
def test_a_file_that_holds_nothing_is_an_error(write, on_error, content, problem):
  for name, read in (
    ("r.jsonl", readers.amazon.reviews),
    ("s.txt", readers.sequences.grouped),
    ("p.txt.gz", readers.sequences.pairs),
    ("b.tsv", readers.mind.behaviors),
  ):
    with pytest.raises(DataError, match=problem):
      read(write(name, content), on_error=on_error)


def test_a_header_alone_is_no_table(write):
  with pytest.raises(DataError, match="no records"):
    readers.tables.interactions(write("r.csv", "user,item\n"), {"user": "user", "item": "item"})


@pytest.mark.parametrize(
  "name", ["nothing.csv", "nothing.csv.gz", "nothing.csv.zst", "nothing.parquet"]
)
def test_a_missing_file_names_its_path(tmp_path, name):
  with pytest.raises(DataError, match=f"{name}: there is no such file"):
    readers.tables.interactions(tmp_path / name, {"user": "user", "item": "item"})


def test_a_folder_is_not_a_file(tmp_path):
  with pytest.raises(DataError, match="this is a folder"):
    readers.sequences.grouped(tmp_path)


def test_on_error_takes_two_words_only(write):
  with pytest.raises(ValueError, match="on_error must be"):
    readers.sequences.grouped(write("s.txt", "1 2\n"), on_error="ignore")


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_data(write):
  path = write("r.csv", b"\xef\xbb\xbfuser,item,rating\r\nu,a,4\r\n")
  x = readers.tables.interactions(path, {"user": "user", "item": "item", "rating": "rating"})
  assert events(x) == [("u", "a", 4.0)]
  y = readers.sequences.grouped(write("s.txt", b"\xef\xbb\xbf1 7 8\r\n2 9\r\n"))
  assert events(y) == [("1", "7", 0), ("1", "8", 1), ("2", "9", 0)]


# Tables.


def test_ids_keep_their_text_and_are_numbered_by_first_appearance(write):
  path = write("r.csv", "user,item,rating,timestamp\n007,b,5,10\n7,a,4.5,20\n007,a,1,5\n")
  x = readers.tables.interactions(path, AT)
  assert x.users.tolist() == ["", "007", "7"] and x.items.tolist() == ["", "b", "a"]
  assert x.user.tolist() == [1, 2, 1] and x.user.dtype == np.int32
  assert x.rating.tolist() == [5, 4.5, 1] and x.rating.dtype == np.float32
  assert x.timestamp.tolist() == [10, 20, 5] and x.timestamp.dtype == np.int64


def test_further_columns_become_fields_and_behaviors_rows(write):
  text = "u;i;what;note;price\n1;2;view;x;1.5\n1;3;buy;;\n"
  at = {"user": "u", "item": "i", "behavior": "what", "note": "note", "price": "price"}
  x = readers.tables.interactions(write("r.txt", text), at, delimiter=";", numeric=("price",))
  assert [x.behaviors[b] for b in x.behavior] == ["view", "buy"]
  assert x.fields["note"].tolist() == ["x", ""]
  np.testing.assert_array_equal(x.fields["price"], np.array([1.5, np.nan], np.float32))


def test_positions_serve_where_there_is_no_header(write):
  x = readers.tables.interactions(
    write("r.tsv", 'u\t9\t"a\n'), {"user": 0, "item": 2, "rating": 1}, header=False
  )
  assert events(x) == [("u", '"a', 9.0)]  # between tabs a quote is text


def test_catalogues_start_with_the_row_of_pad(write):
  c = readers.tables.catalog(
    write("i.csv", 'id,title,price\n5,"Beans, baked",2\n6,Soup,\n'),
    {"id": "id", "title": "title", "price": "price"},
    numeric=("price",),
  )
  assert c.ids.tolist() == ["", "5", "6"] and c["title"].tolist() == ["", "Beans, baked", "Soup"]
  np.testing.assert_array_equal(c["price"], np.array([np.nan, 2, np.nan], np.float32))


@pytest.mark.parametrize("extension", ["jsonl", "parquet", "csv"])
def test_lists_of_names_become_tuples(write, tmp_path, extension):
  rows = [{"id": "a", "path": ["Toys", "Cars"]}, {"id": "b", "path": []}]
  if extension == "csv":
    path = write("c.csv", "id,path\na,Toys\nb,\n")
  elif extension == "jsonl":
    path = write("c.jsonl", "".join(json.dumps(r) + "\n" for r in [*rows, {"id": "c"}]))
  else:
    path = tmp_path / "c.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path)
  got = readers.tables.catalog(path, {"id": "id", "path": "path"}, lists=["path"])
  names = ("Toys",) if extension == "csv" else ("Toys", "Cars")
  assert got["path"][:3].tolist() == [(), names, ()]
  bad = write("bad.jsonl", '{"id": "a", "path": [1]}')
  with pytest.raises(DataError, match="bad.jsonl:1: path 1 is not text"):
    readers.tables.catalog(bad, {"id": "id", "path": "path"}, lists=["path"])


def test_json_lines_and_parquet_read_as_csv_does(write, tmp_path):
  records = [
    {"user": "u1", "item": 7, "rating": 4.5, "timestamp": 3, "text": "böse"},
    {"user": "u2", "item": 7, "rating": 1, "timestamp": 2**53 + 1, "text": None},
  ]
  at = {name: name for name in records[0]}
  lines = "\n".join(json.dumps(r) for r in records)
  parquet.write_table(pa.Table.from_pylist(records), tmp_path / "r.parquet")
  text = "user,item,rating,timestamp,text\nu1,7,4.5,3,böse\nu2,7,1,9007199254740993,\n"
  for path in (write("r.jsonl.gz", lines), tmp_path / "r.parquet", write("r.csv", text)):
    x = readers.tables.interactions(path, at)
    assert events(x) == [("u1", "7", 4.5, 3), ("u2", "7", 1.0, 2**53 + 1)]
    assert x.text.tolist() == ["böse", ""]


def test_dates_are_seconds_in_every_format(write, tmp_path):
  dates = ["1970-01-02", "1970-01-02T01:00:00+01:00", "1970-01-01 00:00:07"]
  records = [{"user": "u", "item": "a", "timestamp": date} for date in dates]
  typed = [datetime.datetime.fromisoformat(date) for date in dates[::2]]
  rows = [{"user": "u", "item": "a", "timestamp": date} for date in typed]
  parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
  at = {name: name for name in records[0]}
  csv = "user,item,timestamp\n" + "".join(f"u,a,{date}\n" for date in dates)
  for path in (write("r.jsonl", "\n".join(map(json.dumps, records))), write("r.csv", csv)):
    assert readers.tables.interactions(path, at).timestamp.tolist() == [86400, 86400, 7]
  assert readers.tables.interactions(tmp_path / "d.parquet", at).timestamp.tolist() == [86400, 7]


def test_fractions_of_a_second_keep_their_order(write):
  """Where there are any the whole column is in millionths, dates and numbers alike."""
  at = {name: name for name in ("user", "item", "timestamp")}
  dates = ["1970-01-02T00:00:00.900Z", "1970-01-02T00:00:00.100Z", "1969-12-31T23:59:59.5Z"]
  for times, wanted in (
    (dates, [86400_900000, 86400_100000, -500000]),
    (["1700000000.5", "1700000000", "-0.25"], [1700000000_500000, 1700000000_000000, -250000]),
    (["5.0", "7", "1e3"], [5, 7, 1000]),
  ):
    path = write("r.csv", "user,item,timestamp\n" + "".join(f"u,a,{t}\n" for t in times))
    assert readers.tables.interactions(path, at).timestamp.tolist() == wanted
  path = write("r.csv", f"user,item,timestamp\nu,a,0.5\nu,b,{2**62}\n")
  with pytest.raises(DataError, match="some have fractions.*Write all of them as whole"):
    readers.tables.interactions(path, at)


def test_a_packed_parquet_is_read_as_well(tmp_path):
  parquet.write_table(pa.table({"user": ["u"], "item": ["a"]}), tmp_path / "r.parquet")
  packed = tmp_path / "r.parquet.gz"
  packed.write_bytes(gzip.compress((tmp_path / "r.parquet").read_bytes()))
  assert readers.tables.names(packed) == ["user", "item"]
  x = readers.tables.interactions(packed, {"user": "user", "item": "item"})
  assert (x.users.tolist(), x.items.tolist()) == (["", "u"], ["", "a"])


def test_a_table_of_which_all_is_skipped_is_an_error(write):
  path = write("r.csv", "user,item,rating\nu,a,good\nu,b,bad\n")
  at = {name: name for name in ("user", "item", "rating")}
  with pytest.raises(DataError, match="all 2 places were skipped, the first as .*'good' is not a"):
    readers.tables.interactions(path, at, on_error="skip")


def test_the_names_of_a_tables_columns_are_told(write, tmp_path):
  parquet.write_table(pa.table({"user": ["u"], "item": ["a"]}), tmp_path / "r.parquet")
  lines = write("r.jsonl.gz", '{"user": "u"}\n{"item": "a"}')
  for path in (lines, tmp_path / "r.parquet", write("r.tsv", "user\titem\nu\ta")):
    assert readers.tables.names(path) == ["user", "item"]
  late = write("late.jsonl", '{"user": "u"}\n' * 1500 + 'broken\n{"item": "a"}')
  assert readers.tables.names(late, on_error="skip") == ["user", "item"]
  assert readers.tables.names(late, wanted=["user"]) == ["user"]  # what is broken comes later
  with pytest.raises(DataError, match="cannot be told from the extension '.dat'"):
    readers.tables.names(write("r.dat", "user"))


words = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\t\0"), max_size=6)
ids = words.filter(lambda s: s.strip())
singles = st.floats(width=32, allow_nan=False, allow_infinity=False)
tables = st.lists(
  st.tuples(ids, ids, singles, st.integers(-(2**63), 2**63 - 1), words), min_size=1, max_size=20
)


def written(table, delimiter):
  out = io.StringIO()
  if delimiter == ",":
    csv.writer(out, lineterminator="\n").writerows(table)
  else:
    out.writelines(delimiter.join(map(str, row)) + "\n" for row in table)
  return out.getvalue()


@given(tables, st.sampled_from([",", "\t"]), st.booleans())
def test_what_is_written_is_read(tmp_path_factory, table, delimiter, clean):
  """Clean or with one line that cannot be read, which sends the file to the slow reader."""
  path = tmp_path_factory.mktemp("t") / "t.txt"
  bad = "" if clean else delimiter.join(["u", "i", "n/a", "1", "x"]) + "\n"
  head = delimiter.join([*AT, "text"]) + "\n"
  path.write_bytes((head + bad + written(table, delimiter)).encode())
  at = AT | {"text": "text"}
  x = readers.tables.interactions(path, at, delimiter=delimiter, on_error="skip")
  assert x.skipped.count == (not clean)
  assert [(*e, t) for e, t in zip(events(x), x.text.tolist(), strict=True)] == table


cells = st.text('ab", \r\n', max_size=4)
numbers = st.sampled_from(
  ["1", "0.5", " 2 ", "1e3", "+3", "-0", "nan", "", "1_0", "1e39", "x", "٣"]
)


@hypothesis.settings(max_examples=200)
@given(st.lists(st.tuples(cells, cells, numbers).map(",".join), min_size=1, max_size=4))
def test_the_fast_path_agrees_with_the_slow_one_or_gives_way(tmp_path_factory, lines):
  """On well formed text and on quotes, line ends and numbers that are not."""
  path = tmp_path_factory.mktemp("t") / "t.csv"
  path.write_bytes("\n".join(lines).encode())
  at = {"user": 0, "item": 1, "rating": 2}

  def read():
    try:
      return events(readers.tables.interactions(path, at, header=False))
    except DataError as error:
      return str(error)

  either = read()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(delimited, "_clean", lambda *args, **kwargs: None)
    assert either == read()


def test_a_clean_table_takes_the_fast_path(write, monkeypatch):
  def forbidden(*args):
    raise AssertionError("the slow reader was used")

  monkeypatch.setattr(delimited.Columns, "check", forbidden)
  dat = write("ratings.dat", "1::a::5::10\n2::b::3.5::20\n")
  assert events(readers.movielens.ratings(dat)) == [("1", "a", 5.0, 10), ("2", "b", 3.5, 20)]
  assert len(
    readers.tables.interactions(write("r.csv", "user,item\nu,a\n"), {"user": 0, "item": 1})
  )


def test_ids_are_unified_over_blocks(write, monkeypatch):
  monkeypatch.setattr(delimited, "_BLOCK", 64)
  table = [(f"u{n % 7}", f"i{n % 5}", float(n), n) for n in range(200)]
  path = write("r.csv", written([tuple(AT), *table], ","))
  x = readers.tables.interactions(path, AT)
  assert events(x) == table
  assert x.users.tolist() == ["", *(f"u{n}" for n in range(7))]


def test_a_stray_quote_costs_its_own_line_only(write):
  text = 'user,item,text\nu,a,fine\nu,b,"open\nu,c,fine\nu,d,"two\nlines"\n'
  at = {"user": "user", "item": "item", "text": "text"}
  path = write("r.csv", text)
  with pytest.raises(DataError) as caught:
    readers.tables.interactions(path, at)
  assert caught.value.line == 3
  x = readers.tables.interactions(path, at, on_error="skip")
  assert x.items.tolist() == ["", "a", "c", "d"] and x.text.tolist()[-1] == "two\nlines"
  assert x.skipped.count == 1


# Bad input: what is wrong, on which line, and that the rest survives.

HEAD = "user,item,rating,timestamp\n"
GOOD = "u,a,5,1\n"


@pytest.mark.parametrize(
  "bad, problem",
  [
    ("u,a,5\n", "3 fields, 4 expected"),
    ("u,a,5,1,9\n", "5 fields, 4 expected"),
    ("u,a,five,1\n", "rating 'five' is not a number"),
    ("u,a,,1\n", "rating '' is not a number"),
    ("u,a,nan,1\n", "rating 'nan' is not finite"),
    ("u,a,inf,1\n", "rating 'inf' is not finite"),
    ("u,a,1e39,1\n", "rating '1e39' is out of range"),
    ("u,a,1_0,1\n", "rating '1_0' is not a number"),
    ("u,a,5,9223372036854775808\n", "timestamp '9223372036854775808' is out of range"),
    ("u,a,5,2020-01-02\n", "timestamp '2020-01-02' stands among numbers"),
    ("u,a,5,2/1/2020\n", "timestamp '2/1/2020' is not a number"),
    (",a,5,1\n", "the user id is empty"),
    ("u, ,5,1\n", "the item id is empty"),
    ('u,"a"b,5,1,\n', "5 fields, 4 expected"),
    ('u,"a,5,1\n', "malformed line"),
    ("u,\xff,5,1\n", "byte 0xff at column 3 is not utf-8"),
  ],
)
def test_a_bad_line_of_a_table_is_named_and_alone_skipped(write, bad, problem):
  path = write("r.csv", HEAD + GOOD + "\n" + bad + GOOD, encoding="latin-1")
  with pytest.raises(DataError, match=problem) as caught:
    readers.tables.interactions(path, AT)
  assert (caught.value.path, caught.value.line) == (path, 4)
  assert str(caught.value).startswith(f"{path}:4: ") and caught.value.remedy
  x = readers.tables.interactions(path, AT, on_error="skip")
  assert events(x) == [("u", "a", 5.0, 1)] * 2
  assert x.skipped.count == 1 and x.skipped.first[0].startswith(f"{path}:4: {problem}")


def test_what_is_skipped_is_said_once_in_the_log(write, caplog):
  path = write("r.csv", HEAD + GOOD + "u\n" * 9)
  x = readers.tables.interactions(path, AT, on_error="skip")
  assert x.skipped.count == 9 and len(x.skipped.first) == 5
  assert [r.levelname for r in caplog.records] == ["WARNING"]
  assert "9 places skipped" in caplog.text


def test_a_missing_column_says_what_there_is(write, tmp_path):
  at = {"user": "reviewer", "item": "item"}
  with pytest.raises(DataError, match="no column 'reviewer'.*user, item, rating") as caught:
    readers.tables.interactions(write("r.csv", HEAD + GOOD), at, on_error="skip")
  assert caught.value.line == 1
  with pytest.raises(DataError, match="no column 4"):
    readers.tables.interactions(write("r.csv", HEAD + GOOD), {"user": 0, "item": 4})
  parquet.write_table(pa.table({"item": ["a"]}), tmp_path / "r.parquet")
  with pytest.raises(DataError, match="no column 'reviewer'.*The table has: item"):
    readers.tables.interactions(tmp_path / "r.parquet", at)
  with pytest.raises(DataError, match="no field 'reviewer'.*The record has: item") as caught:
    readers.tables.interactions(write("r.jsonl", '{"item": "a"}'), at)
  assert caught.value.line == 1
  with pytest.raises(DataError, match="appears 2 times"):
    readers.tables.interactions(write("d.csv", "item,item\n1,2\n"), {"user": 0, "item": "item"})
  with pytest.raises(ValueError, match="must say where 'item' is"):
    readers.tables.interactions("r.csv", {"user": 0})


def test_a_field_that_no_json_line_has_is_a_misspelling(write):
  path = write("r.jsonl", '{"u": 1, "i": 2}\n{"u": 1, "i": 3, "note": "x"}\n')
  at = {"user": "u", "item": "i"}
  x = readers.tables.interactions(path, at | {"text": "note"})
  assert x.text.tolist() == ["", "x"]
  with pytest.raises(DataError, match="no record has a field 'notes'"):
    readers.tables.interactions(path, at | {"text": "notes"})


def test_a_record_over_lines_with_a_bad_byte_is_one_place(write):
  text = b'user,item,text\nu,a,"one\ntw\xff\nthree"\nu,b,"x\ny"\n'
  path = write("r.csv", text)
  at = {"user": "user", "item": "item", "text": "text"}
  with pytest.raises(DataError, match="byte 0xff at column 3") as caught:
    readers.tables.interactions(path, at)
  assert caught.value.line == 3
  x = readers.tables.interactions(path, at, on_error="skip")
  assert x.items.tolist() == ["", "b"] and x.text.tolist() == ["x\ny"] and x.skipped.count == 1


def test_a_record_over_lines_with_a_bad_rating_is_one_place(write):
  path = write("r.csv", 'user,item,rating,note\nu,a,n/a,"x\ny"\nu,b,1,"x\ny"\n')
  at = {"user": "user", "item": "item", "rating": "rating"}
  x = readers.tables.interactions(path, at, on_error="skip")
  assert events(x) == [("u", "b", 1.0)] and x.skipped.count == 1
  assert x.skipped.first[0].startswith(f"{path}:2: rating 'n/a' is not a number")


def test_a_column_may_be_called_like_something_else_s_id(write):
  at = {"user": "user", "item": "item", "id": "id"}
  x = readers.tables.interactions(write("r.csv", "id,user,item\n9,u,a\n9,u,b\n"), at)
  assert x.fields["id"].tolist() == ["9", "9"]


def test_an_unknown_extension_asks_for_the_delimiter(write):
  with pytest.raises(DataError, match="extension '.dat'.*delimiter"):
    readers.tables.read(write("r.dat", "a b\n"), {"user": 0})


def test_a_parquet_row_is_named_and_a_broken_file_too(tmp_path):
  path = tmp_path / "r.parquet"
  at = {"user": "user", "item": "item", "rating": "rating"}
  columns = {"user": ["u", None, "u"], "item": [1, 2, 3], "rating": [1.0, 2.0, math.nan]}
  parquet.write_table(pa.table(columns), path)
  with pytest.raises(DataError, match="row 2: user id None is neither"):
    readers.tables.interactions(path, at)
  x = readers.tables.interactions(path, at, on_error="skip")
  assert events(x) == [("u", "1", 1.0)] and x.skipped.count == 2
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(DataError, match="not a parquet file"):
    readers.tables.interactions(path, at)


def test_an_item_described_twice_is_an_error_and_with_skip_the_first_is_kept(write):
  path = write("i.csv", "id,title\na,one\nb,two\na,three\n")
  at = {"id": "id", "title": "title"}
  with pytest.raises(DataError, match="'a' appears a second time") as caught:
    readers.tables.catalog(path, at)
  assert caught.value.line == 4
  c = readers.tables.catalog(path, at, on_error="skip")
  assert c["title"].tolist() == ["", "one", "two"] and c.skipped.count == 1


# One good line, one bad, what is wrong with it.
SOURCES = [
  (readers.amazon.reviews,
   '{"reviewerID": "u", "asin": "a", "overall": 5.0, "unixReviewTime": 1}', [
    ('{"reviewerID": "u", "asin": "a", "overall": 5.0}', "no field 'unixReviewTime'"),
    ('{"reviewerID": "u", "asin": "a", "overall": NaN, "unixReviewTime": 1}', "not finite"),
    ('{"reviewerID": "u", "asin": "a", "overall": true, "unixReviewTime": 1}', "not a number"),
    ('{"reviewerID": "u", "asin": null, "overall": 1, "unixReviewTime": 1}', "item id None"),
    ('{"reviewerID": "u", "asin": "a", "overall"', "neither JSON nor a Python literal"),
    ("__import__('os').getcwd()", "neither JSON nor a Python literal"),
    ("[" * 100_000, "neither JSON nor a Python literal"),
    ("[1, 2]", "a JSON object was expected"),
    (r'{"reviewerID": "u\ud800", "asin": "a", "overall": 1, "unixReviewTime": 1}', "half a char"),
  ]),
  (readers.amazon.metadata, "{'asin': 'a'}", [
    ("{'asin': 'a'}", "appears a second time"),
    ("{'title': 'x'}", "no field 'asin'"),
    ("{'asin': 'b', 'title': 5}", "title 5 is not text"),
    ("{'asin': 'b', 'categories': 'Toys'}", "not a list"),
  ]),
  (readers.yelp.reviews,
   '{"user_id": "u", "business_id": "b", "stars": 3, "date": "2018-07-07 22:09:11"}', [
    ('{"user_id": "u", "business_id": "b", "stars": 3, "date": "7 July"}', "date '7 July'"),
  ]),
  (readers.yelp.businesses, '{"business_id": "b", "name": "x"}', [
    ('{"business_id": "c", "categories": 5}', "neither text nor a list"),
  ]),
  (readers.steam.reviews, "{u'username': u'x', u'product_id': u'1', u'date': u'2017-12-17'}", [
    ("{u'username': u'x', u'product_id': u'1'}", "no field 'date'"),
  ]),
  (readers.steam.games, "{u'id': u'1', u'title': u'x'}", [("{u'title': u'y'}", "no field 'id'")]),
  (readers.steam.australian_items, "{'user_id': 'u', 'items': []}", [
    ("{'user_id': 'u', 'items': [{'item_id': '1', 'playtime_forever': 'x'}]}", "not a number"),
    ("{'user_id': 'u', 'items': 3}", "malformed"),
  ]),
  (readers.mind.behaviors, "1\tU1\t11/15/2019 9:55:12 AM\tN1 N2\tN3-0 N4-1", [
    ("1\tU1\t11/15/2019 9:55:12 AM\tN1", "4 fields, 5 expected"),
    ("1\tU1\t11/15/2019 9:55:12 AM\tN1\tN3 N4", "not a news id with -0 or -1"),
    ("1\tU1\t11/15/2019 13:55:12 AM\t\tN3-0", "no such hour"),
    ("1\tU1\t13/15/2019 9:55:12 AM\t\tN3-0", "malformed"),
    ("1\t \t11/15/2019 9:55:12 AM\t\tN3-0", "user id is empty"),
  ]),
  (readers.mind.news, "N1\tnews\tlocal\tTitle\t\turl\t[]\t[]", [
    ("N1\tnews\tlocal\tTitle\t\turl\t[]\t[]", "appears a second time"),
    ("N2\tnews\tlocal\tTitle\t\turl\t[\t[]", "malformed"),
  ]),
  (readers.mind.sampled_behaviors,
   '{"history": [], "candidates": [["N1", "x"]], "clicked": [0]}', [
    ('{"history": [], "candidates": [["N1", "x"]], "clicked": [1]}', "not places among 1"),
  ]),
  (readers.mind.dkn, "u\ttitle\t1\t5:X", [("u\ttitle\t2\t5:X", "0 or 1")]),
  (readers.edges.lists, "u 1 2", [("u 3", "user 'u' has a line already")]),
  (readers.edges.weighted, "u\ti\t3", [("u i 3", "1 fields, 3 expected")]),
  (readers.edges.links, "u\tv", [("u\t", "friend id is empty")]),
  (readers.sequences.pairs, "1 2", [("1 2 3", "3 fields, 2 expected")]),
  (readers.sequences.ncf_negatives, "(0,25)\t1\t2", [("0,25\t1", r"\(user,item\)")]),
  (readers.instructions.collm, '{"uid": 1, "iid": 2, "label": 1, "ts": 5, "his": [0]}', [
    ('{"uid": 1, "iid": 2, "label": 3, "ts": 5, "his": [0]}', "label 3 must be 0 or 1"),
  ]),
  (readers.instructions.minionerec, '{"user": "u", "history": [1], "item": 2}', [
    ('{"user": "u", "history": [1.5], "item": 2}', "item id 1.5 is neither"),
  ]),
  (readers.instructions.minionerec_items, '{"id": 0, "sid": [1, 2], "title": "x"}', [
    ('{"id": 1, "sid": [1], "title": "x"}', "1 codes, the first item has 2"),
    ('{"id": 1, "sid": [1, -2], "title": "x"}', "not a list of whole numbers from 0"),
  ]),
]  # fmt: skip


@pytest.mark.parametrize(
  "read, good, bad, problem",
  [(read, good, *case) for read, good, cases in SOURCES for case in cases],
)
def test_a_bad_line_of_a_source_is_named_and_alone_skipped(write, read, good, bad, problem):
  path = write(
    "lines.txt" if read is not readers.amazon.metadata else "m.json", f"{good}\n\n{bad}\n"
  )
  with pytest.raises(DataError, match=problem) as caught:
    read(path)
  assert (caught.value.path, caught.value.line) == (path, 3)
  assert caught.value.remedy
  kept = read(path, on_error="skip")
  assert kept.skipped.count == 1
  alone = read(write("alone.txt", good))
  assert len(kept) == len(alone) and alone.skipped.count == 0
