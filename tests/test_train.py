"""Runs that are killed, starved, damaged or started again: what is lost, and what is said."""

import dataclasses
import os
import random
import shutil
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from jax.sharding import PartitionSpec as P
from training_runs import Breaks, run, told

from recjax.data import examples, loader, splits
from recjax.train import checkpoint, evaluate, loop, mesh, meter, optim
from recjax.types import System


@pytest.mark.parametrize("broken", [2, 5, 11])
def test_a_run_that_broke_and_went_on_ends_as_if_it_had_not(tmp_path, broken):
  whole = run(tmp_path / "a")
  with pytest.raises(ConnectionError):
    run(tmp_path / "b", train=Breaks(toy.batches(toy.log()), broken))
  again = run(tmp_path / "b")
  chex.assert_trees_all_equal(again.state, whole.state)
  assert told(tmp_path / "b") == told(tmp_path / "a")


def test_a_finished_run_is_not_trained_again(tmp_path):
  first = run(tmp_path)
  train = Breaks(toy.batches(toy.log()), None)
  second = run(tmp_path, train=train)
  chex.assert_trees_all_equal(second.state, first.state)
  assert [f.step for f in checkpoint.finished(tmp_path / "checkpoints")] == [8, 12]


def test_a_checkpoint_restores_onto_another_device_count(tmp_path):
  eight = run(tmp_path, steps=8, devices=8)
  one = run(tmp_path, steps=8, devices=1)
  chex.assert_trees_all_equal(jax.device_get(one.state), jax.device_get(eight.state))
  assert len(jax.tree.leaves(one.params)[0].sharding.device_set) == 1
  longer = run(tmp_path, steps=12, devices=2)  # a constant schedule may be prolonged
  np.testing.assert_allclose(
    longer.params["items"]["embedding"],
    run(tmp_path / "alone").params["items"]["embedding"],
    atol=1e-5,
  )


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


def test_an_unfinished_checkpoint_does_not_exist(tmp_path):
  run(tmp_path)
  for found in checkpoint.finished(tmp_path / "checkpoints"):
    (found.path / "manifest.json").unlink()
  assert checkpoint.finished(tmp_path / "checkpoints") == []
  run(tmp_path)  # from the start, over the remains
  assert [f.step for f in checkpoint.finished(tmp_path / "checkpoints")] == [8, 12]


def test_the_best_and_the_last_are_kept(tmp_path):
  x = toy.log()
  split = splits.leave_one_out(x)
  system = toy.make(x.num_items)
  valid = loader.Batches(examples.next_events(split.train, split.valid), 32, max_len=8)
  suites = [evaluate.Suite("valid", valid, evaluate.ranking_by_list(system))]
  result = run(
    tmp_path,
    steps=40,
    train=toy.batches(split.train),
    suites=suites,
    eval_every=4,
    save_every=4,
    best="valid/ndcg@10",
    patience=2,
    optimizer=optim.Config(rate=0.3),
  )  # a rate so high that it soon stops getting better
  lines = [line for line in told(tmp_path) if "valid/ndcg@10" in line]
  best = max(lines, key=lambda line: (line["valid/ndcg@10"], -line["step"]))
  kept = [f.step for f in checkpoint.finished(tmp_path / "checkpoints")]
  assert len(lines) >= 3 and lines[-1]["step"] < 40  # it stopped early
  assert kept == sorted({best["step"], lines[-2]["step"], lines[-1]["step"]})
  assert result.metrics["valid/ndcg@10"] == best["valid/ndcg@10"]
  measured = evaluate.evaluate(result.params, (), suites)
  assert measured["valid/ndcg@10"] == best["valid/ndcg@10"]
  with pytest.raises(ValueError, match="no metric 'valid/auc' to choose by"):
    run(None, suites=suites, best="valid/auc")
  last = run(None, suites=suites, best="")  # as a flag may say: none chooses
  for found, wanted in zip(*map(jax.tree.leaves, (last.params, run(None).params)), strict=True):
    np.testing.assert_array_equal(found, wanted)


def test_of_an_error_the_least_is_best(tmp_path):
  x = toy.log()
  split = splits.leave_one_out(x)
  valid = loader.Batches(examples.sequences(split.train, 8), 32, max_len=8)
  system = toy.make(x.num_items)
  suites = [evaluate.Suite("valid", valid, evaluate.loss(system, jax.random.key(0)))]
  result = run(
    tmp_path, steps=16, train=toy.batches(split.train), suites=suites, eval_every=4, save_every=4,
    best="-valid/loss", optimizer=optim.Config(rate=1.0),
  )  # fmt: skip
  losses = [line["valid/loss"] for line in told(tmp_path) if "valid/loss" in line]
  assert result.metrics["valid/loss"] == min(losses) < max(losses) and len(losses) == 4


