"""What `pack` puts into a bundle, what it refuses, and what may go wrong meanwhile."""

import hashlib
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from bundles import KINDS, PLAIN, copy_of, load, refused
from conftest import ROOT, SPEC, TINY, digest_of, make_view, penult

import data.packing
from classify.artifact import load_head
from data.bundle import MANIFEST, is_bundle, read_bundle
from data.layout import Part
from data.packing import new_folder
from data.publish import publish
from data.report import is_store
from data.store import FeatureStore
from verbs.pack import _command
from verbs.parser import build_parser


def test_a_bundle_holds_what_its_heads_need_and_nothing_else(kit):
    store, bundle = FeatureStore(kit / "f.h5"), FeatureStore(kit / "plain")
    assert is_store(kit / "plain")
    assert is_bundle(kit / "plain")
    assert len(store.features()) == 2
    assert [info.spec.layer for info in bundle.features().values()] == ["penultimate"]
    assert list(bundle.views()) == ["pictures"]
    assert bundle.view().same_as(store.view("pictures"))
    for split in ("train", "test"):
        before, after = load(kit / "f.h5", split, features="penultimate"), load(kit / "plain", split)
        assert (before.X == after.X).all()
        assert (before.X.dtype, before.paths) == (after.X.dtype, after.paths)
        assert (before.y == after.y).all()
    assert len(bundle.digests(after.spec.fingerprint)) == 39  # none of the other set
    for kind in KINDS:
        assert (kit / "plain" / "heads" / f"{kind}.head").read_bytes() == (kit / f"{kind}.head").read_bytes()


def test_its_json_says_what_is_in_it_and_where_it_came_from(kit):
    said = json.loads((kit / "plain.json").read_text())
    info = json.loads((kit / "plain" / MANIFEST).read_text())
    assert said == {"bundle": "plain", **info}
    assert info["penult_bundle"] == 1
    assert sorted(info["files"]) == ["features.h5", *sorted(f"heads/{k}.head" for k in KINDS), "thumbnails.zip"]
    for name, listed in info["files"].items():
        content = (kit / "plain" / name).read_bytes()
        assert listed == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert info["made"]["command"] == "penult pack f.h5 lr.head mlp.head knn.head -o plain --without models"
    assert info["datasets"][0] == {
        "name": "pictures",
        "images": 39,
        "classes": ["blue", "green", "red"],
        "splits": {"test": 15, "train": 24},
    }
    assert [head["name"] for head in info["heads"]] == list(KINDS)
    assert {head["how"] for head in info["heads"]} == {"as it was"}
    assert all("--without models" in head["no_model"] for head in info["heads"])


def test_the_command_that_made_a_bundle_is_all_of_it():
    asked = "pack f.h5 a.head -o b --weights x.pth --weights y.pth --dataset d e --pca 8 --thumbnails 5MB"
    parser = build_parser()
    arguments = parser.parse_args(asked.split())
    assert parser.parse_args(shlex.split(_command(arguments))[1:]) == arguments


def test_float16_halves_the_features_and_measures_what_that_costs(kit, tmp_path):
    done = penult("pack", "f.h5", "lr.head", "-o", tmp_path / "half", "--dtype", "float16", *PLAIN, cwd=kit)
    assert done.returncode == 0, done.stderr
    whole, half = load(kit / "plain"), load(tmp_path / "half")
    assert half.X.dtype == np.float16
    assert (whole.X.astype(np.float16) == half.X).all()
    assert half.spec == whole.spec
    (one,) = read_bundle(tmp_path / "half").info["measured"]
    assert (one["split"], one["n"], one["how"]) == ("test", 15, "as it was")
    head = load_head(kit / "lr.head")
    for side, samples in (("before", whole), ("after", half)):
        right = head.predict_proba(samples.X).argmax(axis=1) == samples.y
        assert one[side]["accuracy"] == right.mean()
        low, high = one[side]["accuracy_ci95"]
        assert low < right.mean() <= high


