"""P5 on MovieLens-100K, items by T5's pieces of plain digits, in sequential order: do sums help?

The claim to check (arithmetic pre-conditioning and task vectors on P5): Recall@5 .0827, 18% above
P5. T5's pieces hold several digits, which is the point. Measured, seed 0, 16 to 21 minutes: .0265,
Recall@10 .0530 without sums; .0191, .0361 with sums first; as a vector the scale that validates
best is 0, so .0265, .0530: from scratch they do not help. `sums` is "", "first" (training starts
from a model of sums) or "vector" (what sums change is added to the trained model, at that scale).
Items are numbered from the training part alone. Full ranking, repeats allowed, the last event of
each user tests.

    python -m experiments.run --config=experiments/configs/p5_ml100k.py --workdir=runs/p5_sums \\
      --config.prompts.sums=first

Hardware: 2 CPU cores.
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
    pretrain_batch_size=128,
    # max_len: tokens of a source
    data=settings.Data(source="recbole", path="ml-100k", max_len=64, buckets=(24, 32, 48)),
    prompts=settings.Prompts(
      vocabulary="t5_vocab/spiece.model",
      index=settings.Index(method="sequential", spelled=True),
      instances=instances.Config(
        target_len=0, max_history=10, candidates=4, weights={"sequential": 1.0}, size=128 * 1_000
      ),
    ),
    model=settings.model(
      p5.Config,
      dim=128,
      heads=4,
      head_dim=32,
      ff=512,
      layers=2,
      whole_words=64,
      length=8,
      own_tokens=True,
    ),
    pretrain=loop.Config(
      steps=1_000, optimizer=optim.Config(rate=1e-3, schedule="cosine", warmup=100)
    ),
    train=loop.Config(
      steps=3_000,
      optimizer=optim.Config(rate=1e-3, schedule="cosine", warmup=200, weight_decay=0.01),
      eval_every=500,
      best="valid/sequential/ndcg@10",
      fused_products=True,
    ),
    evaluation=settings.Evaluation(by_score=False),
  )
