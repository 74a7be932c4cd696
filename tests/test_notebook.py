"""The notebook's cells, run from the first to the last on tiny data as a user would."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOK = ROOT / "experiments" / "tiger.ipynb"
TINY = """
with config.unlocked():
  config.data.size = "tiny"
  config.text.dim = 16
  config.semantic_ids.quantizer.sizes = (8, 32)
  config.evaluation.compare = ()
  config.model.layers, config.model.dim = 1, 32
  config.batch_size, config.train.steps = 32, 20
workdir = pathlib.Path(sys.argv[1])
"""


def cells(installs=False):
  for cell in json.loads(NOTEBOOK.read_text())["cells"]:
    tags = cell["metadata"].get("tags", [])
    if cell["cell_type"] == "code" and ("install" in tags) == installs:
      yield "".join(cell["source"]) + (TINY if "config" in tags else "")


@pytest.mark.slow
def test_the_cells_run_end_to_end(as_user, tmp_path):
  script = "import sys\n" + "\n".join(cells())
  command = [sys.executable, "-c", script, str(tmp_path / "run")]
  done = subprocess.run(command, cwd=ROOT, env=as_user, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr[-3000:]
  assert "best attainable" in done.stdout and "after " in done.stdout


@pytest.mark.parametrize("device", ["tpu", "cuda", ""])
def test_the_first_cell_clones_where_there_is_no_checkout_and_installs_for_the_device(
  device, tmp_path, monkeypatch
):
  (cell,) = cells(installs=True)
  assert 'REPOSITORY = ""' in cell
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv("TPU_ACCELERATOR_TYPE", raising=False)
  if device == "tpu":
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-1")
  monkeypatch.setattr(shutil, "which", lambda name: name if device == "cuda" else None)
  monkeypatch.setattr(pathlib.Path, "glob", lambda self, pattern: iter(()))
  ran = []

  def run(command, check):
    ran.append(command)
    if command[0] == "git":
      (tmp_path / "recjax").mkdir()
      (tmp_path / "recjax" / "pyproject.toml").touch()

  monkeypatch.setattr(subprocess, "run", run)
  with pytest.raises(ValueError, match="set REPOSITORY"):
    exec(cell, {})
  exec(cell.replace('REPOSITORY = ""', 'REPOSITORY = "https://a.b/recjax"'), {})
  clone, install = ran
  assert clone[-2:] == ["https://a.b/recjax", "recjax"]
  assert install[1:4] == ["-m", "pip", "install"]
  assert install[-1] == (f".[{device}]" if device else ".")
  assert pathlib.Path.cwd() == tmp_path / "recjax"
  exec(cell, {})  # once more, from within the checkout: nothing is cloned
  assert ran[2:] == [install]


def test_no_cell_holds_an_output():
  for cell in json.loads(NOTEBOOK.read_text())["cells"]:
    assert not cell.get("outputs")
