"""report.html: what it holds, and that a phone shows it without sideways scrolling."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from experiments import report

LONG = "Supercalifragilisticexpialidocious-" * 4 + " <b>not bold</b> & more"


def page(folder):
  metric = {"mean": 0.0384, "half_width": 0.0012}
  systems = {
    name: {"mean": {f"{family}/{m}@{k}": metric for family in ("sequential", "direct")
                    for m in ("recall", "ndcg") for k in (5, 10)}}
    for name in ("tiger", "popularity")
  }  # fmt: skip
  record = {
    "config": {
      "seeds": [0, 1],
      "system": "tiger",
      "data": {"source": "tables", "path": "a/" * 40},
      "semantic_ids": {"published": "", "quantizer": {"seed": 3}},
    },
    "training_seconds": 90.0,
    "hardware": "2 cores",
    "date": "2026-01-01",
    "config_sha256": "0" * 64,
    "systems": systems,
  }
  curve = [{"step": s, "loss": 1 / s, "valid/ndcg@10": s / 10} for s in (1, 2, 3)]
  user = {"user": "U" * 60, "history": [LONG, "b"], "titles": [LONG, "c"]}
  user |= {"hit": [False, True], "next": "c"}
  rng = np.random.default_rng(0)
  report.write(
    folder / "report.html",
    title="a run",
    record=record,
    curves={"seed 0": curve},
    codes=rng.integers(0, 8, (50, 3)),
    users=[user] * 3,
    texts=[dict.fromkeys(("asks", "user", "asked", "said", "wanted"), LONG)],
  )
  return folder / "report.html"


def test_a_page_holds_all_it_shows(tmp_path):
  text = page(tmp_path).read_text()
  assert text.count("<img") == 2 and text.count('class="user"') == 3 + 1
  assert "http" not in text and "<b>" not in text and "&lt;b&gt;not bold" in text
  assert "0.0384 ± 0.0012" in text and "class=hit" in text
  assert "seeds 0, 1, semantic ids the same for each: those of seed 3; training" in text


def test_curves_are_those_of_the_last_stage(tmp_path):
  for folder, loss in (("one", 1), ("two/tune", 2), ("two", 3)):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / "metrics.jsonl").write_text(f'{{"step": 1, "loss": {loss}}}\n')
  found = report.curves_of({n: tmp_path / n for n in ("one", "two", "none")})
  assert [lines and lines[0]["loss"] for lines in found.values()] == [1, 2, []]


def test_a_phone_shows_it_whole(tmp_path):
  browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
  if browser is None:
    pytest.skip("there is no Chromium")
  told = (
    "<script>document.body.dataset.w=[document.documentElement.scrollWidth,innerWidth]</script>"
  )
  measured = tmp_path / "measured.html"
  # A window is no narrower than 500 pixels, a frame is.
  inner = page(tmp_path).read_text().replace("</body>", told + "</body>")
  measured.write_text(inner)
  frame = tmp_path / "frame.html"
  frame.write_text(
    f'<iframe id=f src="{measured.name}" style="width:390px;height:844px;border:0"></iframe>'
    "<script>f.onload=()=>{document.title=f.contentDocument.body.dataset.w}</script>"
  )
  command = [
    browser, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
    f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom",
    frame.as_uri(),
  ]  # fmt: skip
  done = subprocess.run(command, capture_output=True, text=True, timeout=120)
  found = re.search(r"<title>(\d+),(\d+)</title>", done.stdout)
  assert found, done.stderr[-2000:]
  assert int(found[1]) <= int(found[2]) == 390
