"""CoSeRec on Amazon Beauty (2014, 5-core): views that know which items go together.

Wanted: more than SASRec by the same protocol (`sasrec_beauty`: Recall@10 .0880, NDCG@10 .0431).
Published figures of this split: none that could be checked here. Full ranking over all items,
repeats allowed, the last event of each user tests; the checkpoint is that of the best validation
NDCG@10. Even batches, so that a target of a long history counts as one of a short history does: a
user is told from those whose histories are about as long. Not yet measured.
The rates are those of the authors' command for Beauty, where short histories too draw from all five
augmentations.

    python -m experiments.run --config=experiments/configs/coserec_beauty.py \\
      --workdir=runs/coserec_beauty

Hardware: 2 CPU cores.
"""

from experiments import settings
from experiments.configs import cl4srec_beauty
from recjax.systems.pretrain import coserec


def get_config():
  config = cl4srec_beauty.get_config()
  config.system = "coserec"
  config.model = settings.model(coserec.Config, substitute=0.05, insert=0.5, short=0)
  return config.lock()  # the new section too
