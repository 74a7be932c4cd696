"""DuoRec on Amazon Beauty (2014, 5-core): histories before the same target beside each other.

Wanted: more than SASRec by the same protocol (`sasrec_beauty`: Recall@10 .0880, NDCG@10 .0431).
Published figures of this split: none that could be checked here. Full ranking over all items,
repeats allowed, the last event of each user tests; the checkpoint is that of the best validation
NDCG@10. One width of history, so that no positive is cut short. Not yet measured.

    python -m experiments.run --config=experiments/configs/duorec_beauty.py \\
      --workdir=runs/duorec_beauty

Hardware: one GPU; on 2 CPU cores it takes most of a day.
"""

from experiments import settings
from recjax.systems.pretrain import duorec
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="duorec",
    task="next_item",
    examples="alike",
    seeds=(0,),
    batch_size=256,
    data=settings.Data(source="sequences", path="amazon14_p5/Beauty", max_len=50),
    model=settings.model(duorec.Config, dim=64, heads=2, ff=256, dropout=0.5, weight=0.1),
    train=loop.Config(
      steps=26_000,  # about 50 epochs
      optimizer=optim.Config(rate=1e-3),
      eval_every=1_000,
      best="valid/ndcg@10",
      patience=5,
    ),
    evaluation=settings.Evaluation(ks=(5, 10)),
  )
