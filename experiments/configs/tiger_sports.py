"""TIGER as the paper trains it, on Amazon Sports (2014, 5-core).

Published: Recall@5 .0264, NDCG@5 .0181, Recall@10 .0400, NDCG@10 .0225. The settings
and protocol of `tiger_beauty`. Items have no titles in this data: key words
and attributes are their text. Ours is not yet measured.

    python -m experiments.run --config=experiments/configs/tiger_sports.py \\
      --workdir=runs/tiger_sports

Hardware: one GPU.
"""

from experiments.configs import tiger_beauty


def get_config():
  config = tiger_beauty.get_config()
  config.data.path = "amazon14_p5/Sports_and_Outdoors"
  config.text.template = "{title} {attributes}"
  config.evaluation.compare = ("experiments/configs/sasrec_sports.py",)
  return config
