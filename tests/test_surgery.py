"""A network before it is trained: a new last layer, frozen stages, the rest behind a cut."""

import numpy as np
import pytest
import torch
from conftest import TINY

from data.errors import BackboneError, WeightsError
from extract.backbones import open_backbone
from extract.channels import adapt_channels
from extract.options import Options, Output
from finetune.surgery import Tuned, depths_of, freeze, operate, rest_of, set_last_layer

NAME = TINY[1]
SMALL = Options(input_size=32)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.rand((4, 3, 32, 32), generator=torch.Generator().manual_seed(1))


def test_a_new_last_layer_stands_on_the_networks_own_penultimate_vector(pixels):
    operated = operate(NAME, "random", 5, SMALL)
    network = operated.network.eval()
    with torch.no_grad():
        scores = network(pixels)
        (vectors,) = open_backbone(NAME, "random", SMALL).network(pixels)
        assert scores.shape == (4, 5)
        assert torch.allclose(network.last(vectors), scores, atol=1e-6)


def test_the_new_layer_is_decided_by_the_seed():
    one, same, other = (operate(NAME, "random", 5, SMALL, seed=s).network.last.weight for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", ["timm/test_resnet", "torchvision/mobilenet_v3_small", "timm/test_vit"])
def test_freezing_stages_freezes_what_is_computed_up_to_their_end_and_nothing_else(name):
    operated = operate(name, "random", 3)
    n = len(operated.stages)
    assert n > 1
    before = -1
    for frozen in range(n + 2):
        freeze(operated, frozen)
        body = dict(operated.network.body.named_parameters())
        still = sum(p.numel() for p in body.values() if not p.requires_grad)
        assert still > before or frozen > n  # some networks have nothing behind their last stage
        assert all(p.requires_grad for p in operated.network.last.parameters())
        before = still
    assert before == sum(p.numel() for p in operated.network.body.parameters())


def test_batchnorm_of_frozen_stages_keeps_its_statistics_in_training(pixels):
    operated = operate(NAME, "random", 3, SMALL)
    freezing = freeze(operated, 2)
    freezing.train(operated.network)
    before = {k: v.clone() for k, v in operated.network.body.state_dict().items() if "running" in k}
    operated.network(pixels)
    after = operated.network.body.state_dict()
    moved = {k for k, v in before.items() if not torch.equal(v, after[k])}
    depths = depths_of(operated).modules
    assert {depths[name.rpartition(".")[0]] >= 2 for name in moved} == {True}
    assert {depths[name.rpartition(".")[0]] < 2 for name in before.keys() - moved} == {True}


def test_more_stages_than_there_are_are_refused():
    operated = operate(NAME, "random", 3, SMALL)
    with pytest.raises(BackboneError, match=r"has \d stages .*freeze 1 to \d"):
        freeze(operated, len(operated.stages) + 2)


@pytest.mark.parametrize("name", ["timm/test_resnet", "torchvision/densenet121", "timm/test_efficientnet"])
def test_the_rest_behind_a_cut_gives_what_the_whole_network_gives(name):
    operated = operate(name, "random", 3, Options(input_size=64))
    x = torch.rand((3, 3, 64, 64), generator=torch.Generator().manual_seed(2))
    layer = operated.stages[-2]
    flat = open_backbone(name, "random", Options(input_size=64), 0, [Output(layer, "flatten")])
    rest = rest_of(operated, layer)
    operated.network.eval()
    with torch.no_grad():
        (activations,) = flat.network(x)
        rest.training = False
        assert torch.allclose(rest(activations), operated.network.body(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_a_network_takes_any_number_of_channels_and_learns_from_them(channels):
    network = operate(NAME, "random", 3, SMALL).network
    adapt_channels(network.body, channels, NAME)
    network(torch.rand((2, channels, 32, 32))).sum().backward()
    first = next(p for p in network.parameters() if p.ndim == 4)
    assert first.shape[1] == channels
    assert first.grad is not None


def test_too_small_a_part_of_a_state_dict_is_refused(tmp_path):
    state = operate(NAME, "random", 3, SMALL).network.body.state_dict()
    few = dict(list(state.items())[:4])
    torch.save(few, tmp_path / "few.pth")
    with pytest.raises(WeightsError, match=r"few.pth holds \d+ of the \d+ tensors .* less than half"):
        operate(NAME, str(tmp_path / "few.pth"), 3, SMALL, partial=True)
    del state[next(iter(state))]
    torch.save(state, tmp_path / "most.pth")
    assert "1 are not in the file" in " ".join(operate(NAME, str(tmp_path / "most.pth"), 3, SMALL, partial=True).report)


def test_the_rest_of_a_network_trains_with_its_functional_dropout():
    # torchvision's densenet calls F.dropout with its own training flag, which a trace fixes
    operated = operate("torchvision/densenet121", "random", 3, Options(input_size=64))
    for module in operated.network.body.modules():
        if hasattr(module, "drop_rate"):
            module.drop_rate = 0.5
    layer = operated.stages[-2]
    rest = rest_of(operated, layer)
    size = int(np.prod(rest.shape))
    x = torch.rand((2, size))
    operated.network.eval()
    with torch.no_grad():
        rest.training = True
        assert not torch.equal(rest(x), rest(x))
        rest.training = False
        assert torch.equal(rest(x), rest(x))


def test_the_last_layer_takes_rows_of_some_classes():
    network = Tuned(torch.nn.Identity(), 4, 3)
    before = network.last.weight.detach().clone()
    set_last_layer(network, np.ones((1, 4)), np.array([7.0]), [1])
    assert network.last.bias[1] == 7
    assert torch.equal(network.last.weight[1], torch.ones(4))
    assert torch.equal(network.last.weight[[0, 2]], before[[0, 2]])
    with pytest.raises(BackboneError, match="does not fit 3 classes of 4 features"):
        set_last_layer(network, np.ones((3, 5)), np.zeros(3))
