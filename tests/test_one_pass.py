"""Several networks and views in one pass over the pictures: what is read, computed, stored and found again."""

import dataclasses
import json
import shutil
from collections import Counter

import numpy as np
import pytest
from conftest import age, draw, penult

import extract.reader
from data.images import ImageSet, open_images
from data.memory import recall
from data.store import FeatureStore
from data.verify import verify_store
from extract.embed import embed, reopen
from extract.extractor import Extractor
from extract.flow import SAMPLE
from extract.options import Options
from extract.results import name_limit
from extract.wanted import Wanted, wanted_of

RESNET = Wanted("timm/test_resnet", "random", Options(input_size=64))
EFFICIENTNET = Wanted("timm/test_efficientnet", "random", Options(input_size=64))
VIEWS = ("center", "flip", "random:0:0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty pictures and a copy of one."""
    folder = tmp_path_factory.mktemp("set") / "pictures"
    for i in range(20):
        draw(folder / ("train", "test")[i % 3 == 0] / "ab"[i % 2] / f"{i}.png", i, i % 2, (90 - i, 70 + i))
    copy = folder / "train/a/copy.png"
    copy.write_bytes((folder / "train/b/1.png").read_bytes())
    age(folder)
    return folder


def run(folder, store, *wanted, **options):
    return Extractor(open_images(folder), store, wanted, **options).run()


def by_title(store):
    """Return every vector of a store by its spec's title: {title: {digest: vector}}."""
    held = FeatureStore(store)
    found = {}
    for fingerprint, info in held.features().items():
        digests = held.digests(fingerprint)
        found[info.spec.title] = dict(zip(digests.tolist(), held.vectors(fingerprint, digests), strict=True))
    return found


def deviation(ours, theirs):
    """Return the largest relative deviation of vectors by digest."""
    assert ours.keys() == theirs.keys()
    return max(np.linalg.norm(ours[d] - theirs[d]) / np.linalg.norm(theirs[d]) for d in theirs)


@pytest.fixture
def counted(monkeypatch):
    """Count how often each file is read, and how many are decoded."""
    reads, decodes = Counter(), []
    honest_read, honest_decode = ImageSet.read, extract.reader.decode

    def read(self, index):
        reads[self.paths[index]] += 1
        return honest_read(self, index)

    def decode(content, **options):
        decodes.append(len(content))
        return honest_decode(content, **options)

    monkeypatch.setattr(ImageSet, "read", read)
    monkeypatch.setattr(extract.reader, "decode", decode)
    return reads, decodes


def test_networks_and_views_share_one_pass_and_give_what_separate_runs_give(folder, tmp_path, counted):
    reads, decodes = counted
    several = [dataclasses.replace(network, views=VIEWS) for network in (RESNET, EFFICIENTNET)]
    result = run(folder, tmp_path / "all.h5", *several)
    assert (result.images, result.extracted, result.reused, result.skipped) == (21, 20, 1, [])
    assert set(reads.values()) == {1}
    assert len(reads) == 21
    assert 20 <= len(decodes) <= 21  # a copy may be decoded beside its original
    assert [feature.engine for feature in result.features] == ["onnx/cpu"] * 6
    assert [feature.title.split("/penultimate")[1] for feature in result.features] == ["", "/flip", "/random:0:0"] * 2
    together = by_title(tmp_path / "all.h5")
    assert len(together) == 6
    for number, network in enumerate((RESNET, EFFICIENTNET)):
        for view in VIEWS:
            store = tmp_path / f"{number}-{view.replace(':', '-')}.h5"
            alone = run(folder, store, dataclasses.replace(network, views=(view,)))
            ((title, vectors),) = by_title(store).items()
            assert alone.fingerprint in {feature.fingerprint for feature in result.features}
            assert deviation(together[title], vectors) < 1e-6
    views = [together[f"timm/test_resnet/penultimate{view}"] for view in ("", "/flip", "/random:0:0")]
    assert deviation(views[0], views[1]) > 1e-4  # they are not all the same
    assert deviation(views[0], views[2]) > 1e-4
    verdict = verify_store(tmp_path / "all.h5")
    assert (verdict.problems, verdict.rows, verdict.missing) == ([], 120, {})


def test_an_average_is_the_mean_of_the_stored_views(folder, tmp_path):
    run(folder, tmp_path / "views.h5", dataclasses.replace(RESNET, views=VIEWS))
    averaged = dataclasses.replace(RESNET, views=VIEWS, average=True)
    result = run(folder, tmp_path / "views.h5", averaged, dataclasses.replace(averaged, normalize="l2"))
    assert [len(network.stored_views) for network in (averaged, RESNET)] == [1, 1]
    held = by_title(tmp_path / "views.h5")
    mean = held["timm/test_resnet/penultimate/mean(center,flip,random:0:0)"]
    unit = held["timm/test_resnet/penultimate/mean(center,flip,random:0:0)/l2"]
    views = [held[f"timm/test_resnet/penultimate{view}"] for view in ("", "/flip", "/random:0:0")]
    want = {digest: np.mean([view[digest] for view in views], axis=0) for digest in mean}
    assert deviation(mean, want) < 1e-6
    assert deviation(unit, {d: v / np.linalg.norm(v) for d, v in want.items()}) < 1e-6
    assert len(result.features) == 2


def test_one_more_view_or_network_computes_only_what_is_missing(folder, tmp_path, monkeypatch):
    store = tmp_path / "f.h5"
    run(folder, store, RESNET)
    before = by_title(store)
    from extract.onnx import OnnxEngine

    pictures = []
    honest = OnnxEngine.forward

    def forward(self, pixels):
        pictures.append((self._title.split("/")[1], len(pixels)))
        return honest(self, pixels)

    monkeypatch.setattr(OnnxEngine, "forward", forward)
    result = run(folder, store, dataclasses.replace(RESNET, views=("center", "flip")), EFFICIENTNET)
    assert (result.extracted, result.reused, result.published) == (20, 1, True)
    after = by_title(store)
    assert len(after) == 3
    title = "timm/test_resnet/penultimate"
    assert all(np.array_equal(after[title][d], before[title][d]) for d in before[title])  # what was stored stays
    computed = Counter()
    for network, n in pictures:
        computed[network] += n
    assert computed == {
        "test_resnet": SAMPLE + 20,
        "test_efficientnet": SAMPLE + 20,
    }
    pictures.clear()
    again = run(folder, store, EFFICIENTNET, dataclasses.replace(RESNET, views=("flip",)))
    assert (again.extracted, again.engine, again.published, pictures) == (0, "none", False, [])
    new = draw(folder.parent / "new/train/a/new.png", 77).parent.parent.parent
    result = run(new, store, EFFICIENTNET, dataclasses.replace(RESNET, views=("flip",)))
    assert (result.extracted, len(by_title(store)[f"{title}/flip"])) == (1, 21)


def test_new_pictures_beside_old_ones_get_every_view(folder, tmp_path):
    store, grown = tmp_path / "f.h5", tmp_path / "pictures"
    shutil.copytree(folder, grown)
    run(grown, store, RESNET)
    draw(grown / "train/a/new.png", 78)
    both = dataclasses.replace(RESNET, views=("center", "flip"))
    result = run(grown, store, both, dataclasses.replace(both, average=True))
    assert (result.extracted, result.reused) == (21, 1)
    assert [len(vectors) for vectors in by_title(store).values()] == [21, 21, 21]
    assert verify_store(store).missing == {}
    run(grown, tmp_path / "anew.h5", both, dataclasses.replace(both, average=True))
    anew, held = by_title(tmp_path / "anew.h5"), by_title(store)
    assert anew.keys() == held.keys()
    assert max(deviation(held[title], anew[title]) for title in anew) < 1e-6


def test_a_store_remembers_what_each_of_several_networks_knows(folder, tmp_path):
    store = tmp_path / "f.h5"
    result = run(folder, store, dataclasses.replace(RESNET, views=("center", "flip")))
    first, second = (feature.fingerprint for feature in result.features)
    memory = recall(store, [first, second, "f" * 64], open_images(folder))
    assert [len(memory.digests[fingerprint]) for fingerprint in (first, second, "f" * 64)] == [20, 20, 0]
    assert len(memory.files) == 21
    assert recall(tmp_path / "none.h5", [first], open_images(folder)).digests == {first: set()}
    assert recall(store, [first], open_images(folder), rehash=True).files == {}


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_features_do_not_depend_on_engine_batch_size_or_workers(folder, tmp_path, engine):
    run(folder, tmp_path / "reference.h5", RESNET, engine="torch", batch_size=4)
    ((title, reference),) = by_title(tmp_path / "reference.h5").items()
    own = None
    for batch_size, workers in ((1, 1), (4, 3), (32, 2)):
        store = tmp_path / f"{batch_size}.h5"
        result = run(folder, store, RESNET, engine=engine, batch_size=batch_size, workers=workers)
        assert result.engine == f"{engine}/cpu"
        found = by_title(store)[title]
        assert deviation(found, reference) < 1e-3
        own = own or found
        assert deviation(found, own) < 1e-5


def test_a_network_that_knows_all_is_not_loaded_beside_one_that_does_not(folder, tmp_path, monkeypatch):
    store = tmp_path / "f.h5"
    run(folder, store, RESNET)
    from extract.wanted import open_backbone

    opened = []
    monkeypatch.setattr(
        "extract.wanted.open_backbone", lambda name, *a, **k: opened.append(name) or open_backbone(name, *a, **k)
    )
    result = run(folder, store, RESNET, EFFICIENTNET)
    assert opened == ["timm/test_efficientnet"]
    assert [feature.engine for feature in result.features] == ["none", "onnx/cpu"]


def test_the_json_names_every_feature_and_keeps_the_keys_of_the_contract(folder, tmp_path):
    networks = ["--backbone", "timm/test_resnet", "timm/test_efficientnet", "--weights", "random"]
    views = ["--view", "center", "flip", "--input-size", "64"]
    done = penult("extract", folder, "-o", tmp_path / "f.h5", *networks, *views, "--json", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "r.json").read_text())
    contract = "images extracted reused skipped dim fingerprint engine seconds images_per_second stage_seconds"
    assert set(contract.split()) <= set(result)
    assert len(result["features"]) == 4
    first = result["features"][0]
    assert set(first) == {"title", "fingerprint", "dim", "engine"}
    assert (first["fingerprint"], first["dim"], first["engine"]) == tuple(
        result[key] for key in ("fingerprint", "dim", "engine")
    )
    held = FeatureStore(tmp_path / "f.h5").features()
    assert {(f["fingerprint"], f["dim"]) for f in result["features"]} == {(fp, info.dim) for fp, info in held.items()}
    for feature in result["features"]:
        assert f"{feature['title']}: {feature['dim']} features a picture" in done.stdout.replace("\n", " ")


