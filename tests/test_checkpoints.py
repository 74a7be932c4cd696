"""Checkpoints that are damaged, unfinished or of another config do not pass for good ones."""

import dataclasses
import random
import shutil

import chex
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from training_runs import run

from recjax.data import examples, loader, splits
from recjax.train import checkpoint, evaluate, loop, optim


def test_a_config_that_changed_under_a_run_is_named(tmp_path):
  run(tmp_path)
  with pytest.raises(checkpoint.CheckpointError, match=r"seed: 0 then, 1 now.*a new folder"):
    run(tmp_path, seed=1)
  with pytest.raises(checkpoint.CheckpointError, match="optimizer"):
    run(tmp_path, optimizer=optim.Config(rate=0.5))
  run(tmp_path, log_every=4)  # what changes no result may change
  same = loop.Config(steps=12, log_every=3)
  loop.check(tmp_path, same, {"further": {"field": 1}})  # not told then: no difference
  loop.check(tmp_path / "nothing", same, {})
  with pytest.raises(checkpoint.CheckpointError, match=r"seed: 0 then, 1 now.*a new folder"):
    loop.check(tmp_path, dataclasses.replace(same, seed=1), {})


def test_a_rate_or_a_section_that_is_added_is_another_config(tmp_path):
  def told(**rates):
    return loop._fingerprint(loop.Config(steps=9, optimizer=optim.Config(group_rates=rates)))

  for then, now in (({}, {"items": 0.5}), ({"items": 0.5}, {"items": 0.5, "rest": 0.0})):
    found = checkpoint.Found(tmp_path, {"step": 1, "fingerprint": checkpoint._plain(told(**then))})
    checkpoint.check(found, told(**then))
    with pytest.raises(checkpoint.CheckpointError, match="group_rates"):
      checkpoint.check(found, told(**now))
  found = checkpoint.Found(tmp_path, {"step": 1, "fingerprint": {"text": None}})
  with pytest.raises(checkpoint.CheckpointError, match="text: None then, a section now"):
    checkpoint.check(found, {"text": {"dim": 8}})
  checkpoint.check(found, {"text": None, "further": {"dim": 8}})


def test_fewer_steps_than_were_trained_are_refused(tmp_path):
  run(tmp_path)
  said = "was trained for 12 steps already, and 8 are asked for"
  with pytest.raises(checkpoint.CheckpointError, match=said):
    run(tmp_path, steps=8)
  with pytest.raises(checkpoint.CheckpointError, match=said):
    loop.check(tmp_path, loop.Config(steps=8, log_every=3, save_every=4), {})


def test_a_checkpoint_of_another_system_is_refused(tmp_path):
  run(tmp_path)
  with pytest.raises(checkpoint.CheckpointError, match="system:"):
    run(tmp_path, system=toy.make(toy.log().num_items, dim=8))
  path = checkpoint.finished(tmp_path / "checkpoints")[-1].path
  other = {"params": jnp.zeros(3)}
  with pytest.raises(checkpoint.CheckpointError, match="does not hold this model's state"):
    checkpoint.restore(path, other)


def corrupt(path, kind, rng):
  """Damages one file of a checkpoint; returns what was done."""
  files = [f for f in sorted(path.rglob("*")) if f.is_file() and f.stat().st_size]
  file = rng.choice(files)
  data = bytearray(file.read_bytes())
  if kind == "flip":
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)
  elif kind == "truncate":
    file.write_bytes(data[: rng.randrange(len(data))])
  elif kind == "remove":
    file.unlink()
  else:
    (file.parent / "stray").write_bytes(b"x")
  return f"{kind} {file.relative_to(path)}"


def test_no_damaged_checkpoint_is_loaded_as_good(tmp_path):
  run(tmp_path / "good", steps=4)
  good = checkpoint.finished(tmp_path / "good" / "checkpoints")[0].path
  checkpoint.verify(good)
  rng = random.Random(0)
  for nth in range(60):
    bad = tmp_path / f"bad{nth}"
    shutil.copytree(good, bad)
    done = corrupt(bad, ("flip", "flip", "truncate", "remove", "add")[nth % 5], rng)
    with pytest.raises(checkpoint.CheckpointError):
      checkpoint.verify(bad)
      pytest.fail(f"loaded as good after: {done}")


