"""LightGCN (He et al., SIGIR 2020), https://arxiv.org/abs/2002.02126.

Embeddings of users and items flow along the graph of who met what, without weights or
non-linearity: a layer is one product with D^-1/2 A D^-1/2. The mean of all layers, the plain
embeddings among them, is scored by inner products and learned by BPR with one negative.

As in the authors' code, embeddings start from N(0, 0.1^2) and the penalty is half the squared
norms of the batch's plain embeddings. Unlike it: an epoch visits each event once (there, users are
drawn uniformly, then one item of each), and a negative may be an item that the user met, unless
the batch brings `candidates`, one exact negative a row or more.

With a `temperature` the loss is a softmax over all items instead (a sampled one of cosines: Wu et
al., TOIS 2024, https://arxiv.org/abs/2201.02327). An item scores by the cosine times a power of its
own length, which holds how popular it is: a cosine alone has no room for that. And a row stands for
all that its user met, whichever of them `target` names: its loss is the mean over the user's
neighbours in the graph, one more sparse product for the whole batch, so that scoring the catalogue
for a row learns from them all. On Gowalla 4 minutes of it on 2 CPU cores pass the published figures
(BUILD_NOTES.md).

An unknown user (PAD, or one without training events) is answered as the mean of the users who have
some: by an item's mean score.

B batch, D width, U users, I items (both with PAD), K results, N negatives of BPR.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from recjax import losses
from recjax.data import negatives
from recjax.data.interactions import Interactions
from recjax.decode import topk
from recjax.nn import graph
from recjax.types import PAD, Array, Loss, System, known


@dataclasses.dataclass(frozen=True)
class Config:
  num_users: int  # U
  num_items: int  # I
  dim: int = 64  # D
  layers: int = 3
  penalty: float = 1e-4  # lambda of the L2 penalty
  temperature: float = 0.0  # of a softmax over all items; 0: BPR
  length: float = 0.5  # power of an item's length in its score by softmax; 0: cosine


def assets(
  cfg: Config, interactions: Interactions, *, capacity: int | None = None
) -> dict[str, graph.Graph]:
  """The graph of the training events, and of nothing else: what is tested must not be in it."""
  if not len(interactions):
    raise ValueError("there are no interactions to make a graph of")
  x = interactions
  made = graph.bipartite(x.user, x.item, cfg.num_users, cfg.num_items, capacity=capacity)
  return {"graph": made}


def make(cfg: Config) -> System:
  if not cfg.temperature >= 0:
    raise ValueError(f"temperature must be 0, for BPR, or more, it is {cfg.temperature}")

  softmax = cfg.temperature > 0

  def init(key, assets, batch):
    users, items = jax.random.split(key)
    return {
      "users": 0.1 * jax.random.normal(users, (cfg.num_users, cfg.dim)),
      "items": 0.1 * jax.random.normal(items, (cfg.num_items, cfg.dim)),
    }

  def propagated(params, assets):
    """The tables after all layers."""
    x = jnp.concatenate([params["users"], params["items"]])  # [U + I, D]
    x = graph.layers_mean(assets["graph"], x, cfg.layers)
    users, items = jnp.split(x, [cfg.num_users])
    return (_of_length(users, 0.0), _of_length(items, cfg.length)) if softmax else (users, items)

  def index(params, assets):
    users, items = propagated(params, assets)
    linked = graph.degrees(assets["graph"])[: cfg.num_users, None] > 0
    mean = users.mean(0, keepdims=True, where=linked)
    return {**assets, "users": jnp.where(linked, users, mean), "items": items}

  def tables(params, assets):
    """What answers are made of: those that `index` left, where it ran."""
    indexed = assets if "items" in assets else index(params, assets)
    return indexed["users"], indexed["items"]

  def loss(params, assets, batch, key):
    user, target = batch["user"], batch["target"]
    where = (target != PAD) & (batch["weight"] > 0)
    squares = jnp.square(params["users"][user]).sum(-1)
    squares += jnp.square(params["items"][target]).sum(-1)
    users, items = propagated(params, assets)
    if softmax:
      if "candidates" in batch:
        raise ValueError("a softmax is over all items: leave out the batch's `candidates`")
      name = "softmax"
      met = graph.neighbours_mean(assets["graph"], jnp.concatenate([users, items]))[user]
      users, items, met = (x.astype(jnp.float32) for x in (users, items, met))  # as losses are
      linked = graph.degrees(assets["graph"])[user, None] > 0
      met = jnp.where(linked, met, items[target])  # of a user whom the graph does not know
      query = users[user] / cfg.temperature
      some = jax.nn.logsumexp(query @ items[PAD + 1 :].T, axis=1)
      own = losses.possible((query * met).sum(-1), target, cfg.num_items)
      own = losses.possible(own, user, cfg.num_users)
      total, weight = losses.total(some - own, where)
    else:
      name, drawn = "bpr", batch.get("candidates")
      if drawn is None:
        drawn = negatives.other(key, target, 1, cfg.num_items)  # [B, N]
      positive = losses.possible((users[user] * items[target]).sum(-1), target, cfg.num_items)
      positive = losses.possible(positive, user, cfg.num_users)  # [B]
      negative = (users[user][:, None] * items[drawn]).sum(-1)  # [B, N]
      total, weight = losses.bpr(positive, negative, where, negatives_where=drawn != PAD)
      squares += jnp.square(params["items"][drawn]).sum(-1).sum(-1, where=drawn != PAD)
    norm, _ = losses.total(squares / 2, where)
    return Loss(total + cfg.penalty * norm, weight, {name: (total, weight)})

  def every(params, assets, batch):
    users, items = tables(params, assets)
    return users[known(batch["user"], cfg.num_users)] @ items.T  # [B, I]

  def score(params, assets, batch):
    return topk.scores(every(params, assets, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    return topk.rank(every(params, assets, batch), batch, k=k)

  def embed(params, assets, batch):
    return tables(params, assets)[0][known(batch["user"], cfg.num_users)]

  return System(init, loss, recommend=recommend, score=score, embed=embed, index=index)


def _of_length(x: Array, power: float) -> Array:
  """Each row of x at its own length to that power."""
  squares = jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12)
  return x * squares ** ((power - 1) / 2)
