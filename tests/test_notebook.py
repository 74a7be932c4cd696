"""The notebook's cells, run from the first to the last on tiny data as a user would."""

import json
import pathlib
import subprocess
import sys

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


def cells():
  for cell in json.loads(NOTEBOOK.read_text())["cells"]:
    tags = cell["metadata"].get("tags", [])
    if cell["cell_type"] == "code" and "install" not in tags:
      yield "".join(cell["source"]) + (TINY if "config" in tags else "")


def test_the_cells_run_end_to_end(as_user, tmp_path):
  script = "import sys\n" + "\n".join(cells())
  command = [sys.executable, "-c", script, str(tmp_path / "run")]
  done = subprocess.run(command, cwd=ROOT, env=as_user, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr[-3000:]
  assert "best attainable" in done.stdout and "after " in done.stdout


def test_no_cell_holds_an_output():
  for cell in json.loads(NOTEBOOK.read_text())["cells"]:
    assert not cell.get("outputs")
