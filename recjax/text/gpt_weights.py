"""GPT-2 and the LLaMA family (LLaMA, Qwen2): a Hugging Face folder <-> `nn.gpt`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from recjax.data.errors import DataError
from recjax.nn import gpt
from recjax.text import weights
from recjax.text.weights import Rule
from recjax.types import Params

_HEAD = "lm_head.weight"
# What a fused tensor of GPT-2 is cut into; these names are ours, between file and params.
_QKV = ("query", "key", "value")
# Causal masks and wave lengths, which old versions of transformers saved.
_BUFFERS = ("h.*.attn.bias", "h.*.attn.masked_bias", "model.layers.*.rotary_emb.inv_freq")
_AGAIN = "Download the folder again."


def load(folder: str | os.PathLike, *, dtype: str = "float32") -> tuple[gpt.Config, Params]:
  """The config and float32 params of a folder with config.json and safetensors, or shards."""
  entries, tensors = weights.read(folder)
  tensors = {name.removeprefix("transformer."): x for name, x in tensors.items()}  # GPT-2's, or not
  cfg = config(entries, tensors, path=folder, dtype=dtype)
  if cfg.theta is None:
    tensors = _cut(cfg, tensors)
  template = jax.eval_shape(lambda: gpt.init(jax.random.key(0), cfg))
  ignore = _BUFFERS + ((_HEAD,) if cfg.tied else ())
  return cfg, weights.fill(rules(cfg), tensors, template, ignore=ignore)


def save(
  folder: str | os.PathLike,
  cfg: gpt.Config,
  params: Params,
  *,
  entries: Mapping[str, Any] | None = None,  # further ones for config.json
) -> None:
  """A folder that `transformers` and `load` read."""
  told = {**to_entries(cfg), **(entries or {})}
  weights.write(folder, told, tensors(cfg, params))


def tensors(cfg: gpt.Config, params: Params) -> weights.Tensors:
  """The params (or their gradients) under the names of the checkpoint."""
  found = weights.empty(rules(cfg), params)
  if cfg.theta is not None:
    return found
  for i in range(cfg.layers):
    for kind, axis in (("weight", 1), ("bias", 0)):
      name = f"h.{i}.attn.c_attn"
      parts = [found.pop(f"{name}.{part}.{kind}") for part in _QKV]
      found[f"{name}.{kind}"] = np.concatenate(parts, axis)
  return {name if name == _HEAD else f"transformer.{name}": x for name, x in found.items()}


def rules(cfg: gpt.Config) -> list[Rule]:
  """Every tensor and its place, by the names of Hugging Face.

  GPT-2's go without `transformer.`, and its fused c_attn as three.
  """
  names = _LLAMA if cfg.theta is not None else _GPT2
  turned = cfg.theta is not None  # GPT-2 keeps [in, out], as we do
  biased = dict.fromkeys(_QKV, cfg.qkv_bias) | {"out": cfg.out_bias}

  def norm(name: str, path: str) -> list[Rule]:
    found = [Rule(f"{name}.weight", f"{path}/scale")]
    return found if cfg.rms else [*found, Rule(f"{name}.bias", f"{path}/bias")]

  found = [Rule(names["embed"], "embed/embedding"), *norm(names["norm"], "norm")]
  if cfg.theta is None:
    found.append(Rule("wpe.weight", "positions/embedding"))
  if not cfg.tied:
    found.append(Rule(_HEAD, "head/kernel", True))
  for i in range(cfg.layers):
    for path, name in names["layer"].items():
      name, path = f"{names['layers']}.{i}.{name}", f"layer_{i}/{path}"
      if path.endswith("_norm"):
        found += norm(name, path)
      elif not path.endswith("gate") or cfg.gated:
        found.append(Rule(f"{name}.weight", f"{path}/kernel", turned))
        if biased.get(path.rpartition("/")[2], cfg.ff_bias):
          found.append(Rule(f"{name}.bias", f"{path}/bias"))
  return found


_GPT2: dict[str, Any] = {
  "embed": "wte.weight",
  "norm": "ln_f",
  "layers": "h",
  "layer": {
    "attention_norm": "ln_1",
    **{f"attention/{part}": f"attn.c_attn.{part}" for part in _QKV},
    "attention/out": "attn.c_proj",
    "ff_norm": "ln_2",
    "ff/wide": "mlp.c_fc",
    "ff/narrow": "mlp.c_proj",
  },
}
_LLAMA: dict[str, Any] = {
  "embed": "model.embed_tokens.weight",
  "norm": "model.norm",
  "layers": "model.layers",
  "layer": {
    "attention_norm": "input_layernorm",
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff/gate": "mlp.gate_proj",
    "ff/wide": "mlp.up_proj",
    "ff/narrow": "mlp.down_proj",
  },
}


def _cut(cfg: gpt.Config, tensors: Mapping[str, np.ndarray]) -> weights.Tensors:
  """GPT-2's fused projections as three; one of a wrong shape stays, and is told as it is."""
  found = dict(tensors)
  for i in range(cfg.layers):
    for kind, shape in (("weight", (cfg.dim, 3 * cfg.dim)), ("bias", (3 * cfg.dim,))):
      name = f"h.{i}.attn.c_attn"
      if name + "." + kind in found and found[f"{name}.{kind}"].shape == shape:
        parts = np.split(found.pop(f"{name}.{kind}"), 3, axis=-1)
        found |= {f"{name}.{part}.{kind}": x for part, x in zip(_QKV, parts, strict=True)}
  return found


