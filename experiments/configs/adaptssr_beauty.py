"""AdaptSSR on Amazon Beauty (2014, 5-core): readings of a history are ranked, then items are.

Wanted: more than SASRec by the same protocol (`sasrec_beauty`: Recall@10 .0880, NDCG@10 .0431). The
paper measures on other data. Full ranking over all items, repeats allowed, the last event of each
user tests; the checkpoint is that of the best validation NDCG@10. Not yet measured.

    python -m experiments.run --config=experiments/configs/adaptssr_beauty.py \\
      --workdir=runs/adaptssr_beauty

Hardware: one GPU; on 2 CPU cores it takes some hours.
"""

from experiments import settings
from recjax.systems.pretrain import adaptssr
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="adaptssr",
    task="next_item",
    examples="sequences",
    seeds=(0,),
    batch_size=64,  # histories of up to 50 items, 192 of up to 16, 384 of up to 8
    pretrain_batch_size=256,
    data=settings.Data(
      source="sequences", path="amazon14_p5/Beauty", max_len=50, buckets=(8, 16), even=True
    ),
    model=settings.model(adaptssr.Config, dim=64, heads=2, layers=2, dropout=0.5),
    pretrain=loop.Config(steps=2000, optimizer=optim.Config(rate=1e-3)),
    train=loop.Config(
      steps=6000,
      optimizer=optim.Config(rate=1e-3),
      eval_every=400,
      best="valid/ndcg@10",
      patience=3,
    ),
    evaluation=settings.Evaluation(ks=(5, 10)),
  )
