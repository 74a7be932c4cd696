"""TIGER trained packed on Amazon Sports (2014, 5-core).

Published: Recall@5 .0264, NDCG@5 .0181, Recall@10 .0400, NDCG@10 .0225. Measured with MiniLM
vectors (--config.text.encoder=FOLDER), seed 0, in bfloat16 (--config.model.dtype=bfloat16
--config.train.fused_products=False, 10,000 users validated: --config.evaluation.valid_users=10000):
.0255, .0162, .0403, .0209 after 76 minutes, beside other work. The settings and protocol of
`tiger_beauty_packed`. Items have no titles in this data: key words and attributes are their text.
The command below also trains a SASRec to compare, which the measurement left out.

    python -m experiments.run --config=experiments/configs/tiger_sports_packed.py \\
      --workdir=runs/tiger_sports_packed

Hardware: 2 CPU cores.
"""

from experiments.configs import tiger_beauty_packed


def get_config():
  config = tiger_beauty_packed.get_config()
  config.data.path = "amazon14_p5/Sports_and_Outdoors"
  config.text.template = "{title} {attributes}"
  config.evaluation.compare = ("experiments/configs/sasrec_sports.py",)
  return config
