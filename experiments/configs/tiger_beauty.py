"""TIGER as the paper trains it, on Amazon Beauty (2014, 5-core).

Published: Recall@5 .0454, NDCG@5 .0321, Recall@10 .0648, NDCG@10 .0384. Full ranking over all
items, repeats allowed, the last event of each user tests; the collision level counts. Ours is not
yet measured. Item vectors are LSA by default; with a Sentence-T5 or MiniLM folder:
--config.text.encoder=FOLDER. Departures: see `recjax/systems/generative/tiger.py`.

    python -m experiments.run --config=experiments/configs/tiger_beauty.py --workdir=runs/beauty

Hardware: one GPU; on 2 CPU cores a step of 256 takes over a second, and there are 200,000.
"""

from experiments import settings
from recjax.semid import learn
from recjax.systems.generative import tiger
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="tiger",
    task="next_item",
    examples="prefixes",
    seeds=(0,),
    batch_size=256,
    data=settings.Data(source="sequences", path="amazon14_p5/Beauty", max_len=20, buckets=(5, 10)),
    text=settings.Text(template="{title} {categories}", dim=384),
    semantic_ids=settings.SemanticIds(quantizer=learn.Config(epochs=300)),
    model=settings.model(tiger.Config),
    train=loop.Config(
      steps=200_000,
      optimizer=optim.Config(rate=1e-2, schedule="rsqrt", warmup=10_000),
      eval_every=5_000,
      save_every=5_000,
      best="valid/ndcg@10",
      fused_products=True,
    ),
    evaluation=settings.Evaluation(
      by_score=False,
      baselines=("popularity", "item_knn"),
      compare=("experiments/configs/sasrec_beauty.py",),
    ),
  )
