"""CL4SRec on Amazon Beauty (2014, 5-core): views contrasted beside the next item.

Wanted: more than SASRec by the same protocol (`sasrec_beauty`: Recall@10 .0880, NDCG@10 .0431).
Published figures of this split: none that could be checked here. Full ranking over all items,
repeats allowed, the last event of each user tests; the checkpoint is that of the best validation
NDCG@10. Even batches, so that a target of a long history counts as one of a short history does: a
user is told from those whose histories are about as long.

Measured (2026-11-30, seed 0, the checkpoint of step 8,000 of 9,200): Recall@5 .0467, NDCG@5 .0283,
Recall@10 .0761, NDCG@10 .0378, short of SASRec, as validation NDCG@10 is (.0494, SASRec's .0531):
with the default weight and temperature the contrast does harm here. At `--config.model.weight=0`
validation has .0508 after 2,800 steps, where weights .01 and .1 have .0460 and .0275.

    python -m experiments.run --config=experiments/configs/cl4srec_beauty.py \\
      --workdir=runs/cl4srec_beauty

Hardware: 2 CPU cores.
"""

from experiments import settings
from recjax.systems.pretrain import cl4srec
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="cl4srec",
    task="next_item",
    examples="sequences",
    seeds=(0,),
    batch_size=64,  # histories of up to 50 items, 192 of up to 16, 384 of up to 8
    data=settings.Data(
      source="sequences", path="amazon14_p5/Beauty", max_len=50, buckets=(8, 16), even=True
    ),
    model=settings.model(cl4srec.Config, dim=64, heads=2, ff=256, dropout=0.5, weight=0.1),
    train=loop.Config(
      steps=16_000,
      optimizer=optim.Config(rate=1e-3),
      eval_every=400,
      best="valid/ndcg@10",
      patience=3,
    ),
    evaluation=settings.Evaluation(ks=(5, 10)),
  )
