"""Launch a run: `python -m experiments.run --config=FILE [--config.a.b=v] --workdir=DIR`.

`--mode=help` prints every field of the config with its value and meaning.
"""

from experiments import launch  # before all others

# isort: split
import pathlib

from absl import app, flags
from ml_collections import config_flags

from experiments import pipeline

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file of configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; a run goes on where it was.")
_RECORD = flags.DEFINE_string("record", None, "A folder to keep the results in, as NAME.json.")
_NAME = flags.DEFINE_string("name", None, "Of the results, where it is not the config's.")
_MODE = flags.DEFINE_enum("mode", "all", pipeline.MODES, "Which stage to run, and those before.")


def main():
  if "system" not in _CONFIG.value:
    raise app.UsageError(
      "the config names no system; one with `pairs` is of experiments.finetune_t5"
    )
  if "yes_no" in _CONFIG.value:
    raise app.UsageError("a config with `yes_no` is of experiments.tune_yes_no")
  launch.prepare(devices=_CONFIG.value.devices)
  if _MODE.value == "help":
    print(pipeline.describe(_CONFIG.value))
    return
  if _WORKDIR.value is None:
    raise app.UsageError("--workdir is needed: the folder that the run is kept in")
  record = pathlib.Path(_RECORD.value) if _RECORD.value else None
  if record is not None:  # an error now, not after hours
    if _MODE.value not in ("all", "evaluate"):
      raise app.UsageError(
        f"--record keeps what is measured, and --mode={_MODE.value} measures nothing"
      )
    record.mkdir(parents=True, exist_ok=True)
  pipeline.run(
    _CONFIG.value,
    pathlib.Path(_WORKDIR.value),
    _MODE.value,
    name=_NAME.value or pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem,
    record=record,
  )


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  launch.start(main)
