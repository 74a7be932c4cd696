"""How items are written, compared on Amazon Beauty (2014, 5-core): P5's sequential questions alone.

A budget that two CPU cores have for ten ways on two shops: T5-small's shape from scratch, 12,800
questions (a tenth of those there are), none twice, and 2,000 users drawn to test, the same for all.
Measured: Recall@10 .0200 by categories, with and without a number for the item, and by clusters
with one, .0145 by clusters alone, .0060 by sequential numbers, .0020 by titles and by semantic ids
(all ten in BUILD_NOTES.md). Published figures start from a pretrained T5 and take ten and more
epochs (Hua et al., SIGIR-AP 2023), out of reach here. Full ranking by constrained beams, repeats
allowed, the last event of each user tests; prompts with choices are left out.

    python -m experiments.run --config=experiments/configs/p5_index_beauty.py \\
      --config.prompts.index.method=clusters --workdir=runs/p5_clusters --name=p5_beauty_clusters

`--mode=evaluate` ends with the metrics, without recommendations for all users. Hardware: 2 CPU
cores; without bfloat16 products of their own --config.model.dtype=float32 is the faster.
"""

from experiments.configs import p5_beauty


def get_config():
  config = p5_beauty.get_config()
  config.devices = 1  # two would each update all 72 million parameters: half the speed
  config.batch_size = 32
  config.prompts.choices = False
  config.prompts.instances.update(weights={"direct": 0.0}, size=32 * 400)
  config.model.update(dropout=0.0, dtype="bfloat16")
  config.train.update(steps=400, eval_every=0, save_every=100, best=None, patience=0)
  config.train.update(compute_dtype=None, fused_products=False)
  # T5's own: steps in proportion to the parameters, whose table of tokens is of norm 1 an entry
  config.train.optimizer.update(name="adafactor", rate=1e-2, weight_decay=0.0, warmup=40)
  # A title has up to 34 tokens: with 256 users asked at a time its search outgrew 14 GB.
  config.evaluation.update(valid_users=100, test_users=2_000, batch_size=64)
  return config
