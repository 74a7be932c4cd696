"""GraphRec (Fan et al., WWW 2019), https://arxiv.org/abs/1902.07243.

A rating is predicted from two sides. The user: an attention over the items rated, each joined with
a vector of the opinion (its rating), and an attention over friends, each seen by the items that
this friend rated. The item: an attention over who rated it, with their opinions.

The rating to be predicted is an edge of the training graph. Its edge is masked out of both sides'
neighbours, in learning as in answering, so nobody predicts what they read. Unlike the paper: at
most `neighbours` and `friends` are kept of each node, drawn once; no batch normalisation (which
is in the authors' code only); the output counts from the mean rating.

An unknown user (PAD) is rated by the item's side alone.

A ranking of the catalogue rates every pair by itself, at 10 us a pair on 2 CPU cores: on Ciao, of
105,114 items, a second a user and over two hours for its 7,375. Give `candidates` where few are
asked for.

B batch, D width, U users, I items (both with PAD), N neighbours, S friends, C candidates,
P pairs to rate: B x C.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from recjax import losses
from recjax.data.interactions import Interactions, Links
from recjax.decode import topk
from recjax.nn.dropout import Dropout
from recjax.types import PAD, Array, Assets, Loss, System, known


@dataclasses.dataclass(frozen=True)
class Config:
  num_users: int  # U
  num_items: int  # I
  levels: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0)  # the ratings there are
  dim: int = 64  # D
  neighbours: int = 30  # N, of a user's items and of an item's users
  friends: int = 15  # S
  dropout: float = 0.5
  seed: int = 0  # of the draw where a node has more


def assets(cfg: Config, interactions: Interactions, links: Links) -> dict[str, Array]:
  """Neighbour tables of the training ratings and of who trusts whom, and the mean rating.

  Both must be on one map of users (`readers.share.share_ids`). PAD where there are fewer.
  """
  x, levels = interactions, np.asarray(cfg.levels, np.float32)
  if x.rating is None or not len(x):
    raise ValueError("GraphRec learns from ratings, and the interactions have none")
  if not np.array_equal(links.users, x.users):
    raise ValueError("links and interactions number users differently: see `share.share_ids`")
  unknown = np.setdiff1d(x.rating, levels)
  if len(unknown):
    raise ValueError(f"rating {unknown[0]} is not among the levels {cfg.levels} of the config")
  level = np.abs(x.rating[:, None] - levels[None]).argmin(1)
  rng = np.random.default_rng(cfg.seed)
  items = _neighbours(rng, x.user, (x.item, level), cfg.num_users, cfg.neighbours)
  users = _neighbours(rng, x.item, (x.user, level), cfg.num_items, cfg.neighbours)
  others = links.user != links.friend  # nobody is a friend of their own
  (friends,) = _neighbours(
    rng, links.user[others], (links.friend[others],), cfg.num_users, cfg.friends
  )
  return {
    "user_items": items[0],  # [U, N]
    "user_levels": items[1],
    "item_users": users[0],  # [I, N]
    "item_levels": users[1],
    "friends": friends,  # [U, S]
    "mean": jnp.float32(x.rating.mean(dtype=np.float64)),
  }


class Attention(nn.Module):
  """Neighbours x [P, ..., N, D] as the vector `own` [P, ..., D] attends to them -> [P, ..., D]."""

  dropout: float

  @nn.compact
  def __call__(self, x: Array, own: Array, where: Array, *, train: bool) -> Array:
    dim = x.shape[-1]
    own = jnp.broadcast_to(own[..., None, :], x.shape)
    hidden = nn.relu(nn.Dense(dim, name="hidden")(jnp.concatenate([x, own], -1)))
    logits = nn.Dense(1, name="logit")(Dropout(self.dropout)(hidden, train=train))[..., 0]
    logits = jnp.where(where, logits.astype(jnp.float32), -1e30)
    weight = jnp.where(where, jax.nn.softmax(logits), 0)  # all 0 where nobody is there
    return nn.relu(nn.Dense(dim, name="output")((weight[..., None] * x).sum(-2)))


class Opinions(nn.Module):
  """What neighbours and their ratings say of a node: a user of items, an item of users."""

  dropout: float

  @nn.compact
  def __call__(self, near: Array, opinion: Array, own: Array, where: Array, *, train: bool):
    x = nn.relu(nn.Dense(near.shape[-1], name="join_0")(jnp.concatenate([near, opinion], -1)))
    x = nn.relu(nn.Dense(near.shape[-1], name="join_1")(x))
    return Attention(self.dropout, name="attention")(x, own, where, train=train)


class GraphRec(nn.Module):
  cfg: Config

  @nn.compact
  def __call__(self, assets: Assets, user: Array, item: Array, *, train: bool) -> Array:
    """The rating, less the mean, of each pair [P]."""
    cfg = self.cfg

    def table(rows, name):
      return nn.Embed(rows, cfg.dim, embedding_init=nn.initializers.normal(0.1), name=name)

    users, items = table(cfg.num_users, "users"), table(cfg.num_items, "items")
    levels = table(len(cfg.levels), "levels")
    by_item = Opinions(cfg.dropout, name="by_item")

    def of_items(user, target):
      """The user as the items rated tell, the one in question left out; user [P] or [P, S]."""
      near = assets["user_items"][user]
      where = (near != PAD) & (near != target)
      opinion = levels(assets["user_levels"][user])
      return by_item(items(near), opinion, users(user), where, train=train)

    friends = assets["friends"][user]  # [P, S]
    # A friend's own rating of the item in question may be read: it is not the one predicted.
    circle = of_items(friends, PAD)  # [P, S, D]
    where = (friends != PAD) & (assets["user_items"][friends] != PAD).any(-1)
    social = Attention(cfg.dropout, name="social")(circle, users(user), where, train=train)
    taste = of_items(user, item[:, None])

    near = assets["item_users"][item]  # [P, N]
    where = (near != PAD) & (near != user[:, None])
    opinion = levels(assets["item_levels"][item])
    audience = Opinions(cfg.dropout, name="by_user")(
      users(near), opinion, items(item), where, train=train
    )

    def mlp(x, name):
      for n in range(2):
        x = nn.relu(nn.Dense(cfg.dim, name=f"{name}_{n}")(x))
        x = Dropout(cfg.dropout, name=f"{name}_dropout_{n}")(x, train=train)
      return x

    person = mlp(jnp.concatenate([taste, social], -1), "person")
    pair = mlp(jnp.concatenate([person, audience], -1), "pair")
    return nn.Dense(1, name="rating")(pair)[:, 0]


def make(cfg: Config) -> System:
  model = GraphRec(cfg)

  def init(key, assets, batch):
    one = jnp.ones(1, int)
    return model.init(key, assets, one, one, train=False)["params"]

  def loss(params, assets, batch, key):
    if "ratings" not in batch:
      raise ValueError("GraphRec learns from `ratings`; the batch has none")
    user, target = batch["user"], batch["target"]
    predicted = assets["mean"] + model.apply(
      {"params": params}, assets, user, target, train=True, rngs={"dropout": key}
    )
    where = (target != PAD) & (batch["weight"] > 0)
    return Loss(*losses.squared(predicted, batch["ratings"], where))

  def rate(params, assets, user, items):
    """Ratings [B, C] of the users [B] and items [B, C]."""
    user = known(user, cfg.num_users)
    pairs = jnp.repeat(user, items.shape[1]), items.reshape(-1)
    predicted = model.apply({"params": params}, assets, *pairs, train=False)
    return assets["mean"] + predicted.reshape(items.shape)

  def every(params, assets, batch):
    user = batch["user"]

    def one(item):
      return rate(params, assets, user, jnp.broadcast_to(item, (len(user), 1)))[:, 0]

    return jax.lax.map(one, jnp.arange(cfg.num_items)).T  # [B, I], item by item

  def score(params, assets, batch):
    if "candidates" in batch:
      return rate(params, assets, batch["user"], batch["candidates"])
    return topk.scores(every(params, assets, batch), batch)

  def recommend(params, assets, batch, *, k, key=None):
    """The highest ratings expected; the paper asks for ratings only."""
    return topk.rank(every(params, assets, batch), batch, k=k)

  return System(init, loss, recommend=recommend, score=score)


def _neighbours(rng, own, columns, nodes, width) -> list[Array]:
  """Each column [E] as a table [nodes, width]: the rows of a node, at random if there are more."""
  if len(own) and own.max() >= nodes:
    raise ValueError(f"row {own.max()} is beyond the {nodes} that the config tells of")
  order = np.lexsort([rng.random(len(own)), own])
  count = np.bincount(own, minlength=nodes)
  place = np.arange(len(own)) - np.repeat(np.cumsum(count) - count, count)
  kept = order[place < width]
  at = own[kept], place[place < width]
  tables = []
  for column in columns:
    table = np.full((nodes, width), PAD, np.int32)
    table[at] = column[kept]
    tables.append(jnp.asarray(table))
  return tables
