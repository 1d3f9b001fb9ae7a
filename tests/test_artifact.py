import dataclasses
import json
import pickletools
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from conftest import SPEC, digest_of
from safetensors import safe_open

from classify.artifact import load_head, save_head, training_identity
from classify.heads import HEADS
from classify.selection import train
from data.errors import HeadError, MissingFile, PenultError
from data.store import Samples

every_kind = pytest.mark.parametrize("kind", HEADS)
REQUEST = {"backbone": "timm/test_resnet", "weights": "random"}


def samples_of(n=48, n_classes=3):
    rng = np.random.default_rng(0)
    y = (np.arange(n) % n_classes).astype(np.int32)
    X = (rng.normal(size=(n_classes, 6))[y] * 2 + rng.normal(size=(n, 6))).astype(np.float32)
    digests = np.array([digest_of(i) for i in range(n)], dtype="S64")
    classes = ["cat", "dog", "\u00e9mu"][:n_classes]
    return Samples(X, y, classes, [f"{i}.png" for i in range(n)], digests, SPEC, "toys", "train")


def saved(path, kind="lr", samples=None, **changes):
    samples = samples or samples_of()
    training = train(kind, samples, params={"hidden": 8} if kind == "mlp" else {}, **changes)
    save_head(path, training, samples, request=REQUEST, weights_file="")
    return training


@every_kind
def test_training_twice_gives_the_same_bytes(tmp_path, kind):
    for name in ("a", "b"):
        saved(tmp_path / name, kind)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@every_kind
@pytest.mark.parametrize("n_classes", [2, 3])
def test_what_is_loaded_predicts_bit_for_bit_as_what_was_saved(tmp_path, kind, n_classes):
    samples = samples_of(n_classes=n_classes)
    training = saved(tmp_path / "a.head", kind, samples, class_weight="balanced")
    head = load_head(tmp_path / "a.head")
    fresh = np.random.default_rng(1).normal(size=(30, 6)).astype(np.float32) * 3
    for X in (samples.X, fresh, fresh.astype(np.float16)):
        assert np.array_equal(head.predict_proba(X), training.head.predict_proba(training.scaler.transform(X)))
    assert type(head.head) is type(training.head)
    assert head.head.get_params() == training.head.get_params()
    assert (head.name, head.kind, head.classes, head.spec) == (str(tmp_path / "a.head"), kind, samples.classes, SPEC)


def test_a_factor_and_a_bias_for_each_class_are_kept(tmp_path):
    samples = samples_of()
    training = train("lr", samples)
    training.head.scale_, training.head.bias_ = np.array([0.5, 2.0, 1.0]), np.array([3.0, 0.0, -0.1])
    save_head(tmp_path / "a", training, samples, request=REQUEST, weights_file="")
    head = load_head(tmp_path / "a")
    X = training.scaler.transform(samples.X)
    assert np.array_equal(head.predict_proba(samples.X), training.head.predict_proba(X))
    assert np.array_equal(head.head.predict(X), head.predict_proba(samples.X).argmax(axis=1))
    assert (head.head.predict(X) != head.head.scores(X).argmax(axis=1)).any()
    assert (head.info["scale"], head.info["bias"]) == ([0.5, 2.0, 1.0], [3.0, 0.0, -0.1])


def test_a_head_without_bias_is_written_as_before(tmp_path):
    training = saved(tmp_path / "a")
    info = load_head(tmp_path / "a").info
    assert info["scale"] == training.head.scale_
    assert "bias" not in info


def test_saving_what_was_loaded_would_keep_the_state(tmp_path):
    training = saved(tmp_path / "a")
    state = load_head(tmp_path / "a").head.state()
    for name, array in training.head.state().items():
        assert np.array_equal(state[name], array)
        assert state[name].dtype == array.dtype


