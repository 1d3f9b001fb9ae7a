"""The main job on real pictures, as a person does it."""

import json

from conftest import penult

from data.store import FeatureStore


def test_ants_and_bees(real_data, tmp_path):
    done = penult("extract", real_data / "hymenoptera", "-o", "f.h5", "--json", "-", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["images"], result["extracted"], result["skipped"]) == (398, 398, [])  # the .gif and .jpeg among them
    assert result["splits"] == {"train": 245, "val": 153}
    assert penult("fit", "f.h5", "--head", "lr", "-o", "lr.head", cwd=tmp_path).returncode == 0
    report = penult("eval", "lr.head", "f.h5", "--json", "-", cwd=tmp_path)
    evaluation = json.loads(report.stdout)
    assert (evaluation["split"], evaluation["n"]) == ("val", 153)
    (head,) = evaluation["heads"]
    assert head["accuracy"] >= 0.94
    assert head["notes"] == []  # val has chosen nothing, and none of its pictures was trained on
    some = sorted((real_data / "hymenoptera/val/bees").iterdir())[:3]
    predicted = json.loads(penult("predict", "lr.head", *some, "--json", "-", cwd=tmp_path).stdout)["predictions"]
    samples = FeatureStore(tmp_path / "f.h5").load("val")
    from classify.artifact import load_head

    stored = load_head(tmp_path / "lr.head").predictions(list(samples.paths), samples.X)
    through_the_store = {p["path"].rsplit("/", 1)[-1]: p for p in stored}
    for p in predicted:
        twin = through_the_store[p["path"].rsplit("/", 1)[-1]]
        assert (p["label"], round(p["probability"], 4)) == (twin["label"], round(twin["probability"], 4))


def test_signs_with_upper_case_names_and_exif(real_data, tmp_path):
    folder = tmp_path / "signs"
    folder.mkdir()
    for digit in "019":
        (folder / digit).mkdir()
        for path in sorted((real_data / "sign_digits" / digit).iterdir())[:10]:
            (folder / digit / path.name).symlink_to(path)
    done = penult("extract", "signs", "-o", "f.h5", "--json", "-", cwd=tmp_path)
    result = json.loads(done.stdout)
    assert (result["images"], result["extracted"], result["splits"]) == (30, 30, {"test": 6, "train": 24})
