"""Raw csv to a leave-one-out split: 10 million rows read, 5-cored, ordered, split; time and memory.

Runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from experiments.benchmarks import timing

_ROWS = int(os.environ.get("RECJAX_BENCH_ROWS", 10_000_000))

_WRITE = """
import sys, numpy as np, pyarrow as pa
from pyarrow import csv
rows, path = int(sys.argv[1]), sys.argv[2]
rng = np.random.default_rng(0)
user = (rng.pareto(1.5, rows) * rows / 100).astype(np.int64) % (rows // 8)
item = (rng.pareto(1.2, rows) * rows / 500).astype(np.int64) % (rows // 40)
table = pa.table({
  "user": np.char.add("A", np.char.zfill(user.astype(str), 10)),
  "item": np.char.add("B", np.char.zfill(item.astype(str), 8)),
  "rating": rng.integers(1, 6, rows).astype(np.float32),
  "timestamp": rng.integers(1_300_000_000, 1_700_000_000, rows),
})
csv.write_csv(table, path, csv.WriteOptions(quoting_style="none"))
"""

_READ = """
import resource, sys, time
start = time.perf_counter()
from recjax.data import prepare, splits
from recjax.data.readers import tables
columns = {n: n for n in ("user", "item", "rating", "timestamp")}
x = tables.interactions(sys.argv[1], columns)
read = time.perf_counter()
x = prepare.order(prepare.reindex(prepare.k_core(x)), ties=prepare.file_order)
split = splits.leave_one_out(x)
done = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(read - start, done - start, peak, len(x), *map(len, split))
"""


def figures() -> Iterator[timing.Figure]:
  with tempfile.TemporaryDirectory() as folder:
    path = os.fspath(pathlib.Path(folder) / "events.csv")
    _run(_WRITE, str(_ROWS), path)
    size = os.path.getsize(path)
    runs = [list(map(float, _run(_READ, path).split())) for _ in range(3)]
    read, whole, peak, kept, *_ = sorted(runs, key=lambda r: r[1])[1]
  more = {"rows": _ROWS, "bytes": size, "kept_by_5_core": int(kept)}
  yield timing.cost("data/read", "s", read, spread=timing.spread([r[0] for r in runs]), **more)
  yield timing.cost(
    "data/read+5core+leave_one_out", "s", whole, spread=timing.spread([r[1] for r in runs]), **more
  )
  yield timing.cost("data/peak_memory", "GiB", peak, **more)


def _run(code: str, *arguments: str) -> str:
  command = [sys.executable, "-c", code, *arguments]
  return subprocess.run(command, check=True, capture_output=True, text=True).stdout
