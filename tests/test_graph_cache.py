"""The cache of graphs: whole or absent, within its size, whoever else writes there."""

import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from data.errors import EngineError
from data.terminal import size
from extract.at_hand import caches
from extract.graph_cache import agreement_file, keep_graph, kept_graph

MANY = """
import sys
from extract.graph_cache import keep_graph, kept_graph
for i in range(40):
    keep_graph(f"{sys.argv[1]}-{i}", bytes(968))
    assert kept_graph(f"{sys.argv[1]}-{i}") in (None, bytes(968))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return an empty cache with room for three graphs of 968 bytes and their digests."""
    monkeypatch.setenv("PENULT_CACHE", str(tmp_path))
    monkeypatch.setenv("PENULT_CACHE_SIZE", "3kB")
    return tmp_path / "onnx"


def held(folder):
    return sorted(path.name.removesuffix(".graph") for path in folder.iterdir())


def used(folder, key, ago):
    os.utime(folder / f"{key}.graph", (time.time() - ago,) * 2)


def test_what_was_used_longest_ago_makes_room(folder):
    for i, key in enumerate("abc"):
        keep_graph(key, bytes(968))
        used(folder, key, 100 - i)
    agreement_file("b").parent.mkdir()
    agreement_file("b").touch()
    assert kept_graph("a") == bytes(968)  # the oldest, and now used last
    keep_graph("d", bytes(968))
    assert held(folder) == ["a", "c", "d"]
    assert not agreement_file("b").exists()


def test_the_newest_stays_though_it_alone_is_too_large(folder):
    keep_graph("a", bytes(968))
    keep_graph("b", bytes(10_000))
    assert held(folder) == ["b"]
    assert kept_graph("b") == bytes(10_000)


def test_what_a_killed_writer_left_is_removed(folder):
    folder.mkdir()
    left = folder / "x.graph.00000000-1-abcdef01.writing"
    left.write_bytes(bytes(100))
    os.utime(left, (time.time() - 3600,) * 2)
    keep_graph("a", bytes(968))
    assert held(folder) == ["a"]


def test_several_processes_keep_it_within_its_size(folder):
    writers = [subprocess.Popen([sys.executable, "-c", MANY, str(i)], cwd=ROOT) for i in range(3)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    keep_graph("last", bytes(968))
    assert len(held(folder)) == 3
    assert all(kept_graph(key) == bytes(968) for key in held(folder))


def test_its_size_is_known_to_the_doctor_and_a_wrong_one_is_said(folder, monkeypatch):
    keep_graph("a", bytes(968))
    (graphs,) = (cache for cache in caches() if cache.limit is not None)
    assert (graphs.files, graphs.nbytes, graphs.limit) == (1, 1000, 3000)
    monkeypatch.delenv("PENULT_CACHE_SIZE")
    assert size(caches()[0].limit or 0) == "2.0 GB"
    monkeypatch.setenv("PENULT_CACHE_SIZE", "plenty")
    with pytest.raises(EngineError, match="PENULT_CACHE_SIZE must be a size such as 2GB or 500MB, got 'plenty'"):
        keep_graph("b", bytes(968))
    assert held(folder) == ["a"]
