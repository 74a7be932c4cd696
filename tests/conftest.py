"""What every test shares: strict rank promotion, and the optional folder of real data."""

import os
import pathlib
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Eight virtual devices, so that sharding is tested on any machine. Compiling is most of the time:
# programs are compiled in haste (XLA_FLAGS=--xla_backend_optimization_level=3 takes the longer),
# and each once for all processes of a test run.
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "--xla_backend_optimization_level=0")
  + " --xla_force_host_platform_device_count=8"
)

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # pytest's workers have it from their parent
  _compiled = tempfile.TemporaryDirectory(prefix="recjax-compiled-")  # until the process ends
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import hypothesis
import jax
import pytest
import reading
import shelf
from tracing import counted

from recjax import recommender

jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("recjax", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("recjax")


@pytest.fixture(scope="module", autouse=True)
def programs_of_a_file():
  """Lets go of a file's compiled programs when its tests are done.

  Each holds a few of the 65,530 memory maps that Linux gives a process; with all of them held, a
  worker ran out, which ends in a segmentation fault.
  """
  yield
  jax.clear_caches()


@pytest.fixture
def write(tmp_path):
  """Writes a small file under a name, packed as its extension says, and gives the path."""
  return lambda name, content, encoding="utf-8": reading.pack(tmp_path / name, content, encoding)


@pytest.fixture(scope="session")
def as_user() -> dict[str, str]:
  """The environment of a launched process: the devices it chooses, programs compiled in haste."""
  return {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
  """The folder of real data sets named by RECJAX_DATA (see the README)."""
  folder = os.environ.get("RECJAX_DATA", "")
  if not folder or not pathlib.Path(folder).is_dir():
    pytest.skip("RECJAX_DATA does not name a folder of real data (see the README)")
  return pathlib.Path(folder)


@pytest.fixture(scope="session")
def shop():
  """A recommender with items to ask, to save, to grow and to serve; no test changes it."""
  return shelf.make("tiger")


@pytest.fixture
def compilations(monkeypatch):
  """A list that grows with every compilation of what a recommender answers by."""
  made, traced = recommender._made, []

  def watched(system, config):
    own = made(system, config)
    return own._replace(recommend=counted(own.recommend, traced))

  monkeypatch.setattr(recommender, "_made", watched)
  recommender._answer.cache_clear()
  yield traced
  recommender._answer.cache_clear()
