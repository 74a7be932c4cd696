"""iALS on Gowalla (LightGCN's train and test parts), closed form.

A plain baseline beside LightGCN's Recall@20 .1824 and NDCG@20 .1547. Measured: .1474 and .1279,
with 64 factors and weights that were not tuned. Full ranking, what the user met in training left
out.

    python -m experiments.run --config=experiments/configs/ials_gowalla.py --workdir=runs/ials

Hardware: 2 CPU cores.
"""

from experiments import settings
from recjax.systems.collaborative import ials
from recjax.train import loop


def get_config():
  return settings.config(
    system="ials",
    task="top_n",
    examples="events",
    seeds=(0,),
    batch_size=1024,
    data=settings.Data(source="gowalla", path="lightgcn", max_len=1),
    model=settings.model(ials.Config, dim=64, unobserved=0.03, penalty=0.003, sweeps=16),
    train=loop.Config(steps=1),  # closed form: not read
    evaluation=settings.Evaluation(ks=(20,), deny_seen=True),
  )
