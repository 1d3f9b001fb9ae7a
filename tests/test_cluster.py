"""Extraction by workers of a Ray cluster: one cluster of two cores for the whole file, in processes of its own."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, TINY, age, draw, penult

from data.depot import bring_blocks, put_block
from data.errors import ClusterError, DamagedStore, ImageSetError, MissingDependency, StagingError, StoreError
from data.images import ImageSet, open_images
from data.staging import staged_blocks, staging_folder
from data.store import FeatureStore
from data.verify import verify_store
from extract.cluster import SortedDigests, Worker
from extract.extractor import Extractor
from extract.networks import Setup
from extract.raylink import Share, share_out
from extract.wanted import Wanted

pytest.importorskip("ray", reason="the extra [ray] is not installed")

SMALL = Wanted("timm/test_resnet", "random")


@dataclasses.dataclass(frozen=True)
class DeadlyImages(ImageSet):
    """A set whose reader dies with its process at one picture, unless a marker says that one has died before."""

    victim: str = ""
    marker: str = ""

    def read(self, index):
        if self.paths[index] == self.victim and not (self.marker and os.path.exists(self.marker)):
            if self.marker:
                Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)


CLUSTER = """
import sys, ray
ray.init("local", num_cpus=2, num_gpus=0, include_dashboard=False, object_store_memory=100 << 20,
    log_to_driver=False, _node_ip_address="127.0.0.1", _temp_dir=sys.argv[1])
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
ray.shutdown()
"""


@pytest.fixture(scope="module")
def cluster(s3):
    """Start a cluster of two cores, whose machines have Penult and these tests; return its address."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="pr-") as folder:  # short: sockets
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else it keeps a token in the user's home
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
        with open(Path(folder) / "head.log", "w") as log:
            head = subprocess.Popen(
                [sys.executable, "-c", CLUSTER, folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        with head:
            yield head.stdout.readline().strip()
            head.stdin.close()
            head.wait(60)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Return a folder of 120 pictures, 20 of them for test."""
    folder = tmp_path_factory.mktemp("many") / "pictures"
    for seed in range(120):
        split = "test" if seed % 6 == 0 else "train"
        draw(folder / split / ("even" if seed % 2 == 0 else "odd") / f"{seed}.png", seed)
    age(folder)
    return folder


def extract(images, store, **options):
    images = images if isinstance(images, ImageSet) else open_images(images)
    return Extractor(images, store, [SMALL], **options).run()


def deadly(folder, **changes):
    images = open_images(folder)
    fields = {f.name: getattr(images, f.name) for f in dataclasses.fields(images)}
    return DeadlyImages(**fields, **changes)


def assert_same(store, reference):
    """Two stores hold the same contents, within an engine's tolerance, and the same image set."""
    ours, theirs = FeatureStore(store), FeatureStore(reference)
    assert ours.features().keys() == theirs.features().keys()
    for fingerprint in theirs.features():
        digests = theirs.digests(fingerprint)
        assert sorted(ours.digests(fingerprint).tolist()) == sorted(digests.tolist())
        np.testing.assert_allclose(
            ours.vectors(fingerprint, digests), theirs.vectors(fingerprint, digests), rtol=1e-4, atol=1e-5
        )
    for name, view in theirs.views().items():
        assert ours.views()[name].same_as(view)
    assert verify_store(store).problems == []


def test_two_workers_give_what_one_process_gives(many, cluster, tmp_path):
    extract(many, tmp_path / "local.h5")
    result = extract(many, tmp_path / "ray.h5", ray=cluster, ray_workers=2)
    assert (result.images, result.extracted, result.reused, result.workers) == (120, 120, 0, 2)
    assert result.engine == "onnx/cpu"
    assert result.stage_seconds["decode"] > 0
    assert_same(tmp_path / "ray.h5", tmp_path / "local.h5")
    runs = FeatureStore(tmp_path / "ray.h5").features()[result.fingerprint].provenance
    assert len({run["run"] for run in runs}) == 2  # both have rows in it
    assert sorted(p.name for p in tmp_path.iterdir()) == ["local.h5", "ray.h5"]


def test_a_worker_that_is_killed_costs_no_row(many, cluster, tmp_path):
    marker = tmp_path / "marker"
    images = deadly(many, victim=open_images(many).paths[60], marker=str(marker))
    result = extract(images, tmp_path / "ray.h5", ray=cluster, ray_workers=2)
    assert marker.exists()
    assert (result.extracted, result.skipped) == (120, [])
    assert any("workers died 1 times" in note for note in result.notes)
    extract(many, tmp_path / "local.h5")
    assert_same(tmp_path / "ray.h5", tmp_path / "local.h5")


def test_a_picture_that_kills_every_worker_ends_the_run_and_is_named(pictures, cluster, tmp_path):
    images = deadly(pictures, victim="train/red/3.png")
    with pytest.raises(ClusterError, match=r"3 workers died over the \d pictures from .*train/red"):
        extract(images, tmp_path / "f.h5", ray=cluster, ray_workers=1)


def test_bad_pictures_are_skipped_and_known_ones_are_not_sent(pictures, cluster, tmp_path):
    store = tmp_path / "f.h5"
    extract(pictures, store)
    (pictures / "train/red/bad.png").write_bytes(b"no picture")
    draw(pictures / "train/red/new.png", 999)
    shutil.copy(pictures / "train/red/0.png", pictures / "train/red/copy.png")
    age(pictures / "train/red")
    result = extract(pictures, store, ray=cluster)
    assert (result.extracted, result.reused) == (1, 37)
    assert [(s.path, "no picture" in s.reason) for s in result.skipped] == [("train/red/bad.png", True)]


def test_nothing_to_do_starts_no_cluster(pictures, tmp_path):
    extract(pictures, tmp_path / "f.h5")
    result = extract(pictures, tmp_path / "f.h5", ray="nowhere:1")
    assert (result.reused, result.workers, result.published) == (36, 0, False)


def test_workers_that_cannot_see_the_pictures_say_so(pictures, cluster, tmp_path):
    images = open_images(pictures)
    pictures.rename(tmp_path / "elsewhere")
    with pytest.raises(ImageSetError, match="worker on .* can read none of the first .* pictures"):
        extract(images, tmp_path / "f.h5", ray=cluster)


def test_strict_ends_the_run(pictures, cluster, tmp_path):
    (pictures / "train/red/bad.png").write_bytes(b"no picture")
    with pytest.raises(ImageSetError, match=r"bad\.png.*without --strict"):
        extract(pictures, tmp_path / "f.h5", ray=cluster, strict=True)


def test_blocks_wait_in_a_bucket(pictures, cluster, s3, tmp_path):
    if s3 is None:
        pytest.skip("moto[server] or s3fs is not installed")
    s3.create_bucket(Bucket="blocks")
    extract(pictures, tmp_path / "local.h5")
    result = extract(pictures, tmp_path / "ray.h5", ray=cluster, ray_workers=2, staging="s3://blocks/a/set")
    assert result.extracted == 36
    assert_same(tmp_path / "ray.h5", tmp_path / "local.h5")
    assert "Contents" not in s3.list_objects_v2(Bucket="blocks")


def test_no_cluster_at_the_address(pictures, tmp_path):
    done = penult("extract", pictures, "-o", tmp_path / "f.h5", *TINY, "--ray", "127.0.0.1:1")
    assert done.returncode == 1
    assert "no Ray cluster at 127.0.0.1:1" in done.stderr
    assert "ray start" in done.stderr


def test_ray_that_is_not_installed_names_the_extra(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependency, match=r"\.\[ray\]"):
        extract(pictures, tmp_path / "f.h5", ray="local")


def test_ctrl_c_on_a_cluster_of_this_machine_keeps_the_blocks_and_leaves_nothing_else(many, tmp_path, monkeypatch):
    store = tmp_path / "f.h5"
    folder = tempfile.mkdtemp(prefix="pr-")
    monkeypatch.setenv("TMPDIR", folder)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    # many views of a picture take a while, so that the signal comes before the end
    command = ["extract", str(many), "-o", str(store), *TINY, "--view", "random:20", "--average"]
    command += ["--ray", "--ray-workers", "2"]
    process = subprocess.Popen(
        [sys.executable, ROOT / "pipeline.py", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not staged_blocks(store) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, (out, errors)
    assert errors.strip().startswith("penult: interrupted:")
    assert len(errors.strip().splitlines()) == 1  # nothing of Ray's
    kept = len(staged_blocks(store))
    assert kept
    assert set(os.listdir(folder)) <= {".ses"}  # ONNX Runtime's
    shutil.rmtree(folder)
    done = penult(*command[:-3], "--json", tmp_path / "result.json")  # without Ray this time
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert 0 < result["reused"] < 120
    assert result["extracted"] + result["reused"] == 120


@pytest.mark.parametrize(
    ("machines", "wanted", "on_gpu", "share"),
    [
        ([{"CPU": 16, "GPU": 4}, {"CPU": 64}], 0, True, Share(4, 4, True)),
        ([{"CPU": 16, "GPU": 4}], 0, False, Share(2, 8, False)),
        ([{"CPU": 2}], 2, True, Share(2, 1, False)),
        ([{"CPU": 4}, {"CPU": 6}, {"object_store_memory": 1e9}], 0, True, Share(2, 4, False)),
        ([{"CPU": 4}, {"CPU": 6}], 3, True, Share(3, 3, False)),
        ([{"CPU": 2}], 5, True, Share(2, 1, False, ("the cluster has 2 cores: 2 workers instead of 5",))),
    ],
)
def test_how_a_cluster_is_shared_out(machines, wanted, on_gpu, share):
    assert share_out(machines, wanted, on_gpu=on_gpu, address="auto") == share


def test_a_cluster_without_cores(tmp_path):
    with pytest.raises(ClusterError, match="has no cores"):
        share_out([{"memory": 1.0}], 0, on_gpu=True, address="auto")


def test_sorted_digests_are_a_set():
    known = SortedDigests(np.array([b"a" * 64, b"c" * 64], dtype="S64"))
    assert [digest * 64 in known for digest in (b"a", b"b", b"c", b"d")] == [True, False, True, False]
    assert b"a" * 64 not in SortedDigests(np.array([], dtype="S64"))


def test_another_version_on_a_worker_is_refused():
    @dataclasses.dataclass
    class Other:
        version: str = "0.0.0"

    report = json.loads(Worker(Other(), "name").run("[]", 0))
    assert report["error"][0] == "ClusterError"
    assert "install the same everywhere" in report["error"][1]


def test_a_defect_in_a_worker_is_told_in_one_line_and_its_traceback_kept():
    report = json.loads(Worker(None, "name").run("[]", 0))
    kind, message, trace = report["error"]
    assert (kind, "AttributeError" in message, "defect of Penult" in message) == ("ClusterError", True, True)
    assert "Traceback" in trace


def test_an_engine_keeps_to_its_cores():
    from extract.engines import TorchEngine

    engine = TorchEngine(SMALL.open(), Setup(device="cpu", cores=1))
    assert (engine.lanes, engine.batch_size) == (1, 4)


def test_the_plan_for_many_pictures_adds_up():
    def plan(*options):
        command = [sys.executable, str(ROOT / "benchmarks" / "plan_scale.py"), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    usual, twice = plan(), plan("--gpus", "16", "--dim", "2560", "--gpu-cores", "100")
    gpu, cpu = usual["plans"]
    assert gpu["hours"] == pytest.approx(1e8 / (8 * 16 * 256 * 0.8) / 3600)
    assert cpu["hours"] == pytest.approx(1e8 / (512 * 39) / 3600)
    assert (gpu["limit"], twice["plans"][0]["limit"]) == ("decoding", "the network")
    assert twice["fixed"]["float32_gb"] - usual["fixed"]["float32_gb"] == pytest.approx(1e8 * 4 * 1280 / 1e9)
    scale = (ROOT / "docs" / "scale.md").read_text()  # its table is what the script prints
    assert f"| {gpu['rate']:,.0f} | decoding | {gpu['hours']:.1f} | {gpu['dollars']:.0f} |" in scale
    assert f"{usual['fixed']['float32_gb']:.0f} GB as float32, {usual['fixed']['float16_gb']:.0f} GB" in scale


def test_blocks_wait_at_an_address_without_ray(pictures, tmp_path):
    address = (tmp_path / "depot").as_uri()
    extract(pictures, tmp_path / "local.h5")

    def interrupt(progress):
        if progress.done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="kept file://"):
        extract(pictures, tmp_path / "f.h5", staging=address, on_progress=interrupt, batch_size=1)
    assert list((tmp_path / "depot").iterdir())
    result = extract(pictures, tmp_path / "f.h5", staging=address)
    assert result.reused > 15
    assert_same(tmp_path / "f.h5", tmp_path / "local.h5")
    assert list((tmp_path / "depot").iterdir()) == []
    assert not staging_folder(tmp_path / "f.h5").exists()


def test_a_damaged_block_stays_where_it_is(tmp_path, stage):
    block = stage(tmp_path / "other.h5", [1, 2, 3]).read_bytes()
    address = (tmp_path / "depot").as_uri()
    put_block(address, "00000000000000000001-aaaaaaaa", 1, block[:-40])
    with pytest.raises(DamagedStore, match=r"depot/block-.* is damaged .*: remove it"):
        bring_blocks(address, tmp_path / "f.h5")
    assert len(list((tmp_path / "depot").iterdir())) == 1
    assert staged_blocks(tmp_path / "f.h5") == []


def test_rows_that_another_store_took_are_missed(pictures, tmp_path, monkeypatch):
    address = (tmp_path / "depot").as_uri()

    def steal(where, store):
        return bring_blocks(where, tmp_path / "thief.h5")

    monkeypatch.setattr("extract.extractor.bring_blocks", steal)
    with pytest.raises(StoreError, match="rows of 36 pictures were staged and are gone from file://"):
        extract(pictures, tmp_path / "f.h5", staging=address)
    assert not (tmp_path / "f.h5").exists()


def test_an_address_that_nobody_knows(pictures, tmp_path):
    with pytest.raises(StagingError, match=r"staging address nowhere://x cannot be used"):
        extract(pictures, tmp_path / "f.h5", staging="nowhere://x")
