"""Layers by name: against forward passes written by hand, in every pooling, several at once, and exported."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import extract.tracing
from data.errors import BackboneError
from extract.backbones import open_backbone
from extract.layers import layer_names
from extract.options import Options, Output
from extract.pooling import layout_of
from extract.tracing import Cut, HookedCut, survey
from extract.zoo import build_network, take_off_head


def noise(backbone, n=3, side=None):
    side = side or backbone.spec.crop[0]
    return torch.rand((n, len(backbone.spec.mean), side, side), generator=torch.Generator().manual_seed(1))


def features(backbone, x):
    with torch.inference_mode():
        return [vectors.numpy() for vectors in backbone.network(x)]


def plain(name, seed=0):
    """The network as its library builds it, with the weights that `open_backbone` draws."""
    library, arch = name.split("/")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, _ = build_network(library, arch, "random")
    return network.eval()


def resnet18_by_hand(x, until):
    """The maps of torchvision's resnet18 after layer `until`."""
    network = plain("torchvision/resnet18")
    with torch.inference_mode():
        x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
        for i in range(1, until + 1):
            x = getattr(network, f"layer{i}")(x)
    return x.numpy()


def close(a, b):
    return a.shape == b.shape and np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


@pytest.fixture
def untraceable(monkeypatch):
    def refuse(*_):
        raise TypeError("control flow by values")

    monkeypatch.setattr(extract.tracing, "_survey_by_trace", refuse)


def test_maps_are_pooled_as_the_formulas_say():
    poolings = ("avg", "max", "gem", "flatten")
    backbone = open_backbone("resnet18", "random", outputs=[Output("layer3", p) for p in poolings])
    x = noise(backbone, 2)
    maps = resnet18_by_hand(x, 3)  # (2, 256, 14, 14)
    expected = [
        maps.mean((2, 3)),
        maps.max((2, 3)),
        (np.maximum(maps, 1e-6).astype(np.float64) ** 3).mean((2, 3)) ** (1 / 3),
        maps.reshape(2, -1),
    ]
    assert all(map(close, features(backbone, x), expected))
    assert [(s.layer, s.pooling) for s in backbone.specs] == [("layer3", p) for p in poolings]
    assert len({s.fingerprint for s in backbone.specs}) == 4
    assert len({s.weights for s in backbone.specs}) == 1


@pytest.mark.parametrize("hooked", [False, True])
def test_layers_that_are_changed_in_place_afterwards_keep_their_values(hooked, request):
    # torchvision's ReLUs overwrite their input: what was asked for is what was there before
    if hooked:
        request.getfixturevalue("untraceable")
    outputs = [Output("bn1", "flatten"), Output("bn1", "max"), Output("relu", "flatten"), Output("layer1.0.bn2")]
    backbone = open_backbone("resnet18", "random", Options(input_size=32, resize=32), outputs=outputs)
    assert isinstance(backbone.network, HookedCut) == hooked
    x = noise(backbone, 2)
    network = plain("torchvision/resnet18")
    with torch.inference_mode():
        normalised = network.bn1(network.conv1(x))
        pooled = network.maxpool(normalised.relu())
        block = network.layer1[0]
        inner = block.bn2(block.conv2(block.bn1(block.conv1(pooled)).relu()))
    got = features(backbone, x)
    assert (got[0] < 0).any()
    assert close(got[0], normalised.flatten(1).numpy())
    assert close(got[1], normalised.amax((2, 3)).numpy())
    assert close(got[2], normalised.relu().flatten(1).numpy())
    assert close(got[3], inner.mean((2, 3)).numpy())


def test_vectors_are_given_as_they_are():
    backbone = open_backbone("resnet18", "random", outputs=[Output(), Output("flatten"), Output("avgpool")])
    x = noise(backbone, 2)
    expected = resnet18_by_hand(x, 4).mean((2, 3))
    assert all(close(got, expected) for got in features(backbone, x))
    assert [s.pooling for s in backbone.specs] == ["network", "none", "avg"]