def test_a_value_that_float16_cannot_hold_is_refused(tmp_path, stage, monkeypatch):
    huge = np.full((6, 8), 1e5, dtype=np.float32)
    monkeypatch.setattr("conftest.vectors_of", lambda rows, dim: huge)
    stage(tmp_path / "f.h5", list(range(6)))
    publish(tmp_path / "f.h5", make_view(list(range(6))), commands={SPEC.fingerprint: {}})
    error = refused("pack", "f.h5", "-o", "b", "--dtype", "float16", cwd=tmp_path)
    assert "values above 65,504, which float16 cannot hold: leave out --dtype float16" in error
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


def test_the_store_may_be_packed_without_heads(kit, tmp_path):
    which = ["--dataset", "others", "pictures", "--features", "penultimate"]
    done = penult("pack", "f.h5", "-o", tmp_path / "b", *which, cwd=kit)
    assert done.returncode == 0, done.stderr
    held = FeatureStore(tmp_path / "b")
    assert sorted(held.views()) == ["others", "pictures"]
    assert [info.rows for info in held.features().values()] == [65]
    assert "holds no head: fit one with" in refused("eval", tmp_path / "b", tmp_path / "b", cwd=kit)


def test_a_test_split_without_labels_is_carried_and_not_measured(kit, tmp_path):
    rows = ["path,label,split"]
    rows += [f"pictures/train/{label}/{i}.png,{label},train" for label in ("red", "green") for i in range(4)]
    rows += [f"pictures/test/red/{i}.png,,test" for i in range(2)]
    (kit / "unlabelled.csv").write_text("\n".join(rows) + "\n")
    store = tmp_path / "f.h5"
    assert penult("extract", kit / "unlabelled.csv", "-o", store, *TINY).returncode == 0
    assert penult("fit", store, "--head", "centroid", "-o", tmp_path / "c.head").returncode == 0
    done = penult("pack", store, tmp_path / "c.head", "-o", tmp_path / "b", *PLAIN)
    assert done.returncode == 0, done.stderr
    info = read_bundle(tmp_path / "b").info
    assert (info["measured"], info["datasets"][0]["splits"]) == ([], {"test": 2, "train": 8})


