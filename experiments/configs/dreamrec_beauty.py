"""DreamRec on Amazon Beauty (2014, 5-core): an item's vector is dreamt, the nearest items answer.

Published: none on this data (the paper has YooChoose, KuaiRec and Zhihu). Full ranking over all
items, repeats allowed, the last event of each user tests; the checkpoint is that of the best
validation NDCG@10, by which `strength`, `steps` and the width would be chosen too (the paper tunes
the first two). Answers are those of the fixed noise. Not yet measured.

    python -m experiments.run --config=experiments/configs/dreamrec_beauty.py \\
      --workdir=runs/dreamrec_beauty

Hardware: 2 CPU cores, or a GPU; each answer takes 500 steps of a small network.
"""

from experiments import settings
from recjax.systems.sequential import dreamrec
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="dreamrec",
    task="next_item",
    examples="sequences",
    seeds=(0,),
    batch_size=64,  # histories of up to 50 items, 192 of up to 16, 384 of up to 8
    data=settings.Data(
      source="sequences", path="amazon14_p5/Beauty", max_len=50, buckets=(8, 16), even=True
    ),
    model=settings.model(dreamrec.Config, dim=64, steps=500, strength=2.0),
    train=loop.Config(
      steps=20_000,  # about 250 epochs
      optimizer=optim.Config(rate=1e-3),
      eval_every=1000,
      best="valid/ndcg@10",
      patience=5,
    ),
    evaluation=settings.Evaluation(ks=(5, 10)),
  )
