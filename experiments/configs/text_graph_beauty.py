"""LightGCN with edges between items of like texts on Amazon Beauty (2014, 5-core).

No published figure; ours is not yet measured. Full ranking of each user's last event; what the user
has met is left out (no one meets an item twice here).

    python -m experiments.run --config=experiments/configs/text_graph_beauty.py --workdir=runs/graph

Hardware: 2 CPU cores.
"""

from experiments import settings
from recjax.systems.collaborative import text_graph
from recjax.train import loop, optim


def get_config():
  return settings.config(
    system="text_graph",
    task="next_item",
    examples="events",
    seeds=(0,),
    batch_size=2048,
    data=settings.Data(source="sequences", path="amazon14_p5/Beauty", max_len=50),
    text=settings.Text(template="{title} {categories}", encoder="lsa", dim=256),
    model=settings.model(text_graph.Config, dim=64, layers=3, penalty=1e-3),
    train=loop.Config(
      steps=10000,
      optimizer=optim.Config(rate=5e-3),
      eval_every=500,
      best="valid/ndcg@10",
      patience=5,
    ),
    evaluation=settings.Evaluation(ks=(5, 10), deny_seen=True),
  )
