"""Frozen features against fine-tuning: the ranking, the tests, and the verb that runs all of them."""

import json
import types

import numpy as np
import pytest
from conftest import TINY, penult

import verbs.arguments
from classify.artifact import load_head
from classify.contest import STRATEGIES, Contest, Run, colour_differences, judge_advice, rank_runs
from classify.statistics import mcnemar_exact


def run(strategy, right, seed=0):
    return Run(strategy, seed, np.array(right, dtype=bool), 1.0, 10.0)


def contest_of(runs, color="rgb"):
    return Contest("toys", color, "b", "test", len(runs[0].right), 9, 2, rank_runs(runs), {})


def answers(n_right, n=40):
    return [i < n_right for i in range(n)]


def test_the_command_line_offers_every_strategy():
    assert verbs.arguments.STRATEGIES == STRATEGIES


def test_the_best_comes_first_and_the_others_are_tested_against_it():
    contest = contest_of([run("lr", answers(20)), run("full", answers(38)), run("svm", answers(36))])
    assert [entry.strategy for entry in contest.entries] == ["full", "svm", "lr"]
    assert [entry.verdict for entry in contest.entries] == ["best", "tie", "worse"]
    assert contest.entries[2].p_value == mcnemar_exact(np.array(answers(38)), np.array(answers(20)))
    assert contest.entries[2].p_holm >= contest.entries[2].p_value


def test_equals_stand_in_the_order_of_cost():
    contest = contest_of([run("scratch", answers(30)), run("lr", answers(30))])
    assert [entry.strategy for entry in contest.entries] == ["lr", "scratch"]
    assert [entry.wins for entry in contest.entries] == [1, 1]


def test_what_is_ahead_with_the_seed_that_is_tested_is_not_called_worse():
    runs = [
        run("lr", answers(20), 0),
        run("lr", answers(40), 1),
        run("full", answers(29), 0),
        run("full", answers(29), 1),
    ]
    best, other = contest_of(runs).entries
    assert (best.strategy, other.strategy, other.verdict) == ("lr", "full", "tie")
    assert other.p_holm < 0.05


def test_wins_are_counted_by_seed():
    runs = [
        run("lr", answers(30), 0),
        run("lr", answers(30), 1),
        run("full", answers(36), 0),
        run("full", answers(20), 1),
    ]
    contest = contest_of(runs)
    assert {entry.strategy: entry.wins for entry in contest.entries} == {"lr": 1, "full": 1}
    assert contest.entries[0].accuracy == pytest.approx(0.75)


def test_colour_is_compared_on_the_same_pictures():
    rgb = contest_of([run("lr", answers(38))])
    gray = contest_of([run("lr", answers(20))], "gray")
    (difference,) = colour_differences([rgb, gray])
    assert (difference.rgb, difference.gray) == (0.95, 0.5)
    assert difference.p_value == difference.p_holm < 0.001
    rgb, gray = (
        contest_of([run("lr", answers(38)), run("svm", answers(n))], c) for n, c in ((38, "rgb"), (32, "gray"))
    )
    tie, close = sorted(colour_differences([rgb, gray]), key=lambda d: -d.p_value)
    assert (tie.p_holm, close.p_holm) == (1.0, 2 * close.p_value)
    assert close.p_value < 0.05 < close.p_holm


@pytest.mark.parametrize(("advised", "ties"), [("frozen", False), ("full", True), ("partial", None)])
def test_advice_is_judged_by_what_came_of_it(advised, ties):
    contest = contest_of([run("lr", answers(20)), run("full", answers(38))])
    gain = types.SimpleNamespace(points=5.0, interval=(0.0, 10.0))
    judgement = judge_advice(types.SimpleNamespace(strategy=advised, sentence="...", gain=gain), contest)
    assert judgement.measured == pytest.approx(45.0)
    assert judgement.kept is False
    assert judgement.ties is ties


