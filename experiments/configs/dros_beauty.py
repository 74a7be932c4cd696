"""DROS over SASRec on Amazon Beauty (2014, 5-core): the full softmax and the robust term.

Published: the paper has none on this data; SASRec alone is measured in `sasrec_beauty`, whose
recipe this is. Full ranking over all items, repeats allowed, the last event of each user tests; the
checkpoint is that of the best validation NDCG@10, by which `alpha` and `temperature` would be
chosen too (the paper tunes both). Not yet measured.

    python -m experiments.run --config=experiments/configs/dros_beauty.py --workdir=runs/dros_beauty

Hardware: 2 CPU cores, and patience, as all items are scored at every place; or a GPU.
"""

from experiments import settings
from recjax.systems.sequential import dros
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="dros",
    task="next_item",
    examples="rows",
    seeds=(0,),
    batch_size=40,  # rows, some 290 histories
    data=settings.Data(source="sequences", path="amazon14_p5/Beauty", max_len=50, buckets=(8, 16)),
    model=settings.model(dros.Config, max_len=50, dim=64, heads=1, ff=256, dropout=0.5),
    train=loop.Config(
      steps=3960,
      optimizer=optim.Config(rate=1e-3),
      eval_every=440,
      best="valid/ndcg@10",
      patience=3,
    ),
    evaluation=settings.Evaluation(ks=(5, 10)),
  )
