"""A text-augmented graph: LightGCN (He et al., SIGIR 2020, https://arxiv.org/abs/2002.02126) on
users, items and the likeness of the items' texts.

To the graph of who met what come edges from each item to the `neighbours` items whose text vectors
have the greatest cosine with its own; embeddings flow along both kinds, normalised together, and
learn as there. So an item that nobody met has neighbours all the same, and learns from them.

The model is `lightgcn`, to the letter; only the graph is another. Unlike methods that learn an
item-item graph (LATTICE, Zhang et al., MM 2021), it is fixed and its edges weigh as much as events.

I items, U users (both with PAD), E width of a text vector, N edges.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from recjax.data.interactions import Interactions
from recjax.nn import graph
from recjax.systems.collaborative import content, lightgcn
from recjax.types import PAD, System

_BLOCK = 1024  # items whose cosines with all others are held at once


@dataclasses.dataclass(frozen=True)
class Config(lightgcn.Config):
  neighbours: int = 5  # edges that each item sends to others by text


def assets(
  cfg: Config,
  interactions: Interactions,
  vectors: np.ndarray,  # [I, E], zeros for PAD and for items without text
  *,
  capacity: int | None = None,
) -> dict[str, graph.Graph]:
  """The joint graph of the training events, and of nothing else, and of the texts."""
  x = interactions
  if not len(x):
    raise ValueError("there are no interactions to make a graph of")
  if x.num_users > cfg.num_users or x.num_items > cfg.num_items:
    raise ValueError(
      f"the events know {x.num_users} users and {x.num_items} items, the config"
      f" num_users={cfg.num_users} and num_items={cfg.num_items}"
    )
  a, b = similar_texts(content.unit(vectors, cfg.num_items), cfg.neighbours)
  item = x.item.astype(np.int64)  # before it is shifted by the number of users
  ends = (
    np.concatenate(c)
    for c in ((x.user, a + cfg.num_users), (item + cfg.num_users, b + cfg.num_users))
  )
  made = graph.symmetric(*ends, cfg.num_users + cfg.num_items, capacity=capacity)
  return {"graph": made}


def similar_texts(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
  """(item, neighbour) [N] of each item's k greatest cosines; ties go to the lower neighbour.

  `vectors` have length one or zero; items without a vector, PAD among them, have no edges.
  """
  told = np.flatnonzero(vectors.any(1))
  told = told[told != PAD]
  k = min(k, len(told) - 1)
  if k < 1:
    return np.zeros(0, np.int64), np.zeros(0, np.int64)
  known = vectors[told]
  items, near = [], []
  for start in range(0, len(told), _BLOCK):
    cosine = known[start : start + _BLOCK] @ known.T
    rows = np.arange(len(cosine))
    cosine[rows, start + rows] = -np.inf
    least = -np.partition(-cosine, k - 1)[:, k - 1 : k]  # the k-th greatest
    above, equal = cosine > least, cosine == least
    room = k - above.sum(1, keepdims=True)
    row, column = np.nonzero(above | equal & (np.cumsum(equal, axis=1) <= room))
    items.append(told[start + row])
    near.append(told[column])
  return np.concatenate(items), np.concatenate(near)


def make(cfg: Config) -> System:
  return lightgcn.make(cfg)
