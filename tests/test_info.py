"""The commands that look: info and verify."""

import io
import json
import shutil

from conftest import draw, penult, penult_process

from data.store import FeatureStore


def test_info_and_verify(work):
    info = penult("info", "f.h5", cwd=work)
    assert "timm/test_resnet" in info.stdout
    assert "3: blue, green, red" in info.stdout
    result = json.loads(penult("info", "f.h5", "--json", "-", cwd=work).stdout)
    assert result["datasets"][0]["splits"] == {"test": 18, "train": 30}
    assert result["features"][0]["provenance"][0]["engine"] == "onnx/cpu"  # what a CPU runs by default
    verify = penult_process("verify", "f.h5", "--json", "v.json", cwd=work)
    assert verify.returncode == 0, verify.stderr
    assert "every checksum is right" in verify.stdout
    (check,) = json.loads((work / "v.json").read_text())["rechecks"]
    assert check["checked"] == 8
    assert check["largest_deviation"] < 1e-5


def test_info_of_a_head_says_what_it_is(work, tmp_path):
    fit = ("fit", str(work / "f.h5"), "--head", "ridge", "-o", "r.head", "--json", "-")
    fitted = json.loads(penult(*fit, cwd=tmp_path).stdout)
    told = penult("info", "r.head", cwd=tmp_path).stdout
    assert "head of the kind ridge" in told
    assert "classes      3: blue, green, red" in told
    assert "train: 30 pictures" in told
    found = json.loads(penult("info", "r.head", "--json", "-", cwd=tmp_path).stdout)
    same = ("kind", "features", "n_train", "views", "tuned_on", "rule", "folds", "cv_accuracy")
    assert {name: found[name] for name in same} == {name: fitted[name] for name in same}
    assert found["calibration"]["method"] == fitted["calibration"]["method"]
    assert penult("info", "r.head", "--quick", cwd=tmp_path).returncode == 2


def test_info_of_pictures_and_a_contact_sheet(work):
    done = penult("info", "pictures", "--sheet", "sheets/s.png", "--per-class", "5", cwd=work)
    assert done.returncode == 0, done.stderr
    assert "pictures: 48 pictures, " in done.stdout
    assert "wrote sheets/s.png" in done.stdout
    first = (work / "sheets/s.png").read_bytes()
    again = penult("info", "pictures", "--sheet", "sheets/s.png", "--per-class", "5", "--json", "-", cwd=work)
    result = json.loads(again.stdout)
    assert (work / "sheets/s.png").read_bytes() == first
    assert [(c["name"], c["splits"]) for c in result["classes"]] == [
        (name, {"train": 10, "test": 6}) for name in ("blue", "green", "red")
    ]
    (page,) = result["sheets"]
    assert {name: len(paths) for name, paths in page["rows"].items()} == {"blue": 5, "green": 5, "red": 5}
    one = json.loads(penult("info", "pictures/test/red/0.png", "--quick", "--json", "-", cwd=work).stdout)
    assert (one["pictures"], one["decoded"], one["unlabelled"]["pictures"]) == (1, False, 1)


def test_info_tells_a_store_from_pictures_by_looking(work, tmp_path):
    import h5py

    (tmp_path / "folder").mkdir()
    for place in ("store-without-a-suffix", "folder/part.h5"):
        shutil.copy(work / "f.h5", tmp_path / place)
    for name in ("store-without-a-suffix", "folder"):
        assert json.loads(penult("info", name, "--json", "-", cwd=tmp_path).stdout)["datasets"]
    with h5py.File(tmp_path / "other.hdf5", "w"):
        pass
    done = penult("info", "other.hdf5", cwd=tmp_path)
    assert "other.hdf5 is an HDF5 file but not a feature store of Penult's" in done.stderr
    draw(tmp_path / "a.png", 1)
    (tmp_path / "set.csv").write_text("path,label,split\na.png,cat,train\nno.png,dog,test\n")
    result = json.loads(penult("info", "set.csv", "--json", "-", cwd=tmp_path).stdout)
    assert result["unreadable"] == [{"path": "no.png", "reason": "cannot be read: no such file or directory"}]
    assert penult("info", "set.csv", "--sheet", "a.png", cwd=tmp_path).returncode == 1  # its own picture


def test_ctrl_c_in_info_exits_130(work, monkeypatch):
    from data.terminal import ProgressDisplay

    def interrupt(self, done, total, skipped=0):
        raise KeyboardInterrupt

    monkeypatch.setattr(ProgressDisplay, "update", interrupt)
    done = penult("info", "pictures", cwd=work)
    assert done.returncode == 130
    assert "interrupted after 1 of 48 pictures: nothing was written" in done.stderr


def test_verify_notices_features_that_are_not_of_their_pictures(work, tmp_path):
    import h5py

    from data.layout import block_checksum

    shutil.copy(work / "f.h5", tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5", "r+") as file:
        (group,) = file["features"].values()
        swapped = group["vectors"][:][::-1].copy()
        group["vectors"][:] = swapped
        group["checksum"][0] = block_checksum(group["digest"][:], swapped)
    done = penult("verify", tmp_path / "f.h5", "--sample", "20", cwd=work)
    assert done.returncode == 1
    assert "features extracted again differ by" in done.stderr


def test_weights_from_a_file_are_found_again_or_asked_for(tmp_path):
    import torch

    from extract.backbones import open_backbone

    torch.manual_seed(0)
    torch.save(open_backbone("timm/test_resnet", "random", seed=3).network.state_dict(), tmp_path / "w.pth")
    for hue, name in enumerate("ab"):
        for i in range(6):
            draw(tmp_path / "p" / name / f"{i}.png", 10 * hue + i, hue)
    assert (
        penult(
            "extract", "p", "-o", "f.h5", "--backbone", "timm/test_resnet", "--weights", "w.pth", cwd=tmp_path
        ).returncode
        == 0
    )
    assert penult("fit", "f.h5", "--head", "centroid", "-o", "c.head", cwd=tmp_path).returncode == 0
    assert penult("predict", "c.head", "p/a/0.png", cwd=tmp_path).returncode == 0
    (tmp_path / "w.pth").rename(tmp_path / "moved.pth")
    lost = penult("predict", "c.head", "p/a/0.png", cwd=tmp_path)
    assert lost.returncode == 1
    assert "needs the weights of timm/test_resnet from a file" in lost.stderr
    assert "name it with --weights FILE" in lost.stderr
    assert penult("predict", "c.head", "p/a/0.png", "--weights", "moved.pth", cwd=tmp_path).returncode == 0
    torch.save(open_backbone("timm/test_resnet", "random", seed=4).network.state_dict(), tmp_path / "other.pth")
    wrong = penult("predict", "c.head", "p/a/0.png", "--weights", "other.pth", cwd=tmp_path)
    assert wrong.returncode == 1
    assert "they differ in weights: sha256:" in wrong.stderr


def test_a_narrow_terminal_gets_a_store_s_fingerprints_whole(work):
    from rich.console import Console

    from data.report import describe_store, print_info

    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    print_info(console, describe_store(work / "f.h5"))
    text = console.file.getvalue()
    (held,) = FeatureStore(work / "f.h5").features()
    assert f" {held[:12]} " in text
    assert "\u2026" not in text
    assert max(map(len, text.splitlines())) <= 80
