"""How items are written, compared on Amazon Beauty (2014, 5-core): P5's sequential questions alone.

A budget that two CPU cores have: T5-small's shape from scratch, 48,000 questions (a third of those
there are), none twice. Not yet measured. Published figures start from a pretrained T5 and take ten
and more epochs (Hua et al., SIGIR-AP 2023), out of reach here. Full ranking by constrained beams,
repeats allowed, the last event of each user tests; prompts with choices are left out.

    python -m experiments.run --config=experiments/configs/p5_index_beauty.py \\
      --config.prompts.index.method=clusters --workdir=runs/p5_clusters --name=p5_beauty_clusters

Hardware: 2 CPU cores.
"""

from experiments.configs import p5_beauty


def get_config():
  config = p5_beauty.get_config()
  config.batch_size = 64
  config.prompts.choices = False
  config.prompts.instances.update(weights={"direct": 0.0}, size=64 * 750)
  config.model.update(dropout=0.0, dtype="bfloat16")
  config.train.update(steps=750, eval_every=0, save_every=150, best=None, patience=0)
  config.train.update(compute_dtype=None, fused_products=False)
  config.train.optimizer.update(warmup=75)
  return config
