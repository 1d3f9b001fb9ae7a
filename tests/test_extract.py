"""Extraction, from pictures to the store, by the command line and by its class."""

import contextlib
import dataclasses
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, TINY, age, draw, penult, penult_process

from data.errors import ImageSetError
from data.images import open_images
from data.layout import Part
from data.staging import staged_blocks
from data.store import FeatureStore
from data.verify import verify_store
from extract.engines import share_cores
from extract.extractor import Extractor, Interrupted
from extract.options import Options
from extract.wanted import Wanted

SMALL = {"backbone": "timm/test_resnet", "weights": "random"}
OF_NETWORK = {field.name for field in dataclasses.fields(Wanted)}


def extractor(folder, store, name=None, **kwargs):
    """Return an extraction of the small network; fields of `Wanted` and arguments of `Extractor` go by their names."""
    values = {**SMALL, **kwargs}
    wanted = Wanted(**{name: value for name, value in values.items() if name in OF_NETWORK})
    others = {name: value for name, value in values.items() if name not in OF_NETWORK}
    return Extractor(open_images(folder, name), store, [wanted], **others)


def extract(folder, store, **kwargs):
    return extractor(folder, store, **kwargs).run()


def contents(store):
    """Everything in a store but its provenance, which tells dates."""
    held = FeatureStore(store)
    features = {fp: (held.digests(fp).tolist(), held.vectors(fp, held.digests(fp)).tobytes()) for fp in held.features()}
    views = {n: (v.paths, v.digests.tolist(), v.targets.tolist(), v.splits.tolist()) for n, v in held.views().items()}
    return features, views


def test_the_json_of_the_contract(pictures, tmp_path):
    done = penult_process("extract", pictures, "-o", tmp_path / "f.h5", *TINY, "--json", "-")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["images"], result["extracted"], result["reused"], result["skipped"]) == (36, 36, 0, [])
    assert (result["dim"], result["engine"]) == (96, "onnx/cpu")
    assert result["fingerprint"] in FeatureStore(tmp_path / "f.h5").features()
    assert set(result["stage_seconds"]) == {"read", "decode", "forward", "write"}
    assert result["images_per_second"] == pytest.approx(36 / result["seconds"], abs=0.06)  # rounded to tenths
    assert "36 pictures: 36 extracted, 0 reused" in done.stderr


def test_the_default_feature_keeps_its_fingerprint():
    # Pinned: stores of the default network must be recognised by every later version.
    (feature,) = Wanted().features(Wanted().open())
    assert feature.spec.fingerprint == "ad6c32fa9a8b6c6da09f24f7a80afcd46dcfe8eed862ff237af4f0678c975007"


def test_an_unchanged_folder_is_not_opened_again_and_no_network_is_loaded(pictures, tmp_path, monkeypatch):
    extract(pictures, tmp_path / "f.h5")
    before = (tmp_path / "f.h5").stat().st_ino
    monkeypatch.setattr("extract.passes.flow", refuse_to_read)
    monkeypatch.setattr("extract.wanted.open_backbone", refuse_to_read)
    again = extract(pictures, tmp_path / "f.h5")
    assert (again.extracted, again.reused, again.engine, again.published) == (0, 36, "none", False)
    assert (tmp_path / "f.h5").stat().st_ino == before


def refuse_to_read(pictures, indices, *_, **__):
    assert list(indices) == [], "a picture was opened"
    return iter(())


def test_rehash_looks_again(pictures, tmp_path):
    extract(pictures, tmp_path / "f.h5")
    victim = pictures / "train/red/0.png"
    stat = victim.stat()
    other = draw(tmp_path / "other.png", 999).read_bytes()
    victim.write_bytes(other[: stat.st_size].ljust(stat.st_size, b"\0"))  # another content of the same size and time
    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert extract(pictures, tmp_path / "f.h5").extracted == 0
    assert extract(pictures, tmp_path / "f.h5", rehash=True).extracted == 1


def test_a_picture_written_just_now_is_looked_at_again(pictures, tmp_path):
    (pictures / "train/red/0.png").touch()
    extract(pictures, tmp_path / "f.h5")
    assert (FeatureStore(tmp_path / "f.h5").views()["pictures"].mtimes == -1).sum() == 1


