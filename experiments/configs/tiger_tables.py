"""TIGER, packed, on tables of one's own: events, and titles of items to make semantic ids of.

The sizes are those of `tiger_beauty_packed` (12,000 items, 22,000 users). Training ends when four
validations in a row bring nothing, however much data there is. Where items are described by more
than titles: --config.text.template="{title} {brand} {categories}"; by a sentence encoder instead of
LSA: --config.text.encoder=FOLDER. How many codes a level has, and LSA directions, goes by how many
items there are. Full ranking of each user's last event; a user may meet an item again.

    python -m experiments.run --config=experiments/configs/tiger_tables.py --workdir=runs/mine \\
      --config.data.path=log.csv --config.data.catalog=products.jsonl

Hardware: 2 CPU cores, which took `tiger_beauty_packed` 53 minutes, or one accelerator.
"""

from experiments.configs import tiger_beauty_packed


def get_config():
  config = tiger_beauty_packed.get_config()
  config.data.update(source="tables", path="")
  config.text.update(template="{title}", dim=0)
  config.semantic_ids.quantizer.update(method="rqkmeans", sizes=())
  config.train.update(steps=200_000, eval_every=1_000, patience=4)
  config.train.optimizer.update(schedule="rsqrt", warmup=1_000)
  config.evaluation.compare = ("experiments/configs/sasrec_tables.py",)
  return config