def test_a_folder_store_becomes_one_file_with_each_content_once(tmp_path, stage):
    store = tmp_path / "store"
    store.mkdir()
    for rows in (list(range(300)), list(range(200, 700))):
        stage(store, rows)
        publish(store, make_view(rows, name=f"toys{rows[0]}"), commands={SPEC.fingerprint: {}})
    assert len(FeatureStore(store).part_paths()) == 2
    which = ["--dataset", "toys200", "--dtype", "float16", "--without", "thumbnails"]
    done = penult("pack", "store", "-o", "b", *which, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b" / "features.h5").is_file()
    bundle = FeatureStore(tmp_path / "b")
    assert sorted(bundle.digests(SPEC.fingerprint).tolist()) == sorted(digest_of(i) for i in range(200, 700))
    assert (FeatureStore(store).load(dataset="toys200").X.astype(np.float16) == bundle.load().X).all()
    assert penult("verify", tmp_path / "b", "--sample", "0").returncode == 0


def test_other_views_go_along_with_a_head_that_was_trained_on_them(kit, tmp_path):
    shutil.copy(kit / "f.h5", tmp_path / "f.h5")
    views = ["--views", "center", "flip"]
    assert penult("extract", kit / "pictures", "-o", "f.h5", *TINY, *views, cwd=tmp_path).returncode == 0
    which = ["--dataset", "pictures", "--features", "penultimate"]
    assert penult("fit", "f.h5", *which, "--augment", "--head", "lr", "-o", "lr.head", cwd=tmp_path).returncode == 0
    assert penult("pack", "f.h5", "lr.head", "-o", "b", "--pca", "5", *PLAIN, cwd=tmp_path).returncode == 0
    samples = FeatureStore(tmp_path / "b").load("train", augment=True)
    assert len(samples.others) == 1
    assert samples.others[0].shape == (24, 5)


def test_a_fine_tuned_network_goes_along_once_the_store_has_its_features(kit, tmp_path):
    shutil.copytree(kit / "pictures", tmp_path / "pictures")
    assert penult("extract", "pictures", "-o", "f.h5", *TINY, cwd=tmp_path).returncode == 0
    tune = ["finetune", "pictures", "-o", "net.safetensors", "--epochs", "1", *TINY]
    assert penult(*tune, cwd=tmp_path).returncode == 0
    error = refused("pack", "f.h5", "net.safetensors", "-o", "b", cwd=tmp_path)
    assert f"`extract {tmp_path}/pictures -o f.h5 --weights net.safetensors` first" in error
    assert penult("extract", "pictures", "-o", "f.h5", "--weights", "net.safetensors", cwd=tmp_path).returncode == 0
    assert penult("pack", "f.h5", "net.safetensors", "-o", "b", *PLAIN, cwd=tmp_path).returncode == 0
    assert penult("eval", "b", cwd=tmp_path).returncode == 0
    error = refused("pack", "f.h5", "net.safetensors", "-o", "c", "--pca", "3", cwd=tmp_path)
    assert "whose last layer reads its own features as they are: leave out --pca, or this network" in error


# --- what is refused


def test_a_damaged_block_is_not_packed(kit, tmp_path):
    shutil.copy(kit / "f.h5", tmp_path / "f.h5")
    with Part(tmp_path / "f.h5") as part:
        group = next(g for g in part.features().values() if g.spec.layer == "penultimate")
        group.prepare()
        at = group._offsets[0]
    with open(tmp_path / "f.h5", "r+b") as file:
        file.seek(at + 5)
        file.write(b"\xff\x00")
    error = refused("pack", "f.h5", kit / "lr.head", "-o", "b", *PLAIN, cwd=tmp_path)
    assert "do not match their checksum: restore it from a copy" in error
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


def test_heads_of_other_features_or_classes_or_sets_are_refused_by_name(kit, tmp_path):
    other = tmp_path / "other.h5"
    assert penult("extract", kit / "pictures", "-o", other, *TINY, "--gray").returncode == 0
    error = refused("pack", other, "lr.head", "-o", tmp_path / "b", *PLAIN, cwd=kit)
    assert "they differ in color: gray, not rgb" in error
    error = refused("pack", "f.h5", "lr.head", "-o", tmp_path / "b", "--dataset", "others", cwd=kit)
    assert "lr.head tells blue, green, red apart, the image set 'others' of f.h5 has the classes cyan, pink" in error
    assert penult("extract", kit / "others", "-o", tmp_path / "third.h5", *TINY).returncode == 0
    error = refused("pack", tmp_path / "third.h5", "lr.head", "-o", tmp_path / "b", cwd=kit)
    assert "was fitted on the image set 'pictures', and" in error
    assert not (tmp_path / "b").exists()


def test_a_set_or_feature_that_is_not_there_is_refused(kit, tmp_path):
    error = refused("pack", "f.h5", "-o", tmp_path / "b", "--dataset", "strangers", cwd=kit)
    assert "f.h5 holds no image set 'strangers', only others, pictures" in error
    error = refused("pack", "f.h5", "-o", tmp_path / "b", "--dataset", "others", "--features", "layer9", cwd=kit)
    assert "f.h5 holds no features 'layer9'" in error
    assert "holds the image sets others, pictures: name one" in refused("pack", "f.h5", "-o", tmp_path / "b", cwd=kit)
    assert "does not exist" in refused("pack", "none.h5", "-o", tmp_path / "b", cwd=kit)
    assert not (tmp_path / "b").exists()


def test_a_head_of_other_labels_than_the_store_has_now_is_packed_with_a_note(kit, tmp_path):
    for name in ("pictures", "f.h5"):
        (shutil.copytree if (kit / name).is_dir() else shutil.copy)(kit / name, tmp_path / name)
    shutil.move(tmp_path / "pictures/train/red/0.png", tmp_path / "pictures/train/blue/moved.png")
    assert penult("extract", "pictures", "-o", "f.h5", *TINY, cwd=tmp_path).returncode == 0
    done = penult("pack", "f.h5", kit / "lr.head", "-o", "b", *PLAIN, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note: lr was fitted on other pictures or labels than train has now" in done.stdout
    assert "other pictures" not in "".join(read_bundle(kit / "plain").info["notes"])


def test_two_heads_of_one_name_are_refused(kit, tmp_path):
    shutil.copy(kit / "mlp.head", tmp_path / "lr.head")
    error = refused("pack", "f.h5", "lr.head", tmp_path / "lr.head", "-o", tmp_path / "b", cwd=kit)
    assert "would both be called lr in the bundle: rename one" in error
    shutil.copy(kit / "lr.head", tmp_path / ".lr.head")
    error = refused("pack", "f.h5", tmp_path / ".lr.head", "-o", tmp_path / "b", cwd=kit)
    assert "give it one that does not begin with a dot" in error


def test_nothing_but_a_bundle_is_replaced(kit, tmp_path):
    pack = ["pack", kit / "f.h5", kit / "lr.head", *PLAIN, "-o"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    assert "exists and is no bundle: name another" in refused(*pack, "notes", cwd=tmp_path)
    assert "is a file, and a bundle is a folder" in refused(*pack, "file", cwd=tmp_path)
    (tmp_path / "link").symlink_to(kit / "plain")
    assert "is a link: name the folder that it leads to" in refused(*pack, "link", cwd=tmp_path)
    bundle = copy_of(kit, tmp_path)
    (bundle / "mine.txt").write_text("mine")
    assert "also holds mine.txt, which making it anew would lose" in refused(*pack, "plain", cwd=tmp_path)
    (bundle / "mine.txt").unlink()
    assert penult(*pack, "plain", cwd=tmp_path).returncode == 0
    assert list(read_bundle(bundle).heads()) == ["lr"]  # the new one
    assert not (bundle / "heads" / "knn.head").exists()
    assert "is what is to be packed" in refused("pack", "plain", "-o", "plain", cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "notes", "plain"]


# --- what may go wrong meanwhile


@pytest.mark.parametrize("step", ["pack_features", "measure_trips", "write_thumbnails", "verify_store"])
@pytest.mark.parametrize("there", [False, True])
def test_an_interrupted_pack_leaves_what_was_there(kit, tmp_path, monkeypatch, step, there):
    if there:
        copy_of(kit, tmp_path)
    before = sorted(tmp_path.rglob("*"))

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"classify.packing.{step}", stopped)
    assert penult("pack", "f.h5", "lr.head", "-o", tmp_path / "plain", *PLAIN, cwd=kit).returncode == 130
    assert sorted(tmp_path.rglob("*")) == before


def test_a_rename_that_fails_brings_the_old_bundle_back(kit, tmp_path, monkeypatch):
    bundle = copy_of(kit, tmp_path)
    calls = []

    def rename(source, target, real=os.rename):
        calls.append(target)
        if len(calls) == 2:  # the old one is aside, the new one comes
            raise OSError(5, "Input/output error")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(data.packing.os, "rename", rename)
        with pytest.raises(OSError, match="Input/output"), new_folder(bundle, kit / "f.h5") as folder:
            (folder / "x").write_text("x")
    assert len(calls) == 3
    assert list(read_bundle(bundle).heads()) == list(KINDS)
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def test_a_killed_pack_leaves_no_half_bundle_and_the_next_one_tidies_up(kit, tmp_path):
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        from data.packing import new_folder
        with new_folder(Path(sys.argv[1]), Path("none")) as folder:
            (folder / "features.h5").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    bundle = tmp_path / "plain"
    killed = subprocess.run([sys.executable, "-c", code, str(bundle)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("plain.")
    # another was killed between the two renames
    shutil.copytree(kit / "plain", left.with_suffix(".replaced"))
    with pytest.raises(ValueError, match="stop"), new_folder(bundle, kit / "f.h5"):
        raise ValueError("stop")
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]
    assert list(read_bundle(bundle).heads()) == list(KINDS)


def test_a_full_disk_leaves_nothing_and_says_so(kit, tmp_path):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, old[1]))
        for more in ([], ["--without", "thumbnails"]):
            done = penult("pack", "f.h5", "lr.head", "-o", tmp_path / "b", "--without", "models", *more, cwd=kit)
            assert done.returncode == 1
            assert "no room to write" in done.stderr
            assert "Nothing is lost" in done.stderr
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, previous)
    assert list(tmp_path.iterdir()) == []


def test_packing_without_models_imports_no_torch(kit, tmp_path):
    code = "import sys; from pipeline import main; assert main(sys.argv[1:]) == 0; sys.exit('torch' in sys.modules)"
    command = ["pack", str(kit / "f.h5"), str(kit / "lr.head"), "-o", str(tmp_path / "b"), "--pca", "4", *PLAIN]
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
