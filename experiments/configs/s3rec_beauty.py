"""S3-Rec on Amazon Beauty (2014, 5-core), attributes: brand and categories.

Published: Recall@10 .0647, NDCG@10 .0327 (the authors' repository; full ranking, repeats allowed,
the last event of each user tests; 150 epochs of pretraining). Measured, seed 0: .0866, .0443 in 53
minutes beside other work: 8,000 steps of pretraining, 3,200 of tuning, the checkpoint of step 2,000
by validation. Tuned in even batches, so that a target of a long history counts as one of a short
history does.

    python -m experiments.run --config=experiments/configs/s3rec_beauty.py --workdir=runs/s3rec

Hardware: 2 CPU cores.
"""

from experiments import settings
from recjax.systems.sequential import s3rec
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="s3rec",
    task="next_item",
    examples="sequences",
    seeds=(0,),
    batch_size=64,  # histories of up to 50 items, 192 of up to 16, 384 of up to 8
    pretrain_batch_size=256,
    data=settings.Data(
      source="sequences", path="amazon14_p5/Beauty", max_len=50, buckets=(8, 16), even=True
    ),
    model=settings.model(s3rec.Config, dim=64, heads=2, layers=2, dropout=0.5),
    pretrain=loop.Config(steps=8000, optimizer=optim.Config(rate=1e-3)),  # about 90 epochs
    train=loop.Config(
      steps=6000,
      optimizer=optim.Config(rate=1e-3),
      eval_every=400,
      best="valid/ndcg@10",
      patience=3,
    ),
    evaluation=settings.Evaluation(ks=(5, 10)),
  )