def test_a_module_that_runs_twice_counts_where_it_first_runs(request):
    outputs = [Output("layer1.0.relu", "flatten"), Output("layer1.0.relu_1", "flatten")]
    small = Options(input_size=32, resize=32)
    backbone = open_backbone("resnet18", "random", small, outputs=outputs)
    first, second = features(backbone, noise(backbone))
    assert not np.array_equal(first, second)
    request.getfixturevalue("untraceable")
    hooked = open_backbone("resnet18", "random", small, outputs=outputs[:1])
    assert close(features(hooked, noise(hooked))[0], first)


@pytest.mark.parametrize("name", ["torchvision/swin_t", "timm/test_mambaout"])
def test_maps_with_channels_last_are_pooled_over_their_positions(name):
    network = plain(name)
    stage = "features.3" if name == "torchvision/swin_t" else "stages.1"
    backbone = open_backbone(name, "random", outputs=[Output(stage, "gem"), Output(stage)])
    x = noise(backbone, 2)
    seen = {}
    network.get_submodule(stage).register_forward_hook(lambda m, i, o: seen.update(maps=o))
    with torch.inference_mode():
        network(x)
    maps = seen["maps"].numpy()
    if name == "torchvision/swin_t":
        assert maps.shape == (2, 28, 28, 192)
        axes = (1, 2)
    else:
        axes = (1, 2) if maps.shape[1] == maps.shape[2] else (2, 3)
    gem, avg = features(backbone, x)
    assert close(avg, maps.mean(axes))
    assert close(gem, np.cbrt((np.maximum(maps, 1e-6).astype(np.float64) ** 3).mean(axes)))


def test_the_order_of_a_maps_dimensions_is_told_from_the_pictures_proportions():
    network = nn.Identity()
    assert layout_of(network, (2, 64, 7, 7), (224, 224)).positions == (2, 3)
    assert layout_of(network, (2, 7, 7, 64), (224, 224)).positions == (1, 2)
    assert layout_of(network, (2, 512, 1, 1), (224, 224)).positions == (2, 3)
    assert layout_of(network, (2, 1, 1, 512), (224, 224)).positions == (1, 2)
    assert layout_of(network, (2, 12, 7, 10), (224, 336)).positions == (2, 3)
    assert layout_of(network, (2, 7, 10, 12), (224, 336)).positions == (1, 2)
    assert layout_of(network, (2, 3, 197, 64), (224, 224)) is None
    assert layout_of(network, (2, 7, 7, 7), (224, 224)).positions == (2, 3)
    network.output_fmt = "NHWC"  # timm's word for it
    assert layout_of(network, (2, 7, 7, 7), (224, 224)).positions == (1, 2)


def vit_tokens(x, block):
    network = plain("timm/test_vit")
    with torch.inference_mode():
        tokens = network.forward_intermediates(
            x, indices=[block], return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )
    patches, prefix = tokens[0]
    return patches.numpy(), prefix.numpy()


def test_tokens_are_pooled_over_the_patches_and_the_class_token_is_asked_for_by_name():
    outputs = [Output("blocks.3", p) for p in ("avg", "max", "cls", "flatten")] + [Output("patch_embed")]
    backbone = open_backbone("timm/test_vit", "random", outputs=outputs)
    x = noise(backbone, 2)
    patches, prefix = vit_tokens(x, 3)
    assert prefix.shape == (2, 1, 64)
    expected = [patches.mean(1), patches.max(1), prefix[:, 0], np.concatenate([prefix, patches], 1).reshape(2, -1)]
    got = features(backbone, x)
    assert all(map(close, got, expected))
    with torch.inference_mode():
        embedded = plain("timm/test_vit").patch_embed(x)
    assert close(got[4], embedded.mean((1, 2)).numpy())  # a map still


def test_tokens_of_pictures_of_another_size_are_told_from_the_class_token_as_well():
    outputs = [Output("blocks.3"), Output("blocks.3", "cls")]
    backbone = open_backbone("timm/test_vit", "random", Options(input_size=96), outputs=outputs)
    x = noise(backbone, 2)
    patches, prefix = vit_tokens(x, 3)
    assert patches.shape == (2, 36, 64)
    assert all(map(close, features(backbone, x), [patches.mean(1), prefix[:, 0]]))


