"""TIGER on a synthetic shop: raw files to recommendations in minutes on a laptop CPU.

Claim: Recall@10 .763 and NDCG@10 .534 where the data's law allows .817 and .578, against SASRec
.761 and .544, item-kNN .332 and popularity .091; seed 0, three minutes in all on 2 cores. Packed
training of several histories to a row (.741 with one to a row), an item-causal encoder and
`recency`, without which 4,000 steps reached .611. Full ranking, seen items left out (no one meets
an item twice there).

    python -m experiments.run --config=experiments/configs/tiger_synthetic.py --workdir=runs/shop

Hardware: 2 CPU cores.
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
    batch_size=56,  # rows, some 130 histories
    data=settings.Data(source="synthetic", size="small", buckets=(6, 10)),
    text=settings.Text(template="{categories} {title} {categories}", dim=32),
    # A code of the category, about, then one that tells its items apart: no level that only counts.
    semantic_ids=settings.SemanticIds(
      quantizer=learn.Config(method="rqkmeans", sizes=(48, 32)), policy="optimal"
    ),
    model=settings.model(
      tiger.Config,
      user_buckets=0,
      dim=96,
      heads=4,
      head_dim=24,
      ff=384,
      layers=2,
      item_causal=True,
      recency=20,
      beams=20,
    ),
    train=loop.Config(
      steps=1500,
      optimizer=optim.Config(rate=3e-3, schedule="cosine", warmup=100, weight_decay=0.01),
      eval_every=500,
      save_every=500,
      best="valid/ndcg@10",
      fused_products=True,
    ),
    evaluation=settings.Evaluation(
      deny_seen=True,
      by_score=False,
      baselines=("popularity", "item_knn"),
      compare=("experiments/configs/sasrec_synthetic.py",),
    ),
  )
