"""NeuMF on MovieLens-1M, leave-one-out, the 99 given negatives of the authors' files.

Claim: the paper's HR@10 .730 (64 factors, GMF and MLP trained first); not yet measured. As in the
paper: batch 256, Adam at 1e-3, 4 negatives a positive. This config trains NeuMF from scratch;
`neumf.fuse` of `neumf.make_gmf` and `neumf.make_mlp`, trained alike, gives the paper's start.

    python -m experiments.run --config=experiments/configs/neumf_ml1m.py --workdir=runs/neumf

Hardware: 2 CPU cores.
"""

from experiments import settings
from recjax.systems.collaborative import neumf
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="neumf",
    task="sampled",
    examples="events",
    seeds=(0,),
    batch_size=256,
    data=settings.Data(source="ncf", path="ml-1m/ncf", max_len=1),
    model=settings.model(neumf.Config, factors=64, tower=(256, 128, 64)),
    train=loop.Config(
      steps=3884 * 20,  # 994,169 events in batches of 256
      optimizer=optim.Config(rate=1e-3, clip=None),
      eval_every=3884,
      save_every=3884,
    ),
    evaluation=settings.Evaluation(ks=(10,)),
  )