def test_renames_relabels_and_resplits_cost_no_extraction(pictures, tmp_path):
    store = tmp_path / "f.h5"
    extract(pictures, store)
    (pictures / "train/red").rename(pictures / "train/crimson")
    (pictures / "test/red").rename(pictures / "test/crimson")
    shutil.move(pictures / "train/blue/0.png", pictures / "test/blue/moved.png")
    moved = tmp_path / "elsewhere" / "pictures"
    moved.parent.mkdir()
    pictures.rename(moved)
    result = extract(moved, store)
    assert (result.extracted, result.reused, result.engine) == (0, 36, "none")
    view = FeatureStore(store).views()["pictures"]
    assert view.classes == ["blue", "crimson", "green"]
    assert view.splits[view.paths.index("test/blue/moved.png")] == "test"


def test_only_new_pictures_are_computed(pictures, tmp_path):
    store = tmp_path / "f.h5"
    extract(pictures, store)
    for i in range(5):
        draw(pictures / "train/red" / f"new{i}.png", 500 + i)
    shutil.copy(pictures / "train/red/0.png", pictures / "train/red/copy.png")
    result = extract(pictures, store)
    assert (result.images, result.extracted, result.reused) == (42, 5, 37)
    assert "1 picture is an exact copy of another (extracted once)" in result.notes[0]


def test_features_do_not_depend_on_batch_order_or_workers(pictures, tmp_path):
    extract(pictures, tmp_path / "a.h5")
    reference = FeatureStore(tmp_path / "a.h5").load()
    for number, options in enumerate(({"batch_size": 1}, {"batch_size": 7, "workers": 3}, {"batch_size": 36})):
        store = tmp_path / f"{number}.h5"
        extract(pictures, store, **options)
        X = FeatureStore(store).load().X
        assert (np.linalg.norm(X - reference.X, axis=1) < 1e-5 * np.linalg.norm(reference.X, axis=1)).all()


def test_two_networks_share_a_store_and_a_seed_makes_another(pictures, tmp_path):
    store = tmp_path / "f.h5"
    first = extract(pictures, store)
    second = extract(pictures, store, seed=1)
    third = extract(pictures, store, backbone="timm/test_vit")
    assert len({first.fingerprint, second.fingerprint, third.fingerprint}) == 3
    assert len(FeatureStore(store).features()) == 3
    assert FeatureStore(store).load("test", features="test_vit").X.shape == (12, third.dim)


def test_bad_files_are_skipped_and_listed_with_their_reasons(pictures, tmp_path):
    red = pictures / "train/red"
    (red / "empty.jpg").write_bytes(b"")
    (red / "text.png").write_text("I am no picture")
    (red / "cut.png").write_bytes((red / "0.png").read_bytes()[:900])
    os.symlink(tmp_path / "gone.png", red / "dangling.png")
    age(pictures)
    result = penult("extract", pictures, "-o", tmp_path / "f.h5", *TINY, "--json", tmp_path / "r.json")
    assert result.returncode == 0
    assert "40 pictures: 36 extracted, 0 reused, 4 skipped" in result.stdout
    skipped = {s["path"]: s["reason"] for s in json.loads((tmp_path / "r.json").read_text())["skipped"]}
    assert skipped["train/red/empty.jpg"] == "the file is empty"
    assert skipped["train/red/text.png"].startswith("no picture that Pillow can read")
    assert skipped["train/red/cut.png"].startswith("damaged: ")
    assert skipped["train/red/dangling.png"] == "cannot be read: no such file or directory"
    listed = {s.path for s in FeatureStore(tmp_path / "f.h5").views()["pictures"].skipped}
    assert listed == set(skipped)
    again = extract(pictures, tmp_path / "f.h5")  # only what may be mended without a trace is tried again
    assert (again.extracted, again.reused, len(again.skipped), again.published) == (0, 36, 4, False)


def test_strict_fails_on_the_first_bad_file_and_loses_nothing(pictures, tmp_path):
    (pictures / "train/red/empty.jpg").write_bytes(b"")
    done = penult("extract", pictures, "-o", tmp_path / "f.h5", *TINY, "--strict")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("empty.jpg: the file is empty: mend or remove it, or run without --strict")
    assert not (tmp_path / "f.h5").exists()


