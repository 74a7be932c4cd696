"""Runs that are killed, starved, damaged or started again: what is lost, and what is said."""

import os
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