def explodes(at):
  """A loss that is not finite for every batch that holds the given user."""
  base = toy.make(toy.log().num_items)

  def loss(params, assets, batch, key):
    out = base.loss(params, assets, batch, key)
    return out._replace(sum=out.sum / (batch["user"] != at).all())

  return base._replace(loss=loss)


@pytest.mark.parametrize(
  "axes", [{"fsdp": 8}, {"model": 8}, {"data": 2, "fsdp": 2, "model": 2}], ids=str
)
def test_a_sharded_run_goes_on_and_ends_as_one_device_would(tmp_path, axes):
  rules = [("items/embedding", P("model", None)), ("up/kernel", P(None, "model"))]
  rules += [("up/bias", P("model")), ("down/kernel", P("model", None))]
  system, how = toy.make(toy.log().num_items + 7), {"accumulate": 2, "fuse": 2, "ema": 0.9}
  how |= {"log_every": 4, "system": system}
  grid = {"axes": axes.items(), "rules": rules}
  whole = run(tmp_path / "a", **how, **grid)
  with pytest.raises(ConnectionError):
    run(tmp_path / "b", train=Breaks(toy.batches(toy.log()), 6), **how, **grid)
  chex.assert_trees_all_equal(run(tmp_path / "b", **how, **grid).state, whole.state)
  alone = run(None, **how)
  chex.assert_trees_all_close(jax.device_get(whole.params), alone.params, atol=1e-5)


def test_a_damaged_newest_checkpoint_does_not_crowd_out_a_good_one(tmp_path):
  run(tmp_path, steps=8)
  corrupt(tmp_path / "checkpoints" / "step_00000008" / "state", "flip", random.Random(1))
  run(tmp_path, steps=6, keep_last=1, save_every=2)
  finished = [f.step for f in checkpoint.finished(tmp_path / "checkpoints")]
  assert 6 in finished
  chex.assert_trees_all_equal(run(tmp_path).state, run(tmp_path / "whole").state)


def test_a_damaged_best_checkpoint_gives_way_to_the_next_best(tmp_path, caplog):
  split = splits.leave_one_out(toy.log())
  valid = loader.Batches(examples.next_events(split.train, split.valid), 64, max_len=8)
  measure = evaluate.ranking_by_list(toy.make(toy.log().num_items))
  suites = [evaluate.Suite("valid", valid, measure)]
  how = {"suites": suites, "eval_every": 4, "best": "-valid/recall@10", "keep_last": 3}
  how["optimizer"] = optim.Config(rate=3e-2)  # it learns, so that the first is the best by less
  first = run(tmp_path, **how)
  ranked = [f.step for f in checkpoint.finished(tmp_path / "checkpoints")]
  by = {
    f.step: f.meta["metrics"]["valid/recall@10"]
    for f in checkpoint.finished(tmp_path / "checkpoints")
  }
  best = min(ranked, key=lambda step: (by[step], step))
  assert first.metrics["valid/recall@10"] == by[best] and best != 12
  corrupt(tmp_path / "checkpoints" / f"step_{best:08d}" / "state", "flip", random.Random(1))
  again = run(tmp_path, **how)
  assert again.metrics["valid/recall@10"] == sorted(by.values())[1]
  assert "next best" in caplog.text


@pytest.mark.parametrize("damage", [None, "null", "{}"])
def test_what_a_damaged_checkpoint_says_of_itself_is_not_believed(tmp_path, damage):
  """A digit that makes it the best, or text that is no longer what was told."""
  split = splits.leave_one_out(toy.log())
  valid = loader.Batches(examples.next_events(split.train, split.valid), 64, max_len=8)
  measure = evaluate.ranking_by_list(toy.make(toy.log().num_items))
  suites = [evaluate.Suite("valid", valid, measure)]
  how = {"suites": suites, "eval_every": 4, "best": "valid/recall@10", "keep_last": 2}
  run(tmp_path, **how)
  found = checkpoint.finished(tmp_path / "checkpoints")
  by = {f.step: f.meta["metrics"]["valid/recall@10"] for f in found}
  best = max(by, key=lambda step: (by[step], -step))
  liar = next(step for step in by if step != best)
  meta = tmp_path / "checkpoints" / f"step_{liar:08d}" / "meta.json"
  said = meta.read_text()
  meta.write_text(said.replace(f'@10": {by[liar]}', '@10": 8.5') if damage is None else damage)
  assert meta.read_text() != said
  again = run(tmp_path, **how)
  assert again.metrics["valid/recall@10"] == by[best]
  longer = run(tmp_path, steps=16, **how)
  assert f"step_{best:08d}" in {p.name for p in (tmp_path / "checkpoints").iterdir()} or (
    longer.metrics["valid/recall@10"] > by[best]
  )


