"""ONNX Runtime as an engine: when it runs, that it agrees, and its cache of graphs."""

import dataclasses
import importlib.util
import re
import sys

import numpy as np
import pytest
import torch
from engines_at_hand import CPU, PIXELS, TORCH, backbone, cosines, devices

from data.errors import BackboneError, EngineError, MissingDependency
from extract.at_hand import graph_folder
from extract.backbones import Backbone, open_backbone
from extract.engines import Setup, open_engine
from extract.onnx import OnnxEngine
from extract.options import Options

pytestmark = pytest.mark.usefixtures("settings_kept")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PENULT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/onnx"


def test_a_cpu_runs_onnx_by_default_and_agrees_with_torch(resnet, photos):
    # This changed on purpose: the default engine on a CPU was torch.
    engine = open_engine(resnet, Setup(), photos)
    assert (engine.name, engine.device, engine.precision, engine.notes) == ("onnx/cpu", "cpu", "float32", [])
    reference = open_engine(resnet, TORCH, photos)
    assert (reference.name, reference.precision) == ("torch/cpu", "float32")
    for n in (1, 3, 8):
        (ours,), (theirs,) = engine.forward(photos[:n]), reference.forward(photos[:n])
        assert ours.dtype == np.float32
        assert ours.shape == theirs.shape == (n, 96)
        assert cosines(ours, theirs).min() >= 0.99999
        assert (np.linalg.norm(ours - theirs, axis=1) < 1e-3 * np.linalg.norm(theirs, axis=1)).all()


def test_onnx_agrees_with_torch_on_real_weights_and_pictures(real_data, real_weights):
    from extract.decode import decode
    from extract.preprocess import recipes, to_inputs

    opened = open_backbone("mobilenet_v2", str(real_weights / "mobilenet_v2.pth"))
    files = sorted((real_data / "hymenoptera/val/ants").iterdir())[:8]
    inputs = [to_inputs(decode(f.read_bytes()), recipes(opened.spec), b"0")[0] for f in files]
    sample = np.stack(inputs)
    (ours,), (theirs,) = (open_engine(opened, Setup(e, "cpu"), sample).forward(sample) for e in ("onnx", "torch"))
    assert cosines(ours, theirs).min() >= 0.99999
    centre = theirs.mean(0)
    assert cosines(ours - centre, theirs - centre).min() >= 0.999  # rows of other pictures would fail here


def test_pixels_in_any_layout_give_the_same(resnet, photos):
    for setup in (TORCH, Setup("onnx", "cpu")):
        engine = open_engine(resnet, setup, photos)
        strided = np.asfortranarray(photos)
        assert np.array_equal(engine.forward(strided)[0], engine.forward(photos)[0])


# What makes ONNX unusable, and what is said of it.
def refuse_to_export(monkeypatch):
    def export(*_, **__):
        raise NotImplementedError("Exporting the operator 'aten::magic' is not supported\nand much more")

    monkeypatch.setattr(torch.onnx, "export", export)


def answer_otherwise(monkeypatch):
    honest = OnnxEngine.forward
    monkeypatch.setattr(OnnxEngine, "forward", lambda self, pixels: tuple(o + o.std() for o in honest(self, pixels)))


def give_another_shape(monkeypatch):
    honest = OnnxEngine.forward
    monkeypatch.setattr(OnnxEngine, "forward", lambda self, pixels: tuple(o[:, :-1] for o in honest(self, pixels)))


def fail_on_pictures(monkeypatch):
    class Session:
        def run(self, *_):
            raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION")

    monkeypatch.setattr("extract.onnx._session", lambda *_: Session())


UNUSABLE = {
    "no export": (
        refuse_to_export,
        r"cannot be exported to ONNX \(Exporting the operator 'aten::magic' is not supported\)",
    ),
    "other outputs": (answer_otherwise, r"its outputs have a cosine of 0\.\d+ with the reference's, less than 0\.9999"),
    "other shapes": (give_another_shape, r"its outputs have a cosine of -1\.0+ with the reference's"),
    "a failure": (fail_on_pictures, r"ONNX Runtime failed on 8 pictures in timm/test_resnet.* RUNTIME_EXCEPTION"),
}


@pytest.mark.parametrize(("spoil", "words"), UNUSABLE.values(), ids=UNUSABLE)
def test_auto_passes_over_an_onnx_that_does_not_do_and_says_why(monkeypatch, empty_cache, resnet, photos, spoil, words):
    spoil(monkeypatch)
    engine = open_engine(resnet, CPU, photos)
    assert engine.name == "torch/cpu"
    (note,) = engine.notes
    assert note.startswith("the engine onnx was passed over for torch/cpu: ")
    assert re.search(words, note)
    assert "\n" not in note
    assert engine.forward(photos)[0].shape == (8, 96)


