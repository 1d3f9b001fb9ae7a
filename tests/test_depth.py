"""The search for the best freeze depth: what is compared with what, and that nothing is lost or peeked at."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from conftest import TINY, age, draw, penult

from classify.statistics import holm, mcnemar_exact, wilson_interval
from data.errors import TrainingError
from data.images import open_images
from data.store import FeatureStore
from extract.cost import macs_of
from extract.options import Options
from finetune.cached import Behind
from finetune.candidates import candidates_of
from finetune.depth import DepthSearch, Judge, plan_rungs
from finetune.depth_report import conclusions
from finetune.strategies import Strategy, make_strategy
from finetune.surgery import depths_of
from finetune.trainer import Trainer
from finetune.tuning import Tuner

JUDGE = Judge(wilson_interval, mcnemar_exact, holm)
SMALL = [*TINY, "--input-size", "32", "--seed", "1", "--batch-size", "8"]
FAST = {"batch_size": 8, "lr": 0.05, "seed": 1, "precision": "float32", "hold_out": 0.4}


def tuner(source, output, mode="full", **changes):
    values = {"schedule": "cooldown", "augment": "flip", **FAST, **changes}
    pictures = source if isinstance(source, FeatureStore) else open_images(source)
    strategy = make_strategy(mode, changes=values)
    return Tuner(pictures, output, strategy, TINY[1], "random", Options(input_size=32), device="cpu")


def search(source, output, depths=(0, 3, 6), **changes):
    return DepthSearch(tuner(source, output, **changes), JUDGE, 1, 0, depths)


def results(found):
    """Return what a search found, without what depends on the clock or on what was there before."""
    answer = found.as_json()
    for name in ("cost", "resumed", "checkpoint"):
        del answer[name]
    for depth in answer["depths"]:
        del depth["seconds"]
        depth["epochs"] = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in depth["epochs"]]
    return answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of pictures and a store of them, to which the first search adds activations."""
    folder = tmp_path_factory.mktemp("depth")
    numbers = itertools.count()
    for split, n in (("train", 8), ("test", 4)):
        for hue, name in enumerate(("red", "green", "blue")):
            for i in range(n):
                draw(folder / "pictures" / split / name / f"{i}.png", next(numbers), hue)
    age(folder)
    assert penult("extract", folder / "pictures", "-o", folder / "f.h5", *SMALL[:-2]).returncode == 0
    return folder


@pytest.fixture(scope="module")
def store(folder):
    return FeatureStore(folder / "f.h5")


