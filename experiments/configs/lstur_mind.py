"""LSTUR on MIND-small (or MIND-large), as its publishers give it: https://msnews.github.io.

Folders, split and measures as in nrms_mind.py. Published (the MIND paper, on the test set of
MIND-large, from memory): AUC .6773, MRR .3277, NDCG@5 .3559, NDCG@10 .4134. Users of dev whom train
does not show are unknown, of the zero vector. The paper starts from GloVe:
`--config.words.vectors=glove.840B.300d.txt`. Not yet measured.

    python -m experiments.run --config=experiments/configs/lstur_mind.py \\
      --config.data.path=MINDsmall --workdir=runs/lstur_mind

Hardware: 1 GPU; 2 CPU cores take days.
"""

from experiments import settings
from recjax.systems.news import lstur
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="lstur",
    task="impressions",
    examples="impressions",
    seeds=(0,),
    batch_size=64,
    data=settings.Data(
      source="mind", path="MINDsmall", max_len=50, buckets=(10, 20), negatives=4, valid=0.1
    ),
    words=settings.Words(),
    model=settings.model(lstur.Config),
    train=loop.Config(
      steps=20_000,
      optimizer=optim.Config(rate=1e-4),
      eval_every=1000,
      best="valid/auc",
      patience=3,
    ),
    evaluation=settings.Evaluation(ks=(5, 10), batch_size=64),
  )