def test_a_damaged_fingerprint_is_no_other_config(tmp_path):
  run(tmp_path)
  meta = tmp_path / "checkpoints" / "step_00000012" / "meta.json"
  meta.write_text(meta.read_text().replace('"seed": 0', '"seed": 7'))
  loop.check(tmp_path, loop.Config(steps=12, log_every=3, save_every=4), {})
  chex.assert_trees_all_equal(run(tmp_path).state, run(tmp_path / "whole").state)


def test_fewer_steps_than_were_trained_are_refused(tmp_path):
  run(tmp_path)
  said = "was trained for 12 steps already, and 8 are asked for"
  with pytest.raises(checkpoint.CheckpointError, match=said):
    run(tmp_path, steps=8)
  with pytest.raises(checkpoint.CheckpointError, match=said):
    loop.check(tmp_path, loop.Config(steps=8, log_every=3, save_every=4), {})


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


def test_a_metric_that_is_no_number_is_worse_than_any():
  assert checkpoint.worth({"a": float("nan")}, "a") == -np.inf
  assert checkpoint.worth({"a": float("nan")}, "-a") == -np.inf
  assert checkpoint.worth({"a": 2.0}, "-a") == -2.0 and checkpoint.worth({}, "a") is None


def test_batches_that_changed_or_do_not_suffice_are_told(tmp_path):
  with pytest.raises(ValueError, match="12 steps need more than the .* batches"):
    run(None, train=toy.batches(toy.log(), epochs=1))
  run(tmp_path, steps=4)
  with pytest.raises(checkpoint.CheckpointError, match="batches.batch_size: 16 then, 8 now"):
    run(tmp_path, train=toy.batches(toy.log(), 8))
  with pytest.raises(checkpoint.CheckpointError, match="batches.seed: 0 then, 3 now"):
    run(tmp_path, train=toy.batches(toy.log(), seed=3))


def test_what_was_learned_is_kept_when_there_is_no_such_metric(tmp_path):
  split = splits.leave_one_out(toy.log())
  valid = loader.Batches(examples.next_events(split.train, split.valid), 64, max_len=8)
  suites = [evaluate.Suite("valid", valid, evaluate.ranking_by_list(toy.make(24 + 1)))]
  with pytest.raises(ValueError, match="no metric 'valid/ndcg@77'"):
    run(tmp_path, suites=suites, best="valid/ndcg@77", save_every=1000, log_every=100)
  assert [f.step for f in checkpoint.finished(tmp_path / "checkpoints")] == [12]


def test_work_is_counted_whatever_the_micro_batches_and_fused_steps():
  def flops(**how):
    records = []

    def keep(log, step, values):
      records.append(values)

    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(loop.log.Log, "write", keep)
      patch.setattr(loop.log, "peak_flops", lambda: None)
      run(None, steps=4, log_every=4, save_every=4, **how)
    return records[0]["perf/flops_per_s"] * records[0]["perf/step_ms"] / 1e3

  alone = flops()
  for how in ({"accumulate": 2}, {"accumulate": 4}, {"fuse": 2}):
    np.testing.assert_allclose(flops(**how), alone, rtol=0.05)


def test_a_loss_that_is_not_finite_stops_with_step_batch_and_way_back(tmp_path):
  batches = toy.batches(toy.log())
  first = next(i for i in range(99) if 7 in batches[i]["user"])
  assert first > 0
  with pytest.raises(meter.BadLoss) as error:
    run(tmp_path, system=explodes(7), steps=first + 5, save_every=1)
  said = str(error.value)
  assert f"step {first}:" in said and f"step_{first:08d}" in said and "hash" in said
  kept = checkpoint.finished(tmp_path / "checkpoints")[-1]
  state = checkpoint.restore(kept.path, run(None, steps=1).state)
  chex.assert_tree_all_finite(state)


