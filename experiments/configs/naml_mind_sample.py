"""NAML on a sample of MIND: 2,817 impressions without users or times.

AUC, MRR and NDCG of each impression's candidates, split at random as in nrms_mind_sample.py, which
says what that means. 58% of the news have categories, 56% abstracts; of the others the titles are
known alone. Word vectors start at random.

Measured (2026-11-30, seed 0, 5 minutes beside other work): AUC .5661, MRR .3668, NDCG@5 .3852,
NDCG@10 .4709; popularity, of the clicks that are not tested, .6299, .3879, .4226, .4969. NRMS
has .6502 after as many steps. Validation AUC stays at .53 from step 60 on, with three times the
rate too, and of titles alone with this rate and ten times it; with all ReLUs left out it is .642.
News vectors that are nowhere below 0 share a direction, which small random word vectors hardly
leave in these steps.

    python -m experiments.run --config=experiments/configs/naml_mind_sample.py \\
      --workdir=runs/naml_mind_sample

Hardware: 2 CPU cores.
"""

from experiments import settings
from recjax.systems.news import naml
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="naml",
    task="impressions",
    examples="impressions",
    seeds=(0,),
    batch_size=32,
    data=settings.Data(
      source="mind_sample", path="news_mind_sample", max_len=30, buckets=(10,), negatives=4
    ),
    words=settings.Words(fields=("title", "abstract"), least=2),
    model=settings.model(
      naml.Config, title=20, abstract=30, word_dim=100, category_dim=50, dim=128, query=100
    ),
    train=loop.Config(
      steps=300,
      optimizer=optim.Config(rate=1e-3),
      eval_every=60,
      best="valid/auc",
      patience=3,
    ),
    evaluation=settings.Evaluation(ks=(5, 10), batch_size=64, baselines=("popularity",)),
  )