def test_the_metadata_tell_all_about_the_training(tmp_path):
    samples = samples_of()
    training = saved(tmp_path / "a", samples=samples, seed=4)
    info = load_head(tmp_path / "a").info
    assert info["format"] == 1
    assert info["kind"] == "lr"
    solver = {"solver": "penult", "tol": 1e-4, "max_iter": None}
    assert info["params"] == {"C": training.params["C"], **solver, "class_weight": None, "random_state": 4}
    assert info["classes"] == ["cat", "dog", "ému"]
    assert info["fingerprint"] == SPEC.fingerprint
    assert info["spec"] == json.loads(SPEC.canonical_json())
    identity = training_identity(samples)
    assert info["trained_on"] == {"dataset": "toys", "split": "train", "n": 48, "views": 1, "identity": identity}
    assert info["selection"]["tuned_on"] == "cv"
    assert info["selection"]["folds"] == 5
    assert info["selection"]["seed"] == 4
    assert info["selection"]["cv_accuracy"] == training.cv_accuracy
    assert info["selection"]["candidates"] == [dataclasses.asdict(c) for c in training.candidates]
    assert info["request"] == REQUEST
    assert set(info["versions"]) == {"penult", "scikit-learn", "numpy"}


@every_kind
def test_the_file_is_safetensors_and_nothing_else(tmp_path, kind):
    path = tmp_path / "a"
    saved(path, kind)
    content = path.read_bytes()
    arrays = safetensors.numpy.load(content)
    assert {"scaler.mean", "scaler.scale", "train_keys"} < set(arrays)
    with safe_open(path, framework="numpy") as file:
        json.loads(file.metadata()["penult_head"])
    assert not zipfile.is_zipfile(path)
    with pytest.raises(ValueError, match=r".+"):
        list(pickletools.genops(content))


def test_a_head_knows_the_pictures_it_was_trained_on(tmp_path):
    samples = samples_of()
    saved(tmp_path / "a", samples=samples)
    strangers = np.array([digest_of(i) for i in (100, 3, 101)], dtype="S64")
    head = load_head(tmp_path / "a")
    assert head.trained_on(samples.digests).all()
    assert head.trained_on(strangers).tolist() == [False, True, False]


def test_unlabelled_pictures_are_no_training_pictures(tmp_path):
    samples = samples_of()
    y = samples.y.copy()
    y[:3] = -1
    saved(tmp_path / "a", samples=dataclasses.replace(samples, y=y))
    head = load_head(tmp_path / "a")
    assert head.trained_on(samples.digests).tolist() == [False] * 3 + [True] * 45
    assert head.info["trained_on"]["n"] == 45


def test_the_identity_changes_with_a_label_a_picture_and_a_class_name():
    samples = samples_of()
    identity = training_identity(samples)
    y, digests = samples.y.copy(), samples.digests.copy()
    y[5] = (y[5] + 1) % 3
    digests[5] = digest_of(999)
    others = [
        dataclasses.replace(samples, y=y),
        dataclasses.replace(samples, digests=digests),
        dataclasses.replace(samples, classes=["cat", "dog", "fox"]),
    ]
    assert len({identity, *map(training_identity, others)}) == 4
    moved = dataclasses.replace(samples, paths=[f"elsewhere/{p}" for p in samples.paths], dataset="others")
    assert training_identity(moved) == identity
    renumbered = dataclasses.replace(samples, y=2 - samples.y, classes=samples.classes[::-1])
    assert training_identity(renumbered) == identity


def test_an_old_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "a"
    saved(path, "ridge")
    saved(path)
    assert load_head(path).kind == "lr"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_is_named_with_the_command_that_makes_one(tmp_path):
    path = tmp_path / "none.head"
    with pytest.raises(MissingFile) as caught:
        load_head(path)
    assert str(caught.value) == f"{path} does not exist: make a head with `fit STORE --head lr -o {path}`"
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04K\x01.", b"\xff" * 200])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(HeadError, match=r"a cannot be read as a head \(.+\): make it anew with `fit`$"):
        load_head(path)


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    path = tmp_path / "a"
    saved(path)
    content = path.read_bytes()
    for length in (7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(HeadError, match=r"a cannot be read as a head \(.+\): make it anew with `fit`$"):
            load_head(path)


def test_other_safetensors_files_are_refused_as_such(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"weight": np.zeros((2, 2))}, path)
    with pytest.raises(HeadError, match=r"model\.safetensors is a safetensors file but not a head of Penult's: "):
        load_head(path)


