"""Popularity on Amazon Beauty (2014, 5-core): what a recommender must beat.

Published: Recall@10 .0152, NDCG@10 .0068 (S3-Rec, CIKM 2020), which counts the tested events too:
so counted, ours has the same (tests/test_real_data.py). Full ranking of each user's last event;
what the user has met is left out (no one meets an item twice here). Ours of the events before:
test .0135, .0061 (with repeats .0114, .0054); validation .0164, .0080.

    python -m experiments.run --config=experiments/configs/popularity_beauty.py --workdir=runs/pop

Hardware: 2 CPU cores, under a minute.
"""

from experiments import settings
from recjax.systems.collaborative import popularity
from recjax.train import loop


def get_config():
  return settings.config(
    system="popularity",
    task="next_item",
    examples="prefixes",
    seeds=(0,),
    batch_size=256,
    data=settings.Data(source="sequences", path="amazon14_p5/Beauty", max_len=50),
    model=settings.model(popularity.Config),
    train=loop.Config(steps=1),  # closed form: not read
    evaluation=settings.Evaluation(ks=(5, 10), deny_seen=True),
  )
