"""The search for the best freeze depth: what is compared with what, and that nothing is lost or peeked at."""

import itertools
import json

import numpy as np
import pytest
from conftest import TINY, penult
from safetensors.torch import load_file

from classify.statistics import holm, mcnemar_exact, wilson_interval
from data.errors import TrainingError
from data.images import open_images
from data.store import FeatureStore
from extract.backbones import Options
from extract.cost import macs_of
from finetune.cached import Behind
from finetune.candidates import candidates_of
from finetune.depth import DepthSearch, Judge, plan_rungs
from finetune.depth_report import conclusions
from finetune.devices import Runner
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
    strategy = make_strategy(mode, **values)
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


@pytest.fixture
def store(pictures, tmp_path):
    path = tmp_path / "f.h5"
    assert penult("extract", pictures, "-o", path, *SMALL[:-2]).returncode == 0
    return path


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


def test_the_verb_writes_a_network_a_table_and_a_picture(store, tmp_path):
    pytest.importorskip("matplotlib")
    files = ["-o", tmp_path / "net.ckpt", "--json", tmp_path / "r.json", "--png", tmp_path / "d.png"]
    done = penult("depth", store, *SMALL, "--depths", "0", "3", "6", "--budget", "1", *files)
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

    done = penult("eval", tmp_path / "net.ckpt", store, "--json", tmp_path / "e.json")
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "e.json").read_text())["heads"][0]
    assert measured["accuracy"] == pytest.approx(answer["accuracy"])


def test_the_winner_is_what_finetune_makes_with_its_depth(pictures, tmp_path):
    found = search(pictures, tmp_path / "net.ckpt", (3, 6)).run()
    frozen = found.chosen.candidate.frozen
    mode, freeze = ("head", 0) if frozen == 6 else ("partial", frozen)
    plain = tuner(pictures, tmp_path / "plain.ckpt", mode, freeze=freeze, epochs=1).run()
    assert np.array_equal(plain.right, found.right)
    assert (tmp_path / "net.ckpt").read_bytes() == plain.checkpoint.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.ckpt", "pictures", "plain.ckpt"]


