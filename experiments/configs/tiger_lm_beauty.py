"""TIGER without an encoder, one causal stack trained packed, on Amazon Beauty (2014, 5-core).

Published TIGER: Recall@5 .0454, NDCG@5 .0321, Recall@10 .0648, NDCG@10 .0384. Data, ids, schedule
and protocol of `tiger_beauty_packed`, in whose place it stands, but for a history a row; as many
layers in all. On an H200, histories of one width and dropout .2, validation NDCG@10 was .0523 and
Recall@10 .0913 after 160 epochs; the test is not yet measured.

    python -m experiments.run --config=experiments/configs/tiger_lm_beauty.py \\
      --workdir=runs/tiger_lm_beauty

Hardware: 2 CPU cores.
"""

from experiments import settings
from experiments.configs import tiger_beauty_packed
from recjax.systems.generative import tiger_lm


def get_config():
  config = tiger_beauty_packed.get_config()
  config.system, config.examples, config.batch_size = "tiger_lm", "sequences", 256
  sizes = settings.model(
    tiger_lm.Config, heads=4, head_dim=32, ff=512, layers=6, dropout=0.2, softmax="children"
  )
  config.data.buckets = ()  # short and long histories in one batch
  with config.unlocked():
    config.model = sizes
  return config
