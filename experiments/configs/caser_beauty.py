"""Caser with the full softmax on Amazon Beauty (2014, 5-core).

Published: Recall@10 .0347, NDCG@10 .0176 (S3-Rec, CIKM 2020), by the paper's loss. Full ranking
over all items, repeats allowed, the last event of each user tests. Ours is not yet measured.

    python -m experiments.run --config=experiments/configs/caser_beauty.py \\
      --workdir=runs/caser_beauty

Hardware: 2 CPU cores.
"""

from experiments import settings
from recjax.systems.sequential import caser
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="caser",
    task="next_item",
    examples="prefixes",
    seeds=(0,),
    batch_size=512,
    data=settings.Data(source="sequences", path="amazon14_p5/Beauty", max_len=5, buckets=()),
    model=settings.model(caser.Config, dim=64, dropout=0.5, negatives=0),
    train=loop.Config(
      steps=15000,
      optimizer=optim.Config(rate=1e-3),
      eval_every=500,
      best="valid/ndcg@10",
      patience=8,
    ),
    evaluation=settings.Evaluation(ks=(5, 10)),
  )
