"""How often a function is traced, hence compiled: counted by hand.

The size of jit's cache would not tell: one cache serves the whole process, and others empty it.
"""

import functools
from collections.abc import Callable


def counted(function: Callable, traced: list) -> Callable:
  """The function, which adds its keyword arguments to the list each time it is called."""

  @functools.wraps(function)
  def run(*args, **kwargs):
    traced.append(kwargs)
    return function(*args, **kwargs)

  return run
