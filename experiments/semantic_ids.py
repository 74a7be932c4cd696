"""What semantic ids are worth on a catalogue, by seeds, beside ids that others published.

    python -m experiments.semantic_ids --path=amazon14_p5/Beauty --encoder=lsa \\
      --workdir=runs/ids_beauty_lsa --record=experiments/results/semantic_ids_beauty_lsa.json

Each method of `recjax.semid.learn` codes the same item vectors with each seed; `sid_*.json.gz`
beside the items are measured by the same functions. The category is the second of an item's path.
A finished seed is not done again.
"""

from __future__ import annotations

from experiments import launch  # before all others

# isort: split
import datetime
import json
import pathlib
import time

import numpy as np
from absl import flags

from experiments import results, settings, sources
from recjax.data.interactions import Catalog
from recjax.semid import artefact, learn, report
from recjax.text import encoders, lsa, vectors
from recjax.types import PAD

_PATH = flags.DEFINE_string("path", None, "The folder of the items, as data.path.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Keeps vectors and training.", required=True)
_ENCODER = flags.DEFINE_string("encoder", "lsa", "lsa, or the folder of a sentence encoder.")
_TEMPLATE = flags.DEFINE_string("template", "{title}", "Fields of the catalogue.")
_DIM = flags.DEFINE_integer("dim", 384, "Of lsa.", lower_bound=1)
_SHORTEST = flags.DEFINE_integer("shortest", 2, "Letters of lsa's shortest word.", lower_bound=1)
_METHODS = flags.DEFINE_list("methods", ["rqvae", "rqkmeans"], "Of recjax.semid.learn.")
_EPOCHS = flags.DEFINE_integer("epochs", 60, "Of the RQ-VAE.", lower_bound=1)
_DEFAULT = learn.Config()
_CHOSEN = {  # of the RQ-VAE, see learn.Config
  name: flags.DEFINE_float(name, getattr(_DEFAULT, name), "Of the RQ-VAE, see learn.Config.", 0.0)
  for name in ("rate", "beta", "ema", "sinkhorn", "restart")
}
_WHOLE = {
  "tries": flags.DEFINE_integer("tries", 1, "RQ-VAEs a seed, see learn.Config.", lower_bound=1),
  "warmup": flags.DEFINE_integer("warmup", 0, "Epochs up to the rate.", lower_bound=0),
}
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "One run each.")
_RECORD = flags.DEFINE_string("record", None, "A file for the results.")

LEVELS = 3  # collisions are compared before a further level


def main():
  launch.prepare(devices=1)
  workdir = pathlib.Path(_WORKDIR.value)
  raw = sources.read(settings.Data(source="sequences", path=_PATH.value), workdir)
  category = sources.category(raw.catalog)[PAD + 1 :]
  x = _vectors(raw.catalog, workdir)[PAD + 1 :]
  rows = {}
  for path in sorted(sources.path_of(_PATH.value).glob("sid_*.json.gz")):
    codes = artefact.published(path).select(raw.catalog.ids.tolist()).codes[PAD + 1 :]
    rows[path.name.removesuffix(".json.gz")] = [_row(codes, category, x)]
  for method in _METHODS.value:
    rows[method] = [_seed(method, int(seed), x, category, workdir) for seed in _SEEDS.value]
    print(method, json.dumps(rows[method], indent=1), flush=True)
  if _RECORD.value:
    told = {f.name: f.value for f in flags.FLAGS.get_key_flags_for_module("__main__")}
    record = {
      "flags": told | {"encoder": "/".join(pathlib.Path(_ENCODER.value).parts[-2:])},
      "date": datetime.date.today().isoformat(),
      "hardware": results.hardware(),
      "vectors_sha256": artefact.content_hash(x),
      "ids": rows,
    }
    pathlib.Path(_RECORD.value).write_text(json.dumps(record, indent=1) + "\n")
  print(table(rows))


def table(rows: dict[str, list[dict]]) -> str:
  """Markdown: a row a method, means over the seeds."""
  names = ["purity", "collisions", "perplexity", "dead_codes", "reconstruction", "seconds"]
  lines = [f"| ids | {' | '.join(names)} | seeds |", "|---" * (len(names) + 2) + "|"]
  for name, found in rows.items():
    cells = []
    for metric in names:
      values = [row[metric] for row in found if row.get(metric) is not None]
      if not values:
        cells.append("")
        continue
      spread = f" ({min(values):.4g} to {max(values):.4g})" if len(values) > 1 else ""
      cells.append(f"{np.mean(values):.4g}{spread}")
    lines.append(f"| {name} | {' | '.join(cells)} | {len(found)} |")
  return "\n".join(lines)


def _vectors(catalog: Catalog, workdir: pathlib.Path) -> np.ndarray:
  if _ENCODER.value == "lsa":
    texts = vectors.render(catalog, _TEMPLATE.value)[PAD + 1 :]
    encoder = lsa.fit(texts, dim=_DIM.value, shortest=_SHORTEST.value)
  else:
    encoder = encoders.load(_ENCODER.value)
  return vectors.item_vectors(catalog, _TEMPLATE.value, encoder, cache=workdir / "vectors")


def _seed(method: str, seed: int, x, category, workdir: pathlib.Path) -> dict:
  chosen = {name: flag.value for name, flag in (_CHOSEN | _WHOLE).items()}
  told = "".join(f"_{name}{x:g}" for name, x in chosen.items() if x != getattr(_DEFAULT, name))
  of = artefact.content_hash(x)[:8]  # other vectors are another folder
  folder = workdir / f"{method}_{_EPOCHS.value}{told}_{of}_{seed}"
  done = folder / "row.json"
  if done.exists():
    return json.loads(done.read_text())
  began = time.perf_counter()
  cfg = learn.Config(method=method, seed=seed, epochs=_EPOCHS.value, **chosen)
  made = learn.quantizer(cfg, x, workdir=folder)
  seconds = time.perf_counter() - began
  row = {"seed": seed, **_row(made.encode(x), category, x, made), "seconds": round(seconds, 1)}
  folder.mkdir(parents=True, exist_ok=True)
  done.write_text(json.dumps(row))
  return row


def _row(codes: np.ndarray, category, x, made=None) -> dict:
  found = report.measure(codes[:, :LEVELS], category=category, vectors=x, quantizer=made)
  return {
    "purity": found.purity[0],  # of the category given the first code
    "collisions": found.collisions,
    "perplexity": found.perplexity[0],
    "dead_codes": sum(found.sizes) - sum(found.used),
    "neighbours": found.neighbours[0],
    "reconstruction": found.reconstruction,
  }


if __name__ == "__main__":
  launch.start(main)
