import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recjax.data.loader import Batches
from recjax.data.ragged import Ragged
from recjax.nn import t5
from recjax.text import objectives
from recjax.text.objectives import Pairs

EOS = 1
SENTINELS = range(999, 899, -1)  # T5's: the last ids, going down
CFG = t5.Config(
  vocab=31, dim=8, heads=2, head_dim=4, ff=12, layers=1, decoder_layers=1, buckets=8,
  max_distance=9, dropout=0.0,
)  # fmt: skip


def rows_of(ragged):
  return [ragged[i].tolist() for i in range(len(ragged))]


def texts(seed, lengths):
  rng = np.random.default_rng(seed)
  return Ragged.from_rows([rng.integers(2, 31, n) for n in lengths])


def fill_in(source, target):
  """Puts what the target says of each sentinel where the source has it."""
  assert source[-1] == target[-1] == EOS
  said, sentinel = {}, None
  for token in target[:-1]:
    if token in SENTINELS:
      sentinel, said[token] = token, []
    else:
      said[sentinel].append(token)
  return [t for token in source[:-1] for t in said.get(token, [token])], said


@given(st.lists(st.integers(2, 90), min_size=1, max_size=6), st.integers(0, 10**6))
def test_source_and_target_of_corrupted_spans_hold_the_text(lengths, seed):
  tokens = texts(seed, lengths)
  pairs = objectives.span_corruption(tokens, sentinels=SENTINELS, eos=EOS, seed=seed)
  for i, row in enumerate(rows_of(tokens)):
    source, target = pairs.source[i].tolist(), pairs.target[i].tolist()
    whole, said = fill_in(source, target)
    assert whole == row
    noise = min(max(round(len(row) * 0.15), 1), len(row) - 1)  # both round halves to even
    assert sum(map(len, said.values())) == noise
    assert min(map(len, said.values())) >= 1
    spans = min(max(round(noise / 3), 1), len(row) - noise)
    assert list(said) == list(SENTINELS)[:spans]  # in order, and each once
    at = [k for k, token in enumerate(source) if token in SENTINELS]
    assert at[0] > 0 and min(np.diff(at), default=2) >= 2  # no span begins a row or meets another
    assert source[-2] in SENTINELS


def test_two_tokens_have_one_way():
  pairs = objectives.span_corruption(
    Ragged.from_rows([[5, 6]]), sentinels=SENTINELS, eos=EOS, seed=0
  )
  assert rows_of(pairs.source) == [[5, 999, EOS]]
  assert rows_of(pairs.target) == [[999, 6, EOS]]


def test_a_seed_decides_and_rows_differ():
  tokens = Ragged.from_rows([list(range(2, 102))] * 3)
  made = [
    rows_of(objectives.span_corruption(tokens, sentinels=SENTINELS, eos=EOS, seed=s).source)
    for s in (0, 0, 1)
  ]
  assert made[0] == made[1] != made[2]
  assert made[0][0] != made[0][1] != made[0][2]


def test_every_way_of_cutting_is_equally_likely():
  # 6 in 3 pieces: choose 2 of 5 places, 10 ways.
  rows = 20_000
  sizes = objectives._split(np.random.default_rng(0), np.full(rows, 6), np.full(rows, 3))
  ways, counts = np.unique(sizes.reshape(rows, 3), axis=0, return_counts=True)
  assert len(ways) == 10 and (ways.sum(1) == 6).all() and (ways >= 1).all()
  assert ((counts - rows / 10) ** 2 / (rows / 10)).sum() < 33.7  # chi-square, 9 degrees: 1e-4


def test_density_and_mean_span_are_obeyed():
  tokens = texts(0, [400] * 20)
  pairs = objectives.span_corruption(
    tokens, sentinels=SENTINELS, eos=EOS, seed=0, density=0.5, mean_span=4
  )
  # 200 of 400 in 50 spans: the target has both and an end.
  assert (pairs.target.lengths == 251).all() and (pairs.source.lengths == 251).all()


def test_rows_that_cannot_be_split_are_told():
  for make in (
    lambda rows: objectives.span_corruption(rows, sentinels=SENTINELS, eos=EOS, seed=0),
    lambda rows: objectives.prefix_lm(rows, eos=EOS, seed=0),
  ):
    with pytest.raises(ValueError, match="row 1 has 1 tokens"):
      make(Ragged.from_rows([[4, 5], [6]]))
  with pytest.raises(ValueError, match="20 spans need as many sentinels, there are 2"):
    objectives.span_corruption(texts(0, [400]), sentinels=[30, 29], eos=EOS, seed=0)


