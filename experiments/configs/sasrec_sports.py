"""SASRec with the full softmax on Amazon Sports (2014, 5-core).

Published: Recall@10 .0350, NDCG@10 .0192 (S3-Rec, CIKM 2020); a re-implementation .0373. Measured
in length buckets, not yet in rows as now: .0427, .0215, with seed 0 on an H200 that eight runs
shared, 3.4 minutes, train.fuse=10; the checkpoint is that of the best validation NDCG@10. Full
ranking over all items, repeats allowed, the last event of each user tests. The settings of Beauty.

    python -m experiments.run --config=experiments/configs/sasrec_sports.py \\
      --workdir=runs/sasrec_sports

Hardware: 2 CPU cores.
"""

from experiments.configs import sasrec_beauty


def get_config():
  config = sasrec_beauty.get_config()
  config.data.path = "amazon14_p5/Sports_and_Outdoors"
  config.train.update(steps=10000, eval_every=700, patience=3)
  return config
