"""EBNR on a sample of MIND: 2,817 impressions without users or times.

AUC, MRR and NDCG of each impression's candidates, split at random as in nrms_mind_sample.py, which
says what that means. 58% of the news have a category: the others are reconstructed, without a
triplet. The autoencoder is pretrained on the titles of all news, those that test included.

Measured (2026-11-30, seed 0, 1 minute beside other work): AUC .6449, MRR .3818, NDCG@5 .4079,
NDCG@10 .4921; popularity, of the clicks that are not tested, .6299, .3879, .4226, .4969.

    python -m experiments.run --config=experiments/configs/ebnr_mind_sample.py \\
      --workdir=runs/ebnr_mind_sample

Hardware: 2 CPU cores.
"""

from experiments import settings
from recjax.systems.news import ebnr
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="ebnr",
    task="impressions",
    examples="impressions",
    seeds=(0,),
    batch_size=32,
    pretrain_batch_size=64,
    data=settings.Data(
      source="mind_sample", path="news_mind_sample", max_len=30, buckets=(10,), negatives=4
    ),
    words=settings.Words(least=2),
    model=settings.model(ebnr.Config, title=20, dim=200),
    pretrain=loop.Config(steps=1000, optimizer=optim.Config(rate=1e-3)),
    train=loop.Config(
      steps=300,
      optimizer=optim.Config(rate=1e-3),
      eval_every=60,
      best="valid/auc",
      patience=3,
    ),
    evaluation=settings.Evaluation(ks=(5, 10), batch_size=64, baselines=("popularity",)),
  )
