"""Sentence encoders: texts -> one vector each, as a folder of sentence-transformers says.

An `Encoder` is a value: a vocabulary, params, and a pure function from padded tokens to vectors;
`dataclasses.replace(encoder, batch=256)` makes another. BERT and MiniLM pool by mean or by first
token; Sentence-T5 pools by mean and projects; both may end at length one.

Calling an encoder sorts the texts by length, pads each batch to one of few lengths and splits it
over the devices of a mesh; none of this changes a vector, for padding is masked. A text longer
than `max_len` tokens is cut there, as sentence-transformers does.

B batch, T time, D width of a vector, N texts.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from recjax.data.errors import DataError
from recjax.data.ragged import Ragged
from recjax.nn import bert, t5
from recjax.text import bert_weights, t5_weights, vocab, weights
from recjax.text.vectors import check_list
from recjax.types import Array, Params

ENDLESS = 10**6  # tokens; a tokenizer without a limit says 10**30
AHEAD = 2  # batches in flight while the host prepares the next

Stage = Callable[[Params, Array, Array], Array]  # (params, x, where) -> x


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
  """Called with texts, gives their vectors [N, D] float32."""

  vocabulary: vocab.WordPieces | vocab.SentencePieces
  apply: Callable[[Params, Array, Array], Array]  # (params, tokens [B, T], where) -> [B, D]
  params: Params
  dim: int  # D
  max_len: int  # tokens of a text, special ones included
  about: str  # all that decides a vector beside params and vocabulary
  batch: int = 32  # texts at a time; accelerators like more
  mesh: Mesh | None = None  # its first axis splits the batch; by default all local devices
  lower: bool = False  # whether texts are lowered before the vocabulary sees them

  def __repr__(self) -> str:
    return f"Encoder({self.about}, max_len={self.max_len})"

  @functools.cached_property
  def fingerprint(self) -> str:
    """A hash of all that decides a vector."""
    digest = hashlib.sha256(f"{self.about} {self.max_len} {self.lower}".encode())
    digest.update(self.vocabulary.fingerprint.encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
      digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}".encode())
      digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()

  def tokens(self, texts: Sequence[str]) -> Ragged:
    """The ids of each text, cut to `max_len`."""
    check_list(texts)
    if self.lower:
      texts = [text.lower() for text in texts]
    return self.vocabulary.encode(texts, max_len=self.max_len)

  def __call__(
    self, texts: Sequence[str], *, tick: Callable[[int], object] = lambda done: None
  ) -> np.ndarray:
    """[N, D] float32; `tick` hears how many texts were done since it was last called."""
    rows, out = self.tokens(texts), np.empty((len(texts), self.dim), np.float32)
    order = np.argsort(-rows.lengths, kind="stable")  # long first: memory runs out at once or never
    flying: collections.deque[tuple[np.ndarray, Array]] = collections.deque()
    for begin in range(0, len(order), self.batch):
      some = order[begin : begin + self.batch]
      flying.append((some, self._forward(self._params, *self._padded(rows, some))))
      if len(flying) > AHEAD:
        tick(_land(out, *flying.popleft()))
    for some, vectors in flying:
      tick(_land(out, some, vectors))
    return out

  def _padded(self, rows: Ragged, some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and mask [B, T] of some rows; empty rows fill B up to what the devices share."""
    length = min(_rounded(int(rows.lengths[some].max())), self.max_len)
    devices = self._mesh.devices.shape[0]
    # A last, smaller batch is filled to a power of two, so that it too has few shapes.
    size = min(self.batch, 1 << (len(some) - 1).bit_length())
    fill = -(-size // devices) * devices - len(some)
    tokens = rows.right_padded(some, length, fill=self.vocabulary.pad)
    where = np.arange(length) < rows.lengths[some][:, None]
    pad = ((0, fill), (0, 0))
    return np.pad(tokens, pad, constant_values=self.vocabulary.pad), np.pad(where, pad)

  @functools.cached_property
  def _mesh(self) -> Mesh:
    if self.mesh is not None:
      return self.mesh
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)

  @functools.cached_property
  def _params(self) -> Params:
    return jax.device_put(self.params, NamedSharding(self._mesh, PartitionSpec()))

  @functools.cached_property
  def _forward(self) -> Callable[[Params, Array, Array], Array]:
    split = NamedSharding(self._mesh, PartitionSpec(self._mesh.axis_names[0]))
    return jax.jit(self.apply, in_shardings=(None, split, split), out_shardings=split)


