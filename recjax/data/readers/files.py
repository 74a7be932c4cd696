"""Files as streams of lines: compression by extension, every bad place named by file and line."""

from __future__ import annotations

import ast
import bz2
import gzip
import io
import json
import lzma
import os
import pathlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pyarrow as pa
from absl import logging

from recjax.data.errors import DataError, Skipped

Path = str | os.PathLike
T = TypeVar("T")

_SKIP = 'Mend it, or pass on_error="skip" to leave such places out and count them.'
_AGAIN = "Download it again: an interrupted download looks like this."


def _zstd(path: Path) -> io.RawIOBase:
  # Not the zstandard package: its stream ends a truncated frame without an error.
  return pa.CompressedInputStream(pa.OSFile(os.fspath(path)), "zstd")


_OPENERS: dict[str, Callable[[Path], Any]] = {
  ".gz": gzip.open,
  ".bz2": bz2.open,
  ".xz": lzma.open,
  ".zst": _zstd,
  ".zstd": _zstd,
}
COMPRESSIONS = ("", *_OPENERS)


def suffix(path: Path) -> str:
  """The extension below the compression's: "ratings.csv.gz" -> ".csv"."""
  path = pathlib.Path(path)
  return (path.with_suffix("") if path.suffix in _OPENERS else path).suffix.lower()


class _Named(io.RawIOBase):
  """A stream whose failures name the file and the remedy."""

  def __init__(self, stream, path: Path):
    self._stream, self._path = stream, path

  def readable(self) -> bool:
    return True

  def readinto(self, buffer) -> int:
    try:
      return self._stream.readinto(buffer)
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
      if isinstance(error, EOFError) or "Truncated" in str(error):
        problem, remedy = "the archive is cut short", _AGAIN
      elif isinstance(error, gzip.BadGzipFile) and "Not a gzipped" in str(error):
        problem = "the file is not a gzip archive"
        remedy = "If it was unpacked already, take .gz from its name."
      else:
        problem, remedy = f"the file cannot be read ({error})", _AGAIN
      raise DataError(problem, path=self._path, remedy=remedy) from error

  def close(self) -> None:
    self._stream.close()
    super().close()


def open_bytes(path: Path) -> io.BufferedReader:
  """The unpacked content; whatever goes wrong, also while reading, is a `DataError`."""
  try:
    stream = _OPENERS.get(pathlib.Path(path).suffix, lambda p: open(p, "rb"))(path)
  except FileNotFoundError as error:
    remedy = "Check the path; the readers take files that are already there."
    raise DataError("there is no such file", path=path, remedy=remedy) from error
  except IsADirectoryError as error:
    raise DataError("this is a folder", path=path, remedy="Name a file in it.") from error
  except OSError as error:
    remedy = "Check the path and its permissions."
    raise DataError(f"the file cannot be opened ({error})", path=path, remedy=remedy) from error
  return io.BufferedReader(_Named(stream, path), 1 << 16)


