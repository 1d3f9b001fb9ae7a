"""Fine-tuning from pictures to a checkpoint that is used like a head and like a backbone."""

import json

import numpy as np
import pytest
from conftest import TINY, penult
from tuned import FAST, tuner

from data.errors import TrainingError
from finetune.cached import Cut
from finetune.steps import class_weights


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


def test_training_twice_gives_the_same_bytes(pictures, tmp_path):
    one, two = (tuner(pictures, tmp_path, name=name).run().checkpoint for name in ("a.ckpt", "b.ckpt"))
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes() != tuner(pictures, tmp_path, name="c.ckpt", seed=2).run().checkpoint.read_bytes()


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
    ready = job.prepare()
    assert np.allclose(class_weights(job.course(ready, Cut(0))), [17 / 24, 17 / 24, 17 / 3])


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
