"""Every example in a docstring runs, in a folder with drawn pictures and a store of their features."""

import doctest
import importlib

import pytest
from conftest import ROOT, TINY, age, draw, penult

FILES = [path for package in ("data", "extract", "classify", "finetune") for path in (ROOT / package).rglob("*.py")]
MODULES = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if ">>> " in path.read_text())
# What somebody in a notebook comes upon: module -> the names whose examples these are; "" is the module itself.
MET = {
    "data.store": ["FeatureStore", "FeatureStore.load"],
    "data.images": ["open_images"],
    "data.export": ["to_pandas", "to_npz", "to_parquet", "to_csv"],
    "extract.extractor": ["Extractor"],
    "extract.transformer": ["PenultFeatures"],
    "extract.tensors": ["StoreDataset"],
    "classify.heads": [""],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    seed = 0
    for split, n in (("train", 8), ("test", 4)):
        for hue, name in enumerate(("bird", "cat", "dog")):
            for i in range(n):
                draw(folder / "pictures" / split / name / f"{i}.png", seed, hue)
                seed += 1
    age(folder)
    penult("extract", "pictures", "-o", "features.h5", *TINY, cwd=folder)
    return folder


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    module = importlib.import_module(name)
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for example in doctest.DocTestFinder(exclude_empty=True).find(module):
        runner.run(example, out=said.append)
    assert runner.tries > 0
    assert runner.failures == 0, "".join(said)


@pytest.mark.parametrize("name", MET)
def test_what_a_notebook_user_meets_has_an_example(name):
    module = importlib.import_module(name)
    found = {test.name.removeprefix(name).strip("."): test.examples for test in doctest.DocTestFinder().find(module)}
    assert [one for one in MET[name] if not found.get(one)] == []


def test_no_example_is_left_out():
    assert [path for path in FILES if "doctest: +SKIP" in path.read_text()] == []
