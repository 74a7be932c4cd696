"""The README's main job: what it promises on any machine, and the same again."""

import json
import pathlib
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def command(workdir):
  """The README's first command, installation aside, in a folder of its own."""
  lines = (ROOT / "README.md").read_text().splitlines()
  (line,) = (x for x in lines if "tiger_synthetic.py --workdir=" in x and "pip install" in x)
  _, _, module, config, _ = shlex.split(line.partition("&&")[2])
  return [sys.executable, "-m", module, config, f"--workdir={workdir}"]


@pytest.mark.slow
def test_the_main_job_keeps_what_the_readme_says_twice(tmp_path):
  found = []
  for name in ("one", "two"):
    subprocess.run(command(tmp_path / name), cwd=ROOT, check=True, capture_output=True)
    systems = json.loads((tmp_path / name / "results.json").read_text())["systems"]
    found.append({system: kept["seeds"] for system, kept in systems.items()})
  rows = {system: seeds[0] for system, seeds in found[0].items()}
  reached = rows["tiger"]["recall@10"]
  assert reached >= 0.8 * rows["best attainable"]["recall@10"]
  assert reached > max(rows["popularity"]["recall@10"], rows["item_knn"]["recall@10"])
  assert "sasrec" in rows
  assert found[0] == found[1]
