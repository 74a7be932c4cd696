"""A two-tower hybrid of ids and LSA of titles and categories on Amazon Beauty (2014, 5-core).

No published figure; ours is not yet measured. Full ranking of each user's last event; what the user
has met is left out (no one meets an item twice here).

    python -m experiments.run --config=experiments/configs/hybrid_beauty.py --workdir=runs/hybrid

Hardware: 2 CPU cores.
"""

from experiments import settings
from recjax.systems.collaborative import hybrid
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="hybrid",
    task="next_item",
    examples="prefixes",
    seeds=(0,),
    batch_size=256,
    data=settings.Data(source="sequences", path="amazon14_p5/Beauty", max_len=50, buckets=(8, 16)),
    text=settings.Text(template="{title} {categories}", encoder="lsa", dim=256),
    model=settings.model(hybrid.Config, dim=64),
    train=loop.Config(
      steps=10000,
      optimizer=optim.Config(rate=1e-3),
      eval_every=500,
      best="valid/ndcg@10",
      patience=5,
    ),
    evaluation=settings.Evaluation(ks=(5, 10), deny_seen=True),
  )
