"""The trie of 4 levels of 256 codes at 12 thousand, 1 million and 10 million items.

Seconds to build, bytes on the device, and what a catalogue's size costs a search: TIGER's model at
beam 50, and the search alone, its model a table of ready logits, so that nothing hides the trie.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import beam as setting
from experiments.benchmarks import timing
from recjax.decode import beam
from recjax.decode import trie as tries
from recjax.nn import t5

SIZES = {"12k": 12_000, "1M": 1_000_000, "10M": 10_000_000}
BEAMS = 50
SECONDS, BYTES, STEP_FLOOR = 3.0, 150e6, 1 / 1.05  # at 10 million


def figures() -> Iterator[timing.Figure]:
  built = {}
  for name, items in SIZES.items():
    codes = setting.catalogue(items)

    def build(name=name, codes=codes):
      built[name] = jax.block_until_ready(tries.build(codes, setting.VOCAB))

    (times,) = timing.seconds(build, rounds=3)
    size = sum(array.nbytes for array in built[name].values())
    yield timing.cost(f"trie/build-{name}", "s", float(np.median(times)), most=SECONDS)
    yield timing.cost(f"trie/size-{name}", "bytes", size, most=BYTES, per_item=size / items)
  for kind, search, floor in (
    ("model", _tiger(), {"floor": STEP_FLOOR}),
    ("alone", _table(), {}),
  ):
    small, *others = timing.seconds(
      *(functools.partial(search, trie) for trie in built.values()), rounds=9
    )
    for name, times in zip(list(built)[1:], others, strict=True):
      what = f"trie/step-{kind}-{name}"
      yield timing.rate(what, "users/s", setting.USERS, times, "12k items", small, **floor)


def _tiger() -> Callable[[tries.Trie], object]:
  params, source = t5.init(jax.random.key(0), setting.T5), setting.sources()
  run = jax.jit(functools.partial(setting.constrained, k=BEAMS, cfg=setting.T5))
  return lambda trie: jax.block_until_ready(run(params, trie, source))


def _table() -> Callable[[tries.Trie], object]:
  shape = (setting.LEVELS, setting.USERS, BEAMS, setting.VOCAB)
  table = jax.random.normal(jax.random.key(0), shape)

  def step(table, tokens, at):
    return table[at, :, : tokens.shape[1]], at + 1

  run = jax.jit(functools.partial(beam.search, step, k=BEAMS))
  begun = jnp.zeros(setting.USERS, jnp.int32), jnp.int32(0)
  return lambda trie: jax.block_until_ready(run(table, *begun, trie))
