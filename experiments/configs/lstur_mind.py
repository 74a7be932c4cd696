"""LSTUR on MIND-small (or MIND-large), as its publishers give it: https://msnews.github.io.

Folders, split and measures as in nrms_mind.py. Published (the MIND paper, on the test set of
MIND-large, from memory): AUC .6773, MRR .3277, NDCG@5 .3559, NDCG@10 .4134. Users of dev whom train
does not show are unknown, of the zero vector. The paper starts from GloVe:
`--config.words.vectors=glove.840B.300d.txt`. Not yet measured.

    python -m experiments.run --config=experiments/configs/lstur_mind.py \\
      --config.data.path=MINDsmall --workdir=runs/lstur_mind

Hardware: 1 GPU; 2 CPU cores take days.
"""

from experiments import settings
from experiments.configs import nrms_mind
from recjax.systems.news import lstur


def get_config():
  config = nrms_mind.get_config()
  config.system = "lstur"
  config.model = settings.model(lstur.Config)
  return config.lock()  # the new section too
