"""Penult's solvers against scikit-learn's, at the same objective value, and `fit` as a whole process.

The data are EfficientNet-Lite0's features of Caltech-101 ($PENULT_REAL_DATA/caltech101_lite0_features.npz: 6,095
training rows of 1,280, 102 classes), standardised by the training rows. `--quick` takes 1,000 of the training rows of
the 20 largest classes, by a fixed seed.

lr
    `classify.heads.LogisticHead` on float32 against LogisticRegression at its defaults (max_iter raised) on float64
    and on float32, all at C = 1e-2, in turn.
svm
    `classify.heads.SVMHead` against LinearSVC (max_iter raised) at C = 1e-3. On the whole set the peer takes minutes.
path
    45 values of C in 10^[-6, 5], chosen by 5-fold cross-validation as `classify.selection.train` does it, in units of
    one cold LogisticRegression fit in float64 at C = 1e-2 on the same rows, on all threads or on one, whichever is
    faster there. Accuracies at some values are checked against scikit-learn's on the same folds.
fit
    `pipeline.py fit --head lr` on ants and bees as a whole process (the store is extracted once, or named by
    --store), and `pipeline.py --help`.

Objective values are computed here in float64 from the coefficients: for lr |W|^2/2 + C * sum of log-losses; for svm
LinearSVC's own, (|W|^2 + |b|^2)/2 + C * sum of squared hinge losses over the classes. `objective_gap` is (Penult -
peer) / peer, negative where Penult's is the lower one; above 1e-4 the benchmark fails. Test accuracies are printed too.

    python benchmarks/bench_fit.py
    python benchmarks/bench_fit.py --quick --path-values 9
"""

import argparse
import dataclasses
import hashlib
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import ROOT, CheckFailed, finish, in_turn, medians, positive, real_data, run_pipeline, say
from classify.folds import stratified_folds
from classify.linear import LogisticHead, SVMHead
from classify.selection import train
from classify.trials import Scaler
from data.spec import FeatureSpec
from data.store import Samples

PARTS = ("lr", "svm", "path", "fit")
LR_C, SVM_C = 1e-2, 1e-3
GAP = 1e-4
PATH_RANGE = (-6, 5)  # powers of ten, as in DINOv2's protocol
CHECKED_C = (1e-4, 1e-2, 1.0)  # of the path, as near as its values come; on all rows the second alone
FOLDS, SEED = 5, 0
QUICK_ROWS, QUICK_CLASSES = 1000, 20

Array = npt.NDArray[Any]
Objective = Callable[[Array, Array, Array, Array, float], float]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Training and test rows, standardised, float32 (n, d), with class indices (n,)."""

    X: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    test_X: npt.NDArray[np.float32]
    test_y: npt.NDArray[np.int64]
    samples: Samples  # the training rows as they are stored, for `classify.selection`


def load_problem(path: Path, quick: bool) -> Problem:
    """Read the features, and choose and standardise the rows.

    Raises
    ------
    CheckFailed
        If the file is not there.
    """
    if not path.is_file():
        raise CheckFailed(f"{path} does not exist: set PENULT_REAL_DATA to the folder that holds it")
    with np.load(path, allow_pickle=False) as file:
        X, names, splits, paths = file["X"], file["y"], file["split"], file["path"]
    rows, test = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "test")
    if quick:
        kept, counts = np.unique(names[rows], return_counts=True)
        kept = kept[np.argsort(-counts, kind="stable")[:QUICK_CLASSES]]
        rows = rows[np.isin(names[rows], kept)]
        rows = np.sort(np.random.default_rng(SEED).permutation(rows)[:QUICK_ROWS])
        test = test[np.isin(names[test], kept)]
    classes, y = np.unique(names[rows], return_inverse=True)
    train_X = X[rows].astype(np.float32)
    scaler = Scaler.fit(train_X)
    samples = Samples(
        X=train_X,
        y=y.astype(np.int32),
        classes=classes.tolist(),
        paths=paths[rows].tolist(),
        digests=np.array([hashlib.sha256(p.encode()).hexdigest() for p in paths[rows].tolist()], dtype="S64"),
        specs=(FeatureSpec("timm/tf_efficientnet_lite0", "sha256:" + "0" * 64),),
        dataset="caltech101",
        split="train",
    )
    return Problem(
        X=scaler.transform(train_X),
        y=y.astype(np.int64),
        test_X=scaler.transform(X[test]),
        test_y=np.searchsorted(classes, names[test]).astype(np.int64),
        samples=samples,
    )


def lr_objective(X: Array, y: Array, coef: Array, intercept: Array, C: float) -> float:
    """Return |W|^2/2 + C * (sum of multinomial log-losses), in float64; coef (k, d), intercept (k,)."""
    W = coef.astype(np.float64)
    scores = X.astype(np.float64) @ W.T + intercept  # (n, k)
    losses = logsumexp(scores, axis=1) - scores[np.arange(len(y)), y]
    return float((W**2).sum() / 2 + C * losses.sum())


def svm_objective(X: Array, y: Array, coef: Array, intercept: Array, C: float) -> float:
    """Return LinearSVC's objective summed over its classes, in float64; coef (k, d), intercept (k,)."""
    W, b = coef.astype(np.float64), intercept.astype(np.float64)
    signs = np.where(y[:, None] == np.arange(len(W)), 1.0, -1.0)  # (n, k)
    hinge = np.maximum(0.0, 1.0 - signs * (X.astype(np.float64) @ W.T + b))
    return float(((W**2).sum() + (b**2).sum()) / 2 + C * (hinge**2).sum())


