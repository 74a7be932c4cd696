"""SASRec with the full softmax on Amazon Toys (2014, 5-core).

Published: Recall@10 .0675, NDCG@10 .0374 (S3-Rec, CIKM 2020); a re-implementation .0700. Full
ranking over all items, repeats allowed, the last event of each user tests. The settings of
Beauty. Measured, seed 0: .0945, .0467 in 6 minutes; in length buckets .0875, .0442.

    python -m experiments.run --config=experiments/configs/sasrec_toys.py \\
      --workdir=runs/sasrec_toys

Hardware: 2 CPU cores.
"""

from experiments.configs import sasrec_beauty


def get_config():
  config = sasrec_beauty.get_config()
  config.data.path = "amazon14_p5/Toys_and_Games"
  config.train.update(steps=8000, eval_every=380, patience=3)
  return config
