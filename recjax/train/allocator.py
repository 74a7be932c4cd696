"""How the C library keeps memory, set by a launcher before any other import, never by an import."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of mallopt, in glibc's malloc.h


def keep_freed_memory() -> bool:
  """Tell glibc to keep what is freed, not give it back and fault it in again each step.

  Costs the process its peak memory for good. Call it first, before jax is imported: glibc fixes
  how many heaps there may be when a second thread first allocates. False where there is no glibc.
  """
  if not sys.platform.startswith("linux"):
    return False
  try:
    mallopt = ctypes.CDLL("libc.so.6").mallopt
  except (OSError, AttributeError):
    return False
  # All three are needed. Without mmap an array comes from a heap; a thread's own heap ends at
  # 64 MiB, beyond which glibc maps after all, so all threads share the main one; and -1 never
  # trims it (the greatest int still would, from 2 GiB on).
  settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
  return all([mallopt(name, value) for name, value in settings])
