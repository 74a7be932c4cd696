"""User-kNN with BM25 weights on Amazon Beauty (2014, 5-core).

No published figure. Full ranking of each user's last event; what the user has met is left out (no
one meets an item twice here). Validation Recall@10 .0866, NDCG@10 .0484; settings chosen by that
(cosine, 100 neighbours: .0799, .0451). Test: .0762, .0411.

    python -m experiments.run --config=experiments/configs/user_knn_beauty.py --workdir=runs/users

Hardware: 2 CPU cores, under a minute.
"""

from experiments import settings
from recjax.systems.collaborative import user_knn
from recjax.train import loop


def get_config():
  return settings.config(
    system="user_knn",
    task="next_item",
    examples="prefixes",
    seeds=(0,),
    batch_size=256,
    data=settings.Data(source="sequences", path="amazon14_p5/Beauty", max_len=50),
    model=settings.model(user_knn.Config, weighting="bm25", neighbours=200),
    train=loop.Config(steps=1),  # closed form: not read
    evaluation=settings.Evaluation(ks=(5, 10), deny_seen=True),
  )
