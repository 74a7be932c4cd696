"""TensorFlow Datasets without TensorFlow: builders that write ArrayRecord, read by random access.

    parts = {"train": examples.prefixes(split.train)}
    builder = tfds.ExamplesBuilder(name="beauty", parts=parts, data_dir="data")
    builder.download_and_prepare()
    batches = loader.Batches(tfds.source(builder, "train"), 256, max_len=20)

A public builder is read the same way (the first call downloads, so it needs a network):

    ratings = tensorflow_datasets.data_source("movielens/100k-ratings", split="train")
    x = tfds.interactions(ratings, user="user_id", item="movie_id", rating="user_rating",
                          timestamp="timestamp")

For speed prefer `records.py`, whose batches are decoded at once; TFDS decodes example by example.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from recjax.data import interactions as tables
from recjax.data.errors import DataError
from recjax.data.examples import Examples
from recjax.data.interactions import Interactions
from recjax.data.ragged import Ragged


class ExamplesBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A TFDS data set of `Examples`, one split a part; features follow from the columns."""

  VERSION = tfds.core.Version("1.0.0")

  def __init__(
    self, *, name: str, parts: Mapping[str, Examples], data_dir: str | os.PathLike, **options: Any
  ):
    if not parts:
      raise DataError("no parts to build a data set from", path=data_dir)
    for part in parts.values():
      for column, values in {**part.dense, **part.left, **part.right}.items():
        if getattr(values, "values", values).dtype == np.float64:
          # TFDS would store it as float32 without a word.
          raise DataError(f"column {column!r} is float64", remedy="Cast it to float32.")
    self.name = name  # read by TFDS as the data set's name
    self._parts = dict(parts)
    super().__init__(data_dir=os.fspath(data_dir), file_format="array_record", **options)

  def _info(self) -> tfds.core.DatasetInfo:
    part = next(iter(self._parts.values()))
    features: dict[str, Any] = {
      name: tfds.features.Tensor(shape=c.shape[1:], dtype=c.dtype.type)
      for name, c in part.dense.items()
    }
    for kind in (part.left, part.right):
      for name, rows in kind.items():
        features[name] = tfds.features.Tensor(shape=(None,), dtype=rows.values.dtype.type)
    # Which side is padded travels with the data set, so that a reader needs no more than it.
    sides = {"left": sorted(part.left), "right": sorted(part.right)}
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(features),
      metadata=tfds.core.MetadataDict(sides),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {split: self._generate_examples(part) for split, part in self._parts.items()}

  def _generate_examples(self, part: Examples):
    ragged = {**part.left, **part.right}
    for i in range(len(part)):
      dense = {name: c[i] for name, c in part.dense.items()}
      yield i, {**dense, **{name: rows[i] for name, rows in ragged.items()}}


class Source:
  """A split of a prepared `ExamplesBuilder` as a `loader.Source`."""

  def __init__(
    self, data: Any, dtypes: Mapping[str, np.dtype], *, left: Sequence[str], right: Sequence[str]
  ):
    self._data, self._dtypes = data, dict(dtypes)
    self._left, self._right = tuple(left), tuple(right)
    # One pass over the lengths: bucketing and right-padded widths need them all.
    sizes: dict[str, list[int]] = {name: [] for name in (*left, *right)}
    for begin in range(0, len(data), 4096):
      for example in data.__getitems__(list(range(begin, min(begin + 4096, len(data))))):
        for name, into in sizes.items():
          into.append(len(example[name]))
    self.lengths = np.max([np.zeros(len(data), int), *(sizes[n] for n in left)], axis=0)
    self._longest = {name: max([1, *sizes[name]]) for name in right}

  def __len__(self) -> int:
    return len(self._data)

  def widths(self, max_len: int) -> dict[str, int]:
    return {**{name: max_len for name in self._left}, **self._longest}

  def gather(self, rows: np.ndarray, widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    found = self._data.__getitems__(rows.tolist())
    batch = {}
    for name, dtype in self._dtypes.items():
      column = [example[name] for example in found]
      if name not in widths:
        batch[name] = np.asarray(column, dtype)
        continue
      ragged = Ragged.from_rows(column, dtype)
      pad = ragged.left_padded if name in self._left else ragged.right_padded
      batch[name] = pad(np.arange(len(found)), widths[name])
    return batch


def source(builder: tfds.core.DatasetBuilder, split: str) -> Source:
  """The split of a prepared builder, or of `tfds.builder_from_directory(folder)`."""
  if split not in builder.info.splits:
    there = ", ".join(builder.info.splits) or "none; call download_and_prepare first"
    raise DataError(f"no split {split!r}", path=builder.data_dir, remedy=f"There is {there}.")
  sides = builder.info.metadata
  if not sides or "left" not in sides:
    raise DataError(
      "the data set does not say which columns are padded at the left",
      path=builder.data_dir,
      remedy="Only data sets of ExamplesBuilder can be read so; use `interactions` for others.",
    )
  dtypes = {name: feature.np_dtype for name, feature in builder.info.features.items()}
  return Source(builder.as_data_source(split), dtypes, left=sides["left"], right=sides["right"])


def interactions(data: Any, **columns: str) -> Interactions:
  """Interactions from a TFDS data source of one event an example: our column -> its feature."""
  for needed in ("user", "item"):
    if needed not in columns:
      raise ValueError(f"say which feature holds the {needed}: {needed}=...")
  raw: dict[str, list] = {name: [] for name in columns}
  for begin in range(0, len(data), 4096):
    for example in data.__getitems__(list(range(begin, min(begin + 4096, len(data))))):
      for name, feature in columns.items():
        if feature not in example:
          raise DataError(
            f"no feature {feature!r}", remedy=f"An example has {', '.join(sorted(example))}."
          )
        value = example[feature]
        raw[name].append(value.decode() if isinstance(value, bytes) else value)
  named = {name: np.asarray(values) for name, values in raw.items()}
  known = ("user", "item", "timestamp", "rating", "behavior", "text")
  fields = {name: named.pop(name) for name in list(named) if name not in known}
  return tables.from_columns(**named, fields=fields)
