"""LoRA as a PEFT folder (adapter_config.json, adapter_model.safetensors) <-> `nn.lora`.

PEFT keeps A as [R, I] and B as [O, R] under `base_model.model.`, the module's name, `lora_A.weight`
and `lora_B.weight`. The names of modules come from the rules of the base model, such as
`gpt_weights.rules`. GPT-2's fused projections, one tensor there and three here, have none.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import jax
from flax import traverse_util

from recjax.data.errors import DataError
from recjax.nn import lora
from recjax.text import weights
from recjax.text.weights import Rule
from recjax.types import Params

NAMES = "adapter_config.json", "adapter_model.safetensors"
_FIRST = "base_model.model."
# What this LoRA computes, where a file says otherwise it is an error; the default first.
_FIXED = {
  "peft_type": ("LORA",),
  "bias": ("none",),
  "fan_in_fan_out": (False,),
  "use_rslora": (False, None),
  "use_dora": (False, None),
  "rank_pattern": ({}, None),
  "alpha_pattern": ({}, None),
  "modules_to_save": (None, []),
}


def save(
  folder: str | os.PathLike,
  changes: Params,
  cfg: lora.Config,
  rules: Sequence[Rule],
  *,
  base: str | None = None,  # the name or folder of the base model, which PEFT loads first
) -> None:
  """A folder that `load` and `peft.PeftModel.from_pretrained` read."""
  flat = traverse_util.flatten_dict(changes, sep="/")
  chosen = {path.rpartition("/")[0] for path in flat}
  linear = {rule.path: rule for rule in rules if rule.transpose}
  if chosen - linear.keys():
    raise ValueError(
      f"{', '.join(sorted(chosen - linear.keys()))}: no single Linear layer of Hugging Face; "
      "merge them into the base, and save that"
    )
  found = [rule for rule in rules if rule.transpose and rule.path in chosen]
  modules = {_module(rule) for rule in found}
  short = {module.rpartition(".")[2] for module in modules}
  # Short names would mean every layer; where only some are changed, each is named whole.
  every = {_module(rule) for rule in linear.values() if _module(rule).rpartition(".")[2] in short}
  entries = {name: known[0] for name, known in _FIXED.items()} | {
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": base,
    "inference_mode": True,
    "r": cfg.rank,
    "lora_alpha": cfg.alpha,
    "lora_dropout": cfg.dropout,
    "target_modules": sorted(short if every == modules else modules),
  }
  weights.write(folder, entries, weights.empty(_both(found), changes), names=NAMES)


def load(
  folder: str | os.PathLike, rules: Sequence[Rule], params: Params
) -> tuple[lora.Config, Params]:
  """The config and the changes for the base `params` (or their shapes); targets are whole paths."""
  entries, tensors = weights.read(folder, names=NAMES)
  for name, known in _FIXED.items():
    if entries.get(name, known[0]) not in known:
      raise DataError(
        f"{name} is {entries[name]!r}, not {known[0]!r}",
        path=folder,
        remedy="Merge the adapter where it was made, and load the whole model.",
      )
  rank, alpha, drop = (entries.get(name) for name in ("r", "lora_alpha", "lora_dropout"))
  if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
    raise DataError(
      f"r is {rank!r} and lora_alpha {alpha!r}", path=folder, remedy="Download it again."
    )
  found = [
    rule for rule in rules if rule.transpose and f"{_FIRST}{_module(rule)}.lora_A.weight" in tensors
  ]
  shapes, template = traverse_util.flatten_dict(params, sep="/"), {}
  for rule in found:
    reads, writes = shapes[rule.path].shape
    template[f"{rule.path}/a"] = jax.ShapeDtypeStruct((reads, rank), "float32")
    template[f"{rule.path}/b"] = jax.ShapeDtypeStruct((rank, writes), "float32")
  template = traverse_util.unflatten_dict(template, sep="/")
  changes = weights.fill(_both(found), tensors, template)
  if not found:
    raise DataError("no tensors of an adapter", path=folder, remedy="Download it again.")
  targets = tuple(rule.path for rule in found)
  return lora.Config(rank, float(alpha), float(drop or 0.0), targets), changes


def _module(rule: Rule) -> str:
  return rule.name.removesuffix(".weight")


def _both(rules: Sequence[Rule]) -> list[Rule]:
  return [
    Rule(f"{_FIRST}{_module(rule)}.lora_{side.upper()}.weight", f"{rule.path}/{side}", True)
    for rule in rules
    for side in ("a", "b")
  ]