def test_a_folder_of_nothing_but_bad_files(tmp_path):
    (tmp_path / "p/a").mkdir(parents=True)
    (tmp_path / "p/a/1.png").write_bytes(b"")
    with pytest.raises(ImageSetError, match=r"none of the 1 pictures .* could be read .*1.png: the file is empty"):
        extract(tmp_path / "p", tmp_path / "f.h5")


def test_a_set_without_splits_gets_one_by_seed_and_keeps_it(tmp_path):
    for hue, name in enumerate(("a", "b")):
        for i in range(10):
            draw(tmp_path / "p" / name / f"{i}.png", 100 * hue + i, hue)
    store = tmp_path / "f.h5"
    first = extract(tmp_path / "p", store)
    assert first.splits == {"test": 4, "train": 16}
    assert "20% of each class for test, by seed 0" in first.notes[-1]
    view = FeatureStore(store).views()["p"]
    done = penult("extract", tmp_path / "p", "-o", store, *TINY, "--test-fraction", "0.3", "--split-seed", "5")
    assert done.returncode == 0
    assert FeatureStore(store).splits() == {"test": 6, "train": 14}
    kept = extract(tmp_path / "p", store)  # the split that was asked for stays until another is asked for
    assert (kept.splits, kept.extracted) == ({"test": 6, "train": 14}, 0)
    assert (FeatureStore(store).views()["p"].splits != view.splits).any()


def test_a_csv_manifest(pictures, tmp_path):
    rows = ["path,label,split", "pictures/train/red/0.png,warm,train", "pictures/train/blue/0.png,cold,test"]
    (tmp_path / "m.csv").write_text("\n".join(rows))
    result = extract(tmp_path / "m.csv", tmp_path / "f.h5")
    assert (result.images, result.splits) == (2, {"test": 1, "train": 1})
    assert FeatureStore(tmp_path / "f.h5").views()["m"].classes == ["cold", "warm"]


def test_a_network_that_gives_nan_stores_none(pictures, tmp_path, monkeypatch):
    from extract.engines import TorchEngine

    honest = TorchEngine.forward

    def spoilt(self, pixels):
        (features,) = honest(self, pixels)
        if len(features) == 28:  # not the first 8, on which engines are compared
            features[3] = np.nan
        return (features,)

    monkeypatch.setattr(TorchEngine, "forward", spoilt)
    result = extract(pictures, tmp_path / "f.h5", batch_size=28, engine="torch")
    assert [s.reason for s in result.skipped] == ["the network gives NaN or infinity for it"]
    assert verify_store(tmp_path / "f.h5").problems == []


@pytest.fixture
def many(tmp_path):
    for i in range(300):
        draw(tmp_path / "many" / f"{i % 3}" / f"{i:03d}.png", i, i % 3)
    (tmp_path / "many/0/bad.png").write_text("bad")
    shutil.copy(tmp_path / "many/0/000.png", tmp_path / "many/1/copy.png")
    age(tmp_path / "many")
    return tmp_path / "many"


# Runs the command line with blocks of 16 rows, so that a kill falls between, before and into many of them.
SMALL_BLOCKS = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job would ignore
import extract.blocks
extract.blocks._ROWS = 16
from pipeline import main
print("ready", flush=True)
sys.exit(main(sys.argv[1:]))
"""
# The same with networks made of numpy, which start in a moment: kills become cheap.
NO_TORCH = SMALL_BLOCKS.replace(
    "from pipeline",
    """
import dataclasses, time, types
import numpy as np
from conftest import SPEC
import extract.wanted
from extract.backbones import Backbone
class Engine:
    name, device, precision, batch_size, lanes, notes = "numpy", "cpu", "float32", 8, 2, []
    clock = staticmethod(time.perf_counter)
    def __init__(self, backbone, *_):
        self.step = 500 if "resnet" in backbone.spec.backbone else 700
    def forward(self, pixels):
        time.sleep(0.02)  # a block takes as long as a kill waits, however fast the machine
        return (pixels.reshape(len(pixels), -1)[:, :: self.step].astype(np.float32),)