def test_a_head_on_an_averaged_projected_normalised_feature_predicts_and_is_verified(folder, tmp_path):
    options = ["--backbone", "timm/test_resnet", "--weights", "random", "--input-size", "64"]
    options += ["--view", "center", "flip", "random:2", "--average", "--projection", "random:24", "--normalize"]
    assert penult("extract", folder, "-o", "f.h5", *options, cwd=tmp_path).returncode == 0
    (info,) = FeatureStore(tmp_path / "f.h5").features().values()
    assert info.spec.view == "mean(center,flip,random:0:0,random:0:1)"
    samples = FeatureStore(tmp_path / "f.h5").load()
    assert np.allclose(np.linalg.norm(samples.X, axis=1), 1, atol=1e-6)
    assert penult("fit", "f.h5", "--head", "lr", "-o", "lr.head", cwd=tmp_path).returncode == 0
    evaluated = penult("eval", "lr.head", "f.h5", "--json", tmp_path / "e.json", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    predicted = penult("predict", "lr.head", folder / "test", "--json", tmp_path / "p.json", cwd=tmp_path)
    assert predicted.returncode == 0, predicted.stderr
    assert len(json.loads((tmp_path / "p.json").read_text())["predictions"]) == 7
    verified = penult("verify", "f.h5", "--sample", "6", "--json", tmp_path / "v.json", cwd=tmp_path)
    assert verified.returncode == 0, verified.stderr
    (check,) = json.loads((tmp_path / "v.json").read_text())["rechecks"]
    assert (check["checked"], check["sound"]) == (6, True)
    assert check["largest_deviation"] < 1e-5


def test_what_predict_computes_is_what_the_store_holds(folder, tmp_path):
    wanted = dataclasses.replace(RESNET, views=("center", "flip"), average=True, normalize="l2")
    result = run(folder, tmp_path / "f.h5", wanted)
    info = FeatureStore(tmp_path / "f.h5").features()[result.fingerprint]
    assert wanted_of(info.requests[0], "random", "") == wanted
    images = open_images(folder)
    for engine, batch_size in (("auto", 0), ("torch", 3)):
        backbone, feature = reopen(info.requests[0], info.spec, "", "the test")
        assert feature.spec == info.spec
        found = embed(images, backbone, feature, engine=engine, batch_size=batch_size)
        assert found.indices.tolist() == list(range(21))
        ours = dict(zip(found.digests, found.vectors, strict=True))
        assert deviation(ours, by_title(tmp_path / "f.h5")[info.spec.title]) < 1e-5


LIMITS = [
    (
        {"decode": 8.0},
        True,
        "torch/cpu",
        "decoding was the limit: 80% of the time; try --decoder draft if",
    ),
    ({"read": 8.0}, True, "torch/cpu", "reading was the limit: 80% of the time; try --workers 4, or a local copy"),
    ({"forward": 8.0}, True, "torch/cpu", "the network was the limit: 80% of the time; try --engine onnx, a GPU or a"),
    ({"forward": 8.0}, True, "onnx/cpu", "the network was the limit: 80% of the time; try a GPU or a smaller network"),
    ({"write": 8.0}, True, "onnx/cpu", "writing was the limit: 80% of the time; try a faster disk or --dtype float16"),
    (
        {"decode": 3.0, "forward": 4.0, "read": 3.0},
        True,
        "onnx/cpu",
        "no stage alone was the limit: read 30%, decode",
    ),
    ({"forward": 8.0}, False, "torch/cuda", "the network was the limit: 89% of the time; try --compile or a larger"),
    (
        {"decode": 16.0},
        False,
        "torch/cuda",
        "decoding was the limit: 89% of the time; try --workers 4, or --decoder",
    ),
    ({"read": 16.0}, False, "torch/cuda", "reading was the limit: 89% of the time; try --workers 4"),
    ({"write": 8.0}, False, "torch/cuda", "writing was the limit: 89% of the time"),
]


@pytest.mark.parametrize(("busy", "on_cpu", "engine", "sentence"), LIMITS)
def test_the_limit_is_named_with_what_to_try(busy, on_cpu, engine, sentence):
    seconds = {"read": 0.0, "decode": 0.0, "forward": 0.0, "write": 0.0}
    rest = {name: 2.0 / (4 - len(busy)) for name in seconds if name not in busy} if len(busy) == 1 else {}
    if not on_cpu:  # reading and decoding have two threads each
        rest = {name: 0.66 if name in ("read", "decode") else 0.33 for name in rest}
    seconds |= rest | busy
    text = name_limit(seconds, on_cpu=on_cpu, engine=engine, workers=2, cores=8, wall=10.0)
    assert text.startswith(sentence)


def test_what_is_over_in_a_moment_has_no_limit():
    moment = {"read": 0.001, "decode": 0.002, "forward": 0.01, "write": 0.05}
    assert name_limit(moment, on_cpu=True, engine="onnx/cpu", workers=2, cores=2, wall=0.06) == ""


def test_no_work_has_no_limit():
    nothing = {"read": 0.0, "decode": 0.0, "forward": 0.0, "write": 0.0}
    assert name_limit(nothing, on_cpu=True, engine="onnx/cpu", workers=2, cores=2, wall=0.0) == ""
