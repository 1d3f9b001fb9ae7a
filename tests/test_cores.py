"""The cores that a process may use, by its affinity and by the quotas of its control groups."""

import os

import pytest

import data.cores
from data.cores import available_cores


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a function that describes a machine of 16 cores and the groups of this process."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)

    def describe(membership, files):
        (tmp_path / "self").write_text(membership)
        for name, content in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        monkeypatch.setattr(data.cores, "_MEMBERSHIP", tmp_path / "self")
        monkeypatch.setattr(data.cores, "_CONTROL_GROUPS", tmp_path / "cgroup")

    return describe


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),  # a container with --cpus 4
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 16),
        # a group of a service, within a slice that grants less
        ("0::/a/b\n", {"a/b/cpu.max": "800000 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/gone/from/here\n", {"cpu.max": "500000 100000\n"}, 5),
        # version 1, whose groups a container sees at the top
        (
            "5:memory:/x\n4:cpu,cpuacct:/x\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            2,
        ),
        (
            "4:cpu,cpuacct:/\n0::/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            16,
        ),
        ("0::/\n", {"cpu.max": "nonsense\n"}, 16),
    ],
)
def test_a_quota_makes_cores_fewer_and_never_none(machine, membership, files, cores):
    machine(membership, files)
    assert available_cores() == cores


def test_affinity_makes_cores_fewer(machine, monkeypatch):
    machine("0::/\n", {"cpu.max": "400000 100000\n"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 7}, raising=False)
    assert available_cores() == 2


def test_a_system_without_either_has_all_its_cores(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(data.cores, "_MEMBERSHIP", tmp_path / "none")
    assert available_cores() == 6