def config(
  entries: Mapping[str, Any],
  tensors: Mapping[str, np.ndarray],
  *,
  path: str | os.PathLike | None = None,
  dtype: str = "float32",
) -> gpt.Config:
  """The config of config.json; what this model cannot compute is an error that names the field."""
  kind = entries.get("model_type")
  if kind not in _FIXED:
    raise DataError(
      f"model_type is {kind!r}; known are {', '.join(_FIXED)}",
      path=path,
      remedy="Give the folder of a decoder-only model of these families.",
    )
  for name, known in _FIXED[kind].items():
    if entries.get(name, known[0]) not in known:
      shown = " or ".join(map(repr, known))
      raise DataError(
        f"{name} of config.json is {entries[name]!r}, not {shown}",
        path=path,
        remedy=f"Give a checkpoint of the plain {kind} architecture.",
      )
  sizes = _SIZES["gpt2" if kind == "gpt2" else "llama"]
  found = {}
  for ours, name in sizes.items():
    if entries.get(name) is None:
      if name not in _OPTIONAL:
        raise DataError(f"config.json does not say {name!r}", path=path, remedy=_AGAIN)
      continue
    value, real = entries[name], name in _REAL
    if isinstance(value, bool) or not isinstance(value, (int, float) if real else int):
      raise DataError(f"{name} of config.json is {value!r}", path=path, remedy=_AGAIN)
    if value < 0 or (value == 0 and not real):
      raise DataError(f"{name} of config.json is {value!r}", path=path, remedy=_AGAIN)
    found[ours] = float(value) if real else value
  # The usual is said in one way, whether a file says it or not.
  if found.get("kv_heads") == found["heads"]:
    del found["kv_heads"]
  if found.get("head_dim", 0) * found["heads"] == found["dim"]:
    del found["head_dim"]
  one = entries.get("tie_word_embeddings", kind == "gpt2")
  table = tensors.get((_GPT2 if kind == "gpt2" else _LLAMA)["embed"])
  # Some folders keep a copy of the table as the head.
  tied = np.array_equal(tensors[_HEAD], table) if _HEAD in tensors and table is not None else one
  try:
    if kind == "gpt2":
      return _gpt2(entries, found, tied=tied, dtype=dtype, path=path)
    return _llama(entries, found, tied=tied, dtype=dtype, path=path)
  except ValueError as error:  # sizes that do not fit each other
    if isinstance(error, DataError):
      raise
    raise DataError(f"the sizes of config.json: {error}", path=path, remedy=_AGAIN) from error


def _gpt2(entries, found, *, tied, dtype, path) -> gpt.Config:
  for name in ("embd_pdrop", "resid_pdrop"):
    if entries.get(name, 0.1) != found.get("dropout", 0.1):
      raise DataError(
        "embd_pdrop and resid_pdrop of config.json differ",
        path=path,
        remedy="Set them to one value; they matter in training alone.",
      )
  found.setdefault("ff", 4 * found["dim"])
  return gpt.Config(**found, tied=tied, dtype=dtype)


def _llama(entries, found, *, tied, dtype, path) -> gpt.Config:
  # From version 5 on transformers keeps base and scaling in one entry, before in two.
  rope = entries.get("rope_parameters") or entries.get("rope_scaling") or {}
  theta = rope.get("rope_theta", entries.get("rope_theta", 1e4))
  kind = rope.get("rope_type", rope.get("type", "default"))
  if kind not in ("default", "llama3"):
    raise DataError(
      f"rope_type of config.json is {kind!r}, not 'default' or 'llama3'",
      path=path,
      remedy="Give a checkpoint without this way to lengthen the context.",
    )
  if rope.get("partial_rotary_factor", 1.0) != 1.0:
    raise DataError(
      f"partial_rotary_factor of config.json is {rope['partial_rotary_factor']!r}, not 1.0",
      path=path,
      remedy="Give a checkpoint of the plain architecture.",
    )
  scaling = ()
  if kind == "llama3":
    missing = [name for name in _ROPE if name not in rope]
    if missing:
      raise DataError(f"config.json does not say {missing[0]!r}", path=path, remedy=_AGAIN)
    scaling = tuple(float(rope[name]) for name in _ROPE)
  attention_bias = bool(entries.get("attention_bias", False))
  fixed = {
    "qkv_bias": attention_bias or entries["model_type"] == "qwen2",
    "out_bias": attention_bias,
    "ff_bias": bool(entries.get("mlp_bias", False)),
  }
  family = {"rms": True, "gated": True, "dropout": 0.0}
  return gpt.Config(
    **{"attention_dropout": 0.0, "eps": 1e-6, **found, **fixed, **family},
    theta=float(theta),
    scaling=scaling,
    tied=tied,
    dtype=dtype,
  )


