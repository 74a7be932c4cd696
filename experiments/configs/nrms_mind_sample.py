"""NRMS on a sample of MIND: 2,817 impressions without users or times.

AUC, MRR and NDCG of each impression's candidates. Impressions are split at random, 80 / 10 / 10
(`data.split_seed`): of one user some may be learned from and others test, and some have only a
part of their candidates, so figures do not compare with MIND's own. Word vectors start at random.

Measured (2026-11-30, seed 0, 5 minutes beside other work): AUC .6502, MRR .3696, NDCG@5 .4062,
NDCG@10 .4848; popularity, of the clicks that are not tested, .6299, .3879, .4226, .4969. The
checkpoint is that of the best validation AUC. 281 impressions test, so AUC is known to some .02.

    python -m experiments.run --config=experiments/configs/nrms_mind_sample.py \\
      --workdir=runs/nrms_mind_sample

Hardware: 2 CPU cores.
"""

from experiments import settings
from recjax.systems.news import nrms
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="nrms",
    task="impressions",
    examples="impressions",
    seeds=(0,),
    batch_size=32,
    data=settings.Data(
      source="mind_sample", path="news_mind_sample", max_len=30, buckets=(10,), negatives=4
    ),
    words=settings.Words(least=2),
    model=settings.model(nrms.Config, title=20, word_dim=100, heads=8, query=100),
    train=loop.Config(
      steps=300,
      optimizer=optim.Config(rate=1e-3),
      eval_every=60,
      best="valid/auc",
      patience=3,
    ),
    evaluation=settings.Evaluation(ks=(5, 10), batch_size=64, baselines=("popularity",)),
  )
