"""NPA on MIND-small (or MIND-large), as its publishers give it: https://msnews.github.io.

Folders, split and measures as in nrms_mind.py. Published (the MIND paper, on the test set of
MIND-large, from memory): AUC .6669, MRR .3224, NDCG@5 .3498, NDCG@10 .4068. Users of dev whom train
does not show are unknown, of the zero vector. The paper starts from GloVe:
`--config.words.vectors=glove.840B.300d.txt`. Not yet measured.

    python -m experiments.run --config=experiments/configs/npa_mind.py \\
      --config.data.path=MINDsmall --workdir=runs/npa_mind

Hardware: 1 GPU; 2 CPU cores take days.
"""

from experiments import settings
from experiments.configs import nrms_mind
from recjax.systems.news import npa


def get_config():
  config = nrms_mind.get_config()
  config.system = "npa"
  config.model = settings.model(npa.Config)
  return config.lock()  # the new section too
