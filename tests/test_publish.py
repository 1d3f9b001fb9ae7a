"""Publishing under the worst of conditions: kills, full disks, several writers."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, SPEC, digest_of, make_view, vectors_of

from data.errors import DiskFull, StoreBusy
from data.layout import Part
from data.publish import publish
from data.staging import (
    clear_blocks,
    new_block,
    publish_lock,
    stage_block,
    staged_blocks,
    staging_folder,
    write_all,
    write_atomically,
)
from data.store import FeatureStore
from data.verify import verify_store


def publish_rows(store, rows, name="toys"):
    return publish(store, make_view(rows, name=name), commands={SPEC.fingerprint: {}})


def run_python(code, *arguments, **kwargs):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}, text=True, **kwargs
    )


PUBLISH = """
    import sys
    from pathlib import Path
    from conftest import SPEC, make_view
    from data.publish import publish
    print("ready", flush=True)
    publish(Path(sys.argv[1]), make_view(list(range(int(sys.argv[2])))), commands={SPEC.fingerprint: {}})
"""


def test_a_publish_killed_at_any_moment_loses_no_row(tmp_path, stage):
    store = tmp_path / "f.h5"
    stage(store, list(range(1000)), dim=500)
    publish_rows(store, list(range(1000)))
    rng = np.random.default_rng(0)
    killed = 0
    for attempt in range(12):
        n = 1000 + 200 * (attempt + 1)
        stage(store, list(range(n - 200, n)), dim=500)
        process = run_python(PUBLISH, store, n, stdout=subprocess.PIPE)
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
        held = set(FeatureStore(store).digests(SPEC.fingerprint).tolist())
        waiting = set()
        for block in staged_blocks(store):
            from data.layout import Part

            with Part(block) as part:
                waiting |= set(part.features()[SPEC.fingerprint].digests.tolist())
        assert held | waiting == {digest_of(i) for i in range(n)}
        assert verify_store(store).problems == []
    assert killed >= 6
    publish_rows(store, list(range(n)))
    assert (vectors_of(list(range(n)), 500) == FeatureStore(store).load().X).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.h5"]  # nothing is left behind


@pytest.mark.parametrize("limit", [0, 1000, 200_000, 700_000])
def test_a_full_disk_while_publishing_leaves_everything_as_it_was(tmp_path, stage, limit):
    store = tmp_path / "f.h5"
    stage(store, list(range(100)), dim=500)
    publish_rows(store, list(range(100)))
    before = store.read_bytes()
    block = stage(store, list(range(100, 400)), dim=500)
    with file_size_limit(limit), pytest.raises(DiskFull, match=r"no room to write .*f\.h5.*Nothing is lost: free some"):
        publish_rows(store, list(range(400)))
    assert store.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.h5", "f.h5.staging"]
    assert staged_blocks(store) == [block]
    publish_rows(store, list(range(400)))
    assert (vectors_of(list(range(400)), 500) == FeatureStore(store).load().X).all()


def test_a_full_disk_while_staging_leaves_no_half_block(tmp_path):
    with file_size_limit(5000), pytest.raises(DiskFull, match="Nothing is lost"):
        stage_block(tmp_path / "f.h5", "run", 1, b"x" * 100_000)
    assert list(staging_folder(tmp_path / "f.h5").iterdir()) == []


def publish_from_a_process(store, first, stage_dim, barrier):
    from data.layout import block_image
    from data.staging import new_run_id

    for number in range(5):
        rows = list(range(first + number * 20, first + number * 20 + 20))
        features = {
            "spec": SPEC,
            "provenance": [{"run": f"writer-{first}"}],
            "requests": [],
            "rows": 20,
            "dim": stage_dim,
            "dtype": np.dtype("<f4"),
            "slabs": [(np.array([digest_of(i) for i in rows], dtype="S64"), vectors_of(rows, stage_dim))],
        }
        stage_block(store, new_run_id(), number, block_image(features, make_view(rows)))
        barrier.wait()
        publish_rows(store, list(range(first, first + number * 20 + 20)), name=f"writer-{first}")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_two_writers_never_lose_each_others_rows(tmp_path, kind):
    store = tmp_path / "f.h5"
    if kind == "folder":
        store.mkdir()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3, timeout=60)
    writers = [context.Process(target=publish_from_a_process, args=(store, 1000 * i, 16, barrier)) for i in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    held = FeatureStore(store)
    assert set(held.digests(SPEC.fingerprint).tolist()) == {
        digest_of(1000 * w + i) for w in range(3) for i in range(100)
    }
    for w in range(3):
        rows = list(range(1000 * w, 1000 * w + 100))
        assert (vectors_of(rows, 16) == held.load(dataset=f"writer-{1000 * w}").X).all()
    assert verify_store(store).problems == []
    assert staged_blocks(store) == []


def test_a_writer_that_holds_the_store_is_named(tmp_path, stage):
    store = tmp_path / "f.h5"
    block = stage(store, [1, 2, 3])
    with publish_lock(store), pytest.raises(StoreBusy, match=rf"another process \(pid {os.getpid()}\)"):
        publish(store, make_view([1, 2, 3]), commands={SPEC.fingerprint: {}}, timeout=0.2)
    assert staged_blocks(store) == [block]
    publish_rows(store, [1, 2, 3])
    assert len(FeatureStore(store).load()) == 3


def test_a_dead_writers_lock_is_no_obstacle(tmp_path, stage):
    store = tmp_path / "f.h5"
    stage(store, [1, 2, 3])
    hold = """
        import sys, time
        from pathlib import Path
        from data.staging import publish_lock
        with publish_lock(Path(sys.argv[1])):
            print("held", flush=True)
            time.sleep(60)
    """
    process = run_python(hold, store, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    process.stdout.close()
    publish_rows(store, [1, 2, 3])


def test_what_dead_writers_leave_is_swept_and_what_live_ones_write_is_not(tmp_path, stage):
    store = tmp_path / "f.h5"
    stage(store, [1])
    folder = staging_folder(store)
    for name, seconds in (("old.h5.other-1-a.writing", 3600), ("new.h5.other-2-b.writing", 0)):
        (folder / name).write_bytes(b"half")
        stamp = time.time() - seconds
        os.utime(folder / name, (stamp, stamp))
    clear_blocks(store, staged_blocks(store))
    assert [p.name for p in folder.iterdir()] == ["new.h5.other-2-b.writing"]


def test_an_atomic_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    write_atomically(path, b"old")
    with file_size_limit(10), pytest.raises(OSError, match="too large"):
        write_atomically(path, b"new" * 100)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


class file_size_limit:
    """Let no file of this process grow past some bytes, as on a disk that is full."""

    def __init__(self, limit):
        self.limit = limit

    def __enter__(self):
        self.old = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self.old[1]))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.old)


def test_ctrl_c_while_publishing_is_no_crash_and_loses_nothing(tmp_path, stage, monkeypatch):
    store = tmp_path / "f.h5"
    stage(store, list(range(100)), dim=500)
    publish_rows(store, list(range(100)))
    before = store.read_bytes()
    block = stage(store, list(range(100, 400)), dim=500)
    writes = iter(range(10**9))

    def interrupted(file, content):
        if next(writes) == 5:
            raise KeyboardInterrupt
        write_all(file, content)

    monkeypatch.setattr("data.layout.write_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish_rows(store, list(range(400)))
    assert (store.read_bytes(), staged_blocks(store)) == (before, [block])
    monkeypatch.undo()
    publish_rows(store, list(range(400)))
    assert len(FeatureStore(store).load()) == 400


def test_more_blocks_than_files_may_be_open(tmp_path, stage):
    store = tmp_path / "f.h5"
    for i in range(150):
        stage(store, [2 * i, 2 * i + 1])
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, old[1]))
    try:
        publish_rows(store, list(range(300)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, old)
    assert (vectors_of(list(range(300))) == FeatureStore(store).load().X).all()


def test_a_live_writers_file_is_never_swept_whatever_its_name_says(tmp_path):
    import fcntl

    from data.staging import _HOST, sweep

    path = tmp_path / f"f.h5.{_HOST}-999999999-0123abcd.writing"  # a dead number, as of another container
    with open(path, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        sweep([path], grace=0)
        assert path.exists()
    sweep([path])
    assert not path.exists()


def test_a_file_can_be_read_from_the_moment_that_it_has_its_name(tmp_path, stage, monkeypatch):
    seen, rename = [], os.rename

    def renamed(source, target):
        rename(source, target)
        with Part(Path(target)) as part:  # as a reader in another process may come just now
            seen.append(list(part.features()))

    monkeypatch.setattr("data.staging.os.rename", renamed)
    stage(tmp_path / "f.h5", [1, 2])
    publish_rows(tmp_path / "f.h5", [1, 2])
    assert seen == [[SPEC.fingerprint]] * 2


def test_a_block_finds_its_folder_although_another_run_has_just_removed_it(tmp_path, monkeypatch):
    store, gone = tmp_path / "f.h5", iter([True, True, False])
    real = Path.mkdir

    def removed_again(path, *arguments, **options):
        real(path, *arguments, **options)
        if next(gone):
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", removed_again)
    with new_block(store, "block-x.h5") as file:
        write_all(file, b"content")
    assert (staging_folder(store) / "block-x.h5").read_bytes() == b"content"
