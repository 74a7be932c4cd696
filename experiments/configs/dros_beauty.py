"""DROS over SASRec on Amazon Beauty (2014, 5-core): the full softmax and the robust term.

Published: the paper has none on this data; SASRec alone is measured in `sasrec_beauty`, whose
recipe this is. Full ranking over all items, repeats allowed, the last event of each user tests; the
checkpoint is that of the best validation NDCG@10, by which `alpha` and `temperature` would be
chosen too (the paper tunes both). Not yet measured.

    python -m experiments.run --config=experiments/configs/dros_beauty.py --workdir=runs/dros_beauty

Hardware: 2 CPU cores, and patience, as all items are scored at every place; or a GPU.
"""

from experiments import settings
from experiments.configs import sasrec_beauty
from recjax.systems.sequential import dros


def get_config():
  config = sasrec_beauty.get_config()
  config.system = "dros"
  config.model = settings.model(dros.Config, max_len=50, dim=64, heads=1, ff=256, dropout=0.5)
  return config.lock()  # the new section too
