"""SASRec with the full softmax on Amazon Beauty (2014, 5-core).

Published: Recall@10 .0605, NDCG@10 .0318 (S3-Rec, CIKM 2020); the best re-implementations reach
.0688 to .074. Wanted: at least .070. Full ranking over all items, repeats allowed, the last event
of each user tests. Measured: .0880, NDCG@10 .0431 with seed 0, 8 minutes beside other work; the
checkpoint is that of the best validation NDCG@10. Several histories to a row: in length buckets,
where a target of a long history counts for less, it was .0772 and .0384.

    python -m experiments.run --config=experiments/configs/sasrec_beauty.py \\
      --workdir=runs/sasrec_beauty

Hardware: 2 CPU cores.
"""

from experiments import settings
from recjax.systems.sequential import sasrec
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="sasrec",
    task="next_item",
    examples="rows",
    seeds=(0,),
    batch_size=40,  # rows, some 290 histories
    data=settings.Data(source="sequences", path="amazon14_p5/Beauty", max_len=50, buckets=(8, 16)),
    model=settings.model(sasrec.Config, max_len=50, dim=64, heads=1, ff=256, dropout=0.5),
    train=loop.Config(
      steps=3960,
      optimizer=optim.Config(rate=1e-3),
      eval_every=440,
      best="valid/ndcg@10",
      patience=3,
    ),
    evaluation=settings.Evaluation(ks=(5, 10)),
  )
