import dataclasses
import re

import h5py
import numpy as np
import pytest
from conftest import SPEC, digest_of, make_view, vectors_of

from data.errors import DamagedStore, FingerprintMismatch, MissingFile, SpecError, StoreError
from data.images import open_images
from data.publish import publish
from data.reading import locate
from data.store import FeatureStore
from data.verify import verify_store

REQUEST = {"backbone": "x"}
OTHER = dataclasses.replace(SPEC, resize=300)


def put(store, stage, rows, view=None, spec=SPEC, **kwargs):
    stage(store, rows, spec, **kwargs)
    return publish(store, view or make_view(rows), commands={spec.fingerprint: REQUEST})


def test_what_is_read_is_what_was_written_in_the_order_of_the_image_set(tmp_path, stage):
    store = tmp_path / "f.h5"
    written = [*range(700, 0, -1), *range(701, 900)]
    put(store, stage, written)
    for order in (written, sorted(written), written[::7]):
        publish(store, make_view(order), commands={SPEC.fingerprint: REQUEST})
        samples = FeatureStore(store).load()
        assert samples.X.dtype == np.float32
        assert (vectors_of(order) == samples.X).all()
        assert samples.paths == [f"{i:05d}.png" for i in order]
        test = FeatureStore(store).load("test")
        rows = [i for i in order if i % 3 == 0]
        assert (vectors_of(rows) == test.X).all()
        assert test.y.tolist() == [i % 2 for i in rows]


def test_bare_h5py_reads_and_joins_it(tmp_path, stage):
    store = tmp_path / "f.h5"
    put(store, stage, list(range(300)))
    with h5py.File(store) as file:
        group = file["features"][SPEC.fingerprint]
        view = file["datasets"]["toys"]
        row_of = {digest: row for row, digest in enumerate(group["digest"][:])}
        rows = [row_of[digest] for digest in view["digest"][:]]
        assert (group["vectors"][:][rows] == vectors_of(list(range(300)))).all()
        assert group["vectors"].chunks == (256, 8)
        assert view["path"][3] == b"00003.png"
        assert view["split"][3] == b"test"


def test_float16_is_kept_at_its_size(tmp_path, stage):
    store = tmp_path / "f.h5"
    put(store, stage, list(range(10)), dtype="<f2")
    put(store, stage, list(range(10, 20)), view=make_view(list(range(20))), dtype="<f4")  # the first dtype stays
    X = FeatureStore(store).load().X
    assert X.dtype == np.float16
    assert (vectors_of(list(range(20))).astype(np.float16) == X).all()


def test_many_specs_and_many_image_sets_share_one_file(tmp_path, stage):
    store = tmp_path / "f.h5"
    put(store, stage, list(range(30)))
    put(store, stage, list(range(20)), view=make_view(list(range(20)), name="few"), spec=OTHER, dim=5)
    held = FeatureStore(store)
    assert held.load(dataset="toys").spec == SPEC  # only one spec covers this set
    assert held.load(dataset="few", spec=OTHER).X.shape == (20, 5)
    assert held.load(dataset="few", features=OTHER.fingerprint[:8]).spec == OTHER
    with pytest.raises(StoreError, match="image sets few, toys: name one with --dataset; .* with `drop .* --dataset"):
        held.load()
    with pytest.raises(StoreError, match="holds several features that fit: .* name one with --features"):
        held.load(dataset="few")
    with pytest.raises(StoreError, match=r"30 pictures have no features .*00020\.png"):
        held.load(dataset="toys", spec=OTHER)
    with pytest.raises(StoreError, match="no image set 'none', only few, toys"):
        held.load(dataset="none")
    with pytest.raises(FingerprintMismatch, match="they differ in resize: 300, not 111|resize: 256, not 111"):
        held.load(dataset="few", spec=dataclasses.replace(SPEC, resize=111), wants="head x")


def test_a_split_that_is_not_there(tmp_path, stage):
    put(tmp_path / "f.h5", stage, list(range(9)))
    with pytest.raises(StoreError, match="has no split 'val', its splits are: test, train"):
        FeatureStore(tmp_path / "f.h5").load("val")


def test_a_store_that_is_not_there_or_something_else(tmp_path, stage):
    with pytest.raises(MissingFile, match=r"does not exist: run `extract IMAGES -o"):
        FeatureStore(tmp_path / "no.h5").load()
    stage(tmp_path / "no.h5", [1, 2])
    with pytest.raises(MissingFile, match="1 block of an unfinished extraction waits beside it"):
        FeatureStore(tmp_path / "no.h5").load()
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(StoreError, match="is not a feature store"):
        FeatureStore(tmp_path / "text.h5").load()
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(StoreError, match="an HDF5 file but not a feature store of Penult's"):
        FeatureStore(tmp_path / "other.h5").load()
    with h5py.File(tmp_path / "future.h5", "w") as file:
        file.attrs["penult_format"] = 99
    with pytest.raises(StoreError, match="has format 99, this Penult reads up to 1: update Penult"):
        FeatureStore(tmp_path / "future.h5").load()


