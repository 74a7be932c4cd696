"""P5 on reviews of musical instruments (Amazon 2014, 5-core): stars, summaries, explanations.

A tenth of the reviews tests and a tenth validates, at random; an explanation is a review's first
sentence. These files have no titles, so prompts that tell them are left out. Small and from
scratch: it has read nothing but these 10,261 reviews, so it cannot write. Its stars are worse than
the mean of all by RMSE (.930 against .919) and better by MAE (.670 against .706), and greedily it
titles every review "Great". --config.prompts.pretrained=FOLDER starts from a T5, with its
vocabulary and sizes. One explanation in a hundred is longer than what is learned of it; texts are
compared with the whole. What was written is in seed_0/texts.jsonl of the run.

    python -m experiments.run --config=experiments/configs/p5_instruments.py \\
      --workdir=runs/p5_instruments

Hardware: 2 CPU cores.
"""

from experiments import settings
from recjax.systems.generative import p5
from recjax.text import instances
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="p5",
    task="rating_prompts",
    examples="prompts",
    seeds=(0,),
    batch_size=64,
    # max_len: tokens of a source
    data=settings.Data(
      source="reviews",
      path="reviews/Musical_Instruments_5.json.xz",
      max_len=128,
      buckets=(32, 64, 96),
    ),
    prompts=settings.Prompts(
      vocabulary="t5_vocab/spiece.model",
      index=settings.Index(method="random", span=0),
      instances=instances.Config(
        target_len=40,
        max_history=8,
        review_words=60,
        weights={"rating": 1.0, "summary": 1.0, "explanation": 1.0},
        size=64 * 750,  # gone through twice
      ),
    ),
    model=settings.model(
      p5.Config, dim=128, heads=4, head_dim=32, ff=512, layers=2, whole_words=128, length=40
    ),
    train=loop.Config(
      steps=1_500,
      optimizer=optim.Config(rate=1e-3, schedule="cosine", warmup=200, weight_decay=0.01),
      eval_every=500,
      best="-valid/rating/rmse",
      fused_products=True,
    ),
    evaluation=settings.Evaluation(by_score=False),
  )
