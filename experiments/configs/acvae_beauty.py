"""ACVAE on Amazon Beauty (2014, 5-core): an autoencoder, its adversary and its critic.

Published: Recall@5 .0503, NDCG@5 .0356, Recall@10 .0710, NDCG@10 .0422 (TransRec's table 2, a
re-run; the paper itself has other data). Full ranking over all items, repeats allowed, the last
event of each user tests; the checkpoint is that of the best validation NDCG@10. The players' rates
stand as in the authors' code (there the judges take plain SGD). Not yet measured.

    python -m experiments.run --config=experiments/configs/acvae_beauty.py --workdir=runs/acvae

Hardware: 2 CPU cores, or a GPU.
"""

from experiments import settings
from recjax.systems.sequential import acvae
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="acvae",
    task="next_item",
    examples="sequences",
    seeds=(0,),
    batch_size=64,  # histories of up to 50 items, 192 of up to 16, 384 of up to 8
    data=settings.Data(
      source="sequences", path="amazon14_p5/Beauty", max_len=50, buckets=(8, 16), even=True
    ),
    model=settings.model(acvae.Config),
    train=loop.Config(
      steps=8000,  # about 100 epochs
      optimizer=optim.Config(
        rate=1e-3,
        weight_decay=1e-2,
        clip=None,  # a norm over all players would tie their steps
        group_rates={"vae": 1.0, "adversary": 0.5, "critic": 0.3},
      ),
      eval_every=400,
      best="valid/ndcg@10",
      patience=5,
    ),
    evaluation=settings.Evaluation(ks=(5, 10)),
  )
