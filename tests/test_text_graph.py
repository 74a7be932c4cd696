"""The text-augmented graph: its edges by brute force, and what they are for, cold items."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_hybrid import GROUPS, ITEMS, events, vectors

from recjax.data import examples, loader
from recjax.systems.collaborative import content, lightgcn, text_graph
from recjax.train import loop, mesh, optim
from recjax.types import PAD

CFG = text_graph.Config(num_users=201, num_items=ITEMS, dim=16, layers=2, neighbours=4)


def dense(made, nodes):
  """The weights of the graph as a matrix."""
  out = np.zeros((nodes, nodes))
  row = np.repeat(np.arange(nodes), np.diff(np.asarray(made["start"])))
  out[row, np.asarray(made["source"])] = np.asarray(made["weight"])
  return out


def test_edges_go_to_the_greatest_cosines(monkeypatch):
  monkeypatch.setattr(text_graph, "_BLOCK", 7)
  found = np.random.default_rng(0).standard_normal((60, 3))
  found[[PAD, 11]] = 0
  given = content.unit(found, 60)
  pairs = set(zip(*text_graph.similar_texts(given, 4), strict=True))
  for i in range(60):
    cosine = given @ given[i]
    cosine[[PAD, 11, i]] = -2
    wanted = set() if i in (PAD, 11) else {(i, j) for j in np.argsort(-cosine)[:4]}
    assert {(a, b) for a, b in pairs if a == i} == wanted


def test_equal_texts_are_taken_in_the_order_of_their_ids():
  given = np.zeros((7, 2), np.float32)
  given[1:6, 0] = 1.0  # 6 and PAD have no text
  item, near = text_graph.similar_texts(given, 2)
  pairs = list(zip(item.tolist(), near.tolist(), strict=True))
  assert pairs == [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2), (4, 1), (4, 2), (5, 1), (5, 2)]


def test_the_joint_graph_is_normalised_over_both_kinds_of_edges():
  x = events()
  made = text_graph.assets(CFG, x, vectors())["graph"]
  nodes = CFG.num_users + CFG.num_items
  a = np.zeros((nodes, nodes))
  a[x.user, CFG.num_users + x.item] = 1
  given = content.unit(vectors(), ITEMS)
  for i in range(1, ITEMS):
    cosine = given @ given[i]
    cosine[[PAD, i]] = -2
    a[CFG.num_users + i, CFG.num_users + np.argsort(-cosine)[:4]] = 1
  a = np.maximum(a, a.T)
  scale = 1 / np.sqrt(np.maximum(a.sum(1), 1))
  np.testing.assert_allclose(dense(made, nodes), scale[:, None] * a * scale[None], atol=1e-6)


def test_without_texts_it_is_lightgcn():
  x = events()
  plain = lightgcn.Config(num_users=201, num_items=ITEMS, dim=16, layers=2)
  ours = text_graph.assets(CFG, x, np.zeros((ITEMS, 6)))
  theirs = lightgcn.assets(plain, x)
  batch = {"user": jnp.array([1, 2]), "target": jnp.array([3, 4]), "weight": jnp.ones(2)}
  params = lightgcn.make(plain).init(jax.random.key(0), theirs, batch)
  a, b = (
    s.score(params, given, batch)
    for s, given in ((text_graph.make(CFG), ours), (lightgcn.make(plain), theirs))
  )
  np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_cold_item_learns_from_the_items_of_like_texts():
  x = events()
  system, assets = text_graph.make(CFG), text_graph.assets(CFG, x, vectors())
  one = mesh.make_mesh(devices=jax.devices()[:1])
  train = loader.Batches(examples.events(x), 128, max_len=1, seed=0, epochs=None)
  cfg = loop.Config(steps=200, optimizer=optim.Config(rate=1e-2))
  params = loop.fit(system, assets, train, cfg, mesh=one).params
  users = np.arange(1, 201)
  first = x.item[np.searchsorted(x.user, users)]
  cold = jnp.tile(jnp.array([[37, 38, 39, 40]]), (200, 1))  # of groups 1, 2, 3, 0
  asked = {"user": jnp.asarray(users), "candidates": cold}
  best = np.asarray(system.score(params, assets, asked)).argmax(1)
  right = np.mean((best + 1) % GROUPS == first % GROUPS)
  assert right > 0.8  # by chance 0.25
  assert np.isfinite(system.score(params, assets, {"user": jnp.array([PAD])})[:, 1:]).all()


def test_what_does_not_fit_the_config_is_named():
  small = text_graph.Config(num_users=201, num_items=30)
  with pytest.raises(ValueError, match="201 users and 41 items, the config num_users=201 and"):
    text_graph.assets(small, events(), vectors()[:30])
  with pytest.raises(ValueError, match="not a row for each of 41 items"):
    text_graph.assets(CFG, events(), vectors()[:30])
  with pytest.raises(ValueError, match="no interactions to make a graph of"):
    text_graph.assets(CFG, events().take(np.zeros(0, int)), vectors())
