"""TIGER, packed, on tables of one's own: events, and titles of items to make semantic ids of.

The sizes are those of `tiger_beauty_packed` (12,000 items, 22,000 users). Training ends when four
validations in a row bring nothing, however much data there is. Where items are described by more
than titles: --config.text.template="{title} {brand} {categories}"; by a sentence encoder instead of
LSA: --config.text.encoder=FOLDER. How many codes a level has, and LSA directions, goes by how many
items there are. Full ranking of each user's last event; a user may meet an item again.

    python -m experiments.run --config=experiments/configs/tiger_tables.py --workdir=runs/mine \\
      --config.data.path=log.csv --config.data.catalog=products.jsonl

Hardware: 2 CPU cores for some 100,000 users; one accelerator for more.
"""

from experiments import settings
from recjax.semid import learn
from recjax.systems.generative import tiger
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="tiger",
    task="next_item",
    examples="rows",
    seeds=(0,),
    batch_size=72,  # rows, each of several histories
    data=settings.Data(source="tables", max_len=20, buckets=(5, 10)),
    text=settings.Text(template="{title}", dim=0),
    semantic_ids=settings.SemanticIds(
      quantizer=learn.Config(method="rqkmeans", sizes=()), policy="optimal"
    ),
    model=settings.model(
      tiger.Config,
      user_buckets=0,
      heads=4,
      head_dim=32,
      ff=512,
      layers=3,
      dropout=0.15,
      item_causal=True,
      recency=20,
      softmax="children",
    ),
    train=loop.Config(
      steps=200_000,
      optimizer=optim.Config(rate=3e-3, schedule="rsqrt", warmup=1_000, weight_decay=0.05),
      eval_every=1_000,
      save_every=500,
      best="valid/ndcg@10",
      patience=4,
      fused_products=True,
    ),
    evaluation=settings.Evaluation(
      by_score=False,
      baselines=("popularity", "item_knn"),
      compare=("experiments/configs/sasrec_tables.py",),
    ),
  )