def test_a_depth_that_goes_on_continues_its_own_training(pictures, tmp_path):
    weights = []
    for stops in ((3,), (1, 2, 3)):
        job = tuner(pictures, tmp_path / "net.ckpt", "partial", freeze=3, epochs=3)
        ready = job.prepare()
        cut = job.cut(ready, 3)
        kept, _ = job.keep(ready, [cut])
        before = {k: v.clone() for k, v in ready.operated.network.state_dict().items()}
        state = tmp_path / f"state-{len(stops)}"
        for until in stops:
            ready.operated.network.load_state_dict(before)
            trainer = Trainer(job.course(ready, cut, kept), job.strategy, Runner("cpu", "float32"), state, "one")
            trained = trainer.run(until)
            assert len(trained.epochs) == until
        weights.append(ready.operated.network.state_dict())
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_a_search_that_was_stopped_ends_where_an_uninterrupted_one_does(store, tmp_path, monkeypatch):
    whole = search(FeatureStore(store), tmp_path / "whole.ckpt").run()
    real, done = Trainer._epoch, []

    def dies(self, number, optimizer):
        if len(done) == 4:  # in the second rung
            raise KeyboardInterrupt
        done.append(number)
        return real(self, number, optimizer)

    monkeypatch.setattr(Trainer, "_epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        search(FeatureStore(store), tmp_path / "net.ckpt").run()
    monkeypatch.setattr(Trainer, "_epoch", real)
    with pytest.raises(TrainingError, match="of a search with other options or pictures: .* or remove the folder"):
        search(FeatureStore(store), tmp_path / "net.ckpt", lr=0.01).run()
    resumed = search(FeatureStore(store), tmp_path / "net.ckpt").run()
    assert resumed.resumed
    assert not whole.resumed
    assert resumed.cost.passes["extracted"] == 0
    assert results(resumed) == results(whole)
    ours, theirs = load_file(tmp_path / "net.ckpt"), load_file(tmp_path / "whole.ckpt")
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert not (tmp_path / "net.ckpt.depths").exists()


def test_depths_see_the_same_pictures_in_the_same_order_and_the_measured_ones_once(store, tmp_path, monkeypatch):
    seen, looked = {}, []
    real_batches, real_scores = Trainer._epoch, Trainer.scores

    def epoch(self, number, optimizer):
        real = self.course.source.batches

        def batches(groups, epoch=None):
            if epoch is not None:
                seen.setdefault(epoch, []).append([rows.tolist() for rows in groups])
            return real(groups, epoch)

        monkeypatch.setattr(self.course.source, "batches", batches)
        try:
            return real_batches(self, number, optimizer)
        finally:
            monkeypatch.setattr(self.course.source, "batches", real)

    def scores(self, rows):
        looked.append(set(rows.tolist()))
        return real_scores(self, rows)

    monkeypatch.setattr(Trainer, "_epoch", epoch)
    monkeypatch.setattr(Trainer, "scores", scores)
    found = search(FeatureStore(store), tmp_path / "net.ckpt").run()
    assert [len(orders) for orders in seen.values()] == [3, 2]
    assert all(order == orders[0] for orders in seen.values() for order in orders)
    measured = set(found.parts.measure.tolist())
    assert [rows == measured for rows in looked] == [False] * (len(looked) - 1) + [True]
    assert not any(rows & measured for rows in looked[:-1])


def test_activations_change_nothing_but_the_cost(pictures, tmp_path):
    kept = search(pictures, tmp_path / "a.ckpt", (2, 4), augment="none").run()
    job = search(pictures, tmp_path / "b.ckpt", (2, 4), augment="none")
    job.tuner.cache = False
    plain = job.run()
    for ours, theirs in zip(kept.depths, plain.depths, strict=True):
        assert ours.reached[-1].best.accuracy == theirs.reached[-1].best.accuracy
        assert ours.reached[-1].best.loss == pytest.approx(theirs.reached[-1].best.loss, abs=2e-3)
    assert plain.cost.passes["extracted"] == 0
    assert kept.cost.macs_in_full == plain.cost.macs_in_full == plain.cost.macs


def test_each_depth_counts_what_it_trains(pictures, tmp_path):
    job = tuner(pictures, tmp_path / "net.ckpt")
    ready = job.prepare()
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


def test_a_depth_that_cannot_be_kept_runs_from_pixels_and_says_so(pictures, tmp_path):
    job = tuner(pictures, tmp_path / "net.ckpt")
    ready = job.prepare()
    room = job.cut(ready, 4).nbytes + job.cut(ready, 6).nbytes
    found = candidates_of(ready.operated, lambda frozen, room: job.cut(ready, frozen, room), room=room)
    assert [c.frozen for c in found if c.cut.layer] == [4, 6]  # the deepest save most
    assert all("would take" in c.cut.why for c in found if c.frozen in (1, 2, 3))
    crops = search(pictures, tmp_path / "net.ckpt", (3, 6), augment="crop").run()
    assert not any(depth.candidate.cut.layer for depth in crops.depths)
    assert [note.partition(": ")[0] for note in crops.notes if "new in every epoch" in note] == ["freeze 3", "freeze 6"]


def test_what_cannot_be_told_from_the_chosen_depth_is_named(pictures, tmp_path):
    found = search(pictures, tmp_path / "net.ckpt", (3, 6)).run()
    (other,) = (depth for depth in found.depths if depth is not found.chosen)
    assert other.p == mcnemar_exact(found.chosen.reached[0].right, other.reached[0].right)
    assert found.chosen.p is None
    told = " ".join(conclusions(found))
    n = len(found.parts.choose)
    assert (f"these {n} pictures cannot tell it from freeze {other.candidate.frozen}" in told) == other.ties
    assert "on 12 pictures of test" in told


def test_impossible_searches_are_refused(pictures, tmp_path):
    with pytest.raises(TrainingError, match=r"has 5 stages: a depth is from 0 .* to 6 .* got 7"):
        search(pictures, tmp_path / "net.ckpt", (0, 7)).run()
    with pytest.raises(TrainingError, match=r"one depth alone \(3\) leaves nothing to search"):
        search(pictures, tmp_path / "net.ckpt", (3,)).run()
    with pytest.raises(TrainingError, match=r"with 0 stages frozen the loss is"):
        search(pictures, tmp_path / "net.ckpt", (0, 6), lr=1e30).run()
    done = penult("depth", pictures, *SMALL, "--epochs", "4", "--budget", "2")
    assert done.returncode == 2
    assert "name one of them" in done.stderr


def test_without_an_output_nothing_is_left(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spare"))
    (tmp_path / "spare").mkdir()
    before = sorted(tmp_path.rglob("*"))
    done = penult("depth", pictures, *SMALL, "--depths", "4", "6", "--budget", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "accuracy on 12 pictures of test" in done.stdout
    assert sorted(tmp_path.rglob("*")) == before