@pytest.mark.parametrize(("spoil", "words"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_onnx_that_was_named_and_does_not_do_is_an_error(monkeypatch, empty_cache, resnet, photos, spoil, words):
    spoil(monkeypatch)
    with pytest.raises(EngineError, match=words):
        open_engine(resnet, Setup("onnx", "cpu"), photos)


@pytest.mark.parametrize("n", [1, 4])
def test_a_graph_that_only_takes_the_exporters_batch_is_passed_over(empty_cache, n):
    class Halves(torch.nn.Module):
        def forward(self, x):
            return (torch.cat([row.flatten()[None] for row in x]),)  # a loop over as many rows as the example has

    engine = open_engine(backbone(Halves(), "halves"), CPU, PIXELS[:n])
    assert engine.name == "torch/cpu"
    assert "passed over" in engine.notes[0]


def test_what_the_exporter_prints_does_not_reach_standard_output(empty_cache, capfd):
    opened = open_backbone("timm/test_vit", "random", Options(input_size=64))  # its positions are resized: no export
    sample = np.zeros((2, 64, 64, 3), np.uint8)
    print("before")
    engine = open_engine(opened, CPU, sample)
    print("after")
    assert "cannot be exported to ONNX" in engine.notes[0]
    assert capfd.readouterr().out == "before\nafter\n"


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_where_onnx_is_not_installed_torch_runs(monkeypatch, resnet, photos, package):
    honest = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == package else honest(name))
    engine = open_engine(resnet, CPU, photos)
    assert (engine.name, engine.notes) == ("torch/cpu", [])
    monkeypatch.setitem(sys.modules, package, None)  # what an import finds then
    with pytest.raises(MissingDependency, match=rf"the engine onnx needs {package}.*pip install '\.\[extract\]'"):
        open_engine(resnet, Setup("onnx", "cpu"), photos)


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        (Setup("onnx", "cuda"), "the engine onnx runs on the CPU alone, not on cuda: use --engine torch"),
        (Setup("onnx", "cpu", precision="fp16"), "computes in float32, not in fp16: use --engine torch"),
        (Setup("onnx", "cpu", precision="bf16"), "computes in float32, not in bf16: use --engine torch"),
    ],
)
def test_onnx_is_refused_where_it_cannot_run(monkeypatch, resnet, photos, setup, words):
    devices(monkeypatch, cuda=1)
    with pytest.raises(BackboneError, match=words):
        open_engine(resnet, setup, photos)


def test_onnx_takes_the_cpu_where_no_device_is_named(monkeypatch, resnet, photos):
    devices(monkeypatch, cuda=1)
    assert open_engine(resnet, Setup("onnx"), photos).name == "onnx/cpu"


def test_a_graph_is_exported_once_and_kept(monkeypatch, empty_cache, resnet, photos):
    (first,) = open_engine(resnet, CPU, photos).forward(photos)
    (graph,) = empty_cache.iterdir()
    assert graph_folder() == empty_cache.parent
    written = graph.stat()
    refuse_to_export(monkeypatch)  # whoever exports again would be passed over
    again = open_engine(resnet, CPU, photos)
    assert again.name == "onnx/cpu"
    assert np.array_equal(again.forward(photos)[0], first)
    assert graph.stat().st_ino == written.st_ino


def test_graphs_of_other_networks_sizes_and_pixels_are_apart_and_views_share_one(empty_cache, resnet):
    of_pixels: dict[str, object] = {"resize": 300, "fit": "pad", "interpolation": "nearest"}
    for changes in ({}, {"view": "flip"}, {"decoder": "draft"}, of_pixels):
        other = Backbone(resnet.network, (dataclasses.replace(resnet.spec, **changes),))
        OnnxEngine(other, 4, 1, 1)
        assert len(list(empty_cache.iterdir())) == 1
    for changes in ({"crop": (96, 96)}, {"mean": (0.1,) * 3}, {"std": (0.1,) * 3}, {"weights": "sha256:01"}):
        before = len(list(empty_cache.iterdir()))
        OnnxEngine(Backbone(resnet.network, (dataclasses.replace(resnet.spec, **changes),)), 4, 1, 1)
        assert len(list(empty_cache.iterdir())) == before + 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b"",
        lambda b: b[: len(b) // 2],
        lambda b: b"no graph at all" + b[15:],
        lambda b: b[:-2000] + bytes(x ^ 1 for x in b[-2000:-1000]) + b[-1000:],  # loads, with other weights
    ],
)
def test_a_damaged_graph_in_the_cache_is_replaced(empty_cache, resnet, photos, damage):
    open_engine(resnet, CPU, photos)
    (graph,) = empty_cache.iterdir()
    sound = graph.read_bytes()
    graph.write_bytes(damage(sound))
    assert open_engine(resnet, Setup("onnx", "cpu"), photos).name == "onnx/cpu"
    assert len(graph.read_bytes()) == len(sound)
    assert list(empty_cache.iterdir()) == [graph]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch, resnet, photos):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PENULT_CACHE", str(tmp_path / "file/cache"))
    engine = open_engine(resnet, CPU, photos)
    assert (engine.name, engine.notes) == ("onnx/cpu", [])
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_cache_is_where_the_user_keeps_such_things(monkeypatch, tmp_path):
    monkeypatch.delenv("PENULT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert graph_folder() == tmp_path / "penult"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert graph_folder() == tmp_path / ".cache/penult"
