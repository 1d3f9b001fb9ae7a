"""The report as Python makes it: what is on the page, how large it is, what is said where something is missing."""

import dataclasses
import json
import re
import shlex
import sys
import types

import numpy as np
import pytest
from conftest import penult
from paper import HOSTILE, make_heads, make_store
from PIL import Image

import verbs.report
from classify.artifact import load_head
from classify.evaluate import Measured, compare_pairs, rank
from classify.page.assemble import embedded_json, write_report
from classify.page.feature_map import MAPS, draw_maps
from classify.page.findings import Question, find
from classify.page.origin import _extract
from classify.page.thumbnails import encode, make_thumbnails
from classify.page.words import headline
from classify.probing import Original
from data.relabel import Corrections
from data.store import FeatureStore
from extract.preprocess import expand_views
from verbs.parser import build_parser


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store, heads, and the JSON and page of a report of them."""
    folder = tmp_path_factory.mktemp("page")
    store = make_store(folder)
    heads = make_heads(store)
    done = penult("report", store.path, *heads, "-o", folder / "r.html", "--json", folder / "r.json")
    assert done.returncode == 0, done.stderr
    return folder, done, json.loads((folder / "r.json").read_text()), (folder / "r.html").read_text()


def findings_of(page):
    return json.loads(re.search(r'<script type="application/json" id="findings">(.*?)</script>', page, re.S)[1])


def test_the_page_says_what_eval_and_audit_say(made):
    folder, done, result, page = made
    found = findings_of(page)
    penult("eval", *folder.glob("*.head"), folder / "features.h5", "--json", folder / "e.json")
    told = json.loads((folder / "e.json").read_text())
    assert [h["accuracy"][0] for h in found["heads"]] == [h["accuracy"] for h in told["heads"]]
    assert [pair["p_holm"] for pair in found["pairs"]] == [pair["p_holm"] for pair in told["pairs"]]
    assert result["heads"] == told["heads"]
    groups = found["audit"]["duplicates"]["groups"]
    assert (groups[0]["exact"], groups[0]["splits"]) == (True, ["test", "train"])
    suspects = [found["pictures"]["path"][s["picture"]] for s in found["audit"]["suspects"]]
    assert "0/<b>00.png" in suspects  # which bears the wrong label
    assert result["summary"][0] in done.stdout
    assert found["curve"]["points"][-1]["n"] == len(set(folder_digests(folder)))
    assert found["origin"]["features"][0]["fingerprint"] == load_head(folder / "lr.head").spec.fingerprint


def folder_digests(folder):
    return FeatureStore(folder / "features.h5").load("train").digests.tolist()


def test_every_picture_of_a_small_set_has_a_thumbnail_and_its_answers(made):
    _, _, result, page = made
    found = findings_of(page)
    n = len(found["pictures"]["path"])
    assert result["thumbnails"] == result["pictures"] == n == 48
    assert all(uri.startswith("data:image/") for uri in found["thumbs"])
    for head, answers in zip(found["heads"], found["answers"]["heads"], strict=True):
        right = sum(a == t for a, t in zip(answers["answer"], found["answers"]["truth"], strict=True))
        assert right == head["right"] == sum(c for i, j, c in head["confusion"] if i == j)


def test_names_cannot_leave_the_data_they_stand_in(made):
    page = made[3]
    assert page.count("<script") == page.count("</script>") == 2
    assert HOSTILE[0] not in page
    assert findings_of(page)["classes"] == sorted(HOSTILE)
    assert json.loads(embedded_json({"a": "<!--\u2028]]>"})) == {"a": "<!--\u2028]]>"}
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in page
    assert "unsafe" not in page[: page.index("<style>")]


def test_a_page_keeps_its_size_and_the_most_useful_thumbnails(made, tmp_path):
    folder, *_, page = made
    fixed = len(page.encode()) - sum(map(len, findings_of(page)["thumbs"]))
    size = fixed + 12_000
    store, heads = folder / "features.h5", folder.glob("*.head")
    penult("report", store, *heads, "-o", tmp_path / "r.html", "--quick", "--size", f"{size / 1000}kB")
    found = findings_of((tmp_path / "r.html").read_text())
    there = [bool(uri) for uri in found["thumbs"]]
    assert (tmp_path / "r.html").stat().st_size <= size + 200  # what is said of those that are left out
    assert 0 < sum(there) < len(there)
    assert there == sorted(there, reverse=True)  # the first are the most useful
    assert "more did not fit into the size of this page" in found["thumbnails"]


def test_what_is_gone_or_changed_has_no_thumbnail_and_is_counted(tmp_path):
    store = make_store(tmp_path)
    heads = make_heads(store, ("ridge",))
    paths = store.view().paths
    (tmp_path / "pictures" / paths[3]).unlink()
    Image.new("RGB", (9, 9)).save(tmp_path / "pictures" / paths[4])
    done = penult("report", store.path, *heads, "-o", tmp_path / "r.html", "--quick")
    assert "2 pictures are gone or have changed, and have no thumbnail" in done.stdout
    found = findings_of((tmp_path / "r.html").read_text())
    lacking = {path for path, uri in zip(found["pictures"]["path"], found["thumbs"], strict=True) if not uri}
    assert lacking == {paths[3], paths[4]}
    (tmp_path / "pictures").rename(tmp_path / "moved")
    assert penult("report", store.path, *heads, "-o", tmp_path / "r.html", "--quick").returncode == 0
    assert not any(findings_of((tmp_path / "r.html").read_text())["thumbs"])
    penult("report", store.path, *heads, "-o", tmp_path / "r.html", "--quick", "--images", tmp_path / "moved")
    assert any(findings_of((tmp_path / "r.html").read_text())["thumbs"])


def test_a_report_replaces_reports_alone(made, tmp_path):
    folder = made[0]
    command = ["report", folder / "features.h5", folder / "lr.head", "--quick", "-o"]
    precious = tmp_path / "notes.html"
    precious.write_text("mine")
    done = penult(*command, precious)
    assert (done.returncode, precious.read_text()) == (1, "mine")
    assert "exists and is no report: name another file with -o" in done.stderr
    assert penult(*command, folder / "r2.html").returncode == penult(*command, folder / "r2.html").returncode == 0


def test_bad_input_gets_one_clear_sentence(made, tmp_path):
    folder = made[0]
    other = make_store(tmp_path, ("ape", "bee"))
    stranger = make_heads(other, ("ridge",))[0]
    for arguments, message in (
        ([folder / "features.h5", folder / "lr.head", stranger], "heads can be compared on the same classes only"),
        ([folder / "features.h5", stranger], "name a head for these classes"),
        ([folder / "features.h5", folder / "no.head"], "no.head does not exist: make a head with `fit"),
        ([folder / "no.h5", folder / "lr.head"], "no.h5 does not exist"),
        ([folder / "features.h5", folder / "lr.head", "--split", "dev"], "has no split 'dev'"),
    ):
        done = penult("report", *arguments, "-o", tmp_path / "x.html")
        assert (done.returncode, message in done.stderr) == (1, True), done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "x.html").exists()


def test_corrected_labels_are_what_the_page_shows(made):
    folder = made[0]
    view = FeatureStore(folder / "features.h5").view()
    wrong = {view.digests[0].decode(): HOSTILE[0], view.digests[7].decode(): "drop"}
    store = FeatureStore(folder / "features.h5", Corrections("c.csv", "00", wrong))
    question = Question(store, [load_head(folder / "lr.head")], lambda *_: Original())
    write_report(folder / "c.html", question, look=None, licence=lambda spec: "MIT", command="penult report")
    found = findings_of((folder / "c.html").read_text())
    labels = dict(zip(found["pictures"]["path"], found["pictures"]["label"], strict=True))
    assert found["classes"][labels["0/<b>00.png"]] == HOSTILE[0]
    assert labels.get("0/<b>07.png", -1) == -1
    assert found["origin"]["features"][0]["licence"] == "MIT"


def test_vectors_that_memory_does_not_hold_are_not_read_for_the_audit(made, monkeypatch):
    monkeypatch.setattr("classify.page.findings._MEMORY", 1000)
    store = FeatureStore(made[0] / "features.h5")
    found = find(
        Question(store, [load_head(made[0] / "lr.head")], lambda *_: Original()), lambda _: None, lambda *_: None
    )
    assert found.audit is found.curve is None
    assert found.notes[:2] == [
        "labels and copies of 48 pictures were not looked at here: `audit` does",
        "no learning curve of 36 pictures here: `fit --curve` measures it",
    ]


@pytest.mark.parametrize(
    "options",
    [
        ["--head", "lr", "--calibrate", "platt", "--rule", "one-se", "--grid", "0.0001", "10.0", "6", "--seed", "3"],
        ["--head", "head2toe", "--param", "balance=0.0", "--param", "C=0.01", "--grid", "0.2", "1.0", "3"],
        ["--head", "mlp", "--param", "early_stopping=False", "--param", "epochs=3", "--calibrate", "none"],
        ["--head", "ridge", "--param", "alpha=10.0", "--rule", "one-se"],
    ],
)
def test_the_commands_of_a_page_fit_the_same_heads_again(made, tmp_path, options):
    store = made[0] / "features.h5"
    head = tmp_path / "a.head"
    assert penult("fit", store, *options, "-o", head).returncode == 0
    assert penult("report", store, head, "-o", tmp_path / "r.html", "--quick").returncode == 0
    commands = findings_of((tmp_path / "r.html").read_text())["origin"]["commands"]
    (again,) = (shlex.split(command) for command in commands if command.startswith("penult fit"))
    assert set(options) <= set(again)
    first = head.read_bytes()
    done = penult(*again[1:])
    assert done.returncode == 0, done.stderr
    assert head.read_bytes() == first


def test_the_command_of_an_extraction_says_all_that_a_store_remembers(made):
    store = FeatureStore(made[0] / "features.h5")
    (info,) = store.features().values()
    spec = dataclasses.replace(info.spec, view="mean(center,random:3:0,random:3:1)", projection="random:8:5")
    request = {"backbone": "resnet18", "weights": {"named": "default"}, "options": {"fit": "shorter", "input_size": 64}}
    info = dataclasses.replace(info, spec=spec, dtype="float16", requests=[{**request, "partial": {"seed": 2}}])
    words = shlex.split(_extract(info, store.view(), "f.h5"))
    arguments = build_parser().parse_args(words[1:])
    assert (",".join(expand_views(arguments.view)), arguments.average) == ("center,random:3:0,random:3:1", True)
    assert (arguments.fit, arguments.input_size) == ("crop", 64)
    assert (arguments.projection, arguments.dtype) == ("random:8:5", "float16")
    assert (arguments.partial, arguments.seed) == (True, 2)


def test_the_command_that_made_a_page_is_all_of_it():
    asked = "report f.h5 a.head -o r.html --split val --map tsne --quick --size 3GB --seed 4 --relabel c.csv"
    parser = build_parser()
    arguments = parser.parse_args(asked.split())
    assert parser.parse_args(shlex.split(verbs.report._command(arguments))[1:]) == arguments


def told_of(*n_right):
    """Return the headline of heads that are right on so many of 100 pictures, each on others."""
    rng = np.random.default_rng(0)
    y = np.zeros(100, dtype=np.int64)
    measured = []
    for i, n in enumerate(n_right):
        sure = np.where(rng.permutation(100) < n, 0.9, 0.1)
        probabilities = np.stack([sure, 1 - sure], axis=1)
        measured.append(Measured(types.SimpleNamespace(name=str(i), kind="lr"), ["a", "b"], y, probabilities, []))
    scores = rank(measured)
    asked = types.SimpleNamespace(samples=types.SimpleNamespace(split="test"))
    found = types.SimpleNamespace(scores=scores, pairs=compare_pairs(scores), separation=None, asked=asked)
    return headline(found, [s.head for s in scores])


def test_the_best_of_many_heads_is_said_to_be_flattered_and_a_single_one_is_not():
    flattered = r"Being the best of 8 heads on these very pictures flatters it by about [3-8]\.\d points\."
    assert re.fullmatch(flattered, told_of(*[80] * 8)[-1])
    assert len(told_of(80)) == 1
    assert told_of(99, 60)[1] == (
        "It is 39.0 points ahead of 1, and the difference is real (McNemar's exact test, p < 0.001)."
    )


def test_maps_are_the_same_for_a_seed_and_one_far_picture_does_not_press_the_others_together():
    X = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    X[0] *= 500
    (one,), (two,) = draw_maps(X, ["pca"], 3), draw_maps(X, ["pca"], 3)
    np.testing.assert_array_equal(one.xy, two.xy)
    assert one.xy.min() >= 0
    assert one.xy.max() <= 1
    assert np.ptp(one.xy[1:], axis=0).max() > 0.5


def test_t_sne_keeps_neighbours_together():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(20, 6)) + 20 * k for k in range(2)]).astype(np.float32)
    (found,) = draw_maps(X, ["tsne"])
    away = np.linalg.norm(found.xy[:, None] - found.xy[None], axis=2) + 9 * np.eye(40)
    assert (away.argmin(axis=1) // 20 == np.arange(40) // 20).all()


def test_umap_that_is_not_installed_is_said_before_anything_is_computed(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    folder = made[0]
    done = penult("report", folder / "features.h5", folder / "lr.head", "-o", tmp_path / "x.html", "--map", "umap")
    assert done.returncode == 1
    hint = "install it with `pip install '.[report]'` in Penult's checkout, or take --map tsne"
    assert f"--map umap needs umap-learn: {hint}" in done.stderr


def test_the_choices_of_the_command_line_are_the_maps_there_are():
    assert tuple(MAPS) == verbs.report.MAPS


def test_thumbnails_are_made_until_their_bytes_are_spent():
    def look(row, side):
        if row == 1:
            raise OSError("gone")
        return np.full((300, 400, 3), 10 * row, np.uint8)

    one = len(encode(look(0, 0), 168))
    found = make_thumbnails(look, list(range(6)), 2, one + 10)
    assert (list(found.uris), found.gone) == ([0], 1)
    assert found.left_out == 4
    everything = make_thumbnails(look, list(range(6)), 2, 10**6)
    assert (len(everything.uris), everything.gone, everything.left_out) == (5, 1, 0)
