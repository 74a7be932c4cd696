"""FDSA on Amazon Beauty (2014, 5-core), attributes: brand and categories.

Published: Recall@10 .0407, NDCG@10 .0208 (S3-Rec's repository; full ranking, repeats allowed, the
last event of each user tests). Measured: .0750, .0443, with seed 0 on an H200 that eight runs
shared, 6.6 minutes, train.fuse=10; the checkpoint is that of the best validation NDCG@10.

    python -m experiments.run --config=experiments/configs/fdsa_beauty.py --workdir=runs/fdsa

Hardware: a GPU, as measured; or CPU cores, and patience.
"""

from experiments import settings
from recjax.systems.sequential import fdsa
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="fdsa",
    task="next_item",
    examples="sequences",
    seeds=(0,),
    batch_size=256,
    data=settings.Data(source="sequences", path="amazon14_p5/Beauty", max_len=50, buckets=(8, 16)),
    model=settings.model(fdsa.Config, dim=64, heads=2, layers=2, dropout=0.5),
    train=loop.Config(
      steps=8000,
      optimizer=optim.Config(rate=1e-3),
      eval_every=400,
      best="valid/ndcg@10",
      patience=5,
    ),
    evaluation=settings.Evaluation(ks=(5, 10)),
  )
