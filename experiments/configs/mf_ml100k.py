"""BPR-MF on MovieLens-100K, leave-one-out by time, full ranking.

Measured, seed 0: Recall@10 .1092, NDCG@10 .0521; popularity .0859 and .0449, item-kNN .1060 and
.0555 (on the last item alone .1559 and .0837: the order of the events tells much here).

    python -m experiments.run --config=experiments/configs/mf_ml100k.py --workdir=runs/mf

Hardware: 2 CPU cores.
"""

from experiments import settings
from recjax.systems.collaborative import mf
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="mf",
    task="next_item",
    examples="events",
    seeds=(0,),
    batch_size=1024,
    data=settings.Data(source="recbole", path="ml-100k", max_len=1),
    model=settings.model(mf.Config, dim=64, penalty=1e-3),
    train=loop.Config(
      steps=97 * 100,
      optimizer=optim.Config(rate=2e-3, clip=None),
      eval_every=97 * 5,
      save_every=97 * 5,
      best="valid/ndcg@10",
      patience=4,
    ),
    evaluation=settings.Evaluation(
      ks=(5, 10), deny_seen=True, baselines=("popularity", "item_knn")
    ),
  )
