"""TIGER trained packed on Amazon Toys (2014, 5-core).

Published: Recall@5 .0521, NDCG@5 .0371, Recall@10 .0712, NDCG@10 .0432. The settings
and protocol of `tiger_beauty_packed`. Measured with MiniLM vectors, seed 0, in bfloat16
(--config.text.encoder=FOLDER --config.model.dtype=bfloat16 --config.train.fused_products=False
--config.train.steps=9000): .0429, .0280, .0694, .0365, beside other work. The command below also
trains a SASRec to compare, which the measurement left out.

    python -m experiments.run --config=experiments/configs/tiger_toys_packed.py \\
      --workdir=runs/tiger_toys_packed

Hardware: 2 CPU cores.
"""

from experiments.configs import tiger_beauty_packed


def get_config():
  config = tiger_beauty_packed.get_config()
  config.data.path = "amazon14_p5/Toys_and_Games"
  config.text.template = "{title} {categories}"
  config.evaluation.compare = ("experiments/configs/sasrec_toys.py",)
  return config
