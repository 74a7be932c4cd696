"""iALS against dense least squares, its own objective, and the `implicit` library."""

import blocks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax import bundle
from recjax.data import interactions
from recjax.recommender import Recommender
from recjax.systems.collaborative import ials


def log(users=12, items=9, seed=0):
  rng = np.random.default_rng(seed)
  count = rng.integers(1, items, users)
  user = np.repeat(np.arange(users), count)
  item = np.concatenate([rng.permutation(items)[:n] for n in count])
  return interactions.from_columns(user, item)


def met(x):
  out = np.zeros((x.num_users, x.num_items))
  out[x.user, x.item] = 1
  return out


def dense_side(other, wanted, cfg):
  """Each row's weighted ridge regression, over all rows of `other` (PAD's is 0)."""
  out = np.zeros((len(wanted), other.shape[1]))
  for row, target in enumerate(wanted):
    if target.any():
      weight = np.diag(np.where(target > 0, 1.0, cfg.unobserved))
      ridge = cfg.penalty * (target.sum() + cfg.unobserved * (len(other) - 1)) ** cfg.exponent
      left = other.T @ weight @ other + ridge * np.eye(other.shape[1])
      out[row] = np.linalg.solve(left, other.T @ weight @ target)
  return out


def objective(params, x, cfg):
  users, items = (np.asarray(params[n], float) for n in ("users", "items"))
  wanted = met(x)
  weight = np.where(wanted > 0, 1.0, cfg.unobserved)[1:, 1:]
  total = (weight * (wanted - users @ items.T)[1:, 1:] ** 2).sum()
  for own, count, rows in ((users, wanted.sum(1), len(items)), (items, wanted.sum(0), len(users))):
    ridge = cfg.penalty * (count + cfg.unobserved * (rows - 1)) ** cfg.exponent
    total += (ridge[:, None] * own**2)[1:].sum()
  return total


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_a_sweep_is_the_dense_solution_of_each_row(exponent):
  x = log()
  fields = {"dim": 4, "penalty": 0.05, "exponent": exponent, "unobserved": 0.2}
  one, two = (ials.Config(x.num_items, sweeps=n, **fields) for n in (1, 2))
  first, second = (ials.make(cfg).fit((), x) for cfg in (one, two))
  items = dense_side(np.asarray(first["users"], float), met(x).T, one)
  np.testing.assert_allclose(second["items"], items, atol=1e-4)
  np.testing.assert_allclose(second["users"], dense_side(items, met(x), one), atol=1e-4)
  basis, gram = (np.asarray(second[name]) for name in ("basis", "gram"))
  np.testing.assert_allclose(basis * gram @ basis.T, items.T @ items, atol=1e-4)


def test_the_objective_never_rises():
  x = log(seed=3)
  values = []
  for sweeps in (1, 2, 4, 8):
    cfg = ials.Config(x.num_items, dim=3, penalty=0.02, sweeps=sweeps)
    values.append(objective(ials.make(cfg).fit((), x), x, cfg))
  assert (np.diff(values) < 0).all()


def test_chunks_of_any_size_give_the_same(monkeypatch):
  x = log(users=30)
  cfg = ials.Config(x.num_items, dim=4, sweeps=3)
  whole = ials.make(cfg).fit((), x)
  monkeypatch.setattr(ials, "_CHUNK", 64)  # two rows that met eight
  parts = ials.make(cfg).fit((), x)
  for name in whole:
    np.testing.assert_allclose(whole[name], parts[name], atol=1e-4)


def test_the_same_objective_as_implicit_from_the_same_start():
  als = pytest.importorskip("implicit.als", reason="the peer: pip install implicit")
  import scipy.sparse

  x = log(users=40, items=25, seed=1)
  fields = {"dim": 6, "penalty": 0.1, "exponent": 0.0, "unobserved": 0.25}
  start = ials.make(ials.Config(x.num_items, sweeps=1, **fields)).fit((), x)
  ours = ials.make(ials.Config(x.num_items, sweeps=4, **fields)).fit((), x)
  # Divided by the small weight, ours is theirs: confidence 4 of what was met, penalty 0.1 / 0.25.
  # They solve the rows first, so theirs are the items.
  peer = als.AlternatingLeastSquares(
    factors=6, regularization=0.4, alpha=1.0, iterations=3, use_cg=False, use_gpu=False,
    use_native=True, num_threads=1,
  )  # fmt: skip
  peer.user_factors = np.array(start["items"][1:])
  peer.item_factors = np.array(start["users"][1:])
  peer.fit(scipy.sparse.csr_matrix(4 * met(x)[1:, 1:].T.astype(np.float32)), show_progress=False)
  np.testing.assert_allclose(ours["items"][1:], peer.user_factors, atol=1e-4)
  np.testing.assert_allclose(ours["users"][1:], peer.item_factors, atol=1e-4)


