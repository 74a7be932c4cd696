"""recjax: recommenders of the language-model era, each one readable file, in JAX."""

import importlib

__version__ = "0.1.0"

_SUBPACKAGES = (
  "data", "decode", "losses", "metrics", "nn", "recommender", "semid", "systems", "text", "train",
  "types",
)  # fmt: skip
_NAMES = {
  "System": "types", "Loss": "types", "Ranked": "types", "PAD": "types",
  "Recommender": "recommender",
}  # fmt: skip

__all__ = [*_SUBPACKAGES, *_NAMES]


def __getattr__(name: str):
  # Lazy, so that `import recjax` costs milliseconds and pulls in only what is used.
  if name in _SUBPACKAGES:
    return importlib.import_module(f"recjax.{name}")
  if name in _NAMES:
    return getattr(importlib.import_module(f"recjax.{_NAMES[name]}"), name)
  raise AttributeError(f"module 'recjax' has no attribute {name!r}")


def __dir__():
  return sorted([*globals(), *__all__])
