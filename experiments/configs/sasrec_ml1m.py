"""SASRec with gBCE (gSASRec) on MovieLens-1M (5-core).

Published: Recall@10 .3003, NDCG@10 .1726 (gSASRec, RecSys 2023: 256 negatives, t = .75); with the
paper's loss .2392, .1259. Full ranking over all items, repeats allowed, the last event of each
user tests. The places of a history share their negatives. Ours is not yet measured.

    python -m experiments.run --config=experiments/configs/sasrec_ml1m.py \\
      --workdir=runs/sasrec_ml1m

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
    batch_size=128,
    data=settings.Data(
      source="sequences", path="ml-1m/sasrec_sequences.txt.gz", max_len=200, buckets=(50, 100)
    ),
    model=settings.model(
      sasrec.Config,
      max_len=200,
      dim=128,
      heads=1,
      ff=256,
      dropout=0.2,
      negatives=256,
      t=0.75,
      shared=True,
    ),
    train=loop.Config(
      steps=6000,
      optimizer=optim.Config(rate=1e-3),
      eval_every=240,
      best="valid/ndcg@10",
      patience=8,
    ),
    evaluation=settings.Evaluation(ks=(5, 10)),
  )
