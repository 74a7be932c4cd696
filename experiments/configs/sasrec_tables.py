"""SASRec on tables of one's own, beside `tiger_tables`; a table of events is enough.

The sizes are those of `sasrec_beauty`, sparse data: where users meet hundreds of items,
--config.model.dropout=0.2 --config.model.dim=128 --config.model.max_len=200
--config.data.max_len=200. Training ends when six validations in a row bring nothing. Full ranking
of each user's last event; a user may meet an item again.

    python -m experiments.run --config=experiments/configs/sasrec_tables.py --workdir=runs/sasrec \\
      --config.data.path=log.csv

Hardware: 2 CPU cores for some 100,000 users; one accelerator for more.
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
    data=settings.Data(source="tables", max_len=50, buckets=(8, 16)),
    model=settings.model(sasrec.Config, max_len=50, dim=64, heads=1, ff=256, dropout=0.5),
    train=loop.Config(
      steps=200_000,
      optimizer=optim.Config(rate=1e-3),
      eval_every=500,
      best="valid/ndcg@10",
      patience=6,
    ),
    evaluation=settings.Evaluation(baselines=("popularity", "item_knn")),
  )