def test_bad_updates_may_be_skipped_with_a_counter(tmp_path):
  batches = toy.batches(toy.log())
  bad = [i for i in range(30) if 7 in batches[i]["user"]]
  result = run(tmp_path, system=explodes(7), steps=30, skip_bad=True)
  assert bad and result.state.skipped == len(bad) and told(tmp_path)[-1]["skipped"] == len(bad)
  chex.assert_tree_all_finite(result.state.params)


def test_an_exploding_loss_stops_too_or_is_skipped(tmp_path):
  with pytest.raises(meter.BadLoss, match="the loss is"):
    run(tmp_path, max_loss=1.0)
  # As the message says, the same folder goes on with skip_bad.
  skipped = run(tmp_path, max_loss=1.0, skip_bad=True)
  assert skipped.state.skipped == 12 and "loss" not in told(tmp_path)[-1]


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(checkpoint.CheckpointError, match="cannot write to .*--workdir"):
    run(tmp_path / "file" / "run", train=Breaks(toy.batches(toy.log()), 1))


@pytest.mark.parametrize("kind", [OSError, ValueError])  # ours, and TensorStore's
def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, kind):
  run(tmp_path, steps=4)

  def full(path, text):
    raise kind("No space left on device")

  monkeypatch.setattr(checkpoint, "_write_synced", full)
  with pytest.raises(checkpoint.CheckpointError, match=r"No space left.*last good one is .*00004"):
    run(tmp_path, steps=8)
  monkeypatch.undo()
  chex.assert_trees_all_equal(run(tmp_path).state, run(tmp_path / "whole").state)


def test_starting_from_other_parameters(tmp_path):
  first = run(tmp_path / "a", steps=4)
  second = run(None, steps=1, optimizer=optim.Config(rate=1e-9))
  x = toy.log()
  cfg = loop.Config(steps=1, optimizer=optim.Config(rate=1e-9), ema=0.5)
  moved = loop.fit(
    toy.make(x.num_items),
    (),
    toy.batches(x),
    cfg,
    init_from=lambda fresh: first.params,
    mesh=mesh.make_mesh(devices=jax.devices()[:1]),
  )
  chex.assert_trees_all_close(moved.params, first.params, atol=1e-6)
  assert not np.allclose(moved.params["items"]["embedding"], second.params["items"]["embedding"])


def test_closed_form_systems_are_solved_and_kept(tmp_path):
  x = toy.log()
  split = splits.leave_one_out(x)
  system = System(
    fit=lambda assets, log: {"count": np.bincount(log.item, minlength=log.num_items)},
    score=lambda params, assets, batch: jnp.tile(params["count"], (len(batch["user"]), 1)),
  )
  test = loader.Batches(examples.next_events(split.train, split.test), 32, max_len=8)
  suites = [evaluate.Suite("test", test, evaluate.ranking_by_score(system, ks=(5,)))]
  result = loop.solve(system, (), split.train, suites=suites, workdir=tmp_path)
  counts = np.bincount(split.train.item, minlength=x.num_items)
  order = [i for i in np.argsort(-counts, kind="stable") if i != 0][:5]
  wanted = np.isin(split.test.item, order).mean()
  np.testing.assert_allclose(result.metrics["test/recall@5"], wanted, rtol=1e-6)
  found = checkpoint.finished(tmp_path / "checkpoints")[0]
  chex.assert_trees_all_equal(checkpoint.restore(found.path, result.state).params, result.params)


def test_a_signal_in_the_last_validation_is_told_and_leaves_nothing_to_train(tmp_path):
  class Stops(Breaks):
    def __getitem__(self, index):
      os.kill(os.getpid(), signal.SIGTERM)
      return self._batches[index]

  split = splits.leave_one_out(toy.log())
  valid = loader.Batches(examples.next_events(split.train, split.valid), 64, max_len=8)
  measure = evaluate.ranking_by_list(toy.make(toy.log().num_items))
  stopped = run(tmp_path, suites=[evaluate.Suite("valid", Stops(valid, None), measure)])
  assert stopped.stopped_by == signal.SIGTERM and int(stopped.state.step) == 12
  again = run(tmp_path, suites=[evaluate.Suite("valid", valid, measure)])
  assert again.stopped_by is None and again.metrics == stopped.metrics
  chex.assert_trees_all_equal(again.state, stopped.state)