def test_torchvisions_class_token_is_the_penultimate_layer_of_its_vit():
    outputs = [Output("encoder.ln", "cls"), Output(), Output("encoder.ln", "avg")]
    backbone = open_backbone("vit_b_16", "random", outputs=outputs)
    x = noise(backbone, 1)
    tokens, network = {}, plain("torchvision/vit_b_16")
    network.encoder.register_forward_hook(lambda m, i, o: tokens.update(all=o.numpy()))
    with torch.inference_mode():
        network(x)
    got = features(backbone, x)
    assert close(got[0], tokens["all"][:, 0])
    assert close(got[1], tokens["all"][:, 0])
    assert close(got[2], tokens["all"][:, 1:].mean(1))


@pytest.mark.parametrize(
    ("name", "output", "words"),
    [
        ("timm/test_resnet", Output("layer2", "cls"), "layer2 gives maps, not tokens: pool it by avg, max"),
        ("timm/xcit_nano_12_p16_224", Output("blocks.0", "cls"), "tokens without a class token among them"),
        ("timm/test_vit3", Output("blocks.0", "cls"), "tokens without a class token among them"),
        (
            "timm/test_resnet",
            Output("layer2", "median"),
            "cannot be pooled by 'median': use avg, max, gem, cls, flatten",
        ),
        ("timm/test_resnet", Output("global_pool", "avg"), "gives one vector a picture, which cannot be pooled"),
        ("timm/test_resnet", Output("penultimate", "gem"), "the last feature map, --layer layer4 --pooling gem"),
        ("squeezenet1_1", Output("penultimate", "max"), "--layer features.12 --pooling max"),
        ("timm/test_resnet", Output("layr4"), "no layer 'layr4': did you mean layer4.* list them with"),
        ("timm/test_resnet", Output("zzz"), "no layer 'zzz': .* list them with"),
        ("timm/test_resnet", Output("fc"), "fc is the last layer, which is taken off: use --layer penultimate"),
        ("timm/test_vit", Output("patch_embed.getattr"), "gives no tensor"),
    ],
)
def test_what_cannot_be_is_refused(name, output, words):
    with pytest.raises(BackboneError, match=words):
        open_backbone(name, "random", outputs=[Output(), output])


STAGES = {
    "resnet18": ["relu", "layer1", "layer2", "layer3", "layer4"],
    "mobilenet_v2": ["features.1", "features.3", "features.6", "features.13", "features.18"],
    "densenet121": [
        "features.relu0",
        "features.denseblock1",
        "features.denseblock2",
        "features.denseblock3",
        "relu",
    ],
    "efficientnet_b0": ["features.1", "features.2", "features.3", "features.5", "features.8"],
    "convnext_tiny": ["features.1", "features.3", "features.5", "features.7"],
    "vgg11": ["features.1", "features.4", "features.9", "features.14", "features.19", "features.20"],
    "squeezenet1_1": ["features.1", "features.4", "features.7", "features.12"],
    "googlenet": ["conv1", "conv3", "inception3b", "inception4e", "inception5b"],
    "inception_v3": ["Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"],
    "swin_t": ["features.1", "features.3", "features.5", "norm"],
    "timm/test_resnet": ["act1", "layer1", "layer2", "layer3", "layer4"],
    "timm/test_vit": [f"blocks.{i}" for i in range(6)],
    "timm/crossvit_9_240": ["blocks.0", "blocks.1", "blocks.2"],  # two branches
    "efficientnet_lite0": ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6"],
}


@pytest.mark.parametrize("name", STAGES)
def test_all_stages_are_the_last_layers_of_each(name):
    backbone = open_backbone(name, "random", outputs=[Output("all-stages"), Output()])
    assert [s.layer for s in backbone.specs] == [*STAGES[name], "penultimate"]
    got = features(backbone, noise(backbone, 1))
    assert all(vectors.ndim == 2 for vectors in got)
    assert all(np.isfinite(vectors).all() for vectors in got)


def test_small_pictures_have_the_same_stages():
    backbone = open_backbone("inception_v3", "random", options=Options(input_size=96), outputs=[Output("all-stages")])
    assert [s.layer for s in backbone.specs] == STAGES["inception_v3"]


