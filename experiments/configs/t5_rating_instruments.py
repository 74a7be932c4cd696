"""A T5 with a rating head on reviews of musical instruments (Amazon 2014, 5-core): RMSE and MAE.

Measured, seed 0, half a minute: RMSE .9178, MAE .6995; --config.model.regression=True, the other
head, .9136, .6816. The mean of all ratings has .9187 and .7062: 8,200 stars teach an encoder from
scratch next to nothing of these users. A tenth of the reviews tests and a tenth validates, at
random; the source names user and item, not the review, and as these files have no titles, prompts
that tell them, or those of what the user rated before, are left out. An encoder from scratch;
--config.prompts.pretrained=FOLDER starts from a T5, with its vocabulary, sizes and decoder.

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
    task="rating_prompts",
    examples="prompts",
    seeds=(0,),
    batch_size=64,
    # max_len: tokens of a source
    data=settings.Data(source="reviews", path="reviews/Musical_Instruments_5.json.xz", max_len=32),
    prompts=settings.Prompts(
      vocabulary="tokenizers/synthetic.model",
      index=settings.Index(method="random", span=0),
      instances=instances.Config(target_len=0, weights={"rating": 1.0}),
    ),
    model=settings.model(
      t5_rating.Config,
      dim=64,
      heads=4,
      head_dim=16,
      ff=256,
      layers=2,
      decoder_layers=0,
      gated=False,
      dropout=0.2,
    ),
    train=loop.Config(
      steps=2_000,
      optimizer=optim.Config(rate=1e-3, schedule="cosine", warmup=100, weight_decay=0.05),
      eval_every=100,
      save_every=100,
      best="-valid/rating/rmse",
      patience=5,
    ),
    evaluation=settings.Evaluation(),
  )
