"""Epochs as a table, as TensorBoard's events and as a picture."""

import csv
import sys
from types import SimpleNamespace

import pytest
from conftest import penult
from tuned import FAST

import finetune.logs
from finetune.trainer import Trainer


def test_logs_of_a_training_that_was_stopped_hold_its_first_epochs_too(pictures, tmp_path, monkeypatch):
    events = []

    class SummaryWriter:
        def __init__(self, folder):
            events.append(folder)

        def add_scalar(self, name, value, number):
            events.append((name, number))

        def flush(self):
            pass

        close = flush

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    real = Trainer._epoch

    def dies(self, number, optimizer):
        if number > 1:
            raise KeyboardInterrupt
        return real(self, number, optimizer)

    command = ["finetune", pictures, "-o", tmp_path / "n.ckpt", *FAST, "--csv", tmp_path / "logs" / "e.csv"]
    monkeypatch.setattr(Trainer, "_epoch", dies)
    stopped = penult(*command)
    assert stopped.returncode == 130
    assert "finished epochs are kept in" in stopped.stderr
    assert "run the same command again" in stopped.stderr
    monkeypatch.setattr(Trainer, "_epoch", real)
    done = penult(*command, "--tensorboard", tmp_path / "events")
    assert done.returncode == 0, done.stderr
    assert "going on after 1 epoch of an earlier run" in done.stdout
    with open(tmp_path / "logs" / "e.csv", newline="") as file:
        assert [row["number"] for row in csv.DictReader(file)] == ["1", "2"]
    assert [number for name, number in events[1:] if name == "loss/train"] == [1, 2]


def test_tensorboard_that_is_missing_is_named(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    done = penult("finetune", pictures, "-o", tmp_path / "n.ckpt", *FAST, "--tensorboard", tmp_path / "events")
    assert done.returncode == 1
    assert "`pip install '.[tensorboard]'` in Penult's checkout, or leave out --tensorboard" in done.stderr


def test_a_row_for_each_epoch_can_go_to_standard_output(pictures, tmp_path):
    done = penult("finetune", pictures, "-o", tmp_path / "n.ckpt", *FAST, "--csv", "-")
    assert [row["number"] for row in csv.DictReader(done.stdout.splitlines())] == ["1", "2"]
    assert "wrote" in done.stderr


def test_logs_hold_every_epoch(pictures, tmp_path):
    pytest.importorskip("matplotlib")
    done = penult(
        "finetune", pictures, "-o", tmp_path / "n.ckpt", *FAST, "--csv", tmp_path / "e.csv", "--png", tmp_path / "c.png"
    )
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "e.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["number"] for row in rows] == ["1", "2"]
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


def test_the_picture_names_the_network_of_a_checkpoint(pictures, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    penult("finetune", pictures, "-o", tmp_path / "n.ckpt", *FAST)
    titles = []
    monkeypatch.setattr(finetune.logs, "draw_epochs", lambda path, epochs, title: titles.append(title))
    more = ("--mode", "head", "--epochs", "1", "--png", tmp_path / "c.png")
    done = penult("finetune", pictures, "-o", tmp_path / "m.ckpt", "--weights", tmp_path / "n.ckpt", *more)
    assert done.returncode == 0, done.stderr
    assert titles[-1] == f"timm/test_resnet, head, on {pictures.name}"
