"""LightGCN on Gowalla (the authors' train and test parts), 3 layers.

    python -m experiments.run --config=experiments/configs/lightgcn_gowalla.py --workdir=runs/lgcn
"""

from experiments import settings
from recjax.systems.collaborative import lightgcn
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="lightgcn",
    task="top_n",
    examples="events",
    seeds=(0,),
    batch_size=2048,
    devices=1,
    data=settings.Data(source="gowalla", path="lightgcn", max_len=1),
    model=settings.model(
      lightgcn.Config, dim=64, layers=3, penalty=1e-3, temperature=0.1, length=0.5
    ),
    train=loop.Config(
      steps=440,
      optimizer=optim.Config(rate=1e-2, schedule="cosine", warmup=20, clip=None),
      eval_every=440,
      save_every=110,
    ),
    evaluation=settings.Evaluation(ks=(20,), deny_seen=True),
  )
