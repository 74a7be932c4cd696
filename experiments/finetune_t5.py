"""Fine-tune a T5 on pairs of texts, measure what it writes, and keep its answers.

    python -m experiments.finetune_t5 --train=train.tsv --valid=valid.tsv --test=test.tsv \\
      --model=FOLDER --workdir=runs/pairs --config.train.steps=1000 --config.pairs.batch_size=32

Without --model a T5 is made from scratch, of the sizes of --config.model and the vocabulary of
--vocab. `experiments/configs/t5_pairs.py` holds the defaults, `experiments/pairs.py` the job.
"""

from experiments import launch  # before all others

# isort: split
import math
import pathlib

from absl import app, flags
from ml_collections import config_flags

from experiments import pairs

_DEFAULTS = pathlib.Path(__file__).parent / "configs" / "t5_pairs.py"

_CONFIG = config_flags.DEFINE_config_file("config", str(_DEFAULTS), "Sizes, lengths, training.")
_FILES = {
  name: flags.DEFINE_string(name, None, f"Pairs to {use}: a table of input and target.")
  for name, use in (("train", "learn"), ("valid", "choose by"), ("test", "answer"))
}
_MODEL = flags.DEFINE_string("model", "", "A Hugging Face folder of T5 weights to start from.")
_VOCAB = flags.DEFINE_string("vocab", "", "A SentencePiece .model; by default the model's own.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; a run goes on where it was.")


def main():
  if not _MODEL.value and not _VOCAB.value:
    raise app.UsageError("give --model, or --vocab for a model from scratch")
  launch.prepare(devices=math.gcd(_CONFIG.value.pairs.batch_size, 2))
  files = {name: flag.value for name, flag in _FILES.items()}
  workdir = pathlib.Path(_WORKDIR.value)
  metrics = pairs.run(_CONFIG.value, files, workdir, model=_MODEL.value, vocabulary=_VOCAB.value)
  for name, value in metrics.items():
    print(f"{name:16}{value:10.4f}")
  print(f"\nAll answers are in {workdir / 'predictions.jsonl'}.")


if __name__ == "__main__":
  flags.mark_flags_as_required(["train", "valid", "test", "workdir"])
  launch.start(main)