extract.wanted.open_backbone = lambda name, *_, **__: Backbone(None, (dataclasses.replace(SPEC, backbone=name),))
sys.modules["extract.engines"] = types.ModuleType("extract.engines")
sys.modules["extract.engines"].open_engine = Engine
sys.modules["extract.engines"].Setup = lambda *_: None
from pipeline""",
)


class Forks:
    """Runs a script's command line in fork after fork of one process, which has imported everything once."""

    def __init__(self, script, imports=""):
        head, _, last = script.rpartition("sys.exit(main(sys.argv[1:]))")
        assert not last.strip()
        self.script = f"""{head}
import json, os
{imports}
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(main(json.loads(line)))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

    def __enter__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", self.script], **pipes)
        assert self.process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_):
        self.process.communicate()

    def start(self, arguments):
        """Start a fork; return its number."""
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def ended(self):
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def code(self):
        """Wait for it."""
        return int(self.process.stdout.readline())


TWO = ["--backbone", "timm/test_resnet", "timm/test_efficientnet", "--weights", "random"]


@pytest.mark.parametrize(
    ("script", "imports", "networks", "attempts"),
    [
        (NO_TORCH, "import verbs.extract, extract.extractor", TINY, 30),
        (NO_TORCH, "import verbs.extract, extract.extractor", TWO, 30),
        (SMALL_BLOCKS, "import verbs.extract, extract.extractor, extract.engines, timm, onnxruntime", TWO, 4),
    ],
    ids=["numpy", "two of numpy", "two of torch"],
)
def test_an_extraction_killed_at_any_moment_resumes_to_the_same_store(
    many, tmp_path, script, imports, networks, attempts
):
    arguments = ["extract", str(many), *networks, "--input-size", "64", "--batch-size", "8", "-o"]
    whole, store = tmp_path / "whole.h5", tmp_path / "killed.h5"
    rng = np.random.default_rng(0)
    kills = with_blocks = 0
    with Forks(script, imports) as forks:
        forks.start([*arguments, str(whole)])
        assert forks.code() == 0
        for _ in range(attempts):
            child = forks.start([*arguments, str(store)])
            blocks = len(staged_blocks(store))
            if rng.random() < 0.8:  # usually soon after a new block, sometimes before there is one
                while len(staged_blocks(store)) <= blocks and not forks.ended() and not store.exists():
                    time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.05))
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            code = forks.code()
            kills += code == -signal.SIGKILL
            with_blocks += bool(staged_blocks(store))
            for block in staged_blocks(store):
                with Part(block) as part:  # each is whole
                    assert all(len(group.read_block(0)) for group in part.features().values())
            if code == 0:
                break
        assert kills >= attempts // 4
        assert with_blocks >= attempts // 4
        forks.start([*arguments, str(store)])
        assert forks.code() == 0
    assert contents(store) == contents(whole)
    assert verify_store(store).problems == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed.h5", "many", "whole.h5"]


def test_ctrl_c_keeps_what_was_computed_and_says_how_to_go_on(many, tmp_path):
    store = tmp_path / "f.h5"

    def interrupt(progress):
        if progress.done == 150:
            raise KeyboardInterrupt

    small = {"batch_size": 8, "options": Options(input_size=32)}
    with pytest.raises(Interrupted, match="pictures were computed and kept beside .*f.h5; run the same command again"):
        extract(many, store, on_progress=interrupt, **small)
    assert not store.exists()
    result = extract(many, store, **small)
    # lost at the most: with share_cores' lanes of 8, each in flight or waiting, one more, and one in the making
    lanes = share_cores()[0]
    assert result.reused >= 150 - 8 * (lanes + 2)
    reference = tmp_path / "whole.h5"
    extract(many, reference, **small)
    assert contents(store) == contents(reference)


def test_ctrl_c_on_the_command_line_exits_130(many, tmp_path):
    store = tmp_path / "f.h5"
    script = NO_TORCH.replace("main(sys.argv[1:])", "main()")
    command = [sys.executable, "-c", script, "extract", str(many), "-o", str(store)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    while not staged_blocks(store):
        time.sleep(0.001)
    while process.poll() is None:  # whoever is impatient presses again
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    (line,) = errors.split("\n")[1:-1]  # the first is the terminal's, with its ^C
    assert "run the same command again to go on from there" in line
    found = tmp_path / "r.json"
    again = subprocess.run([*command, "--json", str(found)], capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    result = json.loads(found.read_text())
    assert result["reused"] >= 16
    assert result["reused"] + result["extracted"] == 301


def test_a_full_disk_keeps_what_was_staged(many, tmp_path):
    # a block of 16 rows takes less than 60 kB, the whole store more
    limited = NO_TORCH.replace(
        'print("ready"', 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, -1)); print("ready"'
    )
    store = tmp_path / "f.h5"
    arguments = ["extract", str(many), "-o", str(store), "--json", str(tmp_path / "r.json")]
    done = subprocess.run([sys.executable, "-c", limited, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "no room to write" in done.stderr
    assert "Nothing is lost: free some space and run the same command again" in done.stderr
    assert not store.exists()
    assert subprocess.run([sys.executable, "-c", NO_TORCH, *arguments], capture_output=True).returncode == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["extracted"], result["reused"], len(result["skipped"])) == (0, 301, 1)


def test_memory_of_staged_files_is_only_used_under_the_same_root(pictures, tmp_path):
    store = tmp_path / "f.h5"
    extract(pictures, store)
    twin = tmp_path / "twin" / "pictures"
    for i, path in enumerate(sorted(pictures.rglob("*.png"))):
        copy = twin / path.relative_to(pictures)
        draw(copy, 10_000 + i)
        stat = path.stat()
        os.utime(copy, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same relative path, same time
    with pytest.raises(Exception, match="another name with --name"):
        extract(twin, store)
    result = extract(twin, store, name="twin")
    assert result.extracted == 0  # the refused run had staged them; nothing was lost
    assert len(FeatureStore(store).digests(result.fingerprint)) == 72


def test_what_one_network_cannot_do_another_may(pictures, tmp_path, monkeypatch):
    from extract.engines import TorchEngine

    store = tmp_path / "f.h5"
    extract(pictures, store)
    honest = TorchEngine.forward
    monkeypatch.setattr(TorchEngine, "forward", lambda self, pixels: (honest(self, pixels)[0] * np.nan,))
    with pytest.raises(ImageSetError, match="NaN or infinity"):
        extract(pictures, store, seed=1, engine="torch")
    monkeypatch.undo()
    assert extract(pictures, store, seed=1).extracted == 36
    assert (extract(pictures, store).extracted, extract(pictures, store).skipped) == (0, [])


def test_one_run_is_one_entry_of_provenance_and_knows_its_command(many, tmp_path, monkeypatch):
    monkeypatch.setattr("extract.blocks._ROWS", 16)
    result = extract(many, tmp_path / "f.h5", options=Options(input_size=32), batch_size=8)
    info = FeatureStore(tmp_path / "f.h5").features()[result.fingerprint]
    (run,) = info.provenance
    assert run["request"] == info.requests[0]
    assert len(info.requests) == 1
    assert run["pictures"] == result.extracted
    assert 0 < run["seconds"] < result.seconds


def test_what_a_picture_took_is_known_over_all_runs_that_were_timed(pictures, tmp_path):
    store = tmp_path / "f.h5"
    extract(pictures, store)
    for i in range(4):
        draw(pictures / f"train/red/new{i}.png", 1000 + i)
    result = extract(pictures, store)
    info = FeatureStore(store).features()[result.fingerprint]
    first, second = sorted(info.provenance, key=lambda run: -run["pictures"])
    assert (first["pictures"], second["pictures"]) == (36, 4)
    took = 1000 * (first["seconds"] + second["seconds"]) / 40
    assert info.extract_milliseconds == pytest.approx(took)


def test_networks_of_one_pass_share_its_time(pictures, tmp_path):
    began = time.perf_counter()
    wanted = [Wanted("timm/test_resnet", "random"), Wanted("timm/test_efficientnet", "random")]
    Extractor(open_images(pictures), tmp_path / "f.h5", wanted).run()
    runs = [info.provenance[0] for info in FeatureStore(tmp_path / "f.h5").features().values()]
    assert [run["pictures"] for run in runs] == [36, 36]
    assert all(run["seconds"] > 0 for run in runs)
    assert sum(run["seconds"] for run in runs) < time.perf_counter() - began


def test_something_that_is_no_file_is_skipped_and_not_waited_for(pictures, tmp_path):
    os.mkfifo(pictures / "train/red/pipe.jpg")
    (skipped,) = extract(pictures, tmp_path / "f.h5").skipped
    assert skipped.reason == "cannot be read: it is no regular file"
