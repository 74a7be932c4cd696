"""NeuMF on MovieLens-1M, leave-one-out, the 99 given negatives of the authors' files.

Published: HR@10 .730 (64 factors, GMF and MLP trained first; the authors' code keeps the epoch that
tests best). Measured, seed 0: .6964, NDCG@10 .4294, the last epoch, as the files bring nothing to
validate by; 18 minutes beside other work. As in the paper: batch 256, Adam at 1e-3, 4 negatives a
positive that the user has not met; GMF and the MLP are trained first, here side by side, and NeuMF
goes on from their fusion by SGD. `data.path` is the folder of the authors' ml-1m.train.rating,
ml-1m.test.rating and ml-1m.test.negative.

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
    model=settings.model(neumf.Config, factors=64, tower=(256, 128, 64)),
    # 994,169 events in batches of 256
    pretrain=loop.Config(
      steps=3884 * 20, optimizer=optim.Config(rate=1e-3, clip=None), save_every=3884
    ),
    train=loop.Config(
      steps=3884 * 4,
      optimizer=optim.Config(name="sgd", rate=1e-3, b1=0.0, clip=None),
      eval_every=3884,
      save_every=3884,
    ),
    evaluation=settings.Evaluation(ks=(10,)),
  )