def accuracy(problem: Problem, model: Any) -> float:
    """Return the share of test rows that a linear model gets right."""
    scores = problem.test_X @ model.coef_.T.astype(np.float32) + model.intercept_
    return float((scores.argmax(axis=1) == problem.test_y).mean())


def race(
    problem: Problem,
    penult: Callable[[], Any],
    peers: dict[str, Callable[[], Any]],
    objective: Objective,
    C: float,
    repeats: int,
) -> tuple[dict[str, float], dict[str, float], dict[str, Any]]:
    """Fit in turn; return the speed-up over each peer, the gap to each, and the details.

    Raises
    ------
    CheckFailed
        If Penult's objective value is too high.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        seconds, models = in_turn({"penult": penult, **peers}, repeats)
    values = {name: objective(problem.X, problem.y, model.coef_, model.intercept_, C) for name, model in models.items()}
    gaps = {name: (values["penult"] - values[name]) / values[name] for name in peers}
    for name, gap in gaps.items():
        if not gap <= GAP:
            raise CheckFailed(
                f"Penult's objective value {values['penult']:.8g} is {gap:.2e} above the {values[name]:.8g} of {name} "
                f"(allowed {GAP:g}): no figure is worth printing"
            )
    typical = medians(seconds)
    speedups = {name: typical[name] / typical["penult"] for name in peers}
    details: dict[str, Any] = {
        "seconds": seconds,
        "objective": values,
        "test_accuracy": {name: accuracy(problem, model) for name, model in models.items()},
        "convergence_warnings": sum(issubclass(w.category, ConvergenceWarning) for w in caught),
    }
    for name in peers:
        say(
            f"{name}: {typical[name]:.2f} s, Penult {typical['penult']:.2f} s: {speedups[name]:.2f}x, "
            f"objective gap {gaps[name]:+.1e}, test accuracy {details['test_accuracy'][name]:.4f} and "
            f"{details['test_accuracy']['penult']:.4f}"
        )
    return speedups, gaps, details


def cold_fit(X: Array, y: Array, C: float = LR_C) -> LogisticRegression:
    """Fit scikit-learn's logistic regression from nothing."""
    return LogisticRegression(C=C, max_iter=2000).fit(X, y)


def one_thread_fit(X: Array, y: Array) -> LogisticRegression:
    """Fit the same on one thread, which is the faster way for a small problem on a busy machine."""
    with threadpool_limits(1):
        return cold_fit(X, y)


def measure_lr(problem: Problem, repeats: int) -> dict[str, Any]:
    """Measure logistic regression against both precisions of scikit-learn's."""
    X64 = problem.X.astype(np.float64)
    speedups, gaps, details = race(
        problem,
        lambda: LogisticHead(C=LR_C).fit(problem.X, problem.y),
        {"lr_f64": lambda: cold_fit(X64, problem.y), "lr_f32": lambda: cold_fit(problem.X, problem.y)},
        lr_objective,
        LR_C,
        repeats,
    )
    return {
        "lr_speedup_f64": speedups["lr_f64"],
        "lr_speedup_f32": speedups["lr_f32"],
        "objective_gap": gaps,
        "lr": details,
    }


def measure_svm(problem: Problem, repeats: int) -> dict[str, Any]:
    """Measure the linear support vector machine."""
    peer = LinearSVC(C=SVM_C, random_state=SEED, max_iter=20_000)
    X64 = problem.X.astype(np.float64)  # what liblinear works on: the copy is not on the peer's time
    speedups, gaps, details = race(
        problem,
        lambda: SVMHead(C=SVM_C).fit(problem.X, problem.y),
        {"svm": lambda: peer.fit(X64, problem.y)},
        svm_objective,
        SVM_C,
        repeats,
    )
    return {"svm_speedup": speedups["svm"], "objective_gap": gaps, "svm": details}


