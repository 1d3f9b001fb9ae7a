"""A training that was stopped: it ends where an uninterrupted one does, and nothing else is taken up."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, penult
from tuned import SMALL, tuner

from data.errors import TrainingError
from data.store import FeatureStore
from finetune.trainer import Trainer


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_training_stopped_after_any_epoch_ends_where_an_uninterrupted_one_does(
    optimizer, pictures, tmp_path, monkeypatch
):
    options = {"epochs": 4, "optimizer": optimizer, "lr": 0.01, "mixup": 0.2, "label_smoothing": 0.1, "augment": "crop"}
    whole = tuner(pictures, tmp_path, name="whole.ckpt", **options).run()
    real = Trainer._epoch

    for stop in (1, 3):
        name = f"{stop}.ckpt"

        def dies(self, number, optimizer, stop=stop):
            if number > stop:
                raise KeyboardInterrupt
            return real(self, number, optimizer)

        monkeypatch.setattr(Trainer, "_epoch", dies)
        with pytest.raises(KeyboardInterrupt):
            tuner(pictures, tmp_path, name=name, **options).run()
        assert not (tmp_path / name).exists()
        monkeypatch.setattr(Trainer, "_epoch", real)
        resumed = tuner(pictures, tmp_path, name=name, **options).run()
        assert resumed.resumed == stop
        assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
        assert not (tmp_path / f"{name}.training").exists()


def test_a_killed_process_goes_on(pictures, tmp_path):
    command = [sys.executable, str(ROOT / "pipeline.py"), "finetune", str(pictures), "-o", "net.ckpt", *SMALL]
    command += ["--epochs", "40", "--batch-size", "8"]
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + 240
    while not (tmp_path / "net.ckpt.training").exists() and time.monotonic() < until and running.poll() is None:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    output, _ = running.communicate()
    assert (tmp_path / "net.ckpt.training").exists(), output
    done = penult(*command[2:], "--json", "r.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads((tmp_path / "r.json").read_text())
    assert answer["resumed_epochs"] >= 1
    assert len(answer["epochs"]) == 40


def test_a_state_of_another_training_is_not_taken_up(pictures, tmp_path, monkeypatch):
    real = Trainer._epoch

    def dies(self, number, optimizer):
        if number > 1:
            raise KeyboardInterrupt
        return real(self, number, optimizer)

    monkeypatch.setattr(Trainer, "_epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        tuner(pictures, tmp_path).run()
    monkeypatch.setattr(Trainer, "_epoch", real)
    with pytest.raises(TrainingError, match=r"net.ckpt.training is of a training with other options or pictures"):
        tuner(pictures, tmp_path, lr=0.02).run()
    (tmp_path / "net.ckpt.training").write_bytes(b"rubbish")
    with pytest.raises(TrainingError, match="no state of a training"):
        tuner(pictures, tmp_path).run()


def test_a_training_on_views_resumes_to_the_same_bytes(store, tmp_path, monkeypatch):
    options = {"augment": "views", "views": 2, "epochs": 4}
    whole = tuner(FeatureStore(store), tmp_path, "partial", "whole.ckpt", **options).run()
    real = Trainer._epoch

    def dies(self, number, optimizer):
        if number > 2:
            raise KeyboardInterrupt
        return real(self, number, optimizer)

    monkeypatch.setattr(Trainer, "_epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        tuner(FeatureStore(store), tmp_path, "partial", "again.ckpt", **options).run()
    monkeypatch.setattr(Trainer, "_epoch", real)
    again = tuner(FeatureStore(store), tmp_path, "partial", "again.ckpt", **options).run()
    assert again.resumed == 2
    assert again.checkpoint.read_bytes() == whole.checkpoint.read_bytes()


def test_a_run_killed_after_the_checkpoint_was_written_writes_it_again(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "finish", lambda self: None)
    first = tuner(pictures, tmp_path).run().checkpoint.read_bytes()
    assert (tmp_path / "net.ckpt.training").exists()
    monkeypatch.undo()
    again = tuner(pictures, tmp_path).run()
    assert again.resumed == 2
    assert again.checkpoint.read_bytes() == first
    assert not (tmp_path / "net.ckpt.training").exists()
