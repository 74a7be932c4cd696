"""The quantiser and its folder: batching, devices, save and load, damage, RQ-KMeans, products."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.data.errors import DataError
from recjax.data.interactions import with_pad
from recjax.semid import artefact, assign, learn, report, rqkmeans, rqvae
from recjax.semid.quantizer import CHUNK, Quantizer, dumps, loads

KEY = jax.random.key(0)


def vectors(count=300, dim=10, seed=0):
  rng = np.random.default_rng(seed)
  x = 2 * rng.normal(size=(6, dim))[rng.integers(6, size=count)] + rng.normal(size=(count, dim))
  return x.astype(np.float32)


def from_rqvae(x):
  cfg = rqvae.Config(dim=x.shape[1], hidden=(16,), latent=6, codes=(8, 8, 8))
  params = rqvae.make(cfg).init(KEY, (), {"vector": x})
  return rqvae.quantizer(rqvae.initialize(params, x, KEY, iterations=3))


MADE = {
  "rqvae": from_rqvae,
  "rqkmeans": lambda x: rqkmeans.residual(x, (8, 8, 8), KEY),
  "balanced": lambda x: rqkmeans.residual(x, (8, 4), KEY, balance=0.05),
  "product": lambda x: rqkmeans.product(x, (8, 8), KEY, rounds=2),
}


@pytest.fixture(scope="module", params=MADE)
def made(request):
  return MADE[request.param](vectors())


def test_codes_are_those_of_a_numpy_loop(made):
  x = vectors()
  left = (x.astype(np.float64) - made.shift[None]) / made.scale
  for i, layer in enumerate(made.encoder):
    left = left @ layer["kernel"] + layer["bias"]
    left = left if i + 1 == len(made.encoder) else np.maximum(left, 0)
  codes = made.encode(x)
  assert codes.dtype == np.int32
  for level, book in enumerate(made.codebooks):
    cost = np.square(left[:, None] - book[None]).sum(-1)
    cost -= made.prices[level][None] if made.prices else 0
    taken = cost[np.arange(len(x)), codes[:, level]]
    np.testing.assert_allclose(taken, cost.min(1), atol=1e-4)  # but for ties within rounding
    left = left - book[codes[:, level]]
  cost = made.last_costs(x)
  assert (cost.argmin(1) == codes[:, -1]).mean() > 0.99


def test_codes_do_not_depend_on_the_batch(made):
  x = np.tile(vectors(), (9, 1))[: 2 * CHUNK + 77]
  whole = made.encode(x)
  for size in (1, 7, 500, CHUNK):
    some = np.concatenate([made.encode(x[i : i + size]) for i in range(0, 3 * size, size)])
    np.testing.assert_array_equal(some, whole[: 3 * size])
  np.testing.assert_array_equal(made.encode(x[::-1]), whole[::-1])
  assert made.encode(x[:0]).shape == (0, len(made.sizes))


def test_codes_do_not_depend_on_the_devices(made):
  x = np.tile(vectors(), (10, 1))
  one, eight = (made.encode(x, devices=jax.devices()[:n]) for n in (1, 8))
  np.testing.assert_array_equal(one, eight)
  np.testing.assert_array_equal(
    made.decode(one, devices=jax.devices()[:1]), made.decode(one, devices=jax.devices()[:3])
  )


def test_codes_are_the_same_after_save_and_load(made, tmp_path):
  (tmp_path / "q.safetensors").write_bytes(dumps(made))
  again = loads(tmp_path / "q.safetensors")
  assert again.sizes == made.sizes and repr(again) == repr(made)
  x = vectors(seed=4)
  np.testing.assert_array_equal(again.encode(x), made.encode(x))
  np.testing.assert_array_equal(again.decode(made.encode(x)), made.decode(made.encode(x)))


def test_more_levels_rebuild_better():
  x, errors = vectors(), []
  for levels in (1, 2, 3):
    made = rqkmeans.residual(x, (8,) * levels, KEY)
    errors.append(report.reconstruction(x, made.decode(made.encode(x))))
  assert errors[0] > errors[1] > errors[2] and errors[0] < 0.7


def test_balanced_levels_are_nearly_even():
  x = vectors(1000)
  for made in (rqkmeans.residual(x, (8, 8), KEY, balance=0.05),):
    counts = np.stack([np.bincount(c, minlength=8) for c in made.encode(x).T])
  assert counts.min() > 0.6 * 125 and counts.max() < 1.5 * 125


def test_a_product_codes_each_block_of_turned_dimensions_apart():
  made = rqkmeans.product(vectors(), (8, 5, 3), KEY, rounds=2)
  assert made.sizes == (8, 5, 3)
  turn = made.encoder[0]["kernel"]
  np.testing.assert_allclose(turn @ turn.T, np.eye(10), atol=1e-5)
  owners = np.stack([np.abs(book).sum(0) > 0 for book in made.codebooks])
  np.testing.assert_array_equal(owners.sum(0), 1)  # each dimension belongs to one book
  np.testing.assert_array_equal(owners.sum(1), [4, 3, 3])


def test_the_rotation_pays_where_the_blocks_are_unequal():
  rng = np.random.default_rng(0)
  x = (rng.normal(size=(600, 8)) * np.array([4, 4, 4, 4, 0.1, 0.1, 0.1, 0.1])).astype(np.float32)

  def error(rounds):
    made = rqkmeans.product(x, (8, 8), KEY, rounds=rounds)
    return report.reconstruction(x, made.decode(made.encode(x)))

  assert error(4) < 0.85 * error(0)


def test_bad_vectors_and_codes_are_named(made):
  x = vectors()
  broken = x.copy()
  broken[5, 0] = np.nan
  with pytest.raises(DataError, match=r"vector 5 is not finite \(1 such"):
    made.encode(broken)
  with pytest.raises(DataError, match=r"vectors \[N, 10\] are needed, these have shape \(300, 4\)"):
    made.encode(x[:, :4])
  with pytest.raises(DataError, match="row 1 has code 8 at level 0, which has 8"):
    codes = np.zeros((2, len(made.sizes)), int)
    codes[1, 0] = 8
    made.decode(codes)
  with pytest.raises(DataError, match="codes .* are needed"):
    made.decode(np.zeros((2, 9), int))


@pytest.mark.parametrize("fit", [rqkmeans.residual, rqkmeans.product])
def test_what_cannot_be_clustered_is_named(fit):
  x = vectors()
  with pytest.raises(DataError, match="all 9 vectors are the same"):
    fit(np.ones((9, 4)), (4,), KEY)
  with pytest.raises(DataError, match="level 0: 512 codes need .* 300 among 300"):
    fit(x, (512,), KEY)
  x[3] = np.inf
  with pytest.raises(DataError, match="vector 3 is not finite"):
    fit(x, (4,), KEY)
  with pytest.raises(DataError, match="10 dimensions do not make 11 blocks"):
    rqkmeans.product(vectors(), (2,) * 11, KEY)


# --- The folder ---


def ids(count=60):
  x = np.concatenate([np.zeros((1, 10), np.float32), vectors(count)])
  x[5] = x[6]  # one collision at least
  items = with_pad(np.array([f"B{i:03d}" for i in range(count)]))
  made = rqkmeans.residual(x[1:], (8, 8), KEY)
  return artefact.build(items, x, made, assign.count_up(4), made_by={"seed": 3}), x


def test_a_folder_gives_back_what_was_saved(tmp_path):
  saved, x = ids()
  saved.save(tmp_path / "ids")
  again = artefact.load(tmp_path / "ids")
  np.testing.assert_array_equal(again.codes, saved.codes)
  np.testing.assert_array_equal(again.items, saved.items)
  assert again.sizes == (8, 8, 4) and again.made_by == {"seed": 3}
  assert again.vectors_sha256 == artefact.content_hash(x)
  np.testing.assert_array_equal(again.quantizer.encode(x[1:]), saved.codes[1:, :2])
  saved.save(tmp_path / "ids")  # over itself
  assert sorted(p.name for p in (tmp_path / "ids").iterdir()) == [
    "codes.safetensors",
    "config.json",
    "items.json",
    "quantizer.safetensors",
  ]


def test_look_up_goes_both_ways():
  made, _ = ids()
  for row, item in enumerate(made.items.tolist()):
    if row:
      assert made.sid(item) == tuple(made.codes[row]) and made.item(made.sid(item)) == item
  with pytest.raises(KeyError, match="no item 'B999' among the 60"):
    made.sid("B999")
  with pytest.raises(KeyError, match="no item ''"):
    made.sid("")
  with pytest.raises(KeyError, match="0 items have the codes"):
    made.item((7, 7, 3))


FILES = ["config.json", "codes.safetensors", "items.json", "quantizer.safetensors"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_a_damaged_folder_is_an_error_that_names_the_file(tmp_path, name, damage):
  ids()[0].save(tmp_path)
  path = tmp_path / name
  data = bytearray(path.read_bytes())
  if damage == "missing":
    path.unlink()
  elif damage == "truncated":
    path.write_bytes(data[: len(data) // 2])
  else:
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)
  if (name, damage) == ("config.json", "changed"):
    with pytest.raises(DataError):  # whichever hash or line it hit
      artefact.load(tmp_path)
  else:
    with pytest.raises(DataError, match=f"{name}:.* again"):
      artefact.load(tmp_path)


def test_a_lone_quantiser_file_that_is_damaged_is_named(tmp_path):
  path = tmp_path / "q.safetensors"
  data = dumps(rqkmeans.residual(vectors(), (4, 4), KEY))
  for broken in (data[:50], data[:-9], b"", data[:8]):
    path.write_bytes(broken)
    with pytest.raises(DataError, match=r"q.safetensors:.*again"):
      loads(path)
  import safetensors.numpy

  path.write_bytes(safetensors.numpy.save({"shift": np.zeros(3)}))
  with pytest.raises(DataError, match="not a quantiser"):
    loads(path)


@given(st.integers(0, 10**4))
def test_new_items_come_behind_and_change_no_old_one(seed):
  made, x = ids()
  rng = np.random.default_rng(seed)
  new = x[1:][rng.integers(60, size=2)] + rng.choice([0, 0.3]) * rng.normal(size=(2, 10))
  longer = made.extend(["new1", "new2"], new.astype(np.float32), assign.count_up(4))
  np.testing.assert_array_equal(longer.codes[:61], made.codes)
  np.testing.assert_array_equal(longer.items[:61], made.items)
  assert len(np.unique(longer.codes[1:], axis=0)) == 62
  assert longer.vectors_sha256 != made.vectors_sha256


def test_extending_wrongly_is_refused():
  made, x = ids()
  with pytest.raises(DataError, match="known: .'B001'."):
    made.extend(["B001"], x[1:2], assign.count_up(4))
  with pytest.raises(DataError, match="2 new items have 1 vectors"):
    made.extend(["a", "b"], x[1:2], assign.count_up(4))
  with pytest.raises(DataError, match="the policy that the codes were made with"):
    made.extend(["a"], x[1:2], assign.next_free)


def test_published_ids_are_read(tmp_path):
  path = tmp_path / "sid.json"
  path.write_text(json.dumps([[1, 5], [0, 2], [1, 5]]))
  found = artefact.published(path)
  np.testing.assert_array_equal(found.codes, [[-1, -1], [1, 5], [0, 2], [1, 5]])
  assert found.sizes == (2, 6) and found.sid("2") == (0, 2)
  assert found.sharing((1, 5)) == ["1", "3"]
  chosen = found.select(["", "3", "2"])
  np.testing.assert_array_equal(chosen.codes, [[-1, -1], [1, 5], [0, 2]])
  with pytest.raises(DataError, match="1 items, '9' first, have no codes"):
    found.select(["", "9"])
  with pytest.raises(KeyError, match="2 items have the codes"):
    found.item((1, 5))
  with pytest.raises(DataError, match="made elsewhere"):
    found.extend(["4"], np.zeros((1, 2)), assign.keep)
  found.save(tmp_path / "ids")
  assert artefact.load(tmp_path / "ids").quantizer is None
  with pytest.raises(DataError, match="3 rows of codes for 1 items"):
    artefact.published(path, ["a"])


def test_ids_that_do_not_fit_are_refused():
  none = np.full((1, 2), -1)
  with pytest.raises(DataError, match="item 'a' has code 4 at level 1, which has 3"):
    artefact.SemanticIds(with_pad(np.array(["a"])), np.concatenate([none, [[0, 4]]]), (2, 3))
  with pytest.raises(DataError, match="row 0 must be PAD"):
    artefact.SemanticIds(with_pad(np.array(["a"])), np.zeros((2, 2), int), (2, 3))
  with pytest.raises(DataError, match="codes are whole numbers, not float"):
    artefact.SemanticIds(with_pad(np.array(["a"])), np.array([[-1, -1], [np.nan, 1]]), (2, 3))
  with pytest.raises(ValueError, match="at least one codebook"):
    Quantizer((), jnp.zeros(2), jnp.ones(()))
  with pytest.raises(ValueError, match=r"codebooks are \[3\] wide, what they code is 2"):
    Quantizer((jnp.zeros((4, 3)),), jnp.zeros(2), jnp.ones(()))


@pytest.mark.parametrize("change", [{"items": 999}, {"files": {}}])
def test_a_config_that_does_not_tell_of_its_files_is_damaged(tmp_path, change):
  ids()[0].save(tmp_path)
  path = tmp_path / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(DataError, match="config.json"):
    artefact.load(tmp_path)


@pytest.mark.parametrize("items", [12, 40, 468, 5000])
def test_sizes_that_go_by_the_catalogue_can_be_learned_and_tell_items_apart(items):
  x = np.random.default_rng(0).normal(size=(items, 8)).astype(np.float32)
  made = learn.quantizer(learn.Config(method="rqkmeans", sizes=()), x)
  assert made.sizes == learn.sizes_of(items) and math.prod(made.sizes) > items
  assert len(np.unique(made.encode(x), axis=0)) > 0.5 * items


@pytest.mark.parametrize("method", ["rqvae", "rqkmeans", "opq"])
def test_vectors_that_are_no_matrix_are_named_before_any_learning(method):
  with pytest.raises(DataError, match=r"\(8,\)"):
    learn.quantizer(learn.Config(method=method, sizes=(4, 4)), np.ones(8, np.float32))
  x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
  x[5, 2] = np.nan
  for bad, said in ((x, "row 5 is not"), (x[:0], "none are")):
    with pytest.raises(DataError, match=f"vectors must be there, and finite: {said}"):
      learn.quantizer(learn.Config(method=method, sizes=()), bad)


@pytest.mark.slow
def test_of_several_tries_the_one_with_the_fewest_collisions_is_kept(tmp_path):
  x = np.random.default_rng(0).normal(size=(90, 8)).astype(np.float32)
  cfg = learn.Config(sizes=(4, 4), epochs=2, batch_size=32, tries=3)
  made = learn.quantizer(cfg, x, workdir=tmp_path).encode(x)
  each = [
    learn.quantizer(dataclasses.replace(cfg, seed=seed, tries=1), x).encode(x)
    for seed in (0, 1_000_003, 2_000_006)
  ]
  found = [report.collisions(codes) for codes in each]
  assert len(set(found)) > 1
  np.testing.assert_array_equal(made, each[int(np.argmin(found))])
  assert {"try_1", "try_2", "checkpoints"} <= {path.name for path in tmp_path.iterdir()}
  with pytest.raises(ValueError, match="1 or more"):
    learn.quantizer(dataclasses.replace(cfg, tries=0), x)


def test_the_rate_rises_from_nothing_in_the_first_epochs():
  x = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
  made = {}
  for warmup, rate in ((0, 1e-3), (1, 1e-3), (1, 5.0)):  # one step in all
    cfg = learn.Config(sizes=(4, 4), epochs=1, batch_size=32, warmup=warmup, rate=rate)
    made[warmup, rate] = learn.quantizer(cfg, x).encoder[0]["kernel"]
  np.testing.assert_array_equal(made[1, 1e-3], made[1, 5.0])
  assert (made[0, 1e-3] != made[1, 1e-3]).any()
  with pytest.raises(ValueError, match="warmup is 2 epochs; it takes 0 to epochs, 1"):
    learn.quantizer(dataclasses.replace(cfg, warmup=2), x)


def test_learning_that_a_signal_stopped_ends_with_a_status_that_tells(monkeypatch, tmp_path):
  stopped = learn.loop.Result(None, None, {}, stopped_by=15)
  monkeypatch.setattr(learn.loop, "fit", lambda *args, **kwargs: stopped)
  with pytest.raises(SystemExit) as end:
    learn.quantizer(learn.Config(sizes=(4, 4)), np.eye(8, dtype=np.float32), workdir=tmp_path)
  assert end.value.code == 128 + 15


def test_arrays_that_lie_otherwise_in_memory_are_saved_as_they_read(tmp_path):
  x = vectors()
  made = MADE["rqkmeans"](x)
  across = tuple(np.ascontiguousarray(book.T).T for book in made.codebooks)
  turned = dataclasses.replace(made, codebooks=across)
  (tmp_path / "q").write_bytes(dumps(turned))
  np.testing.assert_array_equal(loads(tmp_path / "q").encode(x), made.encode(x))
  whole, _ = ids()
  fewer = dataclasses.replace(whole, codes=whole.codes[:, :2], sizes=whole.sizes[:2])
  fewer.save(tmp_path / "ids")
  np.testing.assert_array_equal(artefact.load(tmp_path / "ids").codes, fewer.codes)


@pytest.mark.parametrize("policy", [assign.next_free, assign.optimal, assign.count_up(9)])
def test_a_vector_from_elsewhere_is_named_and_not_coded(policy):
  far = np.full((2, 10), 1e25, np.float32)
  with pytest.raises(DataError, match="vector 0 is more than .* deviations away"):
    assign.catalogue(MADE["rqkmeans"](vectors()), np.concatenate([far[:1] * 0, far]), policy)


@pytest.mark.parametrize("name", ["rqkmeans", "balanced", "product"])
def test_codes_do_not_depend_on_the_unit_of_the_vectors(name):
  x = vectors()
  expected = MADE[name](x).encode(x)
  for unit in (2.0**-70, 2.0**70):
    np.testing.assert_array_equal(MADE[name](x * np.float32(unit)).encode(x * unit), expected)


def test_ids_of_items_are_texts_and_each_has_one():
  made, x = ids()
  whole = dataclasses.replace(made, items=with_pad(np.arange(60).astype(str)))
  old = whole.sid("7")
  with pytest.raises(DataError, match="known: \\['7'\\]"):
    whole.extend([7], x[:1], assign.next_free)
  assert whole.sid("7") == old
  with pytest.raises(DataError, match="new and different"):
    whole.extend([""], x[:1], assign.next_free)
  twice = np.where(whole.items == "7", "8", whole.items)
  with pytest.raises(DataError, match="60 items have 59 different ids"):
    dataclasses.replace(whole, items=twice)
  with pytest.raises(DataError, match="PAD"):
    whole.select(whole.items[1:].tolist())


def test_a_save_that_fails_leaves_what_was_there(tmp_path):
  whole, _ = ids()
  whole.save(tmp_path)
  with pytest.raises(TypeError):
    dataclasses.replace(whole, made_by={"path": tmp_path}).save(tmp_path)
  np.testing.assert_array_equal(artefact.load(tmp_path).codes, whole.codes)
