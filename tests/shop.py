"""A small shop for systems of text: users walk its items in steps of one, rate and review them."""

import pathlib

import numpy as np

from recjax.data import examples, interactions, splits
from recjax.text import indexing, instances, prompts, questions, vocab

ROOT = pathlib.Path(__file__).parent.parent
PIECES = vocab.sentencepieces(ROOT / "tokenizers" / "synthetic.model")
OPINIONS = ("", "awful", "poor", "fair", "good", "great")
RATED = prompts.Prompt("rating", "{item} , {title} , after {rated} ?", "{rating}", "rated")


def events(users=80, items=12, seed=0):
  """An item's stars follow from the item, the review from its stars; ordered by user and time."""
  rng = np.random.default_rng(seed)
  lengths = rng.integers(4, 8, users)
  start = np.repeat(rng.integers(0, items, users), lengths)
  place = np.concatenate([np.arange(n) for n in lengths])
  item = (start + place) % items
  stars = 1 + item % 5
  words = [OPINIONS[s] for s in stars]
  x = interactions.from_columns(
    np.repeat(np.arange(users), lengths),
    item,
    timestamp=place,
    rating=stars,
    text=np.array([f"This one is {w}. We kept it." for w in words], object),
    fields={"summary": interactions.strings([f"{w} thing" for w in words])},
  )
  return questions.first_sentences(x)


def catalogue(x):
  """Titles by item; that of item 1 is not known."""
  return ["", "", *(f"Thing {raw}" for raw in x.items[2:])]


def of(x, index=None):
  """(domain, vocabulary): items by spans of a digit, two tokens each."""
  index = indexing.randomly(x.num_items, seed=0, span=1) if index is None else index
  shop = instances.domain(x, index, catalogue(x))
  return shop, instances.vocabulary(PIECES, index, x.num_users)


def asked_of(split):
  """Training questions of every family."""
  train = split.train
  return [
    questions.sequential(examples.prefixes(train)),
    questions.rating(train),
    questions.explanation(train),
    questions.summary(train),
    questions.direct(train),
  ]


def world(**options):
  """(split, domain, vocabulary)."""
  split = splits.leave_one_out(events(**options))
  return split, *of(split.train)


def mixture(split, shop, words, chosen=None, **options):
  """Instances of all families in our prompts."""
  chosen = prompts.collection() if chosen is None else chosen
  cfg = instances.Config(target_len=16, candidates=4, **options)
  return instances.Instances(asked_of(split), chosen, shop, words, cfg)
