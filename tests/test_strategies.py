"""How networks are trained, by name."""

import argparse
import dataclasses

import pytest

import verbs.finetune
from data.errors import TrainingError
from finetune.beginnings import INITS
from finetune.strategies import AUGMENTATIONS, MODES, OPTIMIZERS, PRESETS, SCHEDULES, Strategy, make_strategy
from verbs.arguments import Adder


def test_the_command_line_offers_what_there_is():
    parser = argparse.ArgumentParser()
    verbs.finetune.add_arguments(Adder(parser))
    options = {action.dest: action for action in parser._actions}
    known = {"mode": MODES, "preset": PRESETS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}
    known |= {"augment": AUGMENTATIONS, "init": INITS}
    for name, values in known.items():
        assert sorted(options[name].choices) == sorted(values), name
    fields = {f.name for f in dataclasses.fields(Strategy)}
    assert fields <= options.keys()


def test_every_preset_makes_sense_in_every_mode():
    for preset in PRESETS:
        for mode in MODES:
            assert make_strategy(mode, preset).mode == mode


def test_the_step_schedule_is_the_tutorials():
    ants = PRESETS["ants"]
    assert [round(ants.factor(epoch), 6) for epoch in (0, 6.99, 7, 13.9, 14, 21)] == [1, 1, 0.1, 0.1, 0.01, 0.001]


def test_the_presets_are_the_tutorials_recipes():
    for mode in ("head", "full"):
        ants = make_strategy(mode, "ants")
        assert (ants.optimizer, ants.lr, ants.momentum, ants.weight_decay) == ("sgd", 0.001, 0.9, 0.0)
        assert (ants.schedule, ants.step_epochs, ants.gamma, ants.warmup) == ("step", 7, 0.1, 0.0)
        assert (ants.epochs, ants.batch_size, ants.head_lr_factor, ants.keep) == (25, 4, 1.0, "best")
        assert ants.augment == "crop"
    hotdog, scratch = make_strategy("full", "hotdog"), make_strategy("scratch", "hotdog")
    assert (hotdog.rate(0, 5), hotdog.rate(5, 5)) == (5e-5, 5e-5)
    assert hotdog.rate(None, 5) == pytest.approx(5e-4)
    assert scratch.rate(0, 5) == scratch.rate(None, 5) == 5e-4
    for recipe in (hotdog, scratch):
        assert (recipe.optimizer, recipe.momentum, recipe.weight_decay) == ("sgd", 0.0, 0.001)
        assert (recipe.epochs, recipe.batch_size, recipe.schedule, recipe.warmup) == (5, 128, "constant", 0.0)
        assert (recipe.augment, recipe.reduction, recipe.keep) == ("crop", "sum", "last")
    assert make_strategy("scratch").lr >= 10 * make_strategy("full").lr
    # the tutorials let BatchNorm learn, as whatever starts from nothing must
    assert {make_strategy(m, p).norm for m in ("full", "scratch") for p in ("ants", "hotdog")} == {"batch"}
    assert (make_strategy("full").norm, make_strategy("scratch").norm) == ("kept", "batch")
    assert make_strategy("full").factor(10) < make_strategy("full").factor(5) < 1


def test_the_cosine_rises_then_falls_to_nothing():
    strategy = Strategy(epochs=10, warmup=2, schedule="cosine")
    factors = [strategy.factor(e / 4) for e in range(41)]
    assert factors[0] == 0
    assert max(factors) == factors[8]
    assert factors[-1] == pytest.approx(0, abs=1e-12)
    assert factors[:9] == sorted(factors[:9])
    assert factors[8:] == sorted(factors[8:], reverse=True)


def test_rates_fall_towards_the_pictures():
    strategy = Strategy(lr=1.0, layer_decay=0.5, head_lr_factor=10)
    assert [strategy.rate(d, 3) for d in (None, 3, 2, 1, 0)] == [10, 1, 0.5, 0.25, 0.125]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "lr must be above 0"),
        ({"epochs": 0}, "epochs must be 1 or more"),
        ({"batch_size": 1}, "batch_size must be 2 or more"),
        ({"optimizer": "adam"}, "optimizer must be one of sgd, adamw: got 'adam'"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1"),
        ({"momentum": 1.5}, "momentum must be at least 0 and below 1: got 1.5"),
        ({"hold_out": 1.0}, "hold_out must be between 0 and 1: got 1.0"),
        ({"freeze": 2}, "freeze is for the mode partial"),
        ({"lr": float("nan")}, "lr must be above 0"),
        ({"seed": -1}, "seed must be 0 or more: got -1"),
        ({"warmup": float("nan")}, "warmup must be 0 or more: got nan"),
        ({"weight_decay": float("inf")}, "weight_decay must be 0 or more: got inf"),
        ({"views": 4}, "views is for augment views: got augment crop"),
        ({"momentum": 0.5, "optimizer": "adamw"}, "momentum is for optimizer sgd: got optimizer adamw"),
        ({"gamma": 0.5}, "gamma is for schedule step: got schedule cosine"),
        ({"patience": 3, "keep": "last"}, "patience is for keep best: got keep last"),
    ],
)
def test_impossible_values_are_refused(changes, message):
    with pytest.raises(TrainingError, match=message):
        make_strategy("full", changes=changes)


def test_an_unknown_preset_names_those_there_are():
    with pytest.raises(TrainingError, match="no preset 'cats': use default, ants, hotdog"):
        make_strategy("full", "cats")
