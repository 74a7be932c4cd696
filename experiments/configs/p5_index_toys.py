"""How items are written, compared on Amazon Toys (2014, 5-core): as `p5_index_beauty`.

The same budget, questions and protocol. Measured: Recall@10 .0105 by clusters with a number for the
item, .0090 by clusters, .0090 by categories with a number, .0035 by categories alone, .0050 by
sequential numbers, .0025 by titles and by semantic ids (all ten in BUILD_NOTES.md).

    python -m experiments.run --config=experiments/configs/p5_index_toys.py \\
      --config.prompts.index.method=clusters --workdir=runs/p5_clusters --name=p5_toys_clusters

Hardware: 2 CPU cores.
"""

from experiments.configs import p5_index_beauty


def get_config():
  config = p5_index_beauty.get_config()
  config.data.path = "amazon14_p5/Toys_and_Games"
  return config