# The values that this model computes, the default first.
_FIXED: dict[str, dict[str, tuple]] = {
  "gpt2": {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
  },
  "llama": {"hidden_act": ("silu",), "pretraining_tp": (1,)},
  "qwen2": {"hidden_act": ("silu",), "use_sliding_window": (False,)},
}
_ROPE = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_SIZES = {
  "gpt2": {
    "vocab": "vocab_size",
    "dim": "n_embd",
    "heads": "n_head",
    "ff": "n_inner",
    "layers": "n_layer",
    "max_len": "n_positions",
    "eps": "layer_norm_epsilon",
    "dropout": "resid_pdrop",
    "attention_dropout": "attn_pdrop",
  },
  "llama": {
    "vocab": "vocab_size",
    "dim": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ff": "intermediate_size",
    "layers": "num_hidden_layers",
    "max_len": "max_position_embeddings",
    "eps": "rms_norm_eps",
    "attention_dropout": "attention_dropout",
  },
}
_OPTIONAL = {
  "n_inner", "layer_norm_epsilon", "resid_pdrop", "attn_pdrop", "num_key_value_heads", "head_dim",
  "rms_norm_eps", "attention_dropout",
}  # fmt: skip
_REAL = {"layer_norm_epsilon", "resid_pdrop", "attn_pdrop", "rms_norm_eps", "attention_dropout"}


def to_entries(cfg: gpt.Config) -> dict[str, Any]:
  """The entries of config.json; ids of special tokens are for the caller to add."""
  if cfg.theta is None:
    return _gpt2_entries(cfg)
  if not (cfg.rms and cfg.gated):
    raise ValueError(f"no family of Hugging Face is rotary without RMS norms and a gate: {cfg}")
  qwen = cfg.qkv_bias and not cfg.out_bias
  if (cfg.out_bias and not cfg.qkv_bias) or (qwen and cfg.ff_bias):
    raise ValueError(f"no family of Hugging Face has just these biases: {cfg}")
  if cfg.dropout:
    raise ValueError("the LLaMA family has dropout in attention alone: set dropout to 0 to save it")
  entries = {name: getattr(cfg, ours) for ours, name in _SIZES["llama"].items()}
  entries |= {"num_key_value_heads": cfg.groups, "head_dim": cfg.width}
  kind = "qwen2" if qwen else "llama"
  rope = {"rope_theta": cfg.theta, "rope_type": "default"}
  if cfg.scaling:
    rope |= dict(zip(_ROPE, cfg.scaling, strict=True)) | {"rope_type": "llama3"}
    rope["original_max_position_embeddings"] = int(cfg.scaling[3])
  entries |= {
    "architectures": ["Qwen2ForCausalLM" if qwen else "LlamaForCausalLM"],
    "model_type": kind,
    "hidden_act": "silu",
    "rope_theta": cfg.theta,  # for versions before 5
    "rope_parameters": rope,
    "rope_scaling": rope if cfg.scaling else None,
    "tie_word_embeddings": cfg.tied,
  }
  if qwen:
    return entries | {"use_sliding_window": False}
  return entries | {"attention_bias": cfg.qkv_bias, "mlp_bias": cfg.ff_bias}


def _gpt2_entries(cfg: gpt.Config) -> dict[str, Any]:
  same = (*_SIZES["gpt2"], "kv_heads", "head_dim", "tied", "dtype", "remat")
  plain = gpt.Config(**{name: getattr(cfg, name) for name in same})
  if cfg.groups != cfg.heads or cfg.width * cfg.heads != cfg.dim or cfg != plain:
    raise ValueError(f"GPT-2 has LayerNorms, biases and equal heads, and no gate: {cfg}")
  return {name: getattr(cfg, ours) for ours, name in _SIZES["gpt2"].items()} | {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "embd_pdrop": cfg.dropout,
    "tie_word_embeddings": cfg.tied,
  }
