"""A small system with all that the runtime must get right: dropout, uneven masks, a table."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from recjax import losses
from recjax.data import examples, interactions, loader
from recjax.nn.dropout import Dropout
from recjax.types import PAD, Loss, Ranked, System


class Model(nn.Module):
  num_items: int
  dim: int = 16
  rate: float = 0.3

  @nn.compact
  def __call__(self, history, *, train):
    items = nn.Embed(self.num_items, self.dim, name="items")
    x = items(history) * (history != PAD)[..., None]
    x = jnp.cumsum(x, axis=1) / jnp.arange(1, history.shape[1] + 1)[None, :, None]
    x = Dropout(self.rate)(nn.relu(nn.Dense(self.dim * 2, name="up")(x)), train=train)
    return items.attend(nn.Dense(self.dim, name="down")(x))  # [B, T, I]


def make(num_items, **options):
  model = Model(num_items, **options)

  def init(key, _, batch):
    return model.init(key, batch["history"], train=False)["params"]

  def loss(params, _, batch, key):
    logits = model.apply({"params": params}, batch["history"], train=True, rngs={"dropout": key})
    where = (batch["next"] != PAD) & (batch["weight"] > 0)[:, None]
    total, weight = losses.softmax_xent(logits, batch["next"], where)
    hits = jnp.sum(jnp.argmax(logits, -1) == batch["next"], where=where)
    return Loss(total, weight, {"accuracy": (hits.astype(jnp.float32), weight)})

  def score(params, _, batch):
    logits = model.apply({"params": params}, batch["history"], train=False)[:, -1]
    return logits.at[:, PAD].set(-jnp.inf)

  def recommend(params, assets, batch, *, k, key=None):
    scores, ids = jax.lax.top_k(score(params, assets, batch), k)
    return Ranked(ids, scores)

  return System(init, loss, recommend=recommend, score=score)


def log(users=60, items=24, seed=0):
  """Users who walk the items in steps of one, from a random start, for unequal lengths."""
  rng = np.random.default_rng(seed)
  lengths = rng.integers(3, 12, users)
  start = np.repeat(rng.integers(0, items, users), lengths)
  place = np.concatenate([np.arange(n) for n in lengths])
  return interactions.from_columns(
    np.repeat(np.arange(users), lengths), (start + place) % items, timestamp=place
  )


def batches(x, size=16, **options):
  options = {"max_len": 8, "seed": 0, "epochs": None} | options
  return loader.Batches(examples.sequences(x, 8), size, **options)
