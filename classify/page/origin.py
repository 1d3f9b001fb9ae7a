"""Where a report's figures come from: features, weights, licences, versions, and the commands that make them again."""

import platform
import shlex
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from classify.artifact import TrainedHead
from classify.carried import calibration_of, chosen_freely, rule_of, same
from classify.heads import GIVEN, HEADS
from data import VERSION
from data.spec import FeatureSpec
from data.store import FeatureInfo, FeatureStore
from data.views import View

_FITS = {"shorter": "crop"}  # as a spec calls it -> as `--fit` does, where these differ
_PACKAGES = ("numpy", "scipy", "scikit-learn", "h5py", "pillow")


def origin(
    store: FeatureStore, view: View, heads: Sequence[TrainedHead], licence: Callable[[FeatureSpec], str], command: str
) -> dict[str, Any]:
    """Return where everything comes from.

    Parameters
    ----------
    store : FeatureStore
    view : View
        The image set.
    heads : sequence of TrainedHead
        Of the report, the best first.
    licence : callable
        Returns the licence of the weights behind a spec, empty where it is not known.
    command : str
        What made the report.
    """
    held = store.features()
    read = dict.fromkeys(spec.fingerprint for head in heads for spec in head.specs)
    infos = [held[fingerprint] for fingerprint in read if fingerprint in held]
    commands = [_extract(info, view, str(store.path)) for info in infos if info.requests]
    commands += [_fit(head, str(store.path)) for head in heads if head.kind in HEADS]
    return {
        "store": str(store.path),
        "features": [_feature(info, licence(info.spec)) for info in infos],
        "heads": [_head(head) for head in heads],
        "versions": {"penult": VERSION, "Python": platform.python_version(), **_versions()},
        "commands": [*dict.fromkeys(commands), command],
    }


def _feature(info: FeatureInfo, licence: str) -> dict[str, Any]:
    spec = info.spec
    return {
        "title": spec.title,
        "fingerprint": spec.fingerprint,
        "weights": spec.weights,
        "licence": licence,
        "dim": info.dim,
        "dtype": info.dtype,
        "rows": info.rows,
        "pixels": f"resize {spec.resize}, crop {spec.crop[0]} x {spec.crop[1]}, {spec.interpolation}, {spec.color}",
        "runs": [
            {
                "date": str(run.get("date", ""))[:16].replace("T", " "),
                "engine": run.get("engine", ""),
                "device": run.get("device", ""),
                "precision": run.get("precision", ""),
                "versions": run.get("versions", {}),
            }
            for run in info.provenance
        ],
    }


def _head(head: TrainedHead) -> dict[str, Any]:
    trained = head.info["trained_on"]
    return {
        "file": head.name,
        "kind": head.kind,
        "params": {k: v for k, v in head.info.get("params", {}).items() if k not in GIVEN and v is not None},
        "trained_on": f"{trained.get('split', 'train')} of {trained.get('dataset', '')}",
        "n": trained.get("n"),
        "identity": trained.get("identity", ""),
        "corrections": trained.get("corrections"),
        "versions": head.info.get("versions", {}),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _extract(info: FeatureInfo, view: View, store: str) -> str:
    """Return the command that computed features, as far as the store remembers it."""
    asked, spec = info.requests[0], info.spec
    words = ["penult", "extract", view.source or view.root, "-o", store]
    words += ["--name", view.name] if view.named else []
    words += ["--backbone", str(asked.get("backbone", spec.backbone))]
    weights, partial = asked.get("weights", {}), asked.get("partial")
    if "random" in weights:
        words += ["--weights", "random", "--seed", str(weights["random"])]
    elif "sha256" in weights:
        words += ["--weights", next((r["weights_file"] for r in info.provenance if r.get("weights_file")), "FILE")]
    elif weights.get("named", "default") != "default":
        words += ["--weights", str(weights["named"])]
    words += ["--partial"] if partial else []
    words += ["--seed", str(partial["seed"])] if partial and partial.get("seed") else []
    for key in ("layer", "pooling"):
        words += [f"--{key}", str(asked[key])] if asked.get(key) else []
    for key, value in asked.get("options", {}).items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{key.replace('_', '-')}", *(_FITS.get(str(v), str(v)) for v in values)]
    words += ["--view", *_views(spec.view)] if spec.view != "center" else []
    words += ["--average"] if spec.view.startswith("mean(") else []
    words += ["--normalize"] if spec.normalize else []
    kind = spec.projection.split(":")
    words += ["--projection", ":".join(kind[:2] if kind[0] == "pca" else kind)] if spec.projection else []
    words += ["--dtype", info.dtype] if info.dtype != "float32" else []
    rule = view.split_rule or {}
    for key, option in (
        ("test_fraction", "--test-fraction"),
        ("val_fraction", "--val-fraction"),
        ("seed", "--split-seed"),
    ):
        words += [option, str(rule[key])] if rule.get(key) else []
    return shlex.join(words)


def _views(view: str) -> list[str]:
    """Return what a spec's view is, or is the mean of, as `--view` takes it: of random ones how many, and the seed."""
    words: list[str] = []
    most: dict[str, int] = {}
    for name in view.removeprefix("mean(").removesuffix(")").split(","):
        kind, *numbers = name.split(":")
        if kind == "random":
            most[numbers[0]] = max(most.get(numbers[0], 0), int(numbers[1]) + 1)
        else:
            words.append(name)
    return [*words, *(f"random:{count}:{seed}" for seed, count in most.items())]


def _fit(head: TrainedHead, store: str) -> str:
    """Return the command that fitted a head, as far as the head remembers it."""
    info, trained, chosen = head.info, head.info["trained_on"], head.info["selection"]
    words = ["penult", "fit", store, "--head", head.kind, "-o", head.name, "--dataset", trained["dataset"]]
    words += ["--features", *(spec.fingerprint[:12] for spec in head.specs)]
    words += ["--split", trained["split"]] if trained["split"] != "train" else []
    words += ["--tune", chosen["tuned_on"]] if chosen["tuned_on"] != "cv" else []
    words += _tried(head)
    words += ["--rule", rule] if (rule := rule_of(head)) != "best" else []
    words += ["--calibrate", way] if (way := calibration_of(head)) != "temperature" else []
    words += ["--class-weight", info["params"]["class_weight"]] if info["params"].get("class_weight") else []
    words += ["--augment"] if trained["views"] > 1 else []
    words += ["--seed", str(chosen["seed"])] if chosen["seed"] else []
    words += ["--relabel", "corrections.csv"] if trained.get("corrections") else []
    return shlex.join(words)


def _tried(head: TrainedHead) -> list[str]:
    """Return the options that say what was tried of a head's parameters, and what was set."""
    kind, params = HEADS[head.kind], head.info["params"]
    free, defaults = chosen_freely(head), kind().get_params()
    words: list[str] = []
    for name, values in free.items():
        if len(free) == 1 and sorted(values) != sorted(kind.grid[name]):
            words += ["--grid", str(min(values)), str(max(values)), str(len(values))]
    for name, value in params.items():
        # nothing was chosen, and so the value that the class would choose was set
        if name not in (*GIVEN, *free) and (name in kind.grid or not same(value, defaults[name])):
            words += ["--param", f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"]
    return words
