"""Bars are for terminals: rate, time left and the last metrics there, nothing elsewhere."""

import io
import logging
import sys

import pytest
import toy

from recjax.data import examples, loader, splits
from recjax.train import evaluate, loop


class Terminal(io.StringIO):
  def isatty(self):
    return True


def train(steps=40):
  x = toy.log()
  split = splits.leave_one_out(x)
  system = toy.make(x.num_items)
  valid = loader.Batches(examples.next_events(split.train, split.valid), 16, max_len=8)
  suites = [evaluate.Suite("valid", valid, evaluate.ranking_by_list(system))]
  learned = loader.Batches(examples.sequences(split.train, 8), 16, max_len=8, seed=0, epochs=None)
  cfg = loop.Config(steps=steps, log_every=10, eval_every=20, best="valid/ndcg@10")
  loop.fit(system, (), learned, cfg, suites=suites)


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_a_bar_is_shown_on_a_terminal_alone(stream, monkeypatch):
  shown = stream()
  monkeypatch.setattr(sys, "stderr", shown)
  monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)
  train()
  text = shown.getvalue()
  if stream is io.StringIO:
    assert "training" not in text and "step/s" not in text
    return
  assert "training" in text and "/40" in text and "valid" in text
  assert "loss=" in text and "valid/ndcg@10=" in text


def test_what_is_logged_meanwhile_is_not_lost(monkeypatch, caplog):
  monkeypatch.setattr(sys, "stderr", Terminal())
  with caplog.at_level(logging.INFO, "recjax"):
    train(20)
  assert "step 10:" in caplog.text and "step 20:" in caplog.text
