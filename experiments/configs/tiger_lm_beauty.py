"""TIGER without an encoder, one causal stack trained packed, on Amazon Beauty (2014, 5-core).

Published TIGER: Recall@5 .0454, NDCG@5 .0321, Recall@10 .0648, NDCG@10 .0384. Data, ids, schedule
and protocol of `tiger_beauty_packed`, in whose place it stands; as many layers in all. Ours is not
yet measured.

    python -m experiments.run --config=experiments/configs/tiger_lm_beauty.py \\
      --workdir=runs/tiger_lm_beauty

Hardware: 2 CPU cores.
"""

from experiments import settings
from experiments.configs import tiger_beauty_packed
from recjax.systems.generative import tiger_lm


def get_config():
  config = tiger_beauty_packed.get_config()
  config.system = "tiger_lm"
  sizes = settings.model(
    tiger_lm.Config, heads=4, head_dim=32, ff=512, layers=6, dropout=0.2, softmax="children"
  )
  with config.unlocked():
    config.model = sizes
  return config
