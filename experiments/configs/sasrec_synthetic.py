"""SASRec on the synthetic shop, beside `tiger_synthetic`.

Measured: Recall@10 .7613, NDCG@10 .5435 where .8166 is the best attainable by the data's law (seed
0). Full ranking, seen items left out.

    python -m experiments.run --config=experiments/configs/sasrec_synthetic.py \\
      --workdir=runs/shop_sasrec

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
    batch_size=56,  # rows, some 130 histories
    data=settings.Data(source="synthetic", size="small", max_len=20, buckets=(6, 10)),
    model=settings.model(sasrec.Config, max_len=20, dim=64, heads=2, ff=256, dropout=0.3),
    train=loop.Config(
      steps=1000,
      optimizer=optim.Config(rate=2e-3, schedule="cosine"),
      eval_every=250,
      save_every=250,
      best="valid/ndcg@10",
    ),
    evaluation=settings.Evaluation(deny_seen=True),
  )
