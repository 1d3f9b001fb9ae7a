"""Networks for grey and RGBA pictures: their first convolution, made from the one for RGB."""

import numpy as np
import pytest
import torch
from torch import nn

from data.errors import BackboneError, SpecError
from extract.backbones import open_backbone
from extract.options import Options, Output
from extract.weights import weights_digest

NETWORKS = {
    "resnet18": "conv1",
    "mobilenet_v2": "features.0.0",
    "densenet121": "features.conv0",
    "squeezenet1_0": "features.0",
    "swin_t": "features.0.0",
    "timm/test_resnet": "conv1.0",
    "timm/test_vit": "patch_embed.proj",
    "timm/test_convnext": "stem.0",
    "efficientnet_lite0": "conv_stem",
}
# The same mean and std for all channels, so that one channel and three equal ones are normalised alike.
EVEN = {"mean": (0.5,), "std": (0.25,)}


def run(backbone, x):
    with torch.inference_mode():
        return [vectors.numpy() for vectors in backbone.network(x)]


@pytest.mark.parametrize("name", NETWORKS)
def test_one_channel_gives_what_three_equal_ones_give(name):
    gray = open_backbone(name, "random", Options(color="gray", **EVEN))
    luma = open_backbone(name, "random", Options(color="luma", **EVEN))
    side = gray.spec.crop[0]
    x = torch.rand((2, 1, side, side), generator=torch.Generator().manual_seed(0))
    (expected,), (got,) = run(gray, x.repeat(1, 3, 1, 1)), run(luma, x)
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
    assert gray.spec.weights != luma.spec.weights
    assert (gray.spec.color, luma.spec.color) == ("gray", "luma")


@pytest.mark.parametrize("name", NETWORKS)
def test_four_channels_are_the_three_repeated_and_scaled(name):
    rgb, rgba = (open_backbone(name, "random", Options(color=color)) for color in ("rgb", "rgba"))
    before, after = (b.network.body.get_submodule(NETWORKS[name]).weight for b in (rgb, rgba))
    assert torch.equal(after, before[:, [0, 1, 2, 0]] * 0.75)
    side = rgba.spec.crop[0]
    (got,) = run(rgba, torch.rand(2, 4, side, side))
    assert np.isfinite(got).all()
    assert rgba.spec.weights == weights_digest(rgba.network.body)


def test_grey_in_three_channels_changes_nothing_in_the_network():
    rgb, gray = (open_backbone("timm/test_resnet", "random", Options(color=color)) for color in (None, "gray"))
    assert gray.spec.weights == rgb.spec.weights
    assert gray.spec.mean == rgb.spec.mean
    assert open_backbone("timm/test_resnet", "random", Options(color="rgb")).spec == rgb.spec


def test_mean_and_std_follow_the_channels():
    specs = {
        color: open_backbone("resnet18", "random", Options(color=color)).spec for color in ("gray", "luma", "rgba")
    }
    mean, std = sum((0.485, 0.456, 0.406)) / 3, sum((0.229, 0.224, 0.225)) / 3
    assert specs["gray"].mean == (0.485, 0.456, 0.406)
    assert (specs["luma"].mean, specs["luma"].std) == ((mean,), (std,))
    assert specs["rgba"].mean == (0.485, 0.456, 0.406, mean)
    assert specs["rgba"].std == (0.229, 0.224, 0.225, std)
    own = Options(color="rgba", mean=(0.1, 0.2, 0.3, 0.4), std=(0.5,))
    assert open_backbone("resnet18", "random", own).spec.mean == (0.1, 0.2, 0.3, 0.4)
    assert open_backbone("resnet18", "random", own).spec.std == (0.5,) * 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(color="luma", mean=(0.1, 0.2, 0.3)), "--mean takes one number, with --color luma: got"),
        (Options(color="rgba", std=(0.1, 0.2, 0.3)), "--std takes one or four numbers, above 0, with --color rgba"),
        (Options(color="cmyk"), "no colour mode 'cmyk': use --color rgb, gray, luma, rgba"),
    ],
)
def test_impossible_colours_are_refused(options, words):
    with pytest.raises(SpecError, match=words):
        open_backbone("timm/test_resnet", "random", options)


def test_what_a_network_does_to_each_channel_itself_is_done_to_other_channels():
    rgb = open_backbone("googlenet", "random")
    x = torch.rand(2, 4, *rgb.spec.crop)
    for color, given in (("luma", x[:, :1]), ("rgba", x)):
        backbone = open_backbone("googlenet", "random", Options(color=color), outputs=[Output("conv1"), Output()])
        seen = {}
        first = next(name for name, m in rgb.network.body.named_modules() if isinstance(m, nn.Conv2d))
        backbone.network.body.get_submodule(first).register_forward_pre_hook(
            lambda m, i, seen=seen: seen.update(x=i[0])
        )
        assert all(np.isfinite(vectors).all() for vectors in run(backbone, given))
        # from ImageNet's mean and std to 0.5 and 0.5, which is what these networks were trained with
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (backbone.spec.mean, backbone.spec.std))
        assert torch.allclose(seen["x"], (given * std + mean - 0.5) / 0.5, atol=1e-6)


def test_a_network_that_cannot_be_converted_says_why():
    with pytest.raises(BackboneError, match="standardises its weights whenever it runs: use --color rgb or gray"):
        open_backbone("timm/test_nfnet", "random", Options(color="luma"))


@pytest.mark.parametrize(("color", "channels"), [("luma", 1), ("rgba", 4)])
def test_weights_of_a_network_for_as_many_channels_are_taken_as_they_are(tmp_path, color, channels):
    asked = Options(color=color)
    grown = open_backbone("timm/test_resnet", "random", asked)
    state = grown.network.body.state_dict()
    assert state["conv1.0.weight"].shape[1] == channels
    torch.save({f"model.{k}": v for k, v in state.items()}, tmp_path / "w.pth")
    assert open_backbone("timm/test_resnet", str(tmp_path / "w.pth"), asked).spec == grown.spec


def test_weights_of_an_rgb_network_are_converted(tmp_path):
    torch.save(open_backbone("timm/test_resnet", "random").network.state_dict(), tmp_path / "w.pth")
    asked = Options(color="luma")
    converted = open_backbone("timm/test_resnet", str(tmp_path / "w.pth"), asked)
    assert converted.spec == open_backbone("timm/test_resnet", "random", asked).spec


def test_layers_of_a_network_for_grey_pictures():
    outputs = [Output("all-stages", "gem"), Output()]
    backbone = open_backbone("timm/test_resnet", "random", Options(color="luma"), outputs=outputs)
    assert {s.color for s in backbone.specs} == {"luma"}
    assert len({len(s.mean) for s in backbone.specs}) == 1
    got = run(backbone, torch.rand(2, 1, *backbone.spec.crop))
    assert [vectors.shape[0] for vectors in got] == [2] * 6
