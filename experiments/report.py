"""report.html: a run on one self-contained page, readable on a phone; its figures beside it.

The table of results (mean and 95% interval over the seeds), learning curves, the use of the
semantic ids' codes, what some users were recommended after what they had met, and what was written.
"""

from __future__ import annotations

import base64
import html
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.backends.backend_agg
import matplotlib.figure
import numpy as np

from experiments import results
from recjax.semid import report

_METRICS = "metrics.jsonl"
_DRAWN = ("/recall@10", "/ndcg@10", "/rmse", "/auc")  # of validation

_STYLE = """
:root { color-scheme: light dark; --edge: #8884; --mark: #1a7f37; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 60rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--edge);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.best { font-weight: 700; } .hit { color: var(--mark); font-weight: 700; }
img { max-width: 100%; height: auto; background: #fff; }
.users { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); }
.user { border: 1px solid var(--edge); border-radius: .5rem; padding: .2rem 1rem 1rem; }
.user h3 { font-size: 1rem; overflow-wrap: anywhere; } ol { padding-left: 1.4rem; margin: .3rem 0; }
li { overflow-wrap: anywhere; }
.note { opacity: .75; font-size: .9rem; overflow-wrap: anywhere; }
"""


def write(
  path: pathlib.Path,
  *,
  title: str,
  record: Mapping[str, Any],  # what `results.write` kept
  curves: Mapping[str, Sequence[Mapping[str, float]]],  # name -> the lines of its metrics.jsonl
  codes: np.ndarray | None = None,  # [I - 1, L] semantic ids
  vectors: np.ndarray | None = None,  # [I - 1, D] that they were made of
  users: Sequence[Mapping[str, Any]] = (),  # user, history, next, titles; titles of items
  texts: Sequence[Mapping[str, str]] = (),  # asks, user, asked, said, wanted
) -> None:
  note = _note(record, coded=codes is not None)
  body = [f"<h1>{html.escape(title)}</h1>", note, _table(record["systems"])]
  curves = {name: lines for name, lines in curves.items() if any(len(x) > 1 for x in lines)}
  if curves:
    drawn = _learning(curves)
    path.with_name("learning.png").write_bytes(drawn.getvalue())
    body += ["<h2>Learning</h2>", _image(drawn, "Loss and validation, by step")]
  if codes is not None:
    drawn = io.BytesIO()
    report.figure(codes, drawn, vectors=vectors)
    path.with_name("codes.png").write_bytes(drawn.getvalue())
    body += ["<h2>Semantic ids</h2>", _image(drawn, "Use of codes, prefixes, and a map of items")]
  if users:
    body += ["<h2>Some users</h2>", '<div class="users">', *map(_user, users), "</div>"]
  if texts:
    body += ["<h2>Some texts</h2>", '<div class="users">', *map(_text, texts), "</div>"]
  page = (
    f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}'
    '</title><meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
  )
  path.with_suffix(".part").write_text(page, encoding="utf-8")
  path.with_suffix(".part").replace(path)


def curves_of(folders: Mapping[str, pathlib.Path]) -> dict[str, list[dict[str, float]]]:
  """name -> the lines of metrics.jsonl of its last stage, none where it learned in closed form."""
  found = {}
  for name, folder in folders.items():
    paths = [path for path in (folder / "tune" / _METRICS, folder / _METRICS) if path.exists()]
    found[name] = [json.loads(line) for line in paths[0].open()] if paths else []
  return found


def _note(record: Mapping[str, Any], *, coded: bool) -> str:
  config, ids = record["config"], ""
  seeds = ", ".join(map(str, config["seeds"]))
  if coded:
    made = config["semantic_ids"]
    ids = "published" if made["published"] else f"those of seed {made['quantizer']['seed']}"
    ids = f", semantic ids the same for each: {ids}"
  return (
    f'<p class="note">{html.escape(config["system"])} on {html.escape(config["data"]["source"])} '
    f"{html.escape(config['data']['path'])}; seeds {seeds}{ids}; training "
    f"{record['training_seconds'] / 60:.1f} minutes on {html.escape(record['hardware'])}; "
    f"{record['date']}; config {record['config_sha256'][:12]}.</p>"
  )


def _table(systems: Mapping[str, Any]) -> str:
  means = {name: row["mean"] for name, row in systems.items()}
  metrics = sorted({metric for row in means.values() for metric in row})
  rivals = {name: row for name, row in means.items() if name != "best attainable"}
  rows = []
  for name, row in means.items():
    cells = []
    for metric in metrics:
      if metric not in row:
        cells.append("<td></td>")
        continue
      known = [r[metric]["mean"] for r in rivals.values() if metric in r]
      less = metric.split("/")[-1] in ("rmse", "mae", "log_loss", "loss")
      best = name in rivals and row[metric]["mean"] == (min(known) if less else max(known))
      cells.append(f"<td{' class=best' if best else ''}>{results.cell(row[metric])}</td>")
    rows.append(f"<tr><td>{html.escape(name)}</td>{''.join(cells)}</tr>")
  head = "".join(f"<th>{html.escape(m)}</th>" for m in ("system", *metrics))
  return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _user(user: Mapping[str, Any]) -> str:
  history = "".join(f"<li>{html.escape(t)}</li>" for t in user["history"])
  shown = "".join(
    f"<li{' class=hit' if hit else ''}>{html.escape(title)}</li>"
    for title, hit in zip(user["titles"], user["hit"], strict=True)
  )
  return (
    f'<div class="user"><h3>{html.escape(str(user["user"]))}</h3>'
    f'<p class="note">met, oldest first</p><ol>{history}</ol>'
    f'<p class="note">recommended</p><ol>{shown}</ol>'
    f'<p class="note">met next: {html.escape(user["next"])}</p></div>'
  )


def _text(text: Mapping[str, str]) -> str:
  told = {
    name: html.escape(str(text[name])) for name in ("user", "asks", "asked", "said", "wanted")
  }
  return (
    f'<div class="user"><h3>{told["user"]}: {told["asks"]}</h3><p class="note">{told["asked"]}</p>'
    f'<p>{told["said"]}</p><p class="note">written by the user: {told["wanted"]}</p></div>'
  )


def _learning(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> io.BytesIO:
  figure = matplotlib.figure.Figure(figsize=(10, 3.4), layout="constrained")
  matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
  loss, valid = figure.subplots(1, 2)
  for name, lines in curves.items():
    told = [(x["step"], x["loss"]) for x in lines if "loss" in x]
    loss.plot(*zip(*told, strict=True), label=name) if told else None
    known = sorted({metric for line in lines for metric in line if metric.startswith("valid/")})
    for metric in (m for m in known if m.endswith(_DRAWN)):
      told = [(x["step"], x[metric]) for x in lines if metric in x]
      if told:
        valid.plot(*zip(*told, strict=True), marker=".", label=f"{name} {metric[6:]}")
  for axes, title in ((loss, "training loss"), (valid, "validation")):
    axes.set(title=title, xlabel="step")
    axes.grid(alpha=0.3)
    if axes.has_data():
      axes.legend(fontsize="small")
  drawn = io.BytesIO()
  figure.savefig(drawn, dpi=110)
  return drawn


def _image(png: io.BytesIO, what: str) -> str:
  data = base64.b64encode(png.getvalue()).decode()
  return f'<img alt="{html.escape(what)}" src="data:image/png;base64,{data}">'