def measure_path(problem: Problem, n_values: int, quick: bool) -> dict[str, Any]:
    """Measure the choice of C among many by cross-validation, in cold fits."""
    grid = tuple(float(C) for C in np.logspace(*PATH_RANGE, n_values))
    X64 = problem.X.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        cold_fits = {
            "all_threads": lambda: cold_fit(X64, problem.y),
            "one_thread": lambda: one_thread_fit(X64, problem.y),
        }
        before, _ = in_turn(cold_fits, 2 if quick else 1)
        seconds, results = in_turn({"path": lambda: train("lr", problem.samples, grid=grid, seed=SEED)}, 1)
        after, _ = in_turn(cold_fits, 2 if quick else 1)
    candidates = results["path"].candidates
    if [c.params["C"] for c in candidates] != list(grid):
        raise CheckFailed(f"the path was to try {n_values} values of C and tried {len(candidates)}")
    for wanted in CHECKED_C if quick else CHECKED_C[1:2]:
        candidate = min(candidates, key=lambda c: abs(np.log(c.params["C"] / wanted)))
        expected = cross_validated(problem.samples, candidate.params["C"])
        # a borderline row may fall to either side where two solvers stop at different points
        if abs(candidate.accuracy - expected) > 0.005:
            raise CheckFailed(
                f"at C = {candidate.params['C']:g} the path's cross-validated accuracy is {candidate.accuracy:.4f}, "
                f"scikit-learn's on the same folds {expected:.4f}"
            )
    colds = medians({name: before[name] + after[name] for name in cold_fits})
    cold = min(colds.values())
    in_cold_fits = seconds["path"][0] / cold
    say(
        f"path of {n_values} values of C, {FOLDS} folds: {seconds['path'][0]:.1f} s = {in_cold_fits:.1f} cold fits of "
        f"{cold:.2f} s; chosen C = {results['path'].params['C']:.3g}, accuracy {results['path'].cv_accuracy:.4f}"
    )
    return {
        "path_in_cold_fits": in_cold_fits,
        "path_chosen": results["path"].params["C"],
        "path": {"values": n_values, "folds": FOLDS, "rows": len(problem.y), "seconds": seconds["path"][0]},
        "cold_fit_s": colds,
    }


def cross_validated(samples: Samples, C: float) -> float:
    """Return scikit-learn's accuracy over Penult's folds, in float64."""
    folds = stratified_folds(samples.y, samples.digests, FOLDS, SEED)
    right = total = 0
    for fold in range(int(folds.max()) + 1):
        inside, outside = folds != fold, folds == fold
        X = samples.X[inside].astype(np.float64)
        mean, scale = X.mean(axis=0), X.std(axis=0)
        scale[scale == 0] = 1.0
        model = cold_fit((X - mean) / scale, samples.y[inside], C)
        right += int((model.predict((samples.X[outside] - mean) / scale) == samples.y[outside]).sum())
        total += int(outside.sum())
    return right / total


def measure_fit_process(store: Path | None, repeats: int) -> dict[str, Any]:
    """Measure `fit` on ants and bees, and `--help`, as whole processes."""
    with tempfile.TemporaryDirectory(prefix="penult-bench-") as temporary:
        if store is None:
            store = Path(temporary) / "hymenoptera.h5"
            run_pipeline("extract", real_data() / "hymenoptera", "-o", store)
        head = Path(temporary) / "lr.head"
        walls = []
        for _ in range(1 + repeats):  # the first warms the disk's cache
            wall, result = run_pipeline("fit", store, "--head", "lr", "-o", head)
            walls.append(wall)
            if not head.is_file() or result["cv_accuracy"] < 0.8:
                raise CheckFailed(f"the head fitted on {store} is not usable: cv_accuracy {result['cv_accuracy']}")
    helps, _ = in_turn(
        {
            "help": lambda: subprocess.run(
                [sys.executable, str(ROOT / "pipeline.py"), "--help"], check=True, capture_output=True
            )
        },
        1 + repeats,
    )
    figures = {"fit": walls[1:], "help": helps["help"][1:]}
    typical = medians(figures)
    say(f"fit on {result['n_train']} pictures: {typical['fit']:.2f} s a process; --help {typical['help']:.3f} s")
    return {
        "fit_process_s": typical["fit"],
        "fit_inside_s": result["seconds"],
        "fit_n_train": result["n_train"],
        "help_s": typical["help"],
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts that were asked for."""
    figures: dict[str, Any] = {"quick": arguments.quick}
    gaps: dict[str, float] = {}
    file = real_data() / "caltech101_lite0_features.npz"
    if {"lr", "svm"} & set(arguments.parts):
        problem = load_problem(file, arguments.quick)
        figures |= {"rows": len(problem.y), "dim": problem.X.shape[1], "classes": len(problem.samples.classes)}
        for part, race_it, repeats in (
            ("lr", measure_lr, arguments.repeats),
            ("svm", measure_svm, arguments.svm_repeats),
        ):
            if part in arguments.parts:
                found = race_it(problem, repeats)
                gaps |= found.pop("objective_gap")
                figures |= found
    if "path" in arguments.parts:
        figures |= measure_path(load_problem(file, arguments.quick), arguments.path_values, arguments.quick)
    if "fit" in arguments.parts:
        figures |= measure_fit_process(arguments.store, arguments.repeats)
    return {**figures, "objective_gap": gaps}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Penult's solvers against scikit-learn's at the same objective value")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help=f"on {QUICK_ROWS} rows of {QUICK_CLASSES} classes")
    parser.add_argument("--path-values", type=positive, default=45, metavar="N", help="values of C (default: 45)")
    parser.add_argument("--repeats", type=positive, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--svm-repeats", type=positive, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("--store", type=Path, help="of ants and bees (default: extracted anew)")
    return parser


if __name__ == "__main__":
    sys.exit(finish(measure, build_parser().parse_args()))
