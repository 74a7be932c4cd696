"""TALLRec on MovieLens-100K: will a user who liked five films and not five others like a sixth?

    RECJAX_DATA=FOLDER python -m experiments.tune_yes_no \\
      --config=experiments/configs/tallrec_movie.py --workdir=runs/tallrec_movie

As it stands, a small GPT from scratch learns from all 8,000 questions of the training file; it has
never read of a film elsewhere, so no claim: it may stay near chance, 0.5. The paper's system is one
flag away, a pretrained decoder-only model with its tokenizer.json, tuned by LoRA (the paper:
LLaMA-7B, and a few questions drawn by the seed):

      --config.yes_no.model=FOLDER --config.yes_no.vocabulary= --config.yes_no.shots=64

Protocol: the published validation and test files, AUC over all questions, the checkpoint by
validation AUC. The training file is made again by the published recipe. Published (TALLRec, table
1, LLaMA-7B): AUC 67.24, 67.48, 71.98 with 16, 64, 256 questions. Not yet measured.
Hardware: a laptop CPU as it stands; a GPU of 40 GB with LLaMA-7B in bfloat16.
"""

from experiments import settings, yes_no
from recjax.nn import gpt
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="tallrec",
    seeds=(0,),
    yes_no=yes_no.YesNo(
      train="tallrec/movie.train_regenerated.json.gz",
      valid="tallrec/movie.valid.json.gz",
      test="tallrec/movie.test.json.gz",
      vocabulary="t5_vocab/spiece.model",
      max_len=256,
    ),
    model=gpt.Config(vocab=0, dim=128, heads=4, ff=512, layers=2, max_len=256),
    train=loop.Config(
      steps=1500,
      optimizer=optim.Config(rate=3e-4, schedule="linear", warmup=100, weight_decay=0.1),
      eval_every=250,
      save_every=250,
      best="valid/auc",
      patience=3,
    ),
  )
