"""Settings of the whole process, made by a launcher before any work, never by an import."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping

import jax

# XLA's products of matrices on a CPU left to one library. Measured on 2 cores: a training step of
# TIGER's T5 1.2 times faster; slower are one of SASRec with its softmax over a catalogue (1.3
# times), decoding a few tokens, and a T5 in bfloat16, whose products go there anyway. For
# `jax.jit(step, compiler_options=FUSED_PRODUCTS)`; a backend other than the CPU refuses it.
FUSED_PRODUCTS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}


def host_devices(count: int) -> None:
  """Makes the CPU backend show `count` devices; an error once a device has been used.

  What the user has asked of XLA in the environment stays.
  """
  if count < 1:
    raise ValueError(f"a CPU shows 1 device or more, not {count}")
  if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    jax.config.update("jax_num_cpu_devices", count)


@functools.cache
def train_options() -> Mapping[str, str]:
  """FUSED_PRODUCTS where the backend is a CPU whose XLA knows them; else nothing."""
  if jax.default_backend() != "cpu":
    return {}
  try:
    jax.jit(lambda x: x + 1, compiler_options=FUSED_PRODUCTS).lower(0.0).compile()
  except (jax.errors.JaxRuntimeError, ValueError):
    return {}  # an XLA that does not know the option
  return FUSED_PRODUCTS
