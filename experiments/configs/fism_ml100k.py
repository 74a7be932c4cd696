"""FISM (the ranking loss) on MovieLens-100K, leave-one-out by time, full ranking.

Measured, seed 0: Recall@10 .1251, NDCG@10 .0674; popularity .0859 and .0449, item-kNN on the same
histories .1060 and .0555. All items of a user's window of 200 events
are learned at once, each from the others.

    python -m experiments.run --config=experiments/configs/fism_ml100k.py --workdir=runs/fism

Hardware: 2 CPU cores.
"""

from experiments import settings
from recjax.systems.collaborative import fism
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="fism",
    task="next_item",
    examples="sequences",
    seeds=(0,),
    batch_size=32,
    data=settings.Data(source="recbole", path="ml-100k", max_len=200, buckets=(25, 50, 100)),
    model=settings.model(fism.Config, dim=64, alpha=0.5, negatives=3, penalty=1e-3),
    train=loop.Config(
      steps=31 * 100,
      optimizer=optim.Config(rate=2e-3, clip=None),
      eval_every=31 * 5,
      save_every=31 * 5,
      best="valid/ndcg@10",
      patience=4,
    ),
    evaluation=settings.Evaluation(
      ks=(5, 10), deny_seen=True, baselines=("popularity", "item_knn")
    ),
  )