def test_adding_pictures_keeps_the_old_rows_and_adds_each_content_once(tmp_path, stage):
    store = tmp_path / "f.h5"
    put(store, stage, list(range(300)))
    put(store, stage, list(range(250, 400)), view=make_view(list(range(400))))
    digests = FeatureStore(store).digests(SPEC.fingerprint)
    assert digests.tolist() == [digest_of(i) for i in range(400)]
    assert (vectors_of(list(range(400))) == FeatureStore(store).load().X).all()


def test_a_folder_store_reads_as_one(tmp_path, stage):
    store = tmp_path / "folder"
    store.mkdir()
    put(store, stage, list(range(300)))
    before = {p: p.read_bytes() for p in store.glob("*.h5")}
    put(store, stage, list(range(200, 400)), view=make_view(list(range(399, -1, -1))))
    assert {p: p.read_bytes() for p in before} == before  # a published file is never written again
    assert [p.name for p in sorted(store.iterdir())] == ["part-000001.h5", "part-000002.h5"]
    samples = FeatureStore(store).load()
    assert (vectors_of(list(range(399, -1, -1))) == samples.X).all()
    info = FeatureStore(store).features()[SPEC.fingerprint]
    assert info.rows == 400


def test_an_unchanged_store_is_not_written(tmp_path, stage):
    store = tmp_path / "f.h5"
    assert put(store, stage, [1, 2, 3])
    before = (store.stat().st_ino, store.stat().st_mtime_ns)
    assert not publish(store, make_view([1, 2, 3]), commands={SPEC.fingerprint: REQUEST})
    assert (store.stat().st_ino, store.stat().st_mtime_ns) == before


def test_another_set_under_the_same_name_is_not_lost(tmp_path, stage):
    store = tmp_path / "f.h5"
    put(store, stage, [1, 2, 3])
    with pytest.raises(StoreError, match="already holds an image set 'toys', from /toys.* another name with --name"):
        put(store, stage, [7, 8], view=make_view([7, 8], root="/elsewhere"))
    assert len(FeatureStore(store).load()) == 3
    put(store, stage, [7, 8], view=make_view([1, 2, 7, 8], root="/moved"))  # shares most: the set has moved
    assert FeatureStore(store).views()["toys"].root == "/moved"


def test_names_that_are_no_utf8_and_long_names_survive(tmp_path, stage):
    for number, paths in enumerate((["caf\udce9.png", "ü.png"], ["x" * 600, "y"])):
        store = tmp_path / f"{number}.h5"
        put(store, stage, [1, 2], view=make_view([1, 2], paths=paths))
        assert FeatureStore(store).load().paths == paths


def test_locate_finds_every_row():
    rng = np.random.default_rng(0)
    have = np.array([digest_of(i) for i in range(500)], dtype="S64")
    want = np.array([digest_of(i) for i in rng.integers(0, 700, size=900)], dtype="S64")
    table = {d: i for i, d in enumerate(have.tolist())}
    assert locate(have, want).tolist() == [table.get(d, -1) for d in want.tolist()]
    assert locate(have, have[100:200]).tolist() == list(range(100, 200))
    assert locate(have[:0], want[:2]).tolist() == [-1, -1]


def test_locate_survives_digests_that_share_their_beginning():
    have = np.array([b"0" * 16 + b"%048d" % i for i in range(50)], dtype="S64")
    assert locate(have, have[::-1]).tolist() == list(range(49, -1, -1))
    missing = np.array([b"0" * 16 + b"%048d" % 99], dtype="S64")
    assert locate(have, np.concatenate([have[3:4], missing])).tolist() == [3, -1]


def test_reading_notices_damage(tmp_path, stage):
    store = tmp_path / "f.h5"
    put(store, stage, list(range(600)))
    content = bytearray(store.read_bytes())
    at = bytes(content).find(vectors_of([300]).tobytes())
    content[at + 5] ^= 8
    store.write_bytes(content)
    with pytest.raises(DamagedStore, match=re.escape("rows 256 to 511")):
        FeatureStore(store).load()


def test_a_folder_store_keeps_one_dtype_and_reads_two(tmp_path, stage):
    store = tmp_path / "folder"
    store.mkdir()
    put(store, stage, list(range(300)), dtype="<f2")
    put(store, stage, list(range(300, 600)), view=make_view(list(range(600))))
    samples = FeatureStore(store).load()
    assert samples.X.dtype == np.float16
    assert (vectors_of(list(range(600))).astype(np.float16) == samples.X).all()
    elsewhere = tmp_path / "other"  # another machine's part, in the other dtype
    elsewhere.mkdir()
    put(elsewhere, stage, list(range(600, 900)))
    (elsewhere / "part-000001.h5").rename(store / "part-000009.h5")
    publish(store, make_view(list(range(900))), commands={SPEC.fingerprint: REQUEST})
    assert (vectors_of(list(range(900))).astype(np.float16) == FeatureStore(store).load().X).all()


