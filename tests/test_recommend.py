"""The command that asks a finished run."""

import pathlib
import subprocess
import sys

from shelf import make

ROOT = pathlib.Path(__file__).parent.parent


def ask(as_user, workdir, *more):
  command = [sys.executable, "-m", "experiments.recommend", f"--workdir={workdir}", *more]
  return subprocess.run(command, cwd=ROOT, env=as_user, capture_output=True, text=True, timeout=200)


def test_the_command_prints_what_to_show_next_or_what_is_wrong(as_user, tmp_path):
  held = make("item_knn", deny_seen=True)
  held.save(tmp_path / "recommender")
  done = ask(as_user, tmp_path, "--history=i1,i2", "--k=3")
  assert done.returncode == 0, done.stderr[-3000:]
  (ids, scores, titles), lines = (x[0] for x in held.recommend([["i1", "i2"]], 3)), done.stdout
  rows = [line.split(maxsplit=2) for line in lines.splitlines()]
  assert rows == [[f"{s:.4f}", i, t] for s, i, t in zip(scores, ids, titles, strict=True)]
  wrong = ask(as_user, tmp_path, "--history=i99")
  assert wrong.returncode == 1 and wrong.stderr.startswith("no item 'i99' (history 0)")
