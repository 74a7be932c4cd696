"""P5 (Geng et al., RecSys 2022), https://arxiv.org/abs/2203.13366; OpenP5 (Xu et al., SIGIR 2024).

Every task of recommendation is a text that asks and a text that answers, and one T5 learns them
all from a mixture. To each source token is added an embedding of the word it is part of, so that
the tokens of an item stand together; items are written by a beam search that a trie of all their
identifiers keeps inside the catalogue.

Unlike the paper: an instance counts once, its loss the mean over its tokens, so that the weights
of the mixture are those of the gradient; a rating is the mean of the ratings there are, each as
likely as its text, not the one text written; items and users have tokens of their own. Zero-shot,
the same parameters are asked with other prompts, or with the assets of another shop.

A batch: source [B, S], words [B, S], target [B, T] tokens (see `text.instances`); questions for
`recommend` and `score` have no target.

B batch, S source, T target, D width, V vocabulary, R ratings.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from recjax import losses
from recjax.decode import beam, exact, generate, trie
from recjax.nn import t5
from recjax.text import objectives, vocab, whole_words
from recjax.text.vocab import SentencePieces
from recjax.types import PAD, Array, Assets, Loss, Params, System

START = PAD  # the decoder's first input, as in T5
CHUNK = 32  # prefixes scored at a time, each with logits over a vocabulary of text


@dataclasses.dataclass(frozen=True)
class Config:
  """P5-small: t5-small and whole words."""

  vocab: int  # V, with the tokens of users and items
  dim: int = 512
  heads: int = 8
  head_dim: int = 64
  ff: int = 2048
  layers: int = 6
  decoder_layers: int = 0  # 0: as many as `layers`
  gated: bool = False  # as in v1.1 and Flan
  tied: bool = True  # the head is the embedding table; in v1.1 and Flan it is not
  scaled: bool = True  # the head reads states / sqrt(D); in v1.1 and Flan it does not
  dropout: float = 0.1
  whole_words: int = 512  # words of a source at most; 0: no whole-word embeddings
  length: int = 64  # tokens of a generated text at most
  beams: int = 20  # at least as many as results
  own_tokens: bool = False  # items are scored among the tokens that they are written of: less work
  eos: int = 1  # the end token of the vocabulary
  dtype: str = "float32"

  @property
  def t5(self) -> t5.Config:
    names = "vocab dim heads head_dim ff layers gated tied scaled dropout dtype".split()
    sizes = {name: getattr(self, name) for name in names}
    return t5.Config(decoder_layers=self.decoder_layers or self.layers, **sizes)


def assets(
  cfg: Config,
  words: SentencePieces,
  items: Sequence[str],  # [I] as `instances.Domain` writes them; row PAD is ignored
  ratings: Sequence[float] = (),
) -> Mapping[str, Array | trie.Trie]:
  """The texts that may answer: every item, and every rating where there are ratings."""
  if len(words) > cfg.vocab or words.eos != cfg.eos or words.pad != PAD:
    raise ValueError(
      f"the vocabulary has {len(words)} tokens, end {words.eos} and padding {words.pad}; the "
      f"config has room for {cfg.vocab}, end {cfg.eos}, and padding is {PAD}"
    )
  made = _answers(cfg, words, items)
  if len(ratings):
    texts = ["", *(f"{rating:g}" for rating in ratings)]
    made |= {f"rating_{name}": x for name, x in _answers(cfg, words, texts).items()}
    made["ratings"] = jnp.asarray(np.float32([0, *ratings]))
  return made


def _answers(cfg: Config, words: SentencePieces, texts: Sequence[str]) -> dict[str, Any]:
  """The trie of some texts, over the vocabulary or over the `tokens` they are written of."""
  vocab.check_added(words, texts)
  rows, _ = whole_words.encode(words, texts)
  width = int(rows.lengths.max())
  table = rows.right_padded(np.arange(len(texts)), width, fill=cfg.eos)
  if not cfg.own_tokens:
    return {"trie": trie.build(table, cfg.vocab, end=cfg.eos)}
  tokens = np.unique(np.append(table, [START, cfg.eos]))  # START is the least: code 0
  codes, end = np.searchsorted(tokens, table), int(np.searchsorted(tokens, cfg.eos))
  return {"trie": trie.build(codes, len(tokens), end=end), "tokens": jnp.asarray(tokens, jnp.int32)}


def from_t5(fresh: Params, pretrained: Params, *, known: int) -> Params:
  """Fresh parameters, but for those of a T5: its layers, and its rows of the `known` first tokens.

  For `init_from` of a training; a T5's table may have more rows than it knows tokens. So may a
  head of its own.
  """
  ours, theirs = dict(fresh["t5"]), dict(pretrained)
  table, rows = (tree.pop("embed")["embedding"] for tree in (ours, theirs))
  heads = [tree.pop("head")["kernel"] for tree in (ours, theirs) if "head" in tree]  # [D, V]
  if len(heads) == 1:
    raise ValueError("of the two T5s one has a head of its own: take `tied` from the pretrained")
  if jax.tree.map(jnp.shape, ours) != jax.tree.map(jnp.shape, theirs):
    raise ValueError("the layers of the T5 are not of these sizes: take dim, heads ... from it")
  if rows.shape[1] != table.shape[1] or not 0 < known <= min(len(rows), len(table)):
    raise ValueError(f"{known} rows of a table {rows.shape} do not go into one of {table.shape}")
  table = jnp.asarray(table).at[:known].set(rows[:known])
  made = {**theirs, "embed": {"embedding": table}}
  if heads:
    made["head"] = {"kernel": jnp.asarray(heads[0]).at[:, :known].set(heads[1][:, :known])}
  return {**fresh, "t5": made}


def make(cfg: Config) -> System:
  """Answers items: `recommend` by beams, `score` exactly; and text: `generate`, greedily."""
  place = nn.Embed(cfg.whole_words, cfg.dim, embedding_init=nn.initializers.normal(1.0))

  def init(key, assets, batch):
    t5_key, word_key = jax.random.split(key)
    params = {"t5": t5.init(t5_key, cfg.t5)}
    if cfg.whole_words:
      params["whole_words"] = place.init(word_key, jnp.zeros(1, jnp.int32))["params"]
    return params

  def loss(params, assets, batch, key):
    encoder_key, decoder_key = (None, None) if key is None else jax.random.split(key)
    target, source_mask = batch["target"], batch["source"] != PAD
    states = t5.decode(
      params["t5"],
      cfg.t5,
      objectives.shift_right(target),
      encode(params, batch, encoder_key),
      source_mask=source_mask,
      states=True,
      key=decoder_key,
    )
    real = target != PAD
    where = real * (batch["weight"] / jnp.maximum(real.sum(1), 1))[:, None]
    head = t5.head(params["t5"], cfg.t5)
    total, _, hits = losses.linear_softmax_xent_hits(states, head, target, where)
    weight = batch["weight"].sum()
    return Loss(total, weight, {"accuracy": (hits, weight)})

  def encode(params, batch, key=None):
    """[B, S, D]."""
    source = batch["source"]
    x = params["t5"]["embed"]["embedding"][source]
    if cfg.whole_words:
      if source.shape[1] > cfg.whole_words:
        raise ValueError(
          f"sources of {source.shape[1]} tokens may have more words than whole_words "
          f"{cfg.whole_words}; raise it, or shorten the sources"
        )
      x = x + place.apply({"params": params["whole_words"]}, batch["words"])
    return t5.encode(params["t5"], cfg.t5, embeds=x, mask=source != PAD, key=key)

  def writing(assets):
    """The step function over the codes of the trie."""
    among = assets.get("tokens")

    def step(params, codes, cache):
      tokens = codes if among is None else among[codes]
      return t5.decode_step(params["t5"], cfg.t5, tokens, cache, among)

    return step

  def start(params, batch, length):
    encoded, mask = encode(params, batch), batch["source"] != PAD
    cache = t5.start_cache(params["t5"], cfg.t5, encoded, source_mask=mask, length=length)
    return jnp.full(len(mask), START, jnp.int32), cache

  def recommend(params, assets, batch, *, k, key=None):
    return beam.search(
      writing(assets),
      params,
      *start(params, batch, trie.levels(assets["trie"])),
      assets["trie"],
      k=k,
      beams=max(k, cfg.beams),
      allow=batch.get("allow"),
      deny=batch.get("deny"),
      reorder=t5.reorder,
    )

  def score(params, assets, batch):
    """Log-likelihoods: exact, without a beam's error; of the whole catalogue by default."""
    tree, step = assets["trie"], writing(assets)
    begun = start(params, batch, trie.levels(tree))
    if "candidates" in batch:
      found = batch["candidates"]
      return exact.candidates(step, params, *begun, tree, found, reorder=t5.reorder)
    return exact.catalogue(step, params, *begun, tree, chunk=CHUNK, reorder=t5.reorder)

  def answer(params, assets, batch, *, key=None):
    first, cache = start(params, batch, cfg.length)
    said = functools.partial(writing({}), params)
    return generate.greedy(said, cache, first[:, None], length=cfg.length, eos=cfg.eos).tokens[:, 0]

  return System(init, loss, recommend=recommend, score=score, generate=answer)


def make_rating(cfg: Config) -> System:
  """The same model, asked how many stars: `score` [B, 1] is the mean of the ratings there are."""
  system = make(cfg)

  def score(params, assets: Assets, batch):
    own = dict(batch)
    every = jnp.arange(1, len(assets["ratings"]))[None]
    own["candidates"] = jnp.broadcast_to(every, (len(batch["source"]), every.size))
    texts = {n.removeprefix("rating_"): x for n, x in assets.items() if n.startswith("rating_")}
    likely = system.score(params, texts, own)  # [B, R]
    return (jax.nn.softmax(likely) @ assets["ratings"][1:])[:, None]

  return System(system.init, system.loss, score=score)
