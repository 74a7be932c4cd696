"""P5 on Amazon Toys (2014, 5-core): the settings and protocol of `p5_beauty`.

Not yet measured to the end.

    python -m experiments.run --config=experiments/configs/p5_toys.py --workdir=runs/p5_toys

Hardware: one accelerator, or 2 CPU cores and patience.
"""

from experiments.configs import p5_beauty


def get_config():
  config = p5_beauty.get_config()
  config.data.path = "amazon14_p5/Toys_and_Games"
  return config