def load(folder: str | os.PathLike) -> Encoder:
  """The encoder of a sentence-transformers folder, as its modules.json says."""
  folder = pathlib.Path(folder)
  _check_prompt(folder)
  modules = [(m["type"].rpartition(".")[2], folder / m["path"]) for m in _modules(folder)]
  kinds = [kind for kind, _ in modules]
  if kinds[:2] != ["Transformer", "Pooling"] or not set(kinds[2:]) <= {"Dense", "Normalize"}:
    raise DataError(
      f"the modules are {', '.join(kinds)}; known are Transformer, Pooling, and then any of "
      "Dense and Normalize",
      path=folder / "modules.json",
      remedy="Choose another encoder, or use `from_bert` or `from_t5` with stages of your own.",
    )
  stages = [(_pooling(modules[1][1]), None)]
  for kind, path in modules[2:]:
    stages.append((unit, None) if kind == "Normalize" else _dense(path))
  inner = modules[0][1]
  told = _json(inner / "sentence_bert_config.json", default={})
  length = told.get("max_seq_length")
  length = length or _json(inner / "tokenizer_config.json", default={}).get("model_max_length")
  if length is not None and not isinstance(length, (int, float)):
    raise DataError(
      f"the longest text has {length!r} tokens", path=inner, remedy="Download it again."
    )
  make = from_t5 if _json(inner / "config.json").get("model_type") == "t5" else from_bert
  return make(
    inner,
    stages,
    max_len=int(length) if length and length < ENDLESS else None,
    lower=bool(told.get("do_lower_case")),
  )


def from_bert(
  folder: str | os.PathLike,
  stages: Sequence[tuple[Stage, Params]],
  *,
  max_len: int | None = None,
  lower: bool = False,
) -> Encoder:
  """An encoder from a BERT folder and the stages after its states: `[(mean, None), (unit, None)]`.

  A text may be as long as the positions reach, or shorter by `max_len`.
  """
  cfg, params = bert_weights.load(folder)

  def states(params: Params, tokens: Array, where: Array) -> Array:
    return bert.encode(params, cfg, tokens, mask=where).states

  max_len = min(max_len or cfg.max_len, cfg.max_len)
  encoder = _encoder(states, params, cfg, vocab.wordpieces(folder), stages, max_len)
  return dataclasses.replace(encoder, lower=lower)


def from_t5(
  folder: str | os.PathLike,
  stages: Sequence[tuple[Stage, Params]],
  *,
  max_len: int | None = None,
  lower: bool = False,
) -> Encoder:
  """An encoder from a T5 folder, of which the decoder is left, and the stages after its states.

  T5 knows no longest text; without `max_len` it is cut at 512 tokens.
  """
  cfg, params = t5_weights.load(folder, encoder_only=True)

  def states(params: Params, tokens: Array, where: Array) -> Array:
    return t5.encode(params, cfg, tokens, mask=where)

  pieces = vocab.t5(pathlib.Path(folder) / "spiece.model")
  encoder = _encoder(states, params, cfg, pieces, stages, max_len or 512)
  return dataclasses.replace(encoder, lower=lower)


def _encoder(states, params, cfg, vocabulary, stages, max_len: int) -> Encoder:
  """The states and the stages after them, as one value."""

  def apply(params: Params, tokens: Array, where: Array) -> Array:
    x = states(params[0], tokens, where)
    for (stage, _), own in zip(stages, params[1:], strict=True):
      x = stage(own, x, where)
    return x

  if len(vocabulary) > cfg.vocab:
    raise DataError(
      f"the vocabulary has {len(vocabulary)} tokens, the embedding table {cfg.vocab} rows",
      remedy="Are tokenizer and weights of one model?",
    )
  params = (params, *(own for _, own in stages))
  shape = jax.ShapeDtypeStruct((1, 4), np.int32), jax.ShapeDtypeStruct((1, 4), np.bool)
  dim = jax.eval_shape(apply, params, *shape).shape[-1]
  about = " > ".join([repr(cfg), *(stage.__name__ for stage, _ in stages)])
  return Encoder(vocabulary, apply, params, dim=dim, max_len=max_len, about=about)


def mean(_: Params, states: Array, where: Array) -> Array:
  """The mean state [B, D] of the tokens that are no padding."""
  weight = where[:, :, None].astype(jnp.float32)  # [B, T, 1]
  return (states.astype(jnp.float32) * weight).sum(1) / jnp.maximum(weight.sum(1), 1e-9)


def first(_: Params, states: Array, where: Array) -> Array:
  """The state [B, D] of the first token, [CLS]."""
  del where
  return states[:, 0].astype(jnp.float32)