def rewritten(path, change):
    """Change the metadata or the arrays of a head's file."""
    with safe_open(path, framework="numpy") as file:
        info = json.loads(file.metadata()["penult_head"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(info, arrays)
    safetensors.numpy.save_file(arrays, path, metadata={"penult_head": json.dumps(info)})


def test_a_newer_format_asks_for_a_newer_penult(tmp_path):
    path = tmp_path / "a"
    saved(path)
    rewritten(path, lambda info, arrays: info.update(format=2))
    with pytest.raises(HeadError) as caught:
        load_head(path)
    assert str(caught.value) == f"{path} has format 2, this Penult reads up to 1: update Penult"


@pytest.mark.parametrize(
    "change",
    [
        lambda info, arrays: info.update(kind="os.system"),
        lambda info, arrays: info.pop("classes"),
        lambda info, arrays: info.update(params={"unknown": 1}),
        lambda info, arrays: info.update(params=None),
        lambda info, arrays: info.update(spec={"backbone": "x", "weights": "y", "news": 1}),
        lambda info, arrays: info.update(format="one"),
    ],
)
def test_metadata_that_make_no_sense_are_one_clear_error(tmp_path, change):
    path = tmp_path / "a"
    saved(path)
    rewritten(path, change)
    with pytest.raises(HeadError, match=r"a cannot be read as a head \(.+\): make it anew with `fit`$"):
        load_head(path)


def test_a_flipped_bit_or_a_lost_array_is_noticed(tmp_path):
    path = tmp_path / "a"
    saved(path)
    clean = path.read_bytes()
    start = 8 + int.from_bytes(clean[:8], "little")
    for bit in np.random.default_rng(0).choice((len(clean) - start) * 8, 50, replace=False):
        content = bytearray(clean)
        content[start + bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with pytest.raises(HeadError, match=r"a is damaged .*: make it anew with `fit`$"):
            load_head(path)
    path.write_bytes(clean)
    rewritten(path, lambda info, arrays: arrays.pop("scaler.mean"))
    with pytest.raises(HeadError, match="is damaged"):
        load_head(path)


@pytest.mark.parametrize("text", ["[]", "3", "null", "{", '"penult"'])
def test_metadata_of_another_shape_are_one_clear_error(tmp_path, text):
    path = tmp_path / "a"
    safetensors.numpy.save_file({"x": np.zeros(1)}, path, metadata={"penult_head": text})
    with pytest.raises(HeadError, match="cannot be read as a head"):
        load_head(path)


def test_a_folder_that_does_not_exist_is_reported_and_nothing_written(tmp_path):
    with pytest.raises((OSError, PenultError)):
        saved(tmp_path / "nowhere" / "a")
    assert not list(tmp_path.iterdir())


def test_the_head_of_one_picture_a_class_can_be_saved_and_loaded(tmp_path):
    samples = samples_of(n=3)
    training = saved(tmp_path / "a", samples=samples)
    head = load_head(tmp_path / "a")
    assert head.info["selection"]["cv_accuracy"] is None
    assert np.array_equal(
        head.predict_proba(samples.X), training.head.predict_proba(training.scaler.transform(samples.X))
    )


def test_metadata_are_json_that_every_reader_knows(tmp_path):
    saved(tmp_path / "a", samples=samples_of(n=3))  # nothing was held out: there are no scores

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    with safe_open(tmp_path / "a", framework="numpy") as file:
        json.loads(file.metadata()["penult_head"], parse_constant=refuse)
