"""NRMS on MIND-small (or MIND-large), as its publishers give it: https://msnews.github.io.

`data.path` is a folder of the unpacked `train` and `dev` (or `valid`), each with behaviors.tsv and
news.tsv. Dev tests, as papers have it; the last tenth of train by time validates and chooses the
checkpoint. AUC, MRR and NDCG of each impression's candidates. Published (the MIND paper, on the
test set of MIND-large, from memory): AUC .6776, MRR .3305, NDCG@5 .3594, NDCG@10 .4163. The paper
starts from GloVe: `--config.words.vectors=glove.840B.300d.txt`. Not yet measured.

    python -m experiments.run --config=experiments/configs/nrms_mind.py \\
      --config.data.path=MINDsmall --workdir=runs/nrms_mind

Hardware: 1 GPU; 2 CPU cores take days.
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
    batch_size=64,
    data=settings.Data(
      source="mind", path="MINDsmall", max_len=50, buckets=(10, 20), negatives=4, valid=0.1
    ),
    words=settings.Words(),
    model=settings.model(nrms.Config),
    train=loop.Config(
      steps=20_000,
      optimizer=optim.Config(rate=1e-4),
      eval_every=1000,
      best="valid/auc",
      patience=3,
    ),
    evaluation=settings.Evaluation(ks=(5, 10), batch_size=64),
  )
