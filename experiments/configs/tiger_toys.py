"""TIGER as the paper trains it, on Amazon Toys (2014, 5-core).

Published: Recall@5 .0521, NDCG@5 .0371, Recall@10 .0712, NDCG@10 .0432. The settings
and protocol of `tiger_beauty`. Ours is not yet measured.

    python -m experiments.run --config=experiments/configs/tiger_toys.py \\
      --workdir=runs/tiger_toys

Hardware: one GPU.
"""

from experiments.configs import tiger_beauty


def get_config():
  config = tiger_beauty.get_config()
  config.data.path = "amazon14_p5/Toys_and_Games"
  config.text.template = "{title} {categories}"
  config.evaluation.compare = ("experiments/configs/sasrec_toys.py",)
  return config
