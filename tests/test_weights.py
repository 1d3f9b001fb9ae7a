"""Part of a state dict: what matches is loaded, what does not keeps the seed's values, and the user is told."""

import pytest
import torch

from data.errors import WeightsError
from extract.backbones import open_backbone
from extract.options import Options, Output


@pytest.fixture
def state():
    """A state dict of the tiny network, of another seed than the one that fills gaps."""
    return open_backbone("timm/test_resnet", "random", seed=5).network.body.state_dict()


def saved(path, content):
    torch.save(content, path)
    return str(path)


def loaded(path, **more):
    return open_backbone("timm/test_resnet", path, partial=True, **more)


def test_what_matches_is_loaded_and_the_rest_is_reported(tmp_path, state):
    del state["bn1.bias"]
    name = "layer2.0.conv1.weight"
    shape = tuple(state[name].shape)
    state[name] = torch.zeros(5, 5)
    state["decoder.weight"] = torch.zeros(2)
    path = saved(tmp_path / "w.pth", {f"module.{k}": v for k, v in state.items()})
    backbone = loaded(path, seed=9)
    held = backbone.network.body.state_dict()
    own = open_backbone("timm/test_resnet", "random", seed=9).network.body.state_dict()
    for key, value in held.items():
        assert torch.equal(value, own[key] if key in ("bn1.bias", name) else state[key]), key
    total = len([k for k in held if not k.endswith("num_batches_tracked")])
    assert backbone.report == (
        f"{path}: {total - 2} of the {total} tensors of timm/test_resnet loaded",
        "1 are not in the file, random by seed 9: bn1.bias",
        f"1 have another shape, random by seed 9: {name} (file (5, 5), network {shape})",
        "1 tensors of the file are unknown, not used: decoder.weight",
    )
    assert loaded(path, seed=9).spec == backbone.spec
    assert loaded(path, seed=8).spec != backbone.spec  # the gaps are filled otherwise


def test_a_whole_state_dict_in_part_is_the_whole(tmp_path, state):
    path = saved(tmp_path / "w.pth", state)
    strict = open_backbone("timm/test_resnet", path)
    part = loaded(path)
    assert part.spec == strict.spec
    assert strict.report == ()
    assert len(part.report) == 1


def test_strict_is_the_default_and_names_the_other_way(tmp_path, state):
    del state["bn1.bias"]
    with pytest.raises(WeightsError, match="1 keys are missing .bn1.bias.: .* or load what fits with --partial"):
        open_backbone("timm/test_resnet", saved(tmp_path / "w.pth", state))


def test_too_small_a_part_is_refused_by_what_the_layers_need(tmp_path, state):
    stem = {k: v for k, v in state.items() if k.startswith(("conv1", "bn1", "layer1"))}
    path = saved(tmp_path / "w.pth", {f"backbone.{k}": v for k, v in stem.items()})
    with pytest.raises(WeightsError, match=r"holds \d+ of the \d+ tensors that timm/test_resnet/penultimate needs"):
        loaded(path)
    early = loaded(path, outputs=[Output("layer1")])  # all of it is there
    assert early.report[0].startswith(f"{path}: ")
    assert all(torch.equal(v, stem[k]) for k, v in early.network.body.state_dict().items())
    with pytest.raises(WeightsError, match="holds 0 of the"):
        loaded(saved(tmp_path / "other.pth", {"a.weight": torch.zeros(3)}))


def test_nan_in_what_is_loaded_is_refused_and_in_the_rest_is_not(tmp_path, state):
    loaded(saved(tmp_path / "w.pth", {**state, "decoder.weight": torch.full((2,), float("nan"))}))
    state["bn1.bias"][0] = float("nan")
    with pytest.raises(WeightsError, match="holds NaN or infinity"):
        loaded(saved(tmp_path / "w.pth", state))


def test_a_first_convolution_for_other_channels_is_part_of_the_rest(tmp_path, state):
    name = "conv1.0.weight"
    state[name] = torch.zeros(state[name].shape[0], 6, *state[name].shape[2:])
    path = saved(tmp_path / "w.pth", state)
    assert "1 have another shape" in loaded(path).report[1]
    luma = loaded(path, options=Options(color="luma"))
    assert luma.network.body.state_dict()[name].shape[1] == 1


def test_random_weights_are_decided_by_the_seed_alone():
    outputs = [Output("all-stages"), Output()]
    first, same, other = (
        open_backbone("timm/test_vit", "random", Options(color="rgba"), seed, outputs) for seed in (1, 1, 2)
    )
    assert first.specs == same.specs
    assert {s.weights for s in first.specs} != {s.weights for s in other.specs}
    torch.manual_seed(123)  # what went before does not matter, and is left as it was
    expected = torch.rand(3, generator=torch.Generator().manual_seed(123))
    assert open_backbone("timm/test_vit", "random", Options(color="rgba"), 1, outputs).specs == first.specs
    assert torch.equal(torch.rand(3), expected)
