"""Tune a language model to answer whether a user will like an item, and measure its answers.

    python -m experiments.tune_yes_no --config=experiments/configs/tallrec_movie.py --workdir=DIR

`experiments/configs/tallrec_movie.py` says what is learned, `experiments/yes_no.py` is the job.
"""

from experiments import launch  # before all others

# isort: split
import math
import pathlib

from absl import app, flags
from ml_collections import config_flags

from experiments import results, yes_no

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file of configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; a run goes on where it was.")
_RECORD = flags.DEFINE_string("record", None, "A folder to keep the results in, as NAME.json.")
_NAME = flags.DEFINE_string("name", None, "Of the results, where it is not the config's.")


def main():
  config = _CONFIG.value
  if "yes_no" not in config:
    raise app.UsageError("the config asks no yes-or-no questions: it is of experiments.run")
  launch.prepare(devices=math.gcd(config.yes_no.batch_size, config.devices))
  name = _NAME.value or pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
  record = pathlib.Path(_RECORD.value) if _RECORD.value else None
  table = yes_no.run(config, pathlib.Path(_WORKDIR.value), name=name, record=record)
  print(results.render(table))


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "workdir"])
  launch.start(main)