def test_torchvisions_vit_has_its_blocks_for_stages():
    backbone = open_backbone("vit_b_32", "random", outputs=[Output("all-stages", "cls")])
    assert [s.layer for s in backbone.specs] == [f"encoder.layers.encoder_layer_{i}" for i in range(12)]
    assert {s.pooling for s in backbone.specs} == {"cls"}


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_vit", "timm/test_convnext", "mobilenet_v2"])
def test_several_outputs_in_one_pass_are_those_of_separate_passes(name):
    outputs = [Output(), Output("all-stages"), Output("all-stages", "gem")]
    together = open_backbone(name, "random", outputs=outputs)
    assert len(together.specs) == len({s.fingerprint for s in together.specs})
    x = noise(together, 2)
    for spec, vectors in zip(together.specs, features(together, x), strict=True):
        alone = open_backbone(name, "random", outputs=[Output(spec.layer, spec.pooling)])
        assert alone.specs == (spec,)
        (expected,) = features(alone, x)
        assert np.array_equal(vectors, expected)


def test_equal_outputs_count_once():
    same = [Output("layer4"), Output("layer4", "avg"), Output(), Output("penultimate", "network"), Output("layer4")]
    backbone = open_backbone("timm/test_resnet", "random", outputs=same)
    assert [s.layer for s in backbone.specs] == ["layer4", "penultimate"]
    assert len(open_backbone("timm/test_resnet", "random", outputs=[Output(), Output()]).specs) == 1


def test_nothing_after_the_last_wanted_layer_is_kept_or_run():
    early = open_backbone("timm/test_resnet", "random", outputs=[Output("layer2")])
    late = open_backbone("timm/test_resnet", "random")
    names = {k.removeprefix("body.") for k in early.network.state_dict()}
    assert {k.split(".")[0] for k in names} == {"conv1", "bn1", "layer1", "layer2"}
    assert names < {k.removeprefix("body.") for k in late.network.state_dict()}
    assert early.spec.weights == late.spec.weights  # two layers of one network share its digest


def test_a_network_that_cannot_be_traced_gives_the_same_through_hooks(untraceable, monkeypatch):
    outputs = [Output("layer3", "gem"), Output("layer1"), Output("layer1", "max")]
    hooked = open_backbone("timm/test_resnet", "random", outputs=outputs)
    with_last = open_backbone("timm/test_resnet", "random", outputs=[*outputs, Output()])
    monkeypatch.undo()
    traced = open_backbone("timm/test_resnet", "random", outputs=[*outputs, Output()])
    assert isinstance(hooked.network, HookedCut)
    assert not isinstance(traced.network, HookedCut)
    assert (*hooked.specs, traced.specs[-1]) == traced.specs == with_last.specs
    x = noise(traced)
    reference = features(traced, x)
    for _ in range(2):
        assert all(map(np.array_equal, features(hooked, x), reference))
        assert all(map(np.array_equal, features(with_last, x), reference))
    ran = []
    hooked.network.body.layer4.register_forward_hook(lambda *_: ran.append("layer4"))
    features(hooked, x)
    assert ran == []  # what comes after the last wanted layer is not run


def test_without_a_trace_only_modules_have_names(untraceable):
    with pytest.raises(BackboneError, match="no layer 'layer3.0.add': did you mean layer3.0"):
        open_backbone("timm/test_resnet", "random", outputs=[Output("layer3.0.add")])


