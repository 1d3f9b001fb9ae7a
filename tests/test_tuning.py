"""Fine-tuning from pictures to a checkpoint that is used like a head and like a backbone."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, age, draw, penult
from safetensors import safe_open
from safetensors.torch import load_file

import finetune.logs
from classify.artifact import load_head
from data.errors import TrainingError
from data.images import open_images
from data.store import FeatureStore
from extract.backbones import open_backbone
from extract.checkpoints import read_checkpoint
from extract.options import Options
from finetune.checkpoint import save_checkpoint
from finetune.pictures import Inputs, divide, mirrored, roster_of_images, roster_of_store
from finetune.strategies import make_strategy
from finetune.surgery import operate
from finetune.trainer import Trainer
from finetune.tuning import Tuner

SMALL = [*TINY, "--input-size", "32", "--seed", "1"]
FAST = [*SMALL, "--epochs", "2", "--batch-size", "8"]


def tuner(pictures, tmp_path, mode="full", name="net.ckpt", **changes):
    values = {"epochs": 2, "batch_size": 8, "lr": 0.05, "warmup": 0.0, "seed": 1, "precision": "float32", **changes}
    source = pictures if isinstance(pictures, FeatureStore) else open_images(pictures)
    return Tuner(
        source, tmp_path / name, make_strategy(mode, **values), TINY[1], "random", Options(input_size=32), device="cpu"
    )


@pytest.fixture
def store(pictures, tmp_path):
    path = tmp_path / "f.h5"
    assert penult("extract", pictures, "-o", path, *TINY, "--input-size", "32", "--seed", "1").returncode == 0
    return path


@pytest.mark.parametrize("mode", ["head", "partial", "full", "scratch", "lp-ft"])
def test_every_mode_trains_and_its_checkpoint_is_a_head_and_a_backbone(mode, pictures, store, tmp_path):
    checkpoint, result = tmp_path / "net.ckpt", tmp_path / "r.json"
    done = penult("finetune", store, "--mode", mode, "-o", checkpoint, *FAST, "--json", result)
    assert done.returncode == 0, done.stderr
    answer = json.loads(result.read_text())
    assert answer["mode"] == mode
    assert [e["number"] for e in answer["epochs"]] == [1, 2]
    assert answer["n_train"] + answer["n_choose"] == 24
    low, high = answer["accuracy_ci95"]
    assert low <= answer["accuracy"] <= high

    done = penult("eval", checkpoint, store, "--json", tmp_path / "e.json")
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "e.json").read_text())
    assert measured["heads"][0]["accuracy"] == pytest.approx(answer["accuracy"])
    assert measured["heads"][0]["kind"] == "finetuned"

    done = penult("predict", checkpoint, pictures / "test", "--json", tmp_path / "p.json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "p.json").read_text())["predictions"]) == 12

    done = penult(
        "extract", pictures, "-o", tmp_path / "tuned.h5", "--weights", checkpoint, "--json", tmp_path / "x.json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "x.json").read_text())["fingerprint"] == answer["fingerprint"]


def test_a_second_eval_of_a_checkpoint_runs_no_network(store, tmp_path):
    penult("finetune", store, "-o", tmp_path / "net.ckpt", *FAST)
    first = penult("eval", tmp_path / "net.ckpt", store)
    assert "12 pictures of test went through" in first.stdout
    assert "went through" not in penult("eval", tmp_path / "net.ckpt", store).stdout


def test_the_tensors_bear_the_networks_own_names(store, tmp_path):
    penult("finetune", store, "-o", tmp_path / "net.ckpt", *FAST)
    import timm

    network = timm.create_model("test_resnet", num_classes=3)
    network.load_state_dict(load_file(tmp_path / "net.ckpt"))  # strict
    network.eval()
    head = load_head(tmp_path / "net.ckpt")
    assert np.array_equal(head.head.coef_, network.get_classifier().weight.detach().numpy())


def test_training_twice_gives_the_same_bytes(pictures, tmp_path):
    one, two = (tuner(pictures, tmp_path, name=name).run().checkpoint for name in ("a.ckpt", "b.ckpt"))
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes() != tuner(pictures, tmp_path, name="c.ckpt", seed=2).run().checkpoint.read_bytes()


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
    command += ["--epochs", "60", "--batch-size", "8"]
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
    assert len(answer["epochs"]) == 60


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


@pytest.mark.parametrize("augment", ["none", "flip", "views"])
@pytest.mark.parametrize("mode", ["head", "partial"])
def test_kept_activations_give_what_running_the_frozen_stages_gives(mode, augment, store, tmp_path):
    results = []
    for cache in (True, False):
        job = tuner(FeatureStore(store), tmp_path, mode, f"{cache}.ckpt", augment=augment, epochs=3)
        job.cache = cache
        results.append(job.run())
    kept, plain = results
    assert kept.cached
    assert not plain.cached
    assert np.allclose(kept.scores, plain.scores, atol=2e-3)
    ours, theirs = (load_file(r.checkpoint) for r in results)
    for name, tensor in ours.items():
        assert torch.allclose(tensor.float(), theirs[name].float(), rtol=1e-2, atol=2e-3), name


def test_random_crops_forbid_keeping_activations_and_a_few_views_allow_it(store, tmp_path):
    crops = tuner(FeatureStore(store), tmp_path, "partial", augment="crop").run()
    assert not crops.cached
    assert any("new in every epoch" in note for note in crops.notes)
    views = tuner(FeatureStore(store), tmp_path, "partial", "v.ckpt", augment="views", views=2).run()
    assert views.cached
    assert views.passes["extracted"] == 36 * 3  # the centre and two crops of every picture
    again = tuner(FeatureStore(store), tmp_path, "partial", "w.ckpt", augment="views", views=2).run()
    assert again.passes["extracted"] == 0


def test_pictures_without_a_store_leave_nothing_beside_the_checkpoint(pictures, tmp_path):
    job = tuner(pictures, tmp_path / "out", "head")
    (tmp_path / "out").mkdir()
    assert job.run().cached == "penultimate"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["net.ckpt"]


def test_the_split_that_measures_chooses_nothing(pictures):
    roster = roster_of_images(open_images(pictures))
    parts = divide(roster, on=None, keep="best", hold_out=0.25, seed=0)
    assert parts.measured_on == "test"
    assert not set(parts.measure) & (set(parts.train) | set(parts.choose))
    assert set(roster.splits[parts.choose]) == {"train"}
    assert len(parts.choose) == 6
    roster.splits[roster.splits == "test"] = "val"
    parts = divide(roster, on=None, keep="best", hold_out=0.25, seed=0)
    assert parts.measured_on == "val"
    assert set(roster.splits[parts.choose]) == {"train"}


def test_val_chooses_where_test_measures(pictures):
    roster = roster_of_images(open_images(pictures))
    roster.splits[:3] = "val"
    parts = divide(roster, on=None, keep="best", hold_out=0.25, seed=0)
    assert (parts.chosen_on, parts.measured_on) == ("val", "test")
    assert divide(roster, on=None, keep="last", hold_out=0.25, seed=0).choose.size == 0
    with pytest.raises(TrainingError, match="measured on what it is trained on"):
        divide(roster, on="train", keep="last", hold_out=0.25, seed=0)
    with pytest.raises(TrainingError, match="no labelled picture in the split 'dev', only in test, train, val"):
        divide(roster, on="dev", keep="last", hold_out=0.25, seed=0)


def test_a_store_and_its_pictures_are_the_same_roster(pictures, store):
    of_images, of_store = roster_of_images(open_images(pictures)), roster_of_store(FeatureStore(store))
    assert of_images.identity == of_store.identity


def test_a_set_without_splits_is_split_as_extract_splits_it(tmp_path):
    for hue, name in enumerate(("red", "green")):
        for i in range(10):
            draw(tmp_path / "flat" / name / f"{i}.png", 100 * hue + i, hue)
    age(tmp_path / "flat")
    penult("extract", tmp_path / "flat", "-o", tmp_path / "f.h5", *TINY)
    of_images, of_store = (
        roster_of_images(open_images(tmp_path / "flat")),
        roster_of_store(FeatureStore(tmp_path / "f.h5")),
    )
    assert of_images.identity == of_store.identity


def test_a_picture_that_cannot_be_decoded_is_skipped_and_named(pictures, tmp_path):
    (pictures / "train" / "red" / "0.png").write_bytes(b"no picture")
    done = tuner(pictures, tmp_path).run()
    assert [s.path for s in done.skipped] == ["train/red/0.png"]


def test_a_picture_that_changed_since_it_was_extracted_is_refused(pictures, store, tmp_path):
    draw(pictures / "train" / "red" / "0.png", 999, 1)
    with pytest.raises(TrainingError, match="is not the picture that it was"):
        tuner(FeatureStore(store), tmp_path).run()


def test_pixels_depend_on_seed_epoch_and_content_alone(pictures):
    roster = roster_of_images(open_images(pictures))
    spec = open_backbone(TINY[1], "random", Options(input_size=32)).spec
    rows = np.arange(6)
    for augment in ("none", "flip", "views", "crop"):
        one, two = Inputs(roster, spec, augment, 0, workers=1), Inputs(roster, spec, augment, 0, workers=3)
        a, b = (next(iter(inputs.batches([rows], 3))) for inputs in (one, two))
        assert np.array_equal(a, b)
        assert np.array_equal(a[::-1], next(iter(one.batches([rows[::-1]], 3))))
        other = next(iter(one.batches([rows], 4)))
        assert np.array_equal(a, other) == (augment == "none")
        plain = next(iter(one.batches([rows])))
        assert np.array_equal(plain, next(iter(Inputs(roster, spec, "none", 0).batches([rows], 9))))


def test_half_of_the_pictures_are_mirrored():
    share = np.mean([mirrored(0, epoch, b"%d" % i) for epoch in range(20) for i in range(50)])
    assert 0.45 < share < 0.55


def test_the_best_epoch_is_kept_and_patience_ends_a_training(pictures, tmp_path):
    done = tuner(pictures, tmp_path, epochs=12, lr=0.3, patience=2, norm="batch").run()
    accuracies = [epoch.accuracy for epoch in done.epochs]
    assert accuracies[done.kept - 1] == max(accuracies)
    assert len(done.epochs) == 12 or len(done.epochs) == done.kept + 2


def test_a_loss_that_is_no_number_stops_with_the_next_step(pictures, tmp_path):
    with pytest.raises(TrainingError, match=r"the loss is .* in epoch \d+: lower the learning rate \(--lr, now 1e\+30"):
        tuner(pictures, tmp_path, lr=1e30, epochs=5).run()


def test_accumulated_gradients_take_the_same_step_where_nothing_is_normalised_by_batch(pictures, tmp_path):
    results = []
    for accumulate in (1, 4):
        job = tuner(
            pictures, tmp_path, "head", f"{accumulate}.ckpt", accumulate=accumulate, augment="none", keep="last"
        )
        results.append(job.run().scores)
    assert np.allclose(*results, atol=1e-4)


def test_balanced_classes_weigh_the_same(pictures, tmp_path):
    for i in range(1, 8):
        (pictures / "train" / "red" / f"{i}.png").unlink()
    job = tuner(pictures, tmp_path, "head", class_weight="balanced", keep="last", augment="none")
    seen = []
    real = Trainer._class_weights

    def spy(self):
        seen.append(real(self))
        return seen[-1]

    Trainer._class_weights = spy
    try:
        job.run()
    finally:
        Trainer._class_weights = real
    assert np.allclose(seen[0], [17 / 24, 17 / 24, 17 / 3])


@pytest.mark.parametrize("changes", [["--color", "luma"], ["--color", "rgba"], ["--fit", "pad"]])
def test_a_checkpoint_of_other_channels_or_shapes_opens_again(changes, pictures, tmp_path):
    checkpoint, result = tmp_path / "net.ckpt", tmp_path / "r.json"
    done = penult("finetune", pictures, "-o", checkpoint, *FAST, *changes, "--json", result)
    assert done.returncode == 0, done.stderr
    answer = json.loads(result.read_text())
    opened = open_backbone(TINY[1], str(checkpoint), read_checkpoint(checkpoint).options())
    assert opened.spec.fingerprint == answer["fingerprint"]
    done = penult("predict", checkpoint, pictures / "test", "--json", tmp_path / "p.json")
    rows = json.loads((tmp_path / "p.json").read_text())["predictions"]
    right = np.mean([row["label"] == row["path"].split("/")[-2] for row in rows])
    assert right == pytest.approx(answer["accuracy"])


def test_a_checkpoint_is_trained_further_as_it_was_made(pictures, tmp_path):
    tuner(pictures, tmp_path, name="first.ckpt").run()
    scores = tmp_path / "e.json"
    first = load_head(tmp_path / "first.ckpt")
    done = penult("finetune", pictures, "-o", tmp_path / "second.ckpt", "--weights", tmp_path / "first.ckpt",
                  "--mode", "head", "--epochs", "1", "--seed", "1", "--json", scores)  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(scores.read_text())
    # neither network nor size were named; the first one's classes are its rows
    assert answer["backbone"] == first.spec.backbone
    assert read_checkpoint(tmp_path / "second.ckpt").spec.crop == (32, 32)
    assert answer["fingerprint"] == first.spec.fingerprint  # the body stayed
    assert "the last layer starts from the old one's rows for 3 of the 3 classes" in answer["notes"]
    store = tmp_path / "s.h5"
    penult("extract", pictures, "-o", store, "--weights", tmp_path / "first.ckpt")
    penult("eval", tmp_path / "first.ckpt", store, "--json", tmp_path / "m.json")
    (measured,) = json.loads((tmp_path / "m.json").read_text())["heads"]
    assert answer["accuracy_before_training"] == pytest.approx(measured["accuracy"])
    done = penult("finetune", pictures, "-o", tmp_path / "first.ckpt", "--weights", tmp_path / "first.ckpt")
    assert "is what training starts from and would be replaced" in done.stderr


def test_a_network_of_several_last_layers_loads_as_its_library_made_it(tmp_path):
    import timm

    operated = operate("timm/deit_tiny_distilled_patch16_224", "random", 3)
    save_checkpoint(tmp_path / "deit.ckpt", operated, {"classes": ["a", "b", "c"]}, np.array([b"0" * 64], dtype="S64"))
    theirs = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3)
    theirs.load_state_dict(load_file(tmp_path / "deit.ckpt"))  # strict
    x = torch.rand((1, 3, 224, 224), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(theirs.eval()(x), operated.network.eval()(x), atol=1e-5)


def test_a_network_whose_last_layer_is_a_convolution_gets_a_linear_one(tmp_path):
    operated = operate("torchvision/squeezenet1_0", "random", 3, Options(input_size=64))
    save_checkpoint(tmp_path / "s.ckpt", operated, {"classes": ["a", "b", "c"]}, np.array([b"0" * 64], dtype="S64"))
    opened = open_backbone("squeezenet1_0", str(tmp_path / "s.ckpt"), read_checkpoint(tmp_path / "s.ckpt").options())
    x = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        (vectors,) = opened.network(x)
        assert torch.allclose(operated.network.last(vectors), operated.network.eval()(x), atol=1e-5)


def test_a_head_does_not_replace_a_trained_network(store, tmp_path):
    tuner(FeatureStore(store), tmp_path, "head").run()
    done = penult("fit", store, "--head", "lr", "-o", tmp_path / "net.ckpt")
    assert "is a fine-tuned network, which a head must not replace" in done.stderr
    assert load_head(tmp_path / "net.ckpt").kind == "finetuned"


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


def test_sets_that_cannot_be_trained_on_are_refused_with_the_next_step(tmp_path):
    def refused(folder, *more):
        age(folder)
        done = penult("finetune", folder, "-o", tmp_path / "n.ckpt", *FAST, *more)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
        assert "defect" not in done.stderr
        assert not list(tmp_path.glob("n.ckpt*"))
        return done.stderr

    flat = tmp_path / "flat"
    for i in range(4):
        draw(flat / f"{i}.png", i)
    assert "no picture to train on, none has a label" in refused(flat)
    one = tmp_path / "one"
    for i in range(4):
        draw(one / "train" / "red" / f"{i}.png", i)
    assert "pictures of one class alone, red" in refused(one)
    val = tmp_path / "val-only"
    for hue, name in enumerate(("red", "green")):
        for i in range(4):
            draw(val / "val" / name / f"{i}.png", 9 * hue + i, hue)
    assert "no labelled picture in the split 'train', only in val: name another set, or split" in refused(val)
    lacking = tmp_path / "lacking"
    for hue, name in enumerate(("red", "green", "blue")):
        for split in ("train", "test")[hue == 2 :]:
            for i in range(4):
                draw(lacking / split / name / f"{i}.png", 99 * hue + 9 * len(split) + i, hue)
    assert "no training picture shows blue" in refused(lacking)
    assert "--init rows starts the last layer from" in refused(lacking, "--mode", "scratch", "--init", "rows")
    assert "freeze is for the mode partial" in refused(lacking, "--freeze", "2")
    assert "views is for augment views" in refused(lacking, "--views", "3")


def test_a_store_whose_pictures_have_gone_says_so(pictures, store, tmp_path):
    tuner(FeatureStore(store), tmp_path).run()
    before = store.read_bytes()
    pictures.rename(tmp_path / "elsewhere")
    refused = penult("finetune", store, "--mode", "full", "-o", tmp_path / "n.ckpt", *FAST)
    assert "can no longer be read" in refused.stderr
    for command in (
        ["finetune", store, "--mode", "partial", "-o", tmp_path / "n.ckpt", *FAST],
        ["eval", tmp_path / "net.ckpt", store],
    ):
        refused = penult(*command)
        assert refused.returncode == 1
        assert "lists pictures that it lacks these features of and that cannot be read now" in refused.stderr
        assert store.read_bytes() == before
    # what the last layer alone needs is in the store, but for mirrored pictures
    done = penult("finetune", store, "--mode", "head", "--augment", "none", "-o", tmp_path / "n.ckpt", *FAST)
    assert done.returncode == 0, done.stderr


def test_a_folder_that_cannot_be_written_to_is_refused_before_training(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(TrainingError, match="cannot be written to: name a file in another folder with -o"):
        tuner(pictures, tmp_path).run()
    monkeypatch.undo()
    with pytest.raises(TrainingError, match="is no folder"):
        tuner(pictures, tmp_path / "nowhere").run()


def test_a_row_for_each_epoch_can_go_to_standard_output(pictures, tmp_path):
    done = penult("finetune", pictures, "-o", tmp_path / "n.ckpt", *FAST, "--csv", "-")
    assert [row["number"] for row in csv.DictReader(done.stdout.splitlines())] == ["1", "2"]
    assert "wrote" in done.stderr


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


def test_a_checkpoint_is_no_pickle_and_says_what_it_is(store, tmp_path):
    penult("finetune", store, "-o", tmp_path / "net.ckpt", *FAST)
    with safe_open(tmp_path / "net.ckpt", framework="numpy") as file:
        info = json.loads(file.metadata()["penult_checkpoint"])
    assert info["classes"] == ["blue", "green", "red"]
    assert info["strategy"]["epochs"] == 2
    assert "seconds" not in info["epochs"][0]
    found = read_checkpoint(tmp_path / "net.ckpt")
    assert found.spec.fingerprint == info["fingerprint"]
    head = load_head(tmp_path / "net.ckpt")
    digests = FeatureStore(store).load("train").digests
    assert head.trained_on(digests).all()
    assert not head.trained_on(FeatureStore(store).load("test").digests).any()


def test_what_is_no_checkpoint_is_not_written_over(store, tmp_path):
    done = penult("finetune", store, "-o", store, *FAST)
    assert done.returncode == 1
    assert "exists and is no checkpoint" in done.stderr
    assert FeatureStore(store).load("train").X.shape[0] == 24


def test_a_start_of_other_classes_or_features_is_refused(store, tmp_path):
    penult("fit", store, "--head", "lr", "-o", tmp_path / "lr.head")
    other = [*TINY, "--input-size", "48", "--seed", "1"]
    done = penult("finetune", store, "--mode", "lp-ft", "--start", tmp_path / "lr.head", "-o", tmp_path / "n", *other)
    assert done.returncode == 1
    assert "was fitted on other features" in done.stderr
    done = penult("finetune", store, "--mode", "full", "--start", tmp_path / "lr.head", "-o", tmp_path / "n", *FAST)
    assert "--start is for --mode lp-ft" in done.stderr


def test_lp_ft_starts_where_the_head_stands(store, tmp_path):
    penult("fit", store, "--head", "lr", "-o", tmp_path / "lr.head")
    penult("eval", tmp_path / "lr.head", store, "--json", tmp_path / "e.json")
    command = ["finetune", store, "--mode", "lp-ft", "--start", tmp_path / "lr.head", "-o", tmp_path / "n.ckpt", *FAST]
    assert penult(*command, "--json", tmp_path / "r.json").returncode == 0
    head = json.loads((tmp_path / "e.json").read_text())["heads"][0]
    assert json.loads((tmp_path / "r.json").read_text())["accuracy_before_training"] == pytest.approx(head["accuracy"])
