"""The package as a user meets it: light to import, nothing heavy behind their back."""

import pathlib
import subprocess
import sys

import pytest

import recjax
from recjax.systems import SYSTEMS

ROOT = pathlib.Path(recjax.__file__).parent.parent


def python(code):
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 0, done.stderr
  return done.stdout.strip()


def test_importing_recjax_is_instant_and_imports_nothing_heavy():
  seconds, loaded = python(
    "import time; start = time.perf_counter(); import recjax; spent = time.perf_counter() - start;"
    "import sys; heavy = {'jax', 'tensorflow', 'torch', 'flax'} & set(sys.modules);"
    "print(spent, ','.join(heavy))"
  ).partition(" ")[::2]
  assert float(seconds) < 1 and not loaded


def test_no_module_imports_tensorflow_or_torch():
  modules = [
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for p in sorted((ROOT / "recjax").rglob("*.py"))
  ]
  loaded = python(
    f"import importlib, sys; [importlib.import_module(m) for m in {modules!r}];"
    "print({'tensorflow', 'torch', 'transformers'} & set(sys.modules) or '')"
  )
  assert len(modules) > 30 and loaded == ""


def test_importing_everything_starts_no_backend():
  said = python(
    "import os; os.environ.pop('XLA_FLAGS', None);"
    "import recjax.systems, recjax.train.loop, recjax.decode.beam, recjax.semid.rqvae, jax;"
    "jax.config.update('jax_num_cpu_devices', 3); print(jax.local_device_count('cpu'))"
  )
  assert said == "3"


def test_unknown_names_are_errors_and_known_ones_listed():
  with pytest.raises(AttributeError, match="no attribute 'nose'"):
    getattr(recjax, "no" + "se")
  assert {"System", "data", "metrics"} <= set(dir(recjax))
  assert recjax.System.__name__ == "System" and recjax.metrics.__name__ == "recjax.metrics"


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_a_system_is_a_module_with_a_config_and_make(name):
  module = SYSTEMS[name]
  assert module.__name__.split(".")[-1] == name
  assert "https://" in module.__doc__.split("\n\n")[0] or name == "popularity"
  assert callable(module.make) and module.Config
