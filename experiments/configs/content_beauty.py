"""Content alone on Amazon Beauty (2014, 5-core): LSA of titles and categories, recent items first.

No published figure. Full ranking of each user's last event; what the user has met is left out (no
one meets an item twice here). Validation Recall@10 .0496, NDCG@10 .0278; the summary chosen by that
(mean .0374, .0195; nearest .0322, .0169). Test: .0448, .0252.

    python -m experiments.run --config=experiments/configs/content_beauty.py --workdir=runs/content

Hardware: 2 CPU cores, under a minute.
"""

from experiments import settings
from recjax.systems.collaborative import content
from recjax.train import loop


def get_config():
  return settings.config(
    system="content",
    task="next_item",
    examples="prefixes",
    seeds=(0,),
    batch_size=256,
    data=settings.Data(source="sequences", path="amazon14_p5/Beauty", max_len=50),
    text=settings.Text(template="{title} {categories}", encoder="lsa", dim=256),
    model=settings.model(content.Config, summary="recent", half_life=1.0),
    train=loop.Config(steps=1),  # closed form: not read
    evaluation=settings.Evaluation(ks=(5, 10), deny_seen=True),
  )
