"""T5 of a Hugging Face folder (v1.0, v1.1, Flan, an encoder) <-> `nn.t5` config and params."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from recjax.data.errors import DataError
from recjax.nn import t5
from recjax.text import weights
from recjax.text.weights import Rule
from recjax.types import PAD, Params

# Copies of the shared table, and a table that early checkpoints hold and nothing reads.
_NOT_READ = (
  "encoder.embed_tokens.weight",
  "decoder.embed_tokens.weight",
  "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
)
_HEAD, _TABLE = "lm_head.weight", "shared.weight"


def load(
  folder: str | os.PathLike, *, encoder_only: bool = False, dtype: str = "float32"
) -> tuple[t5.Config, Params]:
  """The config and params of a folder; `encoder_only` leaves the decoder of a whole T5 out."""
  entries, tensors = weights.read(folder)
  if _TABLE not in tensors and _NOT_READ[0] in tensors:  # some folders keep only a copy
    tensors[_TABLE] = tensors[_NOT_READ[0]]
  for copy in _NOT_READ[:2]:
    if copy in tensors and not np.array_equal(tensors[copy], tensors.get(_TABLE)):
      raise DataError(
        f"{copy} differs from {_TABLE}",
        path=folder,
        remedy="A T5 has one table of tokens; these weights are of another model.",
      )
  cfg = config(entries, tensors, path=folder, encoder_only=encoder_only, dtype=dtype)
  ignore = [*_NOT_READ, *([_HEAD] if cfg.tied else [])]
  if not cfg.decoder_layers:
    ignore += ["decoder.*", _HEAD]
  try:
    template = jax.eval_shape(lambda: t5.init(jax.random.key(0), cfg))
  except (ValueError, TypeError, ZeroDivisionError) as error:  # sizes that no T5 has
    raise DataError(f"the sizes of config.json: {error}", path=folder, remedy=_AGAIN) from error
  return cfg, weights.fill(rules(cfg), tensors, template, ignore=ignore)


def save(
  folder: str | os.PathLike,
  cfg: t5.Config,
  params: Params,
  *,
  entries: Mapping[str, Any] | None = None,  # further ones for config.json
) -> None:
  """A folder that `transformers` and `load` read."""
  params, cfg = t5.unstack(params, cfg)
  tensors = weights.empty(rules(cfg), params)
  weights.write(folder, {**to_entries(cfg), **(entries or {})}, tensors)


def rules(cfg: t5.Config) -> list[Rule]:
  """Every tensor of a T5, by the names of Hugging Face."""
  found = [Rule(_TABLE, "embed/embedding")]
  for stack, count in (("encoder", cfg.layers), ("decoder", cfg.decoder_layers)):
    if not count:
      continue
    first = f"{stack}.block.0.layer.0.SelfAttention"
    found.append(Rule(f"{first}.relative_attention_bias.weight", f"{stack}/distances/embedding"))
    found.append(Rule(f"{stack}.final_layer_norm.weight", f"{stack}/norm/scale"))
    parts = [("SelfAttention", "attention"), ("EncDecAttention", "cross"), ("DenseReluDense", "ff")]
    if stack == "encoder":
      del parts[1]
    for i in range(count):
      for j, (theirs, ours) in enumerate(parts):
        layer, path = f"{stack}.block.{i}.layer.{j}", f"{stack}/layer_{i}"
        found.append(Rule(f"{layer}.layer_norm.weight", f"{path}/{ours}_norm/scale"))
        for short, name in _FF[cfg.gated] if ours == "ff" else _ATTENTION:
          rule = Rule(f"{layer}.{theirs}.{short}.weight", f"{path}/{ours}/{name}/kernel", True)
          found.append(rule)
  if cfg.decoder_layers and not cfg.tied:
    found.append(Rule(_HEAD, "head/kernel", True))
  return found


_ATTENTION = (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out"))
_FF = {
  False: (("wi", "wide"), ("wo", "narrow")),
  True: (("wi_0", "gate"), ("wi_1", "wide"), ("wo", "narrow")),
}


def config(
  entries: Mapping[str, Any],
  tensors: Mapping[str, np.ndarray],
  *,
  path: str | os.PathLike | None = None,
  encoder_only: bool = False,
  dtype: str = "float32",
) -> t5.Config:
  """The config of config.json. Whether the head is tied is what the tensors say."""
  _check(entries, path)
  act = entries.get("feed_forward_proj", "relu")
  if act not in ("relu", "gated-gelu"):
    remedy = "T5 1.0 has `relu`, 1.1 and Flan have `gated-gelu`."
    raise DataError(f"feed_forward_proj is {act!r}", path=path, remedy=remedy)
  alone = encoder_only or "T5EncoderModel" in (entries.get("architectures") or ())
  # Early folders say by one entry both that the head is tied and that it reads scaled states.
  one = entries.get("tie_word_embeddings", True)
  scaled = entries.get("scale_decoder_outputs", one)
  tied = np.array_equal(tensors[_HEAD], tensors.get(_TABLE)) if _HEAD in tensors else one
  sizes = {ours: entries[name] for ours, name in _SIZES.items() if name in entries}
  layers = sizes.get("layers", t5.Config.layers)
  decoder_layers = entries.get("num_decoder_layers")
  return t5.Config(
    **sizes,
    decoder_layers=0 if alone else layers if decoder_layers is None else decoder_layers,
    gated=act == "gated-gelu",
    tied=tied,
    scaled=scaled,
    dtype=dtype,
  )


def _check(entries: Mapping[str, Any], path: str | os.PathLike | None) -> None:
  if entries.get("model_type", "t5") != "t5":
    raise DataError(f"model_type is {entries['model_type']!r}", path=path, remedy="Give a T5.")
  for name in (*_SIZES.values(), "num_decoder_layers"):
    value = entries.get(name, 0)
    kind = float if name in ("dropout_rate", "layer_norm_epsilon") else int
    none = value is None and name == "num_decoder_layers"  # as many as the encoder has
    if isinstance(value, bool) or not (none or isinstance(value, int | kind)):
      raise DataError(f"{name} of config.json is {value!r}", path=path, remedy=_AGAIN)
  for name in ("pad_token_id", "decoder_start_token_id"):
    if entries.get(name) not in (PAD, None):
      raise DataError(
        f"{name} of config.json is {entries[name]!r}", path=path, remedy="T5 pads and starts by 0."
      )


_AGAIN = "Download the folder again."
_SIZES = {
  "vocab": "vocab_size",
  "dim": "d_model",
  "heads": "num_heads",
  "head_dim": "d_kv",
  "ff": "d_ff",
  "layers": "num_layers",
  "buckets": "relative_attention_num_buckets",
  "max_distance": "relative_attention_max_distance",
  "dropout": "dropout_rate",
  "eps": "layer_norm_epsilon",
}


def to_entries(cfg: t5.Config) -> dict[str, Any]:
  """The entries of config.json; the tokens are T5's own: PAD 0, which also starts, and end 1."""
  whole = cfg.decoder_layers > 0
  entries = {name: getattr(cfg, ours) for ours, name in _SIZES.items()}
  entries |= {
    "architectures": ["T5ForConditionalGeneration" if whole else "T5EncoderModel"],
    "model_type": "t5",
    "feed_forward_proj": "gated-gelu" if cfg.gated else "relu",
    "tie_word_embeddings": cfg.tied,
    "scale_decoder_outputs": cfg.scaled,
    "is_encoder_decoder": whole,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
  }
  return entries | ({"num_decoder_layers": cfg.decoder_layers} if whole else {})