@pytest.fixture(scope="module")
def whole(folder, store):
    """Return a search, the rows of each training epoch by depth, and the rows that were looked at, in order."""
    seen, looked = {}, []
    real_epoch, real_scores = Trainer._epoch, Trainer.scores

    def epoch(self, number, optimizer):
        real = self.course.source.batches

        def batches(groups, epoch=None):
            if epoch is not None:
                seen.setdefault(epoch, []).append([rows.tolist() for rows in groups])
            return real(groups, epoch)

        self.course.source.batches = batches
        try:
            return real_epoch(self, number, optimizer)
        finally:
            self.course.source.batches = real

    def scores(self, rows):
        looked.append(set(rows.tolist()))
        return real_scores(self, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_epoch", epoch)
        patch.setattr(Trainer, "scores", scores)
        return search(store, folder / "whole.ckpt").run(), seen, looked


@pytest.fixture(scope="module")
def ready(folder, store):
    """Return a tuner and what it prepares."""
    job = tuner(store, folder / "none.ckpt")
    return job, job.prepare()


def test_the_better_half_goes_on_with_doubled_epochs():
    assert plan_rungs(2, 3) == [(2, 3)]
    assert plan_rungs(9, 1) == [(9, 1), (5, 2), (3, 4), (2, 8)]
    for n in range(2, 30):
        plan = plan_rungs(n, 0, epochs=37)
        assert plan[-1] == (2, 37)
        assert all(later[0] == -(-rung[0] // 2) for rung, later in itertools.pairwise(plan))
        assert all(rung[1] == -(-later[1] // 2) for rung, later in itertools.pairwise(plan))
    with pytest.raises(TrainingError, match="7 depths take 3 rungs .* needs 4 or more: got 3"):
        plan_rungs(7, 0, epochs=3)


def test_the_rate_does_not_depend_on_how_long_a_depth_lives_before_the_last_rung():
    strategy = Strategy(schedule="cooldown", epochs=8, warmup=1.0)
    assert [strategy.factor(epoch) for epoch in (0.5, 1, 2, 4, 6, 8)] == [0.5, 1, 1, 1, 0.5, 0]


def test_the_verb_writes_a_network_a_table_and_a_picture(folder, tmp_path):
    pytest.importorskip("matplotlib")
    files = ["-o", tmp_path / "net.ckpt", "--json", tmp_path / "r.json", "--png", tmp_path / "d.png"]
    done = penult("depth", folder / "pictures", *SMALL, "--depths", "0", "3", "6", "--budget", "1", *files)
    assert done.returncode == 0, done.stderr
    answer = json.loads((tmp_path / "r.json").read_text())
    assert [d["frozen_stages"] for d in answer["depths"]] == [0, 3, 6]
    assert [d["from"] for d in answer["depths"]] == ["pixels", "layer2", "penultimate"]
    assert [(len(rung["ran"]), rung["until"]) for rung in answer["rungs"]] == [(3, 1), (2, 2)]
    assert answer["rungs"][-1]["kept"] == [answer["chosen"]]
    epochs = {d["frozen_stages"]: len(d["epochs"]) for d in answer["depths"]}
    assert {frozen for frozen, n in epochs.items() if n == 2} == set(answer["rungs"][0]["kept"])
    assert {d["frozen_stages"] for d in answer["depths"] if d["dropped_at_rung"] is None} == {answer["chosen"]}
    assert answer["n_train"] + answer["n_choose"] == 24
    assert answer["cost"]["passes"]["extracted"] == 36 * 2  # both views of every picture, for all depths at once
    assert (tmp_path / "d.png").read_bytes()[:4] == b"\x89PNG"

    done = penult("eval", tmp_path / "net.ckpt", folder / "f.h5", "--json", tmp_path / "e.json")
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "e.json").read_text())["heads"][0]
    assert measured["accuracy"] == pytest.approx(answer["accuracy"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.png", "e.json", "net.ckpt", "r.json"]


def test_a_depth_that_goes_on_continues_its_own_training_as_finetune_would(store, whole, tmp_path):
    found, *_ = whole
    frozen = found.chosen.candidate.frozen
    mode = {0: "full", 3: "partial", 6: "head"}[frozen]
    plain = tuner(store, tmp_path / "plain.ckpt", mode, freeze=frozen if frozen == 3 else 0, epochs=2).run()
    assert np.array_equal(plain.right, found.right)
    assert found.checkpoint.read_bytes() == plain.checkpoint.read_bytes()


def test_a_search_that_was_stopped_ends_where_an_uninterrupted_one_does(store, whole, tmp_path, monkeypatch):
    real, done = Trainer._epoch, []

    def dies(self, number, optimizer):
        if len(done) == 4:  # in the second rung
            raise KeyboardInterrupt
        done.append(number)
        return real(self, number, optimizer)

    monkeypatch.setattr(Trainer, "_epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        search(store, tmp_path / "net.ckpt").run()
    monkeypatch.setattr(Trainer, "_epoch", real)
    with pytest.raises(TrainingError, match="of a search with other options or pictures: .* or remove the folder"):
        search(store, tmp_path / "net.ckpt", lr=0.01).run()
    resumed = search(store, tmp_path / "net.ckpt").run()
    assert resumed.resumed
    assert resumed.cost.passes["extracted"] == 0
    assert results(resumed) == results(whole[0])
    assert (tmp_path / "net.ckpt").read_bytes() == whole[0].checkpoint.read_bytes()
    assert not (tmp_path / "net.ckpt.depths").exists()


def test_depths_see_the_same_pictures_in_the_same_order_and_the_measured_ones_once(whole):
    found, seen, looked = whole
    assert [len(orders) for orders in seen.values()] == [3, 2]
    assert all(order == orders[0] for orders in seen.values() for order in orders)
    measured = set(found.parts.measure.tolist())
    assert [rows == measured for rows in looked] == [False] * (len(looked) - 1) + [True]
    assert not any(rows & measured for rows in looked[:-1])


def test_activations_change_nothing_but_the_cost(store, whole, tmp_path):
    kept, *_ = whole
    job = search(store, tmp_path / "net.ckpt")
    job.tuner.cache = False
    plain = job.run()
    for ours, theirs in zip(kept.depths, plain.depths, strict=True):
        assert ours.reached[-1].best.accuracy == theirs.reached[-1].best.accuracy
        assert ours.reached[-1].best.loss == pytest.approx(theirs.reached[-1].best.loss, abs=2e-3)
    assert plain.cost.passes["extracted"] == 0
    assert kept.cost.macs_in_full == plain.cost.macs_in_full > plain.cost.macs


def test_each_depth_counts_what_it_trains(ready):
    job, ready = ready
    found = candidates_of(ready.operated, lambda frozen, room: job.cut(ready, frozen, room))
    assert [c.frozen for c in found] == [0, 1, 2, 3, 4, 6]  # behind the last stage only the last layer learns
    network = ready.operated.network
    for candidate in found[1:]:
        path = Behind(candidate.cut.rest, network).eval()
        (width,) = {path.rest.shape if path.rest else (network.last.in_features,)}
        assert candidate.macs == macs_of(path, (int(np.prod(width)),))
        depths = depths_of(ready.operated).parameters
        trained = [p.numel() for n, p in network.body.named_parameters() if depths[n] >= candidate.frozen]
        trained += [p.numel() for p in network.last.parameters()]
        assert candidate.parameters == pytest.approx(sum(trained) / sum(p.numel() for p in network.parameters()))
    assert found[0].parameters == 1
    assert found[0].macs == found[0].all_macs == macs_of(network, (3, 32, 32))


def test_a_depth_that_cannot_be_kept_runs_from_pixels_and_says_so(ready, store, tmp_path):
    job, ready = ready
    room = job.cut(ready, 4).nbytes + job.cut(ready, 6).nbytes
    found = candidates_of(ready.operated, lambda frozen, room: job.cut(ready, frozen, room), room=room)
    assert [c.frozen for c in found if c.cut.layer] == [4, 6]  # the deepest save most
    assert all("would take" in c.cut.why for c in found if c.frozen in (1, 2, 3))
    crops = tuner(store, tmp_path / "net.ckpt", augment="crop")
    assert "new in every epoch" in crops.cut(crops.prepare(), 3).why


def test_a_reason_that_several_depths_share_is_said_once(store, tmp_path):
    found = search(store, tmp_path / "net.ckpt", (0, 3, 4, 6), mixup=0.2).run()
    assert [note.split(":")[0] for note in found.notes] == ["freeze 3, 4, 6"]
    assert "--mixup 0 lets the frozen stages run once" in found.notes[0]


def test_a_network_that_cannot_be_traced_is_counted_alike_and_runs_from_pixels(ready, store, tmp_path, monkeypatch):
    job, ready = ready
    traced = candidates_of(ready.operated, lambda frozen, room: job.cut(ready, frozen, room), (3, 6))

    def refuse(*_):
        raise TypeError("control flow by values")

    monkeypatch.setattr("extract.tracing._survey_by_trace", refuse)
    found = search(store, tmp_path / "net.ckpt", (3, 6)).run()
    assert [depth.candidate.cut.layer for depth in found.depths] == ["", "penultimate"]
    assert [d.candidate.macs for d in found.depths] == [c.macs for c in traced]
    cannot = "freeze 3: timm/test_resnet cannot be cut at layer2: torch.fx cannot follow it"
    assert f"{cannot}: the frozen stages run in every epoch" in found.notes


def test_what_cannot_be_told_from_the_chosen_depth_is_named(whole):
    found, *_ = whole
    others = [depth for depth in found.depths if depth is not found.chosen]
    p = [mcnemar_exact(found.chosen.reached[len(d.reached) - 1].right, d.reached[-1].right) for d in others]
    assert [depth.p for depth in others] == holm(p)
    assert found.chosen.p is None
    told = " ".join(conclusions(found))
    names = ", ".join(str(depth.candidate.frozen) for depth in others if depth.ties)
    assert f"these {len(found.parts.choose)} pictures cannot tell it from freeze {names} " in told
    assert "on 12 pictures of test" in told
    assert "every other depth" not in " ".join(conclusions(dataclasses.replace(found, depths=[found.chosen])))


def test_impossible_searches_are_refused(ready, folder, store, tmp_path):
    job, ready = ready
    for depths, message in (
        ((0, 7), r"has 5 stages: a depth is from 0 .* to 6 .* got 7"),
        ((3,), r"one depth alone \(3\) leaves nothing to search"),
    ):
        with pytest.raises(TrainingError, match=message):
            candidates_of(ready.operated, lambda frozen, room: job.cut(ready, frozen, room), depths)
    with pytest.raises(TrainingError, match=r"every depth diverged: with 0 stages frozen the loss is"):
        search(store, tmp_path / "net.ckpt", (0, 3), lr=1e30).run()
    done = penult("depth", folder / "pictures", *SMALL, "--epochs", "4", "--budget", "2")
    assert done.returncode == 2
    assert "name one of them" in done.stderr


def test_without_an_output_nothing_is_left(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spare"))
    (tmp_path / "spare").mkdir()
    before = sorted(tmp_path.rglob("*"))
    done = penult("depth", folder / "f.h5", *SMALL, "--depths", "3", "6", "--budget", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "accuracy on 12 pictures of test" in done.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_a_depth_that_diverges_leaves_the_race_to_the_others(store, tmp_path, monkeypatch):
    real = Trainer._refuse_divergence

    def refuse(self, loss, number):
        real(self, float("nan") if self.course.freezing.stages == 0 else loss, number)

    monkeypatch.setattr(Trainer, "_refuse_divergence", refuse)
    found = search(store, tmp_path / "net.ckpt").run()
    assert [depth.candidate.frozen for depth in found.depths] == [3, 6]
    assert "with 0 stages frozen the loss is nan in epoch 1" in found.notes[-1]
    assert found.notes[-1].endswith("it left the race")
