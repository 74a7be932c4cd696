"""Ask a finished run: `python -m experiments.recommend --workdir=runs/shop --history=ID,ID`.

Prints the items to show next, best first: score, raw id, title. `items.jsonl` in the run's
`recommender/` lists the ids that a history is made of.
"""

from experiments import launch  # before all others

# isort: split
from absl import flags
from absl import logging as absl_logging

from recjax.recommender import Recommender

_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
_HISTORY = flags.DEFINE_list("history", None, "Raw item ids, oldest first.", required=True)
_K = flags.DEFINE_integer("k", 10, "How many items.", lower_bound=1)
_USER = flags.DEFINE_string("user", None, "The raw id of a user of the training, if it is one.")


def main():
  absl_logging.set_verbosity(absl_logging.WARNING)  # JAX tells which backends are not there
  held = Recommender.load(_WORKDIR.value)
  ids, scores, titles = held.recommend([_HISTORY.value], _K.value, users=[_USER.value])
  for item, score, title in zip(ids[0], scores[0], titles[0], strict=True):
    print(f"{score:10.4f}  {item}  {title}")


if __name__ == "__main__":
  launch.start(main)
