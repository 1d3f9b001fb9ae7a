"""The import directions, read from the source; and what a process really imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

STDLIB = sys.stdlib_module_names
COMMON = {"numpy", "rich"}
# Package -> what its files may import, at any depth of their code. Mirrors the docstrings of the packages.
ALLOWED = {
    "data": {"data", "h5py", "PIL", "zlib_ng", "fsspec", "pyarrow", "matplotlib"} | COMMON,
    "extract": {"data", "extract", "torch", "torchvision", "timm", "huggingface_hub", "datasets", "PIL", "safetensors"}
    | {"onnx", "onnxruntime", "simplejpeg", "pillow_heif", "threadpoolctl", "ray"}
    | COMMON,
    "classify": {"data", "classify", "sklearn", "scipy", "joblib", "threadpoolctl", "safetensors", "PIL", "matplotlib"}
    | {"umap"}
    | COMMON,
    "finetune": {"data", "extract", "finetune", "torch", "torchvision", "timm", "safetensors"} | COMMON,
    "verbs": {"data", "extract", "classify", "finetune", "verbs", "rich", "shtab"},
}
H5PY = {"layout.py", "views.py"}
# Files that may import more than their package.
MORE = {("extract", "transformer.py"): {"sklearn"}, ("data", "export.py"): {"pandas"}}


def imported(path: Path) -> set[str]:
    """Return the first part of every name imported anywhere in a file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names - STDLIB


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_run_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert imported(path) <= ALLOWED[package] | MORE.get((package, path.name), set()), path


def test_only_the_store_touches_hdf5():
    users = {p.name for package in ALLOWED for p in (ROOT / package).rglob("*.py") if "h5py" in imported(p)}
    assert users == H5PY
    assert "h5py" not in imported(ROOT / "pipeline.py")


def test_only_one_file_knows_ray():
    users = {p.name for package in ALLOWED for p in (ROOT / package).rglob("*.py") if "ray" in imported(p)}
    assert users == {"raylink.py"}


def test_only_the_transformer_of_stage_one_knows_scikit_learn():
    users = {p.name for p in (ROOT / "extract").rglob("*.py") if "sklearn" in imported(p)}
    assert users == {"transformer.py"}
    others = [p for package in ("extract", "finetune", "verbs") for p in (ROOT / package).rglob("*.py")]
    assert not [p for p in others if "extract.transformer" in p.read_text()]  # so no verb comes upon it


def test_the_command_line_imports_nothing_heavy_at_the_top():
    for path in [ROOT / "pipeline.py", *(ROOT / "verbs").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        top = {a.name for node in tree.body if isinstance(node, ast.Import) for a in node.names}
        top |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
        assert {name.split(".")[0] for name in top} <= {*STDLIB, "verbs"}, path


def test_every_file_says_what_it_owns():
    for package in [*ALLOWED, "benchmarks"]:
        for path in (ROOT / package).rglob("*.py"):
            assert ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (
            "classify.heads, classify.selection, classify.evaluate, classify.artifact, classify.report, data.verify",
            "torch",
        ),
        ("classify.audit, classify.audit_report", "torch"),
        ("classify.page.assemble, extract.datasets, extract.decode, verbs.report", "torch"),
        ("classify.advise, classify.advise_report, extract.original, extract.class_names, extract.cost", "torch"),
        ("extract.extractor, extract.engines, extract.weights, extract.embed, extract.recheck", "sklearn"),
        ("extract.extractor, extract.report, extract.transformer", "torch"),
        ("extract.cache", "sklearn"),
        ("extract.extractor, extract.engines, extract.embed, extract.recheck", "onnxruntime"),
        ("extract.extractor, extract.report, extract.decode", "pillow_heif"),
        ("extract.survey, extract.statistics, extract.survey_report, extract.gallery", "torch"),
        ("extract.doctor, extract.doctor_report, extract.ways, extract.sampling", "torch"),
        ("classify.preprocessing, classify.preprocessing_report", "torch"),
        ("extract.extractor, extract.engines, extract.cluster, extract.raylink", "ray"),
        ("pipeline, verbs.parser", "numpy"),
    ],
)
def test_what_a_process_really_imports(modules, absent):
    code = f"import sys; import {modules}; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_fitting_and_measuring_import_no_torch_and_extracting_no_scikit_learn(pictures, tmp_path):
    from conftest import TINY

    code = "import sys; from pipeline import main; assert main(sys.argv[2:]) == 0; sys.exit(sys.argv[1] in sys.modules)"
    store, head = str(tmp_path / "f.h5"), str(tmp_path / "lr.head")
    for absent, command in (
        ("sklearn", ["extract", str(pictures), "-o", store, *TINY]),
        ("torch", ["extract", str(pictures), "-o", store, *TINY]),  # nothing is left to compute
        ("torch", ["fit", store, "--head", "lr", "-o", head]),
        ("torch", ["eval", head, store]),
        ("torch", ["info", store]),
        ("torch", ["info", str(pictures), "--sheet", str(tmp_path / "sheet.png")]),
        ("torch", ["verify", store, "--sample", "0"]),
    ):
        done = subprocess.run([sys.executable, "-c", code, absent, *command], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, (absent, command, done.stderr)


def test_linear_heads_are_fitted_and_measured_without_what_is_slow_to_import(pictures, tmp_path):
    from conftest import TINY, penult

    assert penult("extract", pictures, "-o", tmp_path / "f.h5", *TINY).returncode == 0
    code = """if True:
        import sys
        from pathlib import Path
        from pipeline import main

        def told(command):
            slow = {"sklearn", "scipy.stats", "scipy.optimize", "pandas"} & set(sys.modules)
            assert not slow, (command, slow)

        kinds = ["lr", "svm", "ridge", "lda", "centroid"]
        for command in [*(["fit", "f.h5", "--head", k, "-o", k] for k in kinds), ["eval", *kinds, "f.h5"]]:
            assert main(command) == 0
            told(command)

        # what `predict` does once the network has made vectors of the pictures
        from classify.artifact import load_head
        from data.predictions import Prediction, print_predictions
        from data.store import FeatureStore
        from rich.console import Console

        head = load_head(Path("lr"))
        (row,) = head.predict_proba(FeatureStore("f.h5").load("test").X[:1])
        print_predictions(Console(), [Prediction(0, "a", head.classes, row)])
        told("predict")"""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_no_file_of_ours_loads_a_pickle():
    for package in ALLOWED:
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            for word in ("joblib.load", "pickle.load", "allow_pickle=True", "weights_only=False", "cloudpickle"):
                assert word not in text, (path, word)
