"""BERT and MiniLM: a Hugging Face folder <-> (bert.Config, params).

The tensors may carry the prefix `bert.` (a checkpoint with a task head) or none (an encoder
alone); the task head (`cls.*`, `classifier.*`) and the pooler may be there or not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import jax

from recjax.data.errors import DataError
from recjax.nn import bert
from recjax.text import weights
from recjax.text.weights import Rule
from recjax.types import Params

_PREFIX = "bert."
_HEADS = ("cls.*", "classifier.*", "qa_outputs.*")  # of the task a checkpoint was trained on
_BUFFERS = ("*embeddings.position_ids",)  # arange, which old versions of transformers saved
# Ours -> theirs, and the only value of it that this encoder knows how to compute.
_FIXED = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}


def load(folder: str | os.PathLike) -> tuple[bert.Config, Params]:
  """The config and float32 params of a folder with config.json and model.safetensors."""
  told, found = weights.read(folder)
  if any(name.startswith(_PREFIX) for name in found):
    found = {name.removeprefix(_PREFIX): tensor for name, tensor in found.items()}
  cfg = config(told, pooler="pooler.dense.weight" in found, folder=folder)
  template = jax.eval_shape(lambda key: bert.init(key, cfg), jax.random.key(0))
  return cfg, weights.fill(rules(cfg), found, template, ignore=_HEADS + _BUFFERS)


def save(folder: str | os.PathLike, cfg: bert.Config, params: Params) -> None:
  """Write a folder that `load` and transformers' `BertModel` read."""
  told = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": cfg.vocab,
    "hidden_size": cfg.dim,
    "num_hidden_layers": cfg.layers,
    "num_attention_heads": cfg.heads,
    "intermediate_size": cfg.ff,
    "max_position_embeddings": cfg.max_len,
    "type_vocab_size": cfg.types,
    "layer_norm_eps": cfg.eps,
    "hidden_dropout_prob": cfg.dropout,
    "attention_probs_dropout_prob": cfg.attention_dropout,
    "pad_token_id": 0,
  }
  weights.write(folder, told | _FIXED, tensors(cfg, params))


def tensors(cfg: bert.Config, params: Params) -> weights.Tensors:
  """The params (or their gradients) under the names of the checkpoint."""
  return weights.empty(rules(cfg), params)


def config(told: Mapping[str, Any], *, pooler: bool, folder: str | os.PathLike) -> bert.Config:
  """The sizes in a config.json; what this encoder cannot compute is an error."""
  if told.get("model_type", "bert") != "bert":
    raise DataError(
      f"a model of type {told['model_type']!r}, not 'bert'",
      path=folder,
      remedy="Give the folder of a BERT or MiniLM encoder.",
    )
  for name, value in _FIXED.items():
    if told.get(name, value) != value:
      raise DataError(
        f"{name} is {told[name]!r}; only {value!r} is known",
        path=folder,
        remedy="Give a checkpoint of the plain BERT architecture.",
      )
  try:
    return bert.Config(
      vocab=told["vocab_size"],
      dim=told["hidden_size"],
      layers=told["num_hidden_layers"],
      heads=told["num_attention_heads"],
      ff=told["intermediate_size"],
      max_len=told["max_position_embeddings"],
      types=told["type_vocab_size"],
      eps=told["layer_norm_eps"],
      dropout=told["hidden_dropout_prob"],
      attention_dropout=told["attention_probs_dropout_prob"],
      pooler=pooler,
    )
  except KeyError as error:
    raise DataError(
      f"config.json does not say {error}", path=folder, remedy="Download the whole folder."
    ) from None


def rules(cfg: bert.Config) -> list[Rule]:
  """Every tensor of the checkpoint and its place in the params."""

  def dense(name: str, path: str) -> list[Rule]:
    return [Rule(f"{name}.weight", f"{path}/kernel", True), Rule(f"{name}.bias", f"{path}/bias")]

  def norm(name: str, path: str) -> list[Rule]:
    return [Rule(f"{name}.weight", f"{path}/scale"), Rule(f"{name}.bias", f"{path}/bias")]

  out = [
    Rule(f"embeddings.{name}.weight", f"{path}/embedding")
    for name, path in (
      ("word_embeddings", "words"),
      ("position_embeddings", "positions"),
      ("token_type_embeddings", "types"),
    )
  ]
  out += norm("embeddings.LayerNorm", "norm")
  for i in range(cfg.layers):
    name, path = f"encoder.layer.{i}", f"layer_{i}"
    for part in ("query", "key", "value"):
      out += dense(f"{name}.attention.self.{part}", f"{path}/{part}")
    out += dense(f"{name}.attention.output.dense", f"{path}/out")
    out += norm(f"{name}.attention.output.LayerNorm", f"{path}/attention_norm")
    out += dense(f"{name}.intermediate.dense", f"{path}/wide")
    out += dense(f"{name}.output.dense", f"{path}/narrow")
    out += norm(f"{name}.output.LayerNorm", f"{path}/ff_norm")
  if cfg.pooler:
    out += dense("pooler.dense", "pooler")
  return out