def test_all_strategies_meet_on_one_store(pictures, tmp_path):
    store, out = tmp_path / "f.h5", tmp_path / "r.json"
    penult("extract", pictures, "-o", store, *TINY, "--input-size", "32")
    command = ["compare", store, "--colors", "rgb", "gray", "--epochs", "1", "--batch-size", "8", "--json", out]
    done = penult(*command, "--save", tmp_path / "kept", "--strategies")
    assert done.returncode == 0, done.stderr
    answer = json.loads(out.read_text())
    assert [contest["color"] for contest in answer["contests"]] == ["rgb", "gray"]
    for contest in answer["contests"]:
        assert {entry["strategy"] for entry in contest["entries"]} | contest["refused"].keys() == set(STRATEGIES)
        assert contest["entries"][0]["verdict"] == "best"
        assert all(entry["cost"] > 0 and entry["seconds"] > 0 for entry in contest["entries"])
    assert len(answer["colour"]) >= 7
    assert answer["advice"][0]["dataset"] == "pictures"
    assert (tmp_path / "kept" / "pictures-gray-full-0.ckpt").exists()
    # a checkpoint of the contest is measured by eval as the contest measured it
    done = penult("eval", tmp_path / "kept" / "pictures-rgb-full-0.ckpt", store, "--json", out)
    full = next(e for e in answer["contests"][0]["entries"] if e["strategy"] == "full")
    assert json.loads(out.read_text())["heads"][0]["accuracy"] == pytest.approx(full["accuracy"])


def test_a_contest_leaves_nothing_behind_that_plain_commands_look_at(pictures, tmp_path):
    store, out, head = tmp_path / "f.h5", tmp_path / "r.json", tmp_path / "h.head"
    tiny = [*TINY, "--input-size", "32"]
    penult("extract", pictures, "-o", store, *tiny)
    done = penult("compare", store, "--strategies", "head2toe", "--colors", "rgb", "gray")
    assert done.returncode == 0, done.stderr

    def ranked():
        done = penult("compare", store, "--heads", "ridge", "--json", out)
        assert done.returncode == 0, done.stderr
        return [head for ranking in json.loads(out.read_text())["rankings"] for head in ranking["heads"]]

    assert len(ranked()) == 1
    # who names the stages finds them, and the advice takes what is there
    done = penult("fit", store, "--head", "lr", "--features", "all-stages", "-o", head, "--json", out)
    assert done.returncode == 0, done.stderr
    assert len(load_head(head).specs) > 2
    assert penult("advise", store, "--json", out).returncode == 0
    (network,) = json.loads(out.read_text())["backbones"]
    assert len(network["layers"]) > 2
    # and who asks for them makes them features like others, which costs nothing
    done = penult("extract", pictures, "-o", store, *tiny, "--layers", "all-stages", "penultimate", "--json", out)
    assert (done.returncode, json.loads(out.read_text())["extracted"]) == (0, 0)
    assert len(ranked()) == len(load_head(head).specs)


def test_a_store_without_plain_features_is_refused(pictures, tmp_path):
    penult("extract", pictures, "-o", tmp_path / "f.h5", *TINY, "--input-size", "32", "--normalize")
    done = penult("compare", tmp_path / "f.h5", "--strategies", "lr")
    assert done.returncode == 1
    assert "holds no penultimate features in colour whose network is known" in done.stderr


def test_pictures_that_have_moved_are_not_forgotten_by_the_store(pictures, tmp_path):
    store = tmp_path / "f.h5"
    penult("extract", pictures, "-o", store, *TINY, "--input-size", "32")
    before = store.read_bytes()
    pictures.rename(tmp_path / "elsewhere")
    done = penult("compare", store, "--strategies", "lr", "head2toe")
    assert done.returncode == 1
    assert "put them back, or extract them from where they are; the store was left as it was" in done.stderr
    assert store.read_bytes() == before