def test_a_damaged_newest_is_passed_over_aloud(tmp_path, caplog):
  whole = run(tmp_path)
  newest = checkpoint.finished(tmp_path / "checkpoints")[-1].path
  corrupt(newest / "state", "flip", random.Random(1))
  again = run(tmp_path)
  assert "Falling back to the checkpoint before it" in caplog.text
  chex.assert_trees_all_equal(again.state, whole.state)  # steps 9 to 12 were done once more
  for found in checkpoint.finished(tmp_path / "checkpoints"):
    corrupt(found.path / "state", "flip", random.Random(2))
  with pytest.raises(checkpoint.CheckpointError, match="all 2 checkpoints .* are damaged"):
    run(tmp_path)


def test_a_damaged_newest_checkpoint_does_not_crowd_out_a_good_one(tmp_path):
  run(tmp_path, steps=8)
  corrupt(tmp_path / "checkpoints" / "step_00000008" / "state", "flip", random.Random(1))
  run(tmp_path, steps=6, keep_last=1, save_every=2)
  finished = [f.step for f in checkpoint.finished(tmp_path / "checkpoints")]
  assert 6 in finished
  chex.assert_trees_all_equal(run(tmp_path).state, run(tmp_path / "whole").state)


def test_an_unfinished_checkpoint_does_not_exist(tmp_path):
  run(tmp_path)
  for found in checkpoint.finished(tmp_path / "checkpoints"):
    (found.path / "manifest.json").unlink()
  assert checkpoint.finished(tmp_path / "checkpoints") == []
  run(tmp_path)  # from the start, over the remains
  assert [f.step for f in checkpoint.finished(tmp_path / "checkpoints")] == [8, 12]


def first_is_best():
  """Options of a run whose first evaluation, at step 4, is the best: it is to hit less."""
  split = splits.leave_one_out(toy.log())
  valid = loader.Batches(examples.next_events(split.train, split.valid), 64, max_len=8)
  measure = evaluate.ranking_by_list(toy.make(toy.log().num_items))
  return {
    "suites": [evaluate.Suite("valid", valid, measure)],
    "eval_every": 4,
    "best": "-valid/recall@10",
    "optimizer": optim.Config(rate=3e-2),
  }


def hits(workdir):
  """step -> what each checkpoint tells."""
  found = checkpoint.finished(workdir / "checkpoints")
  return {f.step: f.meta["metrics"]["valid/recall@10"] for f in found}


def test_a_damaged_best_checkpoint_gives_way_to_the_next_best(tmp_path, caplog):
  how = {**first_is_best(), "keep_last": 3}
  first, by = run(tmp_path, **how), hits(tmp_path)
  best = min(by, key=lambda step: (by[step], step))
  assert first.metrics["valid/recall@10"] == by[best] and best != 12
  corrupt(tmp_path / "checkpoints" / f"step_{best:08d}" / "state", "flip", random.Random(1))
  again = run(tmp_path, **how)
  assert again.metrics["valid/recall@10"] == sorted(by.values())[1]
  assert "next best" in caplog.text


@pytest.mark.parametrize("damage", ["better", "null"])
def test_what_a_damaged_checkpoint_says_of_itself_is_not_believed(tmp_path, damage):
  """A digit that would make it the best, and the best forgotten, or text of something else."""
  how = first_is_best()
  run(tmp_path, **how)
  by = hits(tmp_path)
  best = min(by, key=lambda step: (by[step], step))
  assert best == 4
  meta = tmp_path / "checkpoints" / "step_00000008" / "meta.json"
  said = meta.read_text()
  meta.write_text(said.replace(f'@10": {by[8]}', '@10": -8.5') if damage == "better" else damage)
  assert meta.read_text() != said
  longer = run(tmp_path, steps=20, **how)
  assert best in hits(tmp_path) and longer.metrics["valid/recall@10"] == by[best]


def test_a_damaged_fingerprint_is_no_other_config(tmp_path):
  run(tmp_path)
  meta = tmp_path / "checkpoints" / "step_00000012" / "meta.json"
  meta.write_text(meta.read_text().replace('"seed": 0', '"seed": 7'))
  loop.check(tmp_path, loop.Config(steps=12, log_every=3, save_every=4), {})
  chex.assert_trees_all_equal(run(tmp_path).state, run(tmp_path / "whole").state)


def test_a_metric_that_is_no_number_is_worse_than_any():
  assert checkpoint.worth({"a": float("nan")}, "a") == -np.inf
  assert checkpoint.worth({"a": float("nan")}, "-a") == -np.inf
  assert checkpoint.worth({"a": 2.0}, "-a") == -2.0 and checkpoint.worth({}, "a") is None
