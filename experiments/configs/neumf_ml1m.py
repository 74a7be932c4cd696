"""NeuMF on MovieLens-1M, leave-one-out, the 99 given negatives of the authors' files.

Published: HR@10 .730 (64 factors, GMF and MLP trained first; the authors keep the epoch that tests
best). Measured, seed 0: .7171, NDCG@10 .4384, 11 minutes. As in the paper: three layers in the
tower, Adam at 1e-3, 4 negatives a positive that the user has not met; GMF and the MLP are trained
first, here side by side, and NeuMF goes on from their fusion by SGD. Unlike it: batches of 256
positives with their negatives (theirs count pairs), and it is the running mean of the halves'
parameters that is fused. Nine epochs and three are what validated best with a tower of two layers
(--config.data.valid=1 and `best`, see BUILD_NOTES.md). `data.path` is the folder of the authors'
ml-1m.train.rating, ml-1m.test.rating and ml-1m.test.negative.

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
    pretrain_batch_size=256,
    data=settings.Data(source="ncf", path="ml-1m/ncf", max_len=1, negatives=4),
    model=settings.model(neumf.Config, factors=64, tower=(256, 256, 128, 64)),
    # 994,169 events in batches of 256
    pretrain=loop.Config(
      steps=3884 * 9, optimizer=optim.Config(rate=1e-3, clip=None), ema=0.9998, save_every=3884
    ),
    train=loop.Config(
      steps=3884 * 3,
      optimizer=optim.Config(name="sgd", rate=1e-3, b1=0.0, clip=None),
      eval_every=3884,
      save_every=3884,
    ),
    evaluation=settings.Evaluation(ks=(10,)),
  )