class Undecided(nn.Module):
    """Takes another branch for its second batch: a trace holds the first one only."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x):
        branch = self.first if torch.is_tensor(x) and type(x) is torch.Tensor else self.second
        return branch(x).mean((2, 3))


def test_a_trace_that_computes_something_else_is_not_used():
    found = survey(Undecided().eval(), 3, (16, 16))
    assert found.graph is None
    assert list(found.shapes) == ["first", "penultimate"]


def test_layers_that_mix_pictures_are_refused():
    # windows of all pictures stand in one batch: no row belongs to a picture
    windows = Output("stages.0.blocks.0.attn_block.attn.qkv")
    with pytest.raises(BackboneError, match=r"gives \(\d+, .* for 2 pictures, not a map, tokens or a vector for each"):
        open_backbone("timm/test_maxvit", "random", outputs=[windows])


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_vit", "resnet18", "timm/test_convnext"])
def test_every_listed_layer_is_one(name):
    names = layer_names(name)
    assert len(names) == len(set(names))
    assert names[-1] == "penultimate"
    backbone = open_backbone(name, "random", outputs=[Output(layer) for layer in names])
    assert [s.layer for s in backbone.specs] == names
    got = features(backbone, noise(backbone))
    assert all(vectors.shape[0] == 3 and vectors.ndim == 2 for vectors in got)


def test_torchvisions_own_names_are_understood():
    from torchvision.models import resnet18
    from torchvision.models.feature_extraction import get_graph_node_names

    names = get_graph_node_names(resnet18())[1]
    assert set(names) - set(layer_names("resnet18")) == {"x", "fc"}


def test_a_run_leaves_the_network_as_it_was():
    backbone = open_backbone("mobilenet_v2", "random", outputs=[Output("all-stages"), Output()])
    network = backbone.network
    before = {k: v.clone() for k, v in network.state_dict().items()}
    features(backbone, noise(backbone, 2))
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())


EXPORTED = {
    "resnet18": [Output("layer2", "gem"), Output()],
    "timm/test_vit": [Output("blocks.2", "cls"), Output("blocks.4"), Output()],
    "swin_t": [Output("features.3", "max"), Output("features.5", "flatten")],
    "timm/test_resnet": [Output()],
}


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_network_gives_the_same_numbers(tmp_path, name, hooked, request):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    if hooked:
        request.getfixturevalue("untraceable")
    # 64 px are enough for each of its layers, where a network takes any size
    options = None if name.startswith("timm/") else Options(input_size=64)
    backbone = open_backbone(name, "random", options, outputs=EXPORTED[name])
    x = noise(backbone, 2)
    reference = features(backbone, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the older exporter: it is the one that keeps the batch size free
        torch.onnx.export(
            backbone.network,
            (x,),
            str(tmp_path / "n.onnx"),
            dynamo=False,
            input_names=["x"],
            output_names=[f"y{i}" for i in range(len(reference))],
            dynamic_axes={"x": {0: "batch"}, **{f"y{i}": {0: "batch"} for i in range(len(reference))}},
        )
    session = onnxruntime.InferenceSession(str(tmp_path / "n.onnx"), providers=["CPUExecutionProvider"])
    for n in (2, 1, 3):
        x = noise(backbone, n)
        for got, expected in zip(session.run(None, {"x": x.numpy()}), features(backbone, x), strict=True):
            assert got.shape == expected.shape
            assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()
    assert len(session.get_outputs()) == len(backbone.specs)


@pytest.mark.parametrize("hooked", [False, True])
def test_a_compiler_can_follow_the_network(hooked, request):
    if hooked:
        request.getfixturevalue("untraceable")
    backbone = open_backbone("timm/test_resnet", "random", outputs=[Output("layer2", "gem"), Output("layer3")])
    x = noise(backbone)
    compiled = torch.compile(backbone.network, backend="eager", fullgraph=not hooked)
    with torch.inference_mode():
        got = compiled(x)
    assert all(map(close, [vectors.numpy() for vectors in got], features(backbone, x)))


def test_real_weights_give_what_a_pass_by_hand_gives(real_weights):
    import torchvision

    path = real_weights / "mobilenet_v2.pth"
    backbone = open_backbone("mobilenet_v2", str(path), outputs=[Output("features.13", "gem"), Output("features.6")])
    network = torchvision.models.mobilenet_v2().eval()
    weights = {k: v.float() for k, v in torch.load(path, weights_only=True).items()}
    network.load_state_dict(weights, strict=False)
    x = noise(backbone, 2)
    with torch.inference_mode():
        avg = network.features[:7](x).mean((2, 3)).numpy()
        maps = network.features[:14](x).numpy()
    gem, six = features(backbone, x)
    assert close(six, avg)
    assert close(gem, np.cbrt((np.maximum(maps, 1e-6).astype(np.float64) ** 3).mean((2, 3))))


def test_the_whole_network_is_kept_where_only_the_penultimate_layer_is_wanted():
    backbone = open_backbone("timm/test_resnet", "random")
    assert type(backbone.network) is Cut
    reference = plain("timm/test_resnet")
    take_off_head(reference, "timm/test_resnet")
    x = noise(backbone, 2)
    with torch.inference_mode():
        expected = reference(x).numpy()
    assert np.array_equal(features(backbone, x)[0], expected)
