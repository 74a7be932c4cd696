"""SASRec with the full softmax on Amazon Toys (2014, 5-core).

Published: Recall@10 .0675, NDCG@10 .0374 (S3-Rec, CIKM 2020); a re-implementation .0700. Full
ranking over all items, repeats allowed, the last event of each user tests. The settings of
Beauty. Ours is not yet measured.

    python -m experiments.run --config=experiments/configs/sasrec_toys.py \\
      --workdir=runs/sasrec_toys

Hardware: 2 CPU cores.
"""

from experiments import settings
from recjax.systems.sequential import sasrec
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="sasrec",
    task="next_item",
    examples="sequences",
    seeds=(0,),
    batch_size=256,
    data=settings.Data(
      source="sequences", path="amazon14_p5/Toys_and_Games", max_len=50, buckets=(8, 16)
    ),
    model=settings.model(sasrec.Config, max_len=50, dim=64, heads=1, ff=256, dropout=0.5),
    train=loop.Config(
      steps=8000,
      optimizer=optim.Config(rate=1e-3),
      eval_every=380,
      best="valid/ndcg@10",
      patience=3,
    ),
    evaluation=settings.Evaluation(ks=(5, 10)),
  )
