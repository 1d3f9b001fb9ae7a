"""A trained network as a file: who can load it, and what it may replace."""

import json
import os

import numpy as np
import pytest
import torch
from conftest import TINY, penult
from safetensors import safe_open
from safetensors.torch import load_file
from tuned import FAST, tuner

from classify.artifact import load_head
from data.errors import TrainingError
from data.store import FeatureStore
from extract.backbones import open_backbone
from extract.checkpoints import read_checkpoint
from extract.options import Options
from finetune.checkpoint import save_checkpoint
from finetune.surgery import operate


def test_a_second_eval_of_a_checkpoint_runs_no_network(store, tmp_path):
    penult("finetune", store, "-o", tmp_path / "net.ckpt", *FAST)
    first = penult("eval", tmp_path / "net.ckpt", store)
    assert "12 pictures of test went through" in first.stdout
    assert "went through" not in penult("eval", tmp_path / "net.ckpt", store).stdout


def test_the_tensors_bear_the_networks_own_names(store, tmp_path):
    penult("finetune", store, "-o", tmp_path / "net.ckpt", *FAST)
    import timm

    network = timm.create_model("test_resnet", num_classes=3)
    network.load_state_dict(load_file(tmp_path / "net.ckpt"))  # strict
    network.eval()
    head = load_head(tmp_path / "net.ckpt")
    assert np.array_equal(head.head.coef_, network.get_classifier().weight.detach().numpy())


@pytest.mark.parametrize("changes", [["--color", "luma"], ["--color", "rgba"], ["--fit", "pad"]])
def test_a_checkpoint_of_other_channels_or_shapes_opens_again(changes, pictures, tmp_path):
    checkpoint, result = tmp_path / "net.ckpt", tmp_path / "r.json"
    done = penult("finetune", pictures, "-o", checkpoint, *FAST, *changes, "--json", result)
    assert done.returncode == 0, done.stderr
    answer = json.loads(result.read_text())
    opened = open_backbone(TINY[1], str(checkpoint), read_checkpoint(checkpoint).options())
    assert opened.spec.fingerprint == answer["fingerprint"]
    done = penult("predict", checkpoint, pictures / "test", "--json", tmp_path / "p.json")
    rows = json.loads((tmp_path / "p.json").read_text())["predictions"]
    right = np.mean([row["label"] == row["path"].split("/")[-2] for row in rows])
    assert right == pytest.approx(answer["accuracy"])


def test_a_checkpoint_is_trained_further_as_it_was_made(pictures, tmp_path):
    tuner(pictures, tmp_path, name="first.ckpt").run()
    scores = tmp_path / "e.json"
    first = load_head(tmp_path / "first.ckpt")
    done = penult("finetune", pictures, "-o", tmp_path / "second.ckpt", "--weights", tmp_path / "first.ckpt",
                  "--mode", "head", "--epochs", "1", "--seed", "1", "--json", scores)  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(scores.read_text())
    # neither network nor size were named; the first one's classes are its rows
    assert answer["backbone"] == first.spec.backbone
    assert read_checkpoint(tmp_path / "second.ckpt").spec.crop == (32, 32)
    assert answer["fingerprint"] == first.spec.fingerprint  # the body stayed
    assert "the last layer starts from the old one's rows for 3 of the 3 classes" in answer["notes"]
    store = tmp_path / "s.h5"
    penult("extract", pictures, "-o", store, "--weights", tmp_path / "first.ckpt")
    penult("eval", tmp_path / "first.ckpt", store, "--json", tmp_path / "m.json")
    (measured,) = json.loads((tmp_path / "m.json").read_text())["heads"]
    assert answer["accuracy_before_training"] == pytest.approx(measured["accuracy"])
    done = penult("finetune", pictures, "-o", tmp_path / "first.ckpt", "--weights", tmp_path / "first.ckpt")
    assert "is what training starts from and would be replaced" in done.stderr


def test_a_network_of_several_last_layers_loads_as_its_library_made_it(tmp_path):
    import timm

    operated = operate("timm/deit_tiny_distilled_patch16_224", "random", 3)
    save_checkpoint(tmp_path / "deit.ckpt", operated, {"classes": ["a", "b", "c"]}, np.array([b"0" * 64], dtype="S64"))
    theirs = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3)
    theirs.load_state_dict(load_file(tmp_path / "deit.ckpt"))  # strict
    x = torch.rand((1, 3, 224, 224), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(theirs.eval()(x), operated.network.eval()(x), atol=1e-5)


def test_a_network_whose_last_layer_is_a_convolution_gets_a_linear_one(tmp_path):
    operated = operate("torchvision/squeezenet1_0", "random", 3, Options(input_size=64))
    save_checkpoint(tmp_path / "s.ckpt", operated, {"classes": ["a", "b", "c"]}, np.array([b"0" * 64], dtype="S64"))
    opened = open_backbone("squeezenet1_0", str(tmp_path / "s.ckpt"), read_checkpoint(tmp_path / "s.ckpt").options())
    x = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        (vectors,) = opened.network(x)
        assert torch.allclose(operated.network.last(vectors), operated.network.eval()(x), atol=1e-5)


def test_a_head_does_not_replace_a_trained_network(store, tmp_path):
    tuner(FeatureStore(store), tmp_path, "head").run()
    done = penult("fit", store, "--head", "lr", "-o", tmp_path / "net.ckpt")
    assert "is a fine-tuned network, which a head must not replace" in done.stderr
    assert load_head(tmp_path / "net.ckpt").kind == "finetuned"


def test_a_folder_that_cannot_be_written_to_is_refused_before_training(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(TrainingError, match="cannot be written to: name a file in another folder with -o"):
        tuner(pictures, tmp_path).run()
    monkeypatch.undo()
    with pytest.raises(TrainingError, match="is no folder"):
        tuner(pictures, tmp_path / "nowhere").run()


def test_a_checkpoint_is_no_pickle_and_says_what_it_is(store, tmp_path):
    penult("finetune", store, "-o", tmp_path / "net.ckpt", *FAST)
    with safe_open(tmp_path / "net.ckpt", framework="numpy") as file:
        info = json.loads(file.metadata()["penult_checkpoint"])
    assert info["classes"] == ["blue", "green", "red"]
    assert info["strategy"]["epochs"] == 2
    assert "seconds" not in info["epochs"][0]
    found = read_checkpoint(tmp_path / "net.ckpt")
    assert found.spec.fingerprint == info["fingerprint"]
    head = load_head(tmp_path / "net.ckpt")
    digests = FeatureStore(store).load("train").digests
    assert head.trained_on(digests).all()
    assert not head.trained_on(FeatureStore(store).load("test").digests).any()


def test_what_is_no_checkpoint_is_not_written_over(store, tmp_path):
    done = penult("finetune", store, "-o", store, *FAST)
    assert done.returncode == 1
    assert "exists and is no checkpoint" in done.stderr
    assert FeatureStore(store).load("train").X.shape[0] == 24
