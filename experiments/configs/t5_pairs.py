"""Defaults of `python -m experiments.finetune_t5`: a T5 on pairs of texts, to read and to write.

No claim: the pairs are yours. The sizes of `model` are those of a model from scratch that a laptop
trains; with --model they come from its folder, and `train.optimizer.rate=1e-3` with Adafactor is
what T5 was fine-tuned with (Raffel et al., JMLR 2020, 3.1.2). Hardware: any.
"""

from experiments import pairs, settings
from recjax.nn import t5
from recjax.train import loop, optim


def get_config():
  return settings.config(
    pairs=pairs.Pairs(),
    model=t5.Config(vocab=0, dim=128, heads=4, head_dim=32, ff=512, layers=2, decoder_layers=2),
    train=loop.Config(
      steps=2000,
      optimizer=optim.Config(name="adafactor", rate=1e-3),
      eval_every=200,
      save_every=200,
      best="valid/accuracy",
      patience=5,
    ),
  )
