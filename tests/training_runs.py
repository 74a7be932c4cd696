"""Runs of the small system of `toy`, as the tests of the loop start them."""

import json
import pathlib

import jax
import toy

from recjax.train import loop, mesh


def run(
  workdir, *, steps=12, system=None, train=None, suites=(), devices=1, axes=(), rules=(), **options
):
  x = toy.log()
  cfg = loop.Config(steps=steps, **{"save_every": 4, "log_every": 3} | options)
  return loop.fit(
    system or toy.make(x.num_items),
    (),
    train or toy.batches(x),
    cfg,
    suites=suites,
    workdir=workdir,
    mesh=mesh.make_mesh(**dict(axes)) if axes else mesh.make_mesh(devices=jax.devices()[:devices]),
    rules=rules,
  )


def told(workdir):
  """What metrics.jsonl says, times left out."""
  lines = [
    json.loads(t) for t in (pathlib.Path(workdir) / "metrics.jsonl").read_text().split("\n")[:-1]
  ]
  return [{k: v for k, v in line.items() if not k.startswith("perf/")} for line in lines]


class Breaks:
  """Batches that fail once at a given index, as a killed machine would."""

  def __init__(self, batches, at):
    self._batches, self._at = batches, at

  def __getattr__(self, name):
    return getattr(self._batches, name)

  def __len__(self):
    return len(self._batches)

  def __getitem__(self, index):
    if index == self._at:
      raise ConnectionError("the disk went away")
    return self._batches[index]
