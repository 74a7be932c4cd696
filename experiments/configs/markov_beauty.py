"""A first-order Markov chain on Amazon Beauty (2014, 5-core).

No published figure. Full ranking of each user's last event; what the user has met is left out (no
one meets an item twice here). Validation Recall@10 .0856, NDCG@10 .0554, and .0855, .0542 of order
2; the order chosen by that. Events of one day lie in the order of the items' raw ids in these
files, which a chain learns too. Test: .0757, .0503.

    python -m experiments.run --config=experiments/configs/markov_beauty.py --workdir=runs/markov

Hardware: 2 CPU cores, under a minute.
"""

from experiments import settings
from recjax.systems.collaborative import markov
from recjax.train import loop


def get_config():
  return settings.config(
    system="markov",
    task="next_item",
    examples="prefixes",
    seeds=(0,),
    batch_size=256,
    data=settings.Data(source="sequences", path="amazon14_p5/Beauty", max_len=50),
    model=settings.model(markov.Config, order=1),
    train=loop.Config(steps=1),  # closed form: not read
    evaluation=settings.Evaluation(ks=(5, 10), deny_seen=True),
  )