def test_a_new_user_is_folded_in_from_the_history():
  x = log()
  system = ials.make(ials.Config(x.num_items, dim=4, sweeps=5))
  params = system.fit((), x)
  rows = [x.item[x.user == u] for u in range(1, x.num_users)]
  # Padded, and an item repeated: a set is what counts.
  history = np.stack([np.pad(np.append(r, r[0]), (9 - len(r), 0)) for r in rows])
  known = system.embed(params, (), {"user": jnp.arange(1, x.num_users)})
  folded = system.embed(params, (), {"history": jnp.asarray(history)})
  np.testing.assert_allclose(folded, known, atol=1e-4)
  nobody = system.score(params, (), {"history": jnp.zeros((1, 3), int)})
  assert (np.asarray(nobody)[:, 1:] == 0).all()


def test_a_user_without_a_row_is_folded_in_and_one_with_a_row_keeps_it():
  x = log()
  system = ials.make(ials.Config(x.num_items, dim=4, sweeps=5))
  params = system.fit((), x.take(x.user != 3))  # user 3 is on the map, and met nothing
  history = jnp.tile(jnp.array([[0, 2, 5, 7]]), (3, 1))
  unheard = jnp.array([0, 99, -1])  # no users of this map
  np.testing.assert_allclose(
    system.embed(params, (), {"user": unheard, "history": history}),
    system.embed(params, (), {"history": history}),
    atol=1e-5,
  )
  asked = {"user": jnp.array([0, 3, 4]), "history": history}
  folded = system.embed(params, (), {"history": history})[0]
  got = np.asarray(system.embed(params, (), asked))
  assert np.abs(folded).max() > 0.1 and np.abs(folded - params["users"][4]).max() > 0.1
  np.testing.assert_allclose(got[:2], np.stack([folded, folded]), atol=1e-5)
  np.testing.assert_array_equal(got[2], params["users"][4])
  nobody = system.embed(params, (), {"user": jnp.array([0])})
  assert (np.asarray(nobody) == 0).all()


def test_a_recommender_and_its_export_answer_the_unknown_as_those_of_the_same_history(tmp_path):
  x = log()
  cfg = ials.Config(x.num_items, dim=4, sweeps=5)
  fitted = ials.make(cfg).fit((), x)
  held = Recommender("ials", cfg, fitted, (), x.items, x.items, x.users, max_len=9)
  histories = [x.items[x.item[x.user == u]].tolist() for u in range(1, x.num_users)]
  known = held.recommend(histories, k=9, users=x.users[1:].tolist())
  unknown = held.recommend(histories, k=9)
  np.testing.assert_allclose(unknown.scores, known.scores, atol=1e-4)
  assert [ids[0] for ids in unknown.ids] == [ids[0] for ids in known.ids]
  assert len({*map(tuple, known.ids)}) > 1  # not one list for everybody
  folder = held.export(tmp_path / "served", k=9)
  f = jax.export.deserialize((folder / "recommend.stablehlo").read_bytes())
  asked = {name: np.zeros((3, 9), np.int32) for name in ("history", "deny")}
  for row, history in zip(asked["history"], histories, strict=False):
    row[9 - len(history) :] = [x.items.tolist().index(item) for item in history]
  served = f.call(bundle.flatten(fitted), {}, asked | {"user": np.zeros(3, np.int32)})
  np.testing.assert_allclose(served["scores"], unknown.scores[:3], atol=1e-4)


def test_an_event_repeated_counts_once():
  x = log()
  cfg = ials.Config(x.num_items, dim=4, sweeps=2)
  once, twice = (ials.make(cfg).fit((), y) for y in (x, interactions.concat([x, x])))
  np.testing.assert_allclose(once["items"], twice["items"], atol=1e-5)


def test_it_finds_what_was_withheld_of_a_block():
  train, _ = blocks.log()
  system = ials.make(ials.Config(train.num_items, dim=blocks.BLOCKS))  # the pattern's rank
  assert blocks.found(system, (), system.fit((), train)) > 0.9


def test_what_cannot_be_fitted_is_named():
  with pytest.raises(ValueError, match=r"unobserved must lie in \(0, 1\], it is 0"):
    ials.make(ials.Config(5, unobserved=0.0))
  with pytest.raises(ValueError, match="penalty must be above 0"):
    ials.make(ials.Config(5, penalty=0.0))
  with pytest.raises(ValueError, match="no interactions"):
    ials.make(ials.Config(5)).fit((), log().take(np.zeros(0, int)))
  with pytest.raises(ValueError, match="the events know 10 items, the config num_items=5"):
    ials.make(ials.Config(5)).fit((), log())
