"""A T5 with a rating head on reviews of musical instruments (Amazon 2014, 5-core): RMSE and MAE.

Measured, seed 0, when sources had 32 tokens and none told of other ratings: RMSE .9227 and MAE
.6863, where the mean of all ratings has .9187 and .7062: 8,200 stars teach an encoder from scratch
nothing of these users. Not yet measured as it is now. A tenth of the reviews tests and a tenth
validates, at random; the source names user, item and title, not the review, and in one prompt the
last five items that the user rated before, with their stars. An encoder from scratch;
--config.prompts.pretrained=FOLDER starts from a T5, with its vocabulary, sizes and decoder.
--config.model.regression=True is the other head.

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
    data=settings.Data(
      source="reviews",
      path="reviews/Musical_Instruments_5.json.xz",
      max_len=160,  # tokens of a source
      buckets=(32, 64),
    ),
    prompts=settings.Prompts(
      vocabulary="tokenizers/synthetic.model",
      index=settings.Index(method="random", span=0),
      instances=instances.Config(target_len=8, max_history=5, weights={"rating": 1.0}),
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
