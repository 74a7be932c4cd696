import json

import chex
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from recjax.data.errors import DataError
from recjax.text import weights
from recjax.text.weights import Rule

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.array([7.0, 8.0], np.float32)
RULES = [Rule("layer.weight", "layer/kernel", True), Rule("norm.weight", "norm/scale")]
TENSORS = {"layer.weight": A, "norm.weight": B}
PARAMS = {"layer": {"kernel": A.T}, "norm": {"scale": B}}


def shards(folder, home):
  """Two shards of A and B, and an index that says that they lie where `home` says."""
  safetensors.numpy.save_file({"a": A}, folder / "model-1.safetensors")
  safetensors.numpy.save_file({"b": B}, folder / "model-2.safetensors")
  (folder / "config.json").write_text("{}")
  index = folder / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": home}))
  return folder


def test_what_is_written_is_read(tmp_path):
  weights.write(
    tmp_path / "new", {"d": 3}, {"a": A.T, "b": B, "n": np.float32(2), "i": np.arange(3)}
  )
  config, tensors = weights.read(tmp_path / "new")
  assert config == {"d": 3}
  chex.assert_trees_all_equal(
    tensors, {"a": A.T, "b": B, "n": np.array(2, np.float32), "i": np.arange(3)}
  )
  assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
    "config.json",
    "model.safetensors",
  ]


def test_writing_again_replaces(tmp_path):
  weights.write(tmp_path, {"d": 3}, {"a": A})
  weights.write(tmp_path, {"d": 4}, {"b": B})
  config, tensors = weights.read(tmp_path)
  assert config == {"d": 4} and tensors.keys() == {"b"}


def test_torch_reads_the_format(tmp_path):
  pytest.importorskip("torch", reason="pip install recjax[parity]")
  from safetensors import safe_open

  weights.write(tmp_path, {}, {"a": A.T})
  with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
    assert file.metadata() == {"format": "pt"}
    np.testing.assert_array_equal(file.get_tensor("a").numpy(), A.T)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_floats_of_any_width_become_float32(tmp_path, dtype):
  weights.write(tmp_path, {}, {"a": A.astype(dtype)})
  found = weights.read(tmp_path)[1]["a"]
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, A)  # small integers are exact in all of them


def test_shards_are_joined(tmp_path):
  home = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
  _, tensors = weights.read(shards(tmp_path, home))
  chex.assert_trees_all_equal(tensors, {"a": A, "b": B})


@pytest.mark.parametrize(
  "home, message",
  [
    ({"a": "model-1.safetensors", "b": "model-3.safetensors"}, r"model-3.*no such file"),
    ({"a": "model-1.safetensors", "b": "model-1.safetensors"}, "differ in b"),
    ({"a": "../model-1.safetensors"}, "outside the folder"),
    ({"a": "/etc/passwd"}, "outside the folder"),
    ({"a": 3}, "weight_map"),
    (None, "weight_map"),
  ],
)
def test_an_index_that_is_wrong_is_told(tmp_path, home, message):
  with pytest.raises(DataError, match=message):
    weights.read(shards(tmp_path, home))


def test_an_incomplete_folder_is_told(tmp_path):
  with pytest.raises(DataError, match="no such folder"):
    weights.read(tmp_path / "nowhere")
  with pytest.raises(DataError, match=r"config.json.*no such file"):
    weights.read(tmp_path)
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(DataError, match="no model.safetensors"):
    weights.read(tmp_path)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(DataError, match="not valid JSON"):
    weights.read(tmp_path)
  (tmp_path / "config.json").write_text("[]")
  with pytest.raises(DataError, match="not a JSON object"):
    weights.read(tmp_path)


def test_a_pickle_is_refused_with_the_remedy(tmp_path):
  (tmp_path / "config.json").write_text("{}")
  (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
  with pytest.raises(DataError, match=r"never unpickles.*safe_serialization"):
    weights.read(tmp_path)


def test_any_truncation_is_told(tmp_path):
  weights.write(tmp_path, {}, {"a": A, "b": B})
  whole = (tmp_path / "model.safetensors").read_bytes()
  for length in range(0, len(whole), 7):
    (tmp_path / "model.safetensors").write_bytes(whole[:length])
    with pytest.raises(DataError, match="truncated or corrupt"):
      weights.read(tmp_path)


def test_garbage_is_told(tmp_path):
  weights.write(tmp_path, {}, {"a": A})
  (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
  with pytest.raises(DataError, match="truncated or corrupt"):
    weights.read(tmp_path)


def test_rules_fill_and_empty_are_inverse():
  chex.assert_trees_all_equal(weights.fill(RULES, TENSORS, PARAMS), PARAMS)
  chex.assert_trees_all_equal(weights.empty(RULES, PARAMS), TENSORS)


def test_every_problem_is_in_one_error():
  tensors = {
    "layer.weight": A.T,  # [3, 2], and the rule transposes
    "lone.weight": B,
    "other.weight": A,
  }
  with pytest.raises(DataError) as caught:
    weights.fill(RULES, tensors, PARAMS)
  message = str(caught.value)
  assert "4 problems" in message
  assert "mis-shaped: layer.weight is (3, 2), expected (2, 3)" in message
  assert "missing: norm.weight (2,)" in message
  assert "unknown: lone.weight (2,)" in message
  assert "unknown: other.weight (2, 3)" in message


def test_what_may_be_ignored_is_ignored_and_nothing_else():
  extra = {**TENSORS, "x.position_ids": B}
  chex.assert_trees_all_equal(weights.fill(RULES, extra, PARAMS, ignore=["*.position_ids"]), PARAMS)
  with pytest.raises(DataError, match="unknown: x.position_ids"):
    weights.fill(RULES, extra, PARAMS, ignore=["position_ids"])


def test_weights_that_are_not_finite_are_told():
  with pytest.raises(DataError, match="not finite: norm.weight"):
    weights.fill(RULES, {**TENSORS, "norm.weight": np.array([1, np.nan], np.float32)}, PARAMS)


def test_rules_that_do_not_fit_the_params_are_told():
  with pytest.raises(DataError, match="no rule fills norm/scale"):
    weights.fill(RULES[:1], {"layer.weight": A}, PARAMS)
  with pytest.raises(DataError, match="no such parameter: bias"):
    weights.fill([*RULES, Rule("bias", "bias")], {**TENSORS, "bias": B}, PARAMS)
  with pytest.raises(DataError, match="norm/scale"):
    weights.empty(RULES[:1], PARAMS)
