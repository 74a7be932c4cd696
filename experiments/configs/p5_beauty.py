"""P5 at T5-small's shape on Amazon Beauty (2014, 5-core): sequential and direct questions.

From scratch, 10,000 steps of 128 questions, some seven epochs of the sequential ones; not yet
measured. Items are numbered from the training part alone; P5's own numbers followed whole
histories, test items included, so its figures are no aim. Other ways to write an item:
--config.prompts.index.method=clusters (or any other but `time`: these files have no times), with
--name=p5_beauty_clusters for the record. A target is as long as the longest item; of a history as
much is told as a source holds. From a downloaded T5, its vocabulary and sizes too:
--config.prompts.pretrained=FOLDER. Full ranking by constrained beams, repeats allowed, the last
event of each user tests.

    python -m experiments.run --config=experiments/configs/p5_beauty.py --workdir=runs/p5_beauty

Hardware: one accelerator. Two CPU cores take some six seconds a step, three in bfloat16
(`p5_index_beauty` is a budget for these); a model that they can train is a tenth of it:
--config.model.dim=128 --config.model.heads=4 --config.model.head_dim=32 --config.model.ff=512
--config.model.layers=3
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
    data=settings.Data(
      source="sequences", path="amazon14_p5/Beauty", max_len=128, buckets=(24, 36, 48, 64)
    ),
    semantic_ids=settings.SemanticIds(),
    text=settings.Text(template="{title} {categories}", dim=384),
    prompts=settings.Prompts(
      vocabulary="t5_vocab/spiece.model",
      index=settings.Index(method="sequential", span=2),
      instances=instances.Config(
        target_len=0,
        max_history=10,
        candidates=5,
        weights={"sequential": 3.0, "direct": 1.0},
        size=128 * 2_500,  # gone through four times
      ),
    ),
    model=settings.model(
      p5.Config,
      dim=512,
      heads=8,
      head_dim=64,
      ff=2048,
      layers=6,
      whole_words=128,
      length=16,
      own_tokens=True,
    ),
    train=loop.Config(
      steps=10_000,
      optimizer=optim.Config(rate=1e-3, schedule="cosine", warmup=500, weight_decay=0.01),
      eval_every=1_000,
      best="valid/sequential/ndcg@10",
      patience=3,
      compute_dtype="bfloat16",
      fused_products=True,
    ),
    evaluation=settings.Evaluation(by_score=False, valid_users=2000),
  )
