"""P5 on Amazon Beauty (2014, 5-core): sequential and direct questions, small, from scratch.

Not yet measured to the end. Items are numbered from the training part alone; P5's own numbers
followed whole histories, test items included, so its figures are no aim. Other ways to write an
item: --config.prompts.index.method=clusters (or random, popularity, title, category, codes, ...).
From a downloaded T5, its vocabulary and sizes too: --config.prompts.pretrained=FOLDER. Full ranking
by constrained beams, repeats allowed, the last event of each user tests.

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
    # max_len: tokens of a source; `instances.max_history` limits histories
    data=settings.Data(source="sequences", path="amazon14_p5/Beauty", max_len=96),
    semantic_ids=settings.SemanticIds(),
    text=settings.Text(template="{title} {categories}", dim=384),
    prompts=settings.Prompts(
      vocabulary="tokenizers/synthetic.model",
      index=settings.Index(method="sequential", span=2),
      instances=instances.Config(
        target_len=16,
        max_history=10,
        candidates=5,
        weights={"sequential": 3.0, "direct": 1.0},
        size=128 * 10_000,
      ),
    ),
    model=settings.model(
      p5.Config, dim=128, heads=4, head_dim=32, ff=512, layers=3, whole_words=96, length=16
    ),
    train=loop.Config(
      steps=10_000,
      optimizer=optim.Config(rate=1e-3, schedule="cosine", warmup=500, weight_decay=0.01),
      eval_every=1_000,
      best="valid/sequential/ndcg@10",
      patience=3,
      fused_products=True,
    ),
    evaluation=settings.Evaluation(by_score=False),
  )
