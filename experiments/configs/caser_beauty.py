"""Caser with the full softmax on Amazon Beauty (2014, 5-core).

Published: Recall@10 .0347, NDCG@10 .0176 (S3-Rec, CIKM 2020), by the paper's loss. Measured: .0511,
.0283, with seed 0 on an H200 that eight runs shared, 1.7 minutes, train.fuse=10; the checkpoint is
that of the best validation NDCG@10. Full ranking over all items, repeats allowed, the last event of
each user tests.

    python -m experiments.run --config=experiments/configs/caser_beauty.py \\
      --workdir=runs/caser_beauty

Hardware: a GPU, or 2 CPU cores.
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
