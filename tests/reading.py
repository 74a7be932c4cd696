"""What the readers' tests share: files packed by extension, and tables as plain lists."""

import bz2
import datetime
import gzip
import lzma

import pyarrow as pa

PACKERS = {
  "": lambda content: content,
  ".gz": gzip.compress,
  ".bz2": lambda content: bz2.compress(content, 1),
  ".xz": lzma.compress,
}


def pack(path, content, encoding="utf-8"):
  """Writes text (or bytes), packed as the path's extension says, and gives the path."""
  content = content if isinstance(content, bytes) else content.encode(encoding)
  if path.suffix in (".zst", ".zstd"):
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
      stream.write(content)
  else:
    path.write_bytes(PACKERS.get(path.suffix, PACKERS[""])(content))
  return path


def events(x):
  """(user, item, ...) of every event, with raw ids."""
  columns = [x.users[x.user].tolist(), x.items[x.item].tolist()]
  columns += [c.tolist() for c in (x.rating, x.timestamp) if c is not None]
  return list(zip(*columns, strict=True))


def rows(ragged, ids=None):
  return [
    (r if ids is None else ids[r]).tolist() for r in map(ragged.__getitem__, range(len(ragged)))
  ]


def dated(text):
  return int(datetime.datetime.fromisoformat(text + "+00:00").timestamp())