@given(st.lists(st.integers(2, 20), min_size=1, max_size=8), st.integers(0, 10**6))
def test_prefix_and_rest_are_the_row(lengths, seed):
  tokens = texts(seed, lengths)
  pairs = objectives.prefix_lm(tokens, eos=EOS, seed=seed)
  for before, after, row in zip(*map(rows_of, (pairs.source, pairs.target, tokens)), strict=True):
    assert before[-1] == after[-1] == EOS and len(before) > 1 and len(after) > 1
    assert before[:-1] + after[:-1] == row


def test_a_prefix_may_end_at_every_place():
  tokens = Ragged.from_rows([[3, 4, 5, 6]] * 600)
  lengths = objectives.prefix_lm(tokens, eos=EOS, seed=0).source.lengths - 1
  counts = np.bincount(lengths, minlength=5)
  assert counts[0] == counts[4] == 0 and counts[1:4].min() > 140


def test_windows_by_hand():
  rows = Ragged.from_rows([[1, 2, 3], [4, 5], [6, 7, 8]])
  assert rows_of(objectives.windows(rows, 3)) == [[1, 2, 3], [4, 5, 6], [7, 8]]
  assert rows_of(objectives.windows(rows.take([0, 1, 1]), 3)) == [[1, 2, 3], [4, 5, 4, 5]]
  assert rows_of(objectives.windows(rows.take([2, 0]), 10)) == [[6, 7, 8, 1, 2, 3]]


# Packing.


@given(
  st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4)), min_size=1, max_size=12),
  st.integers(6, 15),
  st.integers(4, 9),
)
def test_packed_rows_hold_every_pair_in_order_and_as_many_as_fit(sizes, source_len, target_len):
  pairs = Pairs(texts(0, [s for s, _ in sizes]), texts(1, [t for _, t in sizes]))
  packed = objectives.pack(pairs, source_len=source_len, target_len=target_len)
  found, firsts = [], []
  for i in range(len(packed)):
    sides = []
    for name in ("source", "target"):
      row = getattr(packed, name)[i]
      segments = getattr(packed, f"{name}_segments")[i]
      assert len(row) <= (source_len if name == "source" else target_len)
      assert np.unique(segments).tolist() == list(range(1, segments.max() + 1))
      assert (np.diff(segments) >= 0).all()
      sides.append([row[segments == s].tolist() for s in range(1, segments.max() + 1)])
    firsts.append((len(sides[0][0]), len(sides[1][0])))
    found += list(zip(*sides, strict=True))
  assert found == list(zip(rows_of(pairs.source), rows_of(pairs.target), strict=True))
  for i, (source, target) in enumerate(firsts[1:]):  # the next pair would not have fit
    over = packed.source.lengths[i] + source > source_len
    assert over or packed.target.lengths[i] + target > target_len


def test_packing_takes_rows_in_the_order_given():
  pairs = Pairs(Ragged.from_rows([[2, 3], [4], [5, 6, 7]]), Ragged.from_rows([[8], [9], [10]]))
  packed = objectives.pack(pairs.take(np.array([2, 0, 1])), source_len=5, target_len=9)
  assert rows_of(packed.source) == [[5, 6, 7, 2, 3], [4]]
  assert rows_of(packed.source_segments) == [[1, 1, 1, 2, 2], [1]]
  assert rows_of(packed.target) == [[10, 8], [9]]


def test_a_pair_that_fits_nowhere_is_told():
  pairs = Pairs(texts(0, [3, 9]), texts(1, [2, 2]))
  with pytest.raises(ValueError, match="source of 9 tokens does not fit in 8"):
    objectives.pack(pairs, source_len=8, target_len=8)
  packed = objectives.pack(pairs, source_len=12, target_len=8)
  with pytest.raises(ValueError, match="packed already"):
    objectives.pack(packed, source_len=12, target_len=8)


def lively():
  params = jax.eval_shape(lambda: t5.init(jax.random.key(0), CFG))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: (0.5 * rng.normal(size=x.shape)).astype(np.float32), params)


def batch_of(pairs, widths):
  columns = {n: widths[n.split("_")[0]] for n in ("source", "target", *SEGMENTS)}
  return pairs.gather(np.arange(len(pairs)), columns)


