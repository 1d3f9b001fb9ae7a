"""The last layer that a network came with: on stored vectors it answers as the network itself does."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import penult
from safetensors.torch import save_file

from data.spec import Source
from data.store import FeatureStore
from extract.decode import decode
from extract.original import original_layer, original_layer_of
from extract.preprocess import recipes, to_inputs
from extract.zoo import build_network, resolve_name


def whole(name):
    """Return a network with its last layer, by seed."""
    library, arch = resolve_name(name)
    torch.manual_seed(3)
    network, _ = build_network(library, arch, "random")
    return network.eval().requires_grad_(False)


def output(network, spec, content):
    """Return what a network itself says of a picture, (K,)."""
    (pixels,) = to_inputs(decode(content), recipes(spec), b"")
    scaled = (pixels / 255 - np.array(spec.mean)) / np.array(spec.std)
    return network(torch.from_numpy(scaled).float().permute(2, 0, 1)[None]).numpy()[0]


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_vit", "timm/test_convnext"])
def test_on_stored_features_it_is_the_networks_own_output(pictures, tmp_path, name):
    network, store = whole(name), tmp_path / "f.h5"
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    assert penult("extract", pictures, "-o", store, "--backbone", name, "--weights", tmp_path / "w.safetensors")
    (info,) = FeatureStore(store).features().values()
    layer, reason = original_layer_of(info.source, "a test")
    assert (layer.weight.dtype, layer.bias.dtype, layer.backbone, reason) == ("float32", "float32", name, "")
    assert "taken for those of ImageNet-1k" in layer.note
    assert layer.names[310] == ("ant", "emmet", "pismire", "n02219486")
    samples = FeatureStore(store).load()
    logits = layer.logits(samples.X)
    assert logits.shape == (36, 1000)
    for row in (0, 20):
        own = output(network, info.spec, (pictures / samples.paths[row]).read_bytes())
        assert np.allclose(logits[row], own, atol=2e-3 * np.abs(own).max())


def test_the_packaged_weights_know_ants_and_a_wrapper_does_not_matter(tmp_path):
    layer, reason = original_layer("efficientnet_lite0")
    assert (layer.weight.shape, layer.note, reason) == ((1000, 1280), "", "")
    assert layer.names[309] == ("bee", "n02206856")
    state = whole("timm/test_resnet").state_dict()
    save_file({f"module.{k}": v for k, v in state.items()}, tmp_path / "w.safetensors")
    wrapped, _ = original_layer("timm/test_resnet", str(tmp_path / "w.safetensors"))
    assert np.array_equal(wrapped.weight, state["fc.weight"].numpy())


def test_another_number_of_classes_has_no_names(tmp_path):
    state = {**whole("timm/test_resnet").state_dict(), "fc.weight": torch.ones(7, 96), "fc.bias": torch.zeros(7)}
    save_file(state, tmp_path / "w.safetensors")
    layer, _ = original_layer("timm/test_resnet", str(tmp_path / "w.safetensors"))
    assert (layer.weight.shape, layer.names, layer.note) == ((7, 96), (), "the names of its 7 classes are not known")


def test_where_there_is_none_the_reason_is_said(tmp_path):
    file = tmp_path / "w.safetensors"
    state = whole("timm/test_resnet").state_dict()
    wrong = {"fc.weight": torch.ones(1000, 5), "fc.bias": torch.zeros(1000)}
    nan = {"fc.bias": torch.full((1000,), float("nan"))}
    without = {k: v for k, v in state.items() if not k.startswith("fc.")}
    squeezenet = whole("squeezenet1_1").state_dict()
    for name, tensors, expected in (
        ("squeezenet1_1", squeezenet, "is a Conv2d, no linear layer on the penultimate vector"),
        ("timm/deit_tiny_distilled_patch16_224", {}, "has 2 last layers"),
        ("timm/test_resnet", without, "holds no tensor of the last layer of timm/test_resnet, fc"),
        ("timm/test_resnet", {**state, **wrong}, r"the shape (1000, 5), not (classes, 96)"),
        ("timm/test_resnet", {**state, **nan}, "holds NaN"),
    ):
        save_file(tensors or {"x": torch.zeros(1)}, file)
        layer, reason = original_layer(name, str(file))
        assert layer is None
        assert expected in reason


def test_stored_features_must_be_the_vectors_that_the_layer_reads(pictures, tmp_path):
    store = tmp_path / "f.h5"
    tiny = ["--backbone", "timm/test_resnet", "--weights", "random"]
    assert penult("extract", pictures, "-o", store, *tiny).returncode == 0
    (info,) = FeatureStore(store).features().values()
    asked, spec = info.source.request, info.spec
    for source, expected in (
        (info.source, "are random"),
        (dataclasses.replace(info.source, spec=dataclasses.replace(spec, layer="layer3")), "is another layer"),
        (dataclasses.replace(info.source, spec=dataclasses.replace(spec, normalize="l2")), "was changed afterwards"),
        (Source(spec, {**asked, "weights": {"sha256": "0" * 64}}, "/gone.pth"), "is not at /gone.pth"),
        (Source(spec, {}), "does not say which network"),
    ):
        layer, reason = original_layer_of(source, "a test")
        assert layer is None
        assert expected in reason
