"""GraphRec on the toy data of the authors' code (its own train and test ratings).

Measured, seed 0: RMSE .8006, MAE .6318; a tenth of the training ratings chose the epoch. Batch 128
at 1e-3 as in the paper, whose optimiser is RMSprop; ours is Adam. RMSE and MAE of the test ratings.

    python -m experiments.run --config=experiments/configs/graphrec_toy.py --workdir=runs/graphrec

Hardware: 2 CPU cores.
"""

from experiments import settings
from recjax.systems.collaborative import graphrec
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="graphrec",
    task="rating",
    examples="events",
    seeds=(0,),
    batch_size=128,
    data=settings.Data(source="graphrec", path="social/graphrec_toy.json.gz", max_len=1),
    model=settings.model(
      graphrec.Config,
      levels=(0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0),
      dim=64,
      neighbours=30,
      friends=15,
      dropout=0.5,
    ),
    train=loop.Config(
      steps=111 * 30,
      optimizer=optim.Config(rate=1e-3, clip=None),
      eval_every=111,
      save_every=111,
      best="-valid/rmse",
      patience=5,
    ),
    evaluation=settings.Evaluation(),
  )