SEGMENTS = ("source_segments", "target_segments")


def test_packed_pairs_have_the_loss_and_gradient_of_the_same_pairs_apart():
  pairs = Pairs(texts(0, [3, 5, 2, 6, 1]), texts(1, [2, 3, 4, 1, 2]))
  packed = objectives.pack(pairs, source_len=10, target_len=7)
  assert len(packed) == 2
  apart = batch_of(pairs, {"source": 6, "target": 4})
  together = batch_of(packed, {"source": 10, "target": 7})
  assert together.keys() == {"source", "target", *SEGMENTS} and apart.keys() < together.keys()

  @jax.jit
  def loss(params, batch):
    out = objectives.text_to_text(params, CFG, batch)
    return out.sum, out

  (a, out), grad_a = jax.value_and_grad(loss, has_aux=True)(lively(), apart)
  (b, packed_out), grad_b = jax.value_and_grad(loss, has_aux=True)(lively(), together)
  assert out.weight == packed_out.weight == 12
  np.testing.assert_allclose(a, b, rtol=1e-5)
  assert out.metrics["accuracy"] == packed_out.metrics["accuracy"]
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), grad_a, grad_b)
  # It takes the segments: as one long text the same tokens are something else.
  plain = {name: together[name] for name in ("source", "target")}
  assert abs(loss(lively(), plain)[0] - a) > 0.01


def test_rows_that_fill_the_batch_count_for_nothing():
  pairs = Pairs(texts(0, [3, 5, 2]), texts(1, [2, 3, 4]))
  batch = batch_of(pairs, {"source": 6, "target": 4})
  loss = jax.jit(lambda batch: objectives.text_to_text(lively(), CFG, batch))
  weighted = loss({**batch, "weight": np.array([1, 0, 1], np.float32)})
  alone = [loss({name: x[i : i + 1] for name, x in batch.items()}) for i in (0, 2)]
  np.testing.assert_allclose(weighted.sum, sum(a.sum for a in alone), rtol=1e-5)
  assert weighted.weight == 2 + 4
  assert weighted.metrics["accuracy"][1] == 6


def test_shift_right_by_hand():
  target = jnp.array([[5, 6, 1, 7, 1, 0]])
  np.testing.assert_array_equal(objectives.shift_right(target), [[0, 5, 6, 1, 7, 1]])
  segments = jnp.array([[1, 1, 1, 2, 2, 0]])
  np.testing.assert_array_equal(objectives.shift_right(target, segments), [[0, 5, 6, 0, 7, 0]])


# Through the loader.


def test_buckets_hold_each_pair_whole_and_once():
  lengths = np.random.default_rng(0).integers(1, 33, 57)
  pairs = Pairs(texts(0, lengths), texts(1, np.full(57, 3)))
  batches = Batches(pairs, 8, max_len=[8, 16, 32], seed=3)
  found = []
  for i in range(len(batches)):
    batch = batches[i]
    width = batch["source"].shape[1]
    real = batch["weight"] > 0
    used = (batch["source"][real] != 0).sum(1)
    assert width in (8, 16, 32) and (used > {8: 0, 16: 8, 32: 16}[width]).all()
    assert batch["target"].shape == (8, 3)
    found += [tuple(row[row != 0].tolist()) for row in batch["source"][real]]
  assert sorted(found) == sorted(map(tuple, rows_of(pairs.source)))


def test_packed_pairs_go_through_the_loader():
  pairs = Pairs(texts(0, [3, 5, 2, 6, 1]), texts(1, [2, 3, 4, 1, 2]))
  packed = objectives.pack(pairs, source_len=10, target_len=7)
  batch = Batches(packed, 2, max_len=10)[0]
  assert {name: x.shape for name, x in batch.items()} == {
    "source": (2, 10), "target": (2, 7), "source_segments": (2, 10), "target_segments": (2, 7),
    "weight": (2,),
  }  # fmt: skip


def test_a_source_that_would_lose_its_end_is_told():
  pairs = Pairs(texts(0, [3, 9]), texts(1, [2, 2]))
  with pytest.raises(ValueError, match="source of 9 tokens does not fit in 8"):
    Batches(pairs, 2, max_len=8)[0]


def test_columns_of_unequal_length_are_told():
  with pytest.raises(ValueError, match="equally long"):
    Pairs(texts(0, [3, 9]), texts(1, [2]))