class Lines:
  """The lines of one file, and what becomes of the bad ones.

  `on_error="raise"` stops at the first; "skip" leaves each out and counts it, and keeps what
  could be read of a truncated archive. Lines end at newlines only; blank ones hold no record.
  """

  def __init__(self, path: Path, on_error: str = "raise", encodings: tuple[str, ...] = ("utf-8",)):
    if on_error not in ("raise", "skip"):
      raise ValueError(f'on_error must be "raise" or "skip", not {on_error!r}')
    self.path, self.encodings = path, encodings  # encodings: tried in turn, line by line
    self._skip = on_error == "skip"
    self._skipped = Skipped()
    self.records = 0  # how many lines gave something

  def reject(self, error: DataError, line: int | None = None) -> None:
    """Raises the error with its place, or counts it."""
    place = {"path": error.path or self.path, "line": error.line or line}
    if not self._skip:
      raise DataError(error.problem, **place, remedy=error.remedy or _SKIP) from error
    self._skipped += Skipped(1, (str(DataError(error.problem, **place)),))

  def raw(self) -> Iterator[tuple[int, bytes]]:
    """Numbered lines, undecoded, with their ends. An empty file is an error, skip or not."""
    line = 0
    with open_bytes(self.path) as stream:
      try:
        for line, content in enumerate(stream, 1):
          if line == 1:
            content = content.removeprefix(b"\xef\xbb\xbf")  # a byte-order mark
          yield line, content
      except DataError as error:
        self.reject(error)
    if not line and not self._skipped.count:
      raise DataError("the file is empty", path=self.path, remedy=_AGAIN)

  def decode(self, content: bytes) -> str:
    for encoding in self.encodings:
      try:
        return content.decode(encoding)
      except UnicodeDecodeError as error:
        at, name = error.start, encoding
    raise DataError(f"byte 0x{content[at]:02x} at column {at + 1} is not {name}")

  def parsed(self, parse: Callable[[str], T], blank: bool = False) -> Iterator[T]:
    """`parse(line)` of every line; what it raises gets its place.

    `blank` lines are passed on where their position means something.
    """
    for line, content in self.raw():
      try:
        text = self.decode(content).rstrip("\r\n")
        if not blank and (not text or text.isspace()):
          continue
        record = parse(text)
      except DataError as error:
        self.reject(error, line)
      except (ValueError, TypeError) as error:
        self.reject(DataError(f"malformed line ({error})"), line)
      else:
        self.records += 1
        yield record

  def finish(self) -> Skipped:
    """What was left out, said once in the log. A file that held nothing at all is an error."""
    if not self.records and not self._skipped.count:
      raise DataError("the file holds no records", path=self.path, remedy=_AGAIN)
    if not self.records:
      raise DataError(
        f"no record is left: all {self._skipped.count} places were skipped, the first as "
        f"{self._skipped.first[0]}",
        path=self.path,
        remedy="Mend what they have in common.",
      )
    if self._skipped.count:
      first = "\n  ".join(self._skipped.first)
      logging.warning("%s: %d places skipped, first:\n  %s", self.path, self._skipped.count, first)
    return self._skipped


def lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
  """Every line with its number, decoded, without its end."""
  source = Lines(path, encodings=(encoding,))
  for line, content in source.raw():
    try:
      yield line, source.decode(content).rstrip("\r\n")
    except DataError as error:
      source.reject(error, line)


def json_object(text: str) -> dict[str, Any]:
  """One line that holds a JSON object or, as UCSD's older files do, a Python literal.

  A literal is parsed, never evaluated.
  """
  try:
    record = json.loads(text)
  except (ValueError, RecursionError) as error:
    try:
      record = ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
      raise DataError(f"neither JSON nor a Python literal ({error})") from error
  if not isinstance(record, dict):
    raise DataError(f"a JSON object was expected, not {shown(record)}")
  return record


def json_document(path: Path) -> Any:
  """A whole JSON file; one that names a key twice is an error."""
  with open_bytes(path) as stream:
    content = stream.read()
  if not content.strip():
    raise DataError("the file is empty", path=path, remedy=_AGAIN)

  def distinct(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
      keys = [key for key, _ in pairs]
      twice = next(key for i, key in enumerate(keys) if key in keys[:i])
      raise DataError(f"key {twice!r} appears twice", path=path, remedy="Keep one of them.")
    return found

  try:
    return json.loads(content, object_pairs_hook=distinct)
  except json.JSONDecodeError as error:
    raise DataError(
      f"not JSON ({error.msg})", path=path, line=error.lineno, remedy=_AGAIN
    ) from error
  except (UnicodeDecodeError, RecursionError) as error:
    raise DataError(f"not JSON ({error})", path=path, remedy=_AGAIN) from error


def shown(value: Any) -> str:
  """A value in a message, cut to a readable length."""
  text = repr(value)
  return text if len(text) <= 60 else text[:57] + "..."
