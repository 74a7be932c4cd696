"""Build the semantic ids of a catalogue: item vectors -> a folder that `recjax.semid` reads.

  python tokenizers/build_semantic_ids.py --vectors=vectors.npy --items=items.txt --output=ids
  python tokenizers/build_semantic_ids.py --vectors=... --items=... --output=... \\
    --method=rqkmeans --codes=256,256,256 --policy=count_up

`vectors.npy` is [N, D], one row an item; `items.txt` has the raw id of each row, one a line. Beside
the ids the folder holds `report.json`, `report.md` and `report.png`.
"""

import pathlib

import numpy as np
from absl import app, flags

from recjax.data.errors import DataError
from recjax.data.interactions import with_pad
from recjax.data.readers import semantic_ids
from recjax.semid import artefact, assign, learn, report

_VECTORS = flags.DEFINE_string("vectors", None, "Item vectors [N, D], a .npy file.", required=True)
_ITEMS = flags.DEFINE_string("items", None, "Raw item ids, one a line.", required=True)
_CATEGORIES = flags.DEFINE_string(
  "categories",
  None,
  "A category a row, one a line, empty where unknown: for purity.",
)
_OUTPUT = flags.DEFINE_string("output", None, "The folder to write.", required=True)
_METHOD = flags.DEFINE_enum(
  "method", "rqvae", ["rqvae", "rqkmeans", "opq"], "How vectors are quantised."
)
_CODES = flags.DEFINE_list("codes", ["256", "256", "256"], "Codes of each level.")
_POLICY = flags.DEFINE_enum(
  "policy", "count_up", ["count_up", "next_free", "optimal", "keep"], "What collisions become."
)
_FURTHER = flags.DEFINE_integer("further", 256, "Codes of the level that counts up.", lower_bound=1)
_BALANCE = flags.DEFINE_float("balance", 0.0, "Softness of RQ-KMeans' balance; 0: none.", 0.0)
_SEED = flags.DEFINE_integer("seed", 0, "Of everything that is drawn.")
_EPOCHS = flags.DEFINE_integer("epochs", 300, "Of the RQ-VAE.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 1024, "Of the RQ-VAE.", lower_bound=1)
_RATE = flags.DEFINE_float("rate", 1e-3, "The RQ-VAE's learning rate; falls to 0.", 0.0)
_CODE_RATE = flags.DEFINE_float("code_rate", 5.0, "Of gradient codebooks, times the rate.", 0.0)
_EMA = flags.DEFINE_float("ema", 0.0, "Decay of the RQ-VAE's codebooks; 0: gradient.", 0.0, 1.0)


def lines(path: str) -> list[str]:
  try:
    text = pathlib.Path(path).read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f"cannot be read as text: {error}", path=path) from None
  return text.removesuffix("\n").split("\n") if text else []


def told(argv):
  """Of an error in what was given, its message is all that is printed."""
  try:
    main(argv)
  except DataError as error:
    raise SystemExit(str(error)) from None


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  output = pathlib.Path(_OUTPUT.value)
  vectors = semantic_ids.vectors(_VECTORS.value).astype(np.float32)
  items = lines(_ITEMS.value)
  if len(items) != len(vectors) or len(set(items)) < len(items) or "" in items:
    raise DataError(
      f"{len(vectors)} vectors need as many different ids; there are {len(items)} lines, "
      f"{len(set(items))} of them different",
      path=_ITEMS.value,
    )
  category = None if _CATEGORIES.value is None else np.array(lines(_CATEGORIES.value))
  if category is not None and len(category) != len(items):
    raise DataError(f"{len(category)} lines for {len(items)} items", path=_CATEGORIES.value)
  if not all(size.isdecimal() for size in _CODES.value):
    raise app.UsageError(f"--codes are numbers of codes, as 256,256,256, not {_CODES.value}")
  how = learn.Config(
    method=_METHOD.value,
    sizes=tuple(int(size) for size in _CODES.value),
    seed=_SEED.value,
    balance=_BALANCE.value,
    epochs=_EPOCHS.value,
    batch_size=_BATCH.value,
    rate=_RATE.value,
    code_rate=_CODE_RATE.value,
    ema=_EMA.value,
  )
  made = learn.quantizer(how, vectors, workdir=output / "training")
  policy = {
    "count_up": assign.count_up(_FURTHER.value),
    "next_free": assign.next_free,
    "optimal": assign.optimal,
    "keep": assign.keep,
  }[_POLICY.value]
  padded = np.concatenate([np.zeros((1, vectors.shape[1]), np.float32), vectors])
  made_by = {f.name: f.value for f in flags.FLAGS.get_key_flags_for_module("__main__")}
  ids = artefact.build(
    with_pad(np.array(items)),
    padded,
    made,
    policy,
    made_by={name: value for name, value in made_by.items() if name != "output"},
  )
  ids.save(output)
  found = report.measure(
    ids.codes[1:], sizes=ids.sizes, vectors=vectors, category=category, quantizer=made
  )
  (output / "report.json").write_text(found.json() + "\n")
  (output / "report.md").write_text(found.table() + "\n")
  report.figure(ids.codes[1:], output / "report.png", vectors=vectors, title=_METHOD.value)
  print(f"{ids!r} in {output}\n{found.table()}")


if __name__ == "__main__":
  app.run(told)