def unit(_: Params, x: Array, where: Array) -> Array:
  """Scaled to length one; a zero vector stays zero."""
  del where
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _rounded(length: int) -> int:
  """The next of 4, 8 .. 32, 40 .. 64, 80 .. 128, 160 ...: few shapes, little padding."""
  step = max(4, (1 << (length - 1).bit_length()) // 8)
  return -(-length // step) * step


def _land(out: np.ndarray, rows: np.ndarray, vectors: Array) -> int:
  """Write finished vectors into their rows; waits until the devices have them."""
  out[rows] = np.asarray(vectors)[: len(rows)]
  return len(rows)


def linear(params: Params, x: Array, where: Array) -> Array:
  """A projection, with a bias where the params have one."""
  del where
  x = x @ params["kernel"]
  return x + params["bias"][None] if "bias" in params else x


def linear_tanh(params: Params, x: Array, where: Array) -> Array:
  """`linear`, and tanh of it."""
  return jnp.tanh(linear(params, x, where))


_POOLINGS = {"mean": mean, "cls": first}
_OLD_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_ACTIVATIONS = {"Identity": linear, "Tanh": linear_tanh}


def _modules(folder: pathlib.Path) -> list[dict[str, Any]]:
  path = folder / "modules.json"
  if not path.exists() and (folder / "config.json").exists():
    raise DataError(
      "no modules.json: a model that does not say how its states become a vector",
      path=folder,
      remedy="Download the whole folder of a sentence encoder, or say it: `from_bert`, `from_t5`.",
    )
  modules = _json(path, kind=list)
  known = isinstance(modules, list) and all(
    isinstance(m, dict) and {"type", "path"} <= m.keys() for m in modules
  )
  if not known:
    raise DataError("not a list of modules", path=path, remedy="Download the folder again.")
  return modules


def _pooling(folder: pathlib.Path) -> Stage:
  """The pooling that a folder such as 1_Pooling names."""
  told = _json(folder / "config.json")
  modes = told.get("pooling_mode")
  if modes is None:  # before version 5, a flag for each
    modes = [name for name, on in told.items() if name.startswith("pooling_mode_") and on is True]
    modes = [_OLD_POOLINGS.get(name, name) for name in modes]
  modes = [modes] if isinstance(modes, str) else modes
  if len(modes) != 1 or modes[0] not in _POOLINGS:
    raise DataError(
      f"pools by {', '.join(modes) or 'nothing'}; known are {', '.join(_POOLINGS)}",
      path=folder / "config.json",
      remedy="Use `from_bert` or `from_t5` with a stage of your own.",
    )
  return _POOLINGS[modes[0]]


def _dense(folder: pathlib.Path) -> tuple[Stage, Params]:
  """The projection in a folder such as 2_Dense."""
  told, tensors = weights.read(folder)
  activation = str(told.get("activation_function")).rpartition(".")[2]
  if activation not in _ACTIVATIONS or told.get("use_residual"):
    raise DataError(
      f"a dense module with activation {activation} and use_residual "
      f"{bool(told.get('use_residual'))}; known are {', '.join(_ACTIVATIONS)}, without residual",
      path=folder / "config.json",
      remedy="Use `from_bert` or `from_t5` with a stage of your own.",
    )
  template = {"kernel": np.empty((told["in_features"], told["out_features"]), np.float32)}
  rules = [weights.Rule("linear.weight", "kernel", True)]
  if told["bias"]:
    template["bias"] = np.empty(told["out_features"], np.float32)
    rules.append(weights.Rule("linear.bias", "bias"))
  return _ACTIVATIONS[activation], weights.fill(rules, tensors, template)


def _check_prompt(folder: pathlib.Path) -> None:
  """A prompt that the reference would put before every text belongs into the template here."""
  path = folder / "config_sentence_transformers.json"
  told = _json(path, default={})
  name = told.get("default_prompt_name")
  if name is not None and told.get("prompts", {}).get(name):
    raise DataError(
      f"puts the prompt {told['prompts'][name]!r} before every text",
      path=path,
      remedy="Set default_prompt_name to null, and begin the template with the prompt.",
    )


def _json(path: pathlib.Path, default: Any = None, kind: type = dict) -> Any:
  """What a JSON file holds, an object by default; without a default it must be there."""
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, kind):
      raise ValueError(f"{found!r:.50} is no {'list' if kind is list else 'object'}")
    return found
  except FileNotFoundError:
    if default is not None:
      return default
    raise DataError("no such file", path=path, remedy="Download the whole folder.") from None
  except ValueError as error:
    raise DataError(
      f"not as it should be: {error}", path=path, remedy="Download it again."
    ) from None
