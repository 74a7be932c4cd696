"""P5 on Amazon Beauty (2014, 5-core): sequential and direct prompts, small, from scratch.

Claim: above popularity; not yet measured. Items are numbered from the training part alone; P5's
own numbers follow whole histories, test items included, so its figures are no aim. Full ranking
by constrained beams over all items, repeats allowed, the last event of each user tests.

    python -m experiments.run --config=experiments/configs/p5_beauty.py --workdir=runs/p5_beauty

Hardware: one accelerator, or 2 CPU cores and patience.
"""

from experiments import settings
from recjax.systems.generative import p5
from recjax.text import instances
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="p5",
    task="prompts",
    examples="prompts",
    seeds=(0,),
    batch_size=128,
    # max_len: tokens of a source; `prompts.max_history` limits histories
    data=settings.Data(source="sequences", path="amazon14_p5/Beauty", max_len=160),
    index=dict(method="sequentially", span=2, seed=0),
    prompts=instances.Config(
      target_len=16,
      max_history=20,
      candidates=10,
      weights={"sequential": 2.0, "direct": 1.0},
      size=128 * 20_000,
    ),
    model=settings.model(
      p5.Config, dim=128, heads=4, head_dim=32, ff=512, layers=3, whole_words=160, length=16
    ),
    train=loop.Config(
      steps=20_000,
      optimizer=optim.Config(name="adafactor", rate=1e-3),
      eval_every=2_000,
      best="valid/ndcg@10",
      patience=3,
    ),
    evaluation=settings.Evaluation(ks=(5, 10), by_score=False),
  )