def test_what_does_not_fit_the_stores_dtype_is_not_published_as_infinity(tmp_path, stage, monkeypatch):
    store = tmp_path / "f.h5"
    put(store, stage, [1, 2], dtype="<f2")
    monkeypatch.setattr("conftest.vectors_of", lambda rows, dim: np.full((len(rows), dim), 1e6, np.float32))
    block = stage(store, [3])
    with pytest.raises(SpecError, match="too large for float16: extract into a new store"):
        publish(store, make_view([1, 2, 3]), commands={SPEC.fingerprint: REQUEST})
    assert block.exists()
    assert len(FeatureStore(store).load()) == 2


def test_a_folder_store_remembers_a_new_request_once(tmp_path, stage):
    store = tmp_path / "folder"
    store.mkdir()
    put(store, stage, [1, 2, 3])
    newer = {"backbone": "x", "versions": {"torch": "9"}}
    assert publish(store, make_view([1, 2, 3]), commands={SPEC.fingerprint: newer})
    assert not publish(store, make_view([1, 2, 3]), commands={SPEC.fingerprint: newer})
    assert newer in FeatureStore(store).features()[SPEC.fingerprint].requests
    assert (vectors_of([1, 2, 3]) == FeatureStore(store).load().X).all()
    assert verify_store(store).problems == []


def test_few_pictures_in_common_do_not_make_it_the_same_set(tmp_path, stage):
    store = tmp_path / "f.h5"
    put(store, stage, list(range(10)))
    with pytest.raises(StoreError, match="shares 1 picture with it"):
        put(store, stage, list(range(9, 19)), view=make_view(list(range(9, 19)), root="/elsewhere"))


def test_a_link_to_a_store_stays_a_link(tmp_path, pictures):
    from extract.extractor import Extractor
    from extract.wanted import Wanted

    (tmp_path / "real").mkdir()
    (tmp_path / "link.h5").symlink_to(tmp_path / "real/f.h5")
    (tmp_path / "real/f.h5").touch()
    (tmp_path / "real/f.h5").unlink()
    Extractor(open_images(pictures), tmp_path / "link.h5", [Wanted("timm/test_resnet", "random")]).run()
    assert (tmp_path / "link.h5").is_symlink()
    assert FeatureStore(tmp_path / "real/f.h5").load("test").X.shape == (12, 96)


def test_other_views_are_read_beside_the_centre_which_stands_for_all(tmp_path, stage):
    store, rows = tmp_path / "f.h5", list(range(40))
    flip = dataclasses.replace(SPEC, view="flip")
    mean = dataclasses.replace(SPEC, view="mean(center,flip)")
    put(store, stage, rows)
    with pytest.raises(StoreError, match="in no other view: extract some, such as --views"):
        FeatureStore(store).load("train", augment=True)
    for spec in (flip, mean):
        put(store, stage, rows, spec=spec)
    put(store, stage, rows[:5], spec=dataclasses.replace(SPEC, view="random:0:0"), view=make_view(rows))  # not of all
    samples = FeatureStore(store).load("train", features=SPEC.backbone, augment=True)
    train = [i for i in rows if i % 3]
    assert samples.spec == SPEC
    assert len(samples.others) == 1
    assert (samples.others[0] == vectors_of(train)).all()
    X, y = samples.training(np.array([0, 3]))
    assert (np.tile(vectors_of([train[0], train[3]]), (2, 1)) == X).all()
    assert y.tolist() == [train[0] % 2, train[3] % 2] * 2
    assert FeatureStore(store).load("train").others == ()


def test_blocks_made_at_once_in_several_threads_are_whole(tmp_path, stage):
    from concurrent.futures import ThreadPoolExecutor

    specs = [dataclasses.replace(SPEC, resize=300 + i) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:  # as the writers of several networks do
        list(pool.map(lambda spec: stage(tmp_path / "f.h5", list(range(400)), spec), specs * 5))
    publish(tmp_path / "f.h5", make_view(list(range(400))), commands={})
    held = FeatureStore(tmp_path / "f.h5")
    assert held.features().keys() == {spec.fingerprint for spec in specs}
    for spec in specs:
        assert (vectors_of(list(range(400))) == held.load(spec=spec).X).all()
    assert verify_store(tmp_path / "f.h5").problems == []


def test_copies_that_are_as_many_as_a_block_has_rows_do_not_stand_for_the_block(tmp_path, stage):
    store = tmp_path / "f.h5"
    view = make_view([0, 1, 1, 2, 3], splits=np.array(["train"] * 4 + ["test"]))
    put(store, stage, [0, 1, 2, 3], view)
    assert np.array_equal(FeatureStore(store).load("train").X, vectors_of([0, 1, 1, 2]))
    kept = FeatureStore(store).load("train", memory=0)
    assert np.array_equal(kept.X[:], vectors_of([0, 1, 1, 2]))
    assert np.array_equal(kept.X[np.array([3, 0, 0, 1])], vectors_of([2, 0, 0, 1]))


def test_what_a_file_manager_leaves_in_a_folder_store_is_no_part_of_it(tmp_path, stage):
    store = tmp_path / "folder"
    store.mkdir()
    put(store, stage, [1, 2, 3])
    (store / "._part-000001.h5").write_bytes(b"\0\5\x16\7")
    assert len(FeatureStore(store).load()) == 3
    assert verify_store(store).files == 1
