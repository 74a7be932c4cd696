"""TIGER trained packed on Amazon Beauty (2014, 5-core): every place of a history in one pass.

Published TIGER: Recall@5 .0454, NDCG@5 .0321, Recall@10 .0648, NDCG@10 .0384. Measured with MiniLM
vectors (--config.text.encoder=FOLDER), seed 0: .0482, .0325, .0718, .0400 after 53 minutes of
training, 132 epochs; .0357, .0232, .0560, .0297 with --config.train.steps=3000 and a warm-up of 300
(12 minutes). The protocol of `tiger_beauty`. Unlike it: an item-causal encoder, several histories
to a row, cross-attention that knows how many items ago an item was (`recency`), no user token,
three codes an item, a softmax over the codes that some item has, a smaller model.

    python -m experiments.run --config=experiments/configs/tiger_beauty_packed.py \\
      --workdir=runs/tiger_beauty_packed

Hardware: 2 CPU cores.
"""

from experiments import settings
from recjax.semid import learn
from recjax.systems.generative import tiger
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="tiger",
    task="next_item",
    examples="rows",
    seeds=(0,),
    batch_size=72,  # rows, some 260 histories
    data=settings.Data(source="sequences", path="amazon14_p5/Beauty", max_len=20, buckets=(5, 10)),
    text=settings.Text(template="{title} {categories}", dim=384),
    # Three codes an item: collisions are dealt out within the last level.
    semantic_ids=settings.SemanticIds(quantizer=learn.Config(epochs=60), policy="optimal"),
    model=settings.model(
      tiger.Config,
      user_buckets=0,
      heads=4,
      head_dim=32,
      ff=512,
      layers=3,
      dropout=0.15,
      item_causal=True,
      recency=20,
      softmax="children",
    ),
    train=loop.Config(
      steps=12_000,
      optimizer=optim.Config(rate=3e-3, schedule="cosine", warmup=500, weight_decay=0.05),
      eval_every=1_500,
      save_every=500,
      best="valid/ndcg@10",
      fused_products=True,
    ),
    evaluation=settings.Evaluation(
      by_score=False,
      baselines=("popularity", "item_knn"),
      compare=("experiments/configs/sasrec_beauty.py",),
    ),
  )
