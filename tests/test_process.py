"""Settings of a process are tested in one of their own."""

import json
import pathlib
import subprocess
import sys
import textwrap

import pytest

from recjax.train import process

ROOT = pathlib.Path(__file__).parent.parent


def run(code):
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)],
    capture_output=True,
    text=True,
    env={"JAX_PLATFORMS": "cpu", "PATH": ""},
    timeout=120,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_freed_memory_stays_and_is_not_faulted_in_again():
  found = run("""
    import ctypes, json, resource, threading
    from recjax.train import allocator
    kept = allocator.keep_freed_memory()
    libc, size = ctypes.CDLL("libc.so.6"), 3 * 2**30  # beyond what an int can say of bytes
    libc.malloc.restype = ctypes.c_void_p

    def faults():  # of writing to fresh memory once and giving it back
      before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
      memory = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
      for at in range(0, size, 2**22):
        ctypes.memset(memory.value + at, 1, 1)
      libc.free(memory)
      return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    found = [faults() for _ in range(2)]
    thread = threading.Thread(target=lambda: found.extend([faults(), faults()]))
    thread.start(); thread.join()
    print(json.dumps({"kept": kept, "faults": found}))
  """)
  if not found["kept"]:
    pytest.skip("no glibc")
  assert found["faults"][0] > 700  # a page for each 4 MiB of 3 GiB
  assert max(found["faults"][1:]) < 100  # the last two in another thread


def test_host_devices_are_made_before_the_backend_and_refused_after():
  found = run("""
    import json, jax
    from recjax.train import process
    process.host_devices(3)
    devices = len(jax.devices())
    try:
      process.host_devices(2)
      error = ""
    except RuntimeError as e:
      error = str(e)
    print(json.dumps({"devices": devices, "error": error}))
  """)
  assert found["devices"] == 3
  assert "before" in found["error"]


def test_no_devices_at_all_are_refused():
  with pytest.raises(ValueError, match="not 0"):
    process.host_devices(0)


def test_importing_recjax_sets_nothing():
  found = run("""
    import json, os
    before = dict(os.environ)
    from recjax.train import process
    import jax
    print(json.dumps({"same": dict(os.environ) == before, "devices": len(jax.devices())}))
  """)
  assert found["devices"] == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
@pytest.mark.parametrize("script", ["run", "bench", "studies", "semantic_ids", "finetune_t5"])
def test_a_script_sets_the_allocator_before_a_thread_has_a_heap(script, tmp_path):
  """glibc tells its heaps: there is the main one alone, though pyarrow's threads allocate."""
  report = tmp_path / "heaps.xml"
  found = run(f"""
    import ctypes, json, sys
    sys.path.insert(0, {str(ROOT)!r})
    import experiments.{script}
    import pyarrow
    libc = ctypes.CDLL("libc.so.6")
    libc.fopen.restype = ctypes.c_void_p
    file = ctypes.c_void_p(libc.fopen({str(report)!r}.encode(), b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
    print(json.dumps(open({str(report)!r}).read().count("<heap nr=")))
  """)
  assert found == 1
