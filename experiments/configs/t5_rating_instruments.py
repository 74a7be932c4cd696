"""A T5 with a rating head on Amazon Musical Instruments (2014, 5-core): RMSE and MAE.

Claim: below the RMSE of the mean of all ratings (about .92); not yet measured. Small and from
scratch; Flan-T5-base is the default of the system's config. Prompts are of the family "rating".

    python -m experiments.run --config=experiments/configs/t5_rating_instruments.py \\
      --workdir=runs/t5_rating

Hardware: 2 CPU cores.
"""

from experiments import settings
from recjax.systems.generative import t5_rating
from recjax.text import instances
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="t5_rating",
    task="rating",
    examples="prompts",
    seeds=(0,),
    batch_size=64,
    # max_len: tokens of a source
    data=settings.Data(source="reviews", path="reviews/Musical_Instruments_5.json.xz", max_len=32),
    index=dict(method="randomly", span=None, seed=0),
    prompts=instances.Config(target_len=16),
    model=settings.model(
      t5_rating.Config,
      dim=64,
      heads=4,
      head_dim=16,
      ff=256,
      layers=2,
      decoder_layers=0,
    ),
    train=loop.Config(
      steps=2_000,
      optimizer=optim.Config(rate=1e-3, weight_decay=0.01),
      eval_every=200,
      patience=0,
    ),
    evaluation=settings.Evaluation(),
  )
