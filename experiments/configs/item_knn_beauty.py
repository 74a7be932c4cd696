"""Item-kNN with BM25 weights and shrinkage on Amazon Beauty (2014, 5-core).

No published figure. Full ranking of each user's last event; what the user has met is left out (no
one meets an item twice here). Validation Recall@10 .0878, NDCG@10 .0507; settings chosen by that
(cosine without shrinkage: .0680, .0394). Test: .0753, .0436.

    python -m experiments.run --config=experiments/configs/item_knn_beauty.py --workdir=runs/knn

Hardware: 2 CPU cores, under a minute.
"""

from experiments import settings
from recjax.systems.collaborative import item_knn
from recjax.train import loop


def get_config():
  return settings.config(
    system="item_knn",
    task="next_item",
    examples="prefixes",
    seeds=(0,),
    batch_size=256,
    data=settings.Data(source="sequences", path="amazon14_p5/Beauty", max_len=50),
    model=settings.model(item_knn.Config, weighting="bm25", shrink=20.0),
    train=loop.Config(steps=1),  # closed form: not read
    evaluation=settings.Evaluation(ks=(5, 10), deny_seen=True),
  )
