"""A planted pattern for systems that read no order: users and items in blocks, a part withheld."""

import jax
import jax.numpy as jnp
import numpy as np

from recjax.data import interactions, loader
from recjax.train import loop, mesh, optim

BLOCKS, USERS, ITEMS, HELD = 4, 10, 8, 2  # a block's users and items; withheld of each user


def log():
  """Every user meets six of the eight items of the own block, in random order."""
  rng = np.random.default_rng(0)
  user = np.repeat(np.arange(BLOCKS * USERS), ITEMS)
  item = np.concatenate(
    [u // USERS * ITEMS + rng.permutation(ITEMS) for u in range(BLOCKS * USERS)]
  )
  place = np.tile(np.arange(ITEMS), BLOCKS * USERS)
  x = interactions.from_columns(user, item, timestamp=place)
  return x.take(place < ITEMS - HELD), x.take(place >= ITEMS - HELD)


def learned(system, assets, examples, *, steps=300, rate=1e-2, batch_size=64):
  cfg = loop.Config(steps=steps, optimizer=optim.Config(rate=rate, clip=None))
  train = loader.Batches(examples, batch_size, max_len=ITEMS, seed=0, epochs=None)
  return loop.fit(system, assets, train, cfg, mesh=mesh.make_mesh(devices=jax.devices()[:1])).params


def found(system, assets, params):
  """The share of withheld items among a user's best two, the met ones denied; chance is 2 / 26."""
  train, held = log()
  user = np.arange(1, train.num_users)
  met, wanted = (np.stack([x.item[x.user == u] for u in user]) for x in (train, held))
  batch = {name: jnp.asarray(x) for name, x in (("user", user), ("history", met), ("deny", met))}
  ids = np.asarray(system.recommend(params, assets, batch, k=HELD).ids)
  return (ids[:, :, None] == wanted[:, None]).any(1).mean()
