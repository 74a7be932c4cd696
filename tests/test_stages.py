"""Stages: a strict, named hand-over of parameters."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from recjax.train import loop, mesh, optim, stages

OLD = {"encoder": {"a": jnp.ones(2), "b": jnp.ones(3)}, "head": jnp.ones(4)}
NEW = {"user": {"a": jnp.zeros(2), "b": jnp.zeros(3)}, "out": jnp.zeros(4)}


def test_a_module_is_taken_over_under_its_new_name_and_the_rest_is_fresh():
  got = stages.transfer(NEW, OLD, {"user": "encoder"})
  np.testing.assert_array_equal(got["user"]["a"], 1)
  np.testing.assert_array_equal(got["out"], 0)


def test_an_empty_prefix_takes_everything_and_a_longer_one_decides():
  got = stages.transfer(NEW, {"user": {**NEW["user"], "z": jnp.ones(3)}, "out": OLD["head"]},
                        {"out": "out", "user/a": "user/a", "user/b": "user/z"})  # fmt: skip
  np.testing.assert_array_equal(got["user"]["b"], 1)
  chex.assert_trees_all_equal(stages.transfer(OLD, OLD, {"": ""}), OLD)


def test_everything_that_does_not_fit_is_listed_at_once():
  old = {"encoder": {"a": jnp.ones(5), "c": jnp.ones(1)}}
  with pytest.raises(ValueError) as error:
    stages.transfer(NEW, old, {"user": "encoder", "nose": "encoder"})
  said = str(error.value)
  assert "user/a has shape (2,), encoder/a (5,)" in said
  assert "user/b should come from encoder/b, which is not there" in said
  assert "no parameter of ours is under 'nose'" in said
  assert "encoder/c would be left behind" in said


def test_a_prefix_ends_at_a_path_not_in_a_word():
  with pytest.raises(ValueError, match="no parameter of ours is under 'use'"):
    stages.transfer(NEW, OLD, {"use": "encoder"})


def stage(name, steps, **more):
  x = toy.log()
  cfg = loop.Config(steps=steps, optimizer=optim.Config(rate=1e-9, clip=None))
  return stages.Stage(name, toy.make(x.num_items), (), toy.batches(x), cfg, **more)


def test_the_second_stage_starts_where_the_first_ended(tmp_path):
  chain = [
    stage("pretrain", 3)._replace(cfg=loop.Config(steps=3, optimizer=optim.Config(rate=0.1))),
    stage("tune", 1, init_from=("pretrain", {"items": "items", "up": "up"})),
  ]
  one = mesh.make_mesh(devices=jax.devices()[:1])
  results = stages.run(chain, workdir=tmp_path, mesh=one)
  first, second = results["pretrain"].params, results["tune"].params
  chex.assert_trees_all_close(second["items"], first["items"], atol=1e-6)
  assert not np.allclose(second["down"]["kernel"], first["down"]["kernel"])
  again = stages.run(chain, workdir=tmp_path, mesh=one)  # finished stages are only read
  chex.assert_trees_all_equal(again["tune"].state, results["tune"].state)


def test_a_stage_that_starts_from_none_before_it_is_named():
  with pytest.raises(ValueError, match="'tune' starts from 'pretrain', which is none"):
    stages.run([stage("tune", 1, init_from=("pretrain", {"": ""}))])
