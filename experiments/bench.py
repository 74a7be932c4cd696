"""Measure one suite against its peers: `python -m experiments.bench --suite=metrics`.

Prints one JSON line a figure; `ratio` above 1 means ours is better, measured in turn with the
peer in the same run. Keep the machine idle: another busy process spoils a ratio. The allocator
keeps what is freed, for ours and for the peers.
"""

from experiments import launch  # before all others

# isort: split
import importlib
import pkgutil

from absl import flags

from experiments import benchmarks
from experiments.benchmarks import timing

SUITES = sorted(
  m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name not in ("timing",)
)
_SUITE = flags.DEFINE_multi_enum("suite", [], SUITES, "What to measure; may be repeated.")


def main():
  launch.prepare(devices=1)
  for name in _SUITE.value or SUITES:
    for figure in importlib.import_module(f"experiments.benchmarks.{name}").figures():
      print(timing.line({"suite": name} | figure), flush=True)


if __name__ == "__main__":
  launch.start(main)
