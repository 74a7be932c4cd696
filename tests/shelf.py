"""A small catalogue, and recommenders of several systems on it."""

import functools

import jax
import numpy as np

from recjax.data import interactions
from recjax.data.interactions import STRING
from recjax.growth import Collisions, Text
from recjax.recommender import Recommender
from recjax.semid import artefact, rqkmeans
from recjax.systems import SYSTEMS
from recjax.systems.collaborative import content
from recjax.systems.generative import tiger, tiger_lm
from recjax.text import lsa

COLOURS = ("red", "green", "blue", "grey")
THINGS = ("lamp", "chair", "table", "clock", "shelf", "mirror")
TITLES = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]  # 24
ITEMS = np.array(["", *(f"i{n}" for n in range(1, 25))], STRING)
USERS = np.array(["", "ada", "bob", "cyd"], STRING)
NAMES = ITEMS[1:].tolist()
MAX_LEN = 5
TEMPLATE = "{title} {brand}"
SIZES = dict(
  levels=(4, 4, 8), user_buckets=3, dim=16, heads=2, head_dim=8, ff=32, layers=1, dropout=0.0,
  beams=len(NAMES) + 8,  # as many as there are items: the search misses none
)  # fmt: skip
CONFIG = tiger.Config(**SIZES)
# name -> (system, its config, how its items of equal codes are told apart)
CODED = {
  "tiger": ("tiger", CONFIG, "count_up"),
  "tiger, packed": (
    "tiger",
    tiger.Config(**SIZES, item_causal=True, recency=3, softmax="children"),
    "optimal",
  ),
  "tiger_lm": ("tiger_lm", tiger_lm.Config(**SIZES, softmax="level"), "next_free"),
}


def log():
  """Every user meets some of all 24 items, in the order of `ITEMS`."""
  rng = np.random.default_rng(0)
  user = rng.integers(1, 4, 300).astype(np.int32)
  item = np.concatenate([np.arange(1, 25), rng.integers(1, 25, 276)]).astype(np.int32)
  return interactions.Interactions(user, item, USERS, ITEMS)


@functools.cache
def encoder():
  return lsa.fit(TITLES, dim=9)


def vectors():
  return np.concatenate([np.zeros((1, 9), np.float32), encoder()(TITLES)])


def spread():
  """[I, 6] vectors far from ties."""
  return np.random.default_rng(3).normal(size=(25, 6)).astype(np.float32)


@functools.cache
def semantic_ids(collisions):
  """Codes by clusters, however the machine turns the titles' directions; the third level counts, or
  is one of them."""
  counts = collisions.policy == "count_up"
  made = rqkmeans.residual(vectors()[1:], (4, 4, 8)[: 3 - counts], jax.random.key(1))
  return artefact.build(ITEMS, vectors(), made, collisions.make())


def batch(histories, users=None):
  """As a system is asked."""
  rows = [[0] * (MAX_LEN - len(h)) + [NAMES.index(i) + 1 for i in h] for h in histories]
  user = np.zeros(len(rows), np.int32) if users is None else np.array(users, np.int32)
  return {"user": user, "history": np.array(rows, np.int32)}


@functools.cache
def random_params(name, cfg):
  return SYSTEMS[name].make(cfg).init(jax.random.key(0), (), batch([NAMES[:3]]))


def make(name, **more):
  kept = {"items": ITEMS, "users": USERS, "max_len": MAX_LEN}
  kept["titles"] = np.array(["", *TITLES], STRING)
  if name in CODED:
    name, cfg, policy = CODED[name]
    collisions = Collisions(policy, 8)
    ids = semantic_ids(collisions)
    every = tiger.assets(cfg, ids.codes, capacity=more.pop("capacity", None))
    text = encoder()
    kept |= {"ids": ids, "collisions": collisions}
    kept["text"] = Text(TEMPLATE, text, text.fingerprint)
    assets = {part: every[part] for part in tiger.SERVED}
    return Recommender(name, cfg, random_params(name, cfg), assets, **kept | more)
  module = SYSTEMS[name]
  if name == "sasrec":
    cfg = module.Config(num_items=25, max_len=MAX_LEN, dim=8, ff=16, layers=1)
    return Recommender(name, cfg, random_params(name, cfg), (), **kept | more)
  if name == "mf":
    cfg = module.Config(num_users=4, num_items=25, dim=8)
    return Recommender(name, cfg, random_params(name, cfg), (), **kept | more)
  cfg = module.Config(num_items=25)
  assets = content.assets(cfg, spread()) if name == "content" else ()
  return Recommender(name, cfg, module.make(cfg).fit(assets, log()), assets, **kept | more)


KINDS = ("content", "item_knn", "popularity", "sasrec", "tiger")
HISTORIES = [NAMES[:3], NAMES[4:9], ["i20"]]
