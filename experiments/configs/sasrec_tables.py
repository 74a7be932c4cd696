"""SASRec on tables of one's own, beside `tiger_tables`; a table of events is enough.

The sizes are those of `sasrec_beauty`, sparse data: where users meet hundreds of items,
--config.model.dropout=0.2 --config.model.dim=128 --config.model.max_len=200
--config.data.max_len=200. Training ends when six validations in a row bring nothing. Full ranking
of each user's last event; a user may meet an item again.

    python -m experiments.run --config=experiments/configs/sasrec_tables.py --workdir=runs/sasrec \\
      --config.data.path=log.csv

Hardware: 2 CPU cores, which took `sasrec_beauty` 8 minutes, or one accelerator.
"""

from experiments.configs import sasrec_beauty


def get_config():
  config = sasrec_beauty.get_config()
  config.data.update(source="tables", path="")
  config.train.update(steps=200_000, eval_every=500, patience=6)
  config.evaluation.baselines = ("popularity", "item_knn")
  return config
