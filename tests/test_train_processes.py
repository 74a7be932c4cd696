"""Runs in processes of their own: asked to stop, killed at any moment, two learning as one."""

import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from training_runs import told

from recjax.train import checkpoint

PROCESS = pathlib.Path(__file__).parent / "training_process.py"


def environment(devices, stages):
  more = {"TWO_STAGES": "1"} if stages else {}
  flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
  return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", **more}


def start(workdir, steps, *more, devices=1, stages=False):
  command = [sys.executable, os.fspath(PROCESS), os.fspath(workdir), str(steps), *map(str, more)]
  env = environment(devices, stages)
  return subprocess.Popen(
    command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
  )


def finish(process):
  out, error = process.communicate(timeout=240)
  assert process.returncode == 0, error[-3000:]
  # Gloo tells on the same stream that it is connected, sometimes last.
  return json.loads([line for line in out.splitlines() if line.startswith("{")][-1])


def wait_for_step(workdir, step, process):
  """Until the run has a finished checkpoint of at least this step."""
  until = time.monotonic() + 120
  while time.monotonic() < until and process.poll() is None:
    if any(f.step >= step for f in checkpoint.finished(pathlib.Path(workdir) / "checkpoints")):
      return
    time.sleep(0.02)


def test_a_polite_signal_saves_before_the_end(tmp_path):
  process = start(tmp_path, 100_000)
  wait_for_step(tmp_path, 4, process)
  process.send_signal(signal.SIGTERM)
  said = finish(process)
  assert said["stop"] == signal.SIGTERM
  newest = checkpoint.finished(tmp_path / "checkpoints")[-1]
  checkpoint.verify(newest.path)
  assert 4 <= newest.step < 100_000


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_bit_for_bit_the_same(tmp_path):
  steps, rng, kills = 1200, random.Random(0), 0
  whole = finish(start(tmp_path / "whole", steps, stages=True))
  while True:
    process = start(tmp_path / "killed", steps, stages=True)
    if kills < 24:
      # Let it get past its newest checkpoint or not, then kill without warning.
      time.sleep(rng.uniform(2.0, 9.0))
    else:
      process.wait(timeout=300)
    if process.poll() is not None:
      break
    process.kill()
    process.communicate()
    kills += 1
  again = finish(process)
  assert kills >= 20
  assert again == whole
  for stage in ("first", "second"):
    assert told(tmp_path / "killed" / stage) == told(tmp_path / "whole" / stage)


def free_port():
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def pair(workdir, steps):
  address = f"127.0.0.1:{free_port()}"
  both = [start(workdir, steps, address, i, 2, devices=2) for i in range(2)]
  return [finish(p) for p in both]


def test_two_processes_learn_what_one_does_and_hand_over(tmp_path):
  alone = finish(start(tmp_path / "alone", 24, devices=4))
  both = pair(tmp_path / "pair", 24)
  assert both[0]["metrics"] == both[1]["metrics"]
  for one in both:  # each has all that was written, a text for each example
    assert len(one["said"]) > 9 and sorted(one["said"]) == sorted(alone["said"])
  for one, two in zip(told(tmp_path / "alone"), told(tmp_path / "pair"), strict=True):
    assert one.keys() == two.keys()
    for name, value in one.items():
      np.testing.assert_allclose(two[name], value, atol=1e-4, err_msg=name)
  # the pair's checkpoint restores in one process of one device, and the other way round
  assert finish(start(tmp_path / "pair", 24, devices=1))["digest"] == both[0]["digest"]
  assert pair(tmp_path / "alone", 24)[0]["digest"] == alone["digest"]
