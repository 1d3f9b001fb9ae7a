"""A trained head as one safetensors file: arrays, and everything about it as JSON in the file's metadata."""

import base64
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from classify.folding import fold
from classify.head import Array, Floats, Head, LinearHead, Vectors
from classify.heads import HEADS
from classify.rows import Rows
from classify.training import Training
from classify.trials import Scaler
from data import VERSION
from data.bundle import is_bundle, read_bundle, refuse_inside
from data.errors import HeadError, MissingFile, first_line
from data.kinds import mistaken
from data.predictions import Prediction
from data.spec import FeatureSpec, Source, only
from data.staging import disk_full_hint, write_atomically
from data.store import FeatureStore, Samples
from data.views import Digests

FORMAT_VERSION = 1
_KEY = "penult_head"
_CHECKPOINT = "penult_checkpoint"  # docs/format.md, "Checkpoints"


@dataclasses.dataclass(frozen=True)
class TrainedHead:
    """A head with all it needs to classify new pictures.

    Parameters
    ----------
    name : str
        How tables and messages call it: the path it was read from.
    kind : str
        Key of `HEADS`.
    head : Head
        Predicts indices into `classes` from standardised vectors.
    scaler : Scaler
        Of the training vectors.
    classes : list of str
        Names of the classes.
    sources : tuple of Source
        What a vector consists of, feature beside feature, and how each is computed.
    info : dict
        The rest of the metadata: parameters, scores, training set, request, versions.
    train_keys : ndarray of shape (n_train,), uint64
        The first 64 bits of each training picture's digest, to tell whether a picture was trained on.
    """

    name: str
    kind: str
    head: Head
    scaler: Scaler
    classes: list[str]
    sources: tuple[Source, ...]
    info: dict[str, Any]
    train_keys: npt.NDArray[np.uint64]

    @property
    def specs(self) -> tuple[FeatureSpec, ...]:
        """What a vector must be, one for each feature."""
        return tuple(source.spec for source in self.sources)

    @property
    def spec(self) -> FeatureSpec:
        """The spec, where there is one feature; a `SpecError` where there are several."""
        return only(self.specs, f"head {self.name}")

    def samples(
        self, store: FeatureStore, split: str | None, dataset: str | None = None, memory: int | None = None
    ) -> Samples:
        """Return the labelled pictures of a split with the features that this head reads.

        Parameters
        ----------
        store : FeatureStore
            What has them.
        split, dataset, memory
            As for `FeatureStore.load`.

        Raises
        ------
        FingerprintMismatch
            If the store has no such features.
        StoreError
            If the image set or the split is not there.
        """
        wants = f"head {self.name}"
        return store.load(split, dataset=dataset, spec=self.specs, wants=wants, memory=memory).labelled()

    def predict_proba(self, X: Array) -> Floats:
        """Return the probability of each class, (n, k) float64, for vectors (n, d) of this head's specs.

        Rows are taken, and where they lie in a store read, block by block.
        """
        blocks = Rows([X]).blocks()
        found = [self.head.predict_proba(self.scaler.transform(block)) for _, block in blocks]
        return np.concatenate(found) if found else self.head.predict_proba(self.scaler.transform(X))

    def linear(self) -> tuple[Floats, Floats]:
        """Return weight (k, d) and bias (k,) whose scores on raw vectors have this head's probabilities as softmax.

        Raises
        ------
        HeadError
            If the head is not linear.
        """
        if not isinstance(self.head, LinearHead):
            raise HeadError(f"{self.name} is a head of the kind {self.kind}, not linear: name one of lr, svm or ridge")
        return fold(self.head, self.scaler)

    def predictions(self, paths: Sequence[str], X: Array) -> list[dict[str, Any]]:
        """Return path, label, its probability and those of all classes, for vectors (n, d) of some pictures."""
        rows = zip(paths, self.predict_proba(X) if len(paths) else (), strict=True)
        return [Prediction(i, path, self.classes, row).as_json() for i, (path, row) in enumerate(rows)]

    def trained_on(self, digests: Digests) -> npt.NDArray[np.bool_]:
        """Return which pictures were in the training set, (n,)."""
        return np.isin(_keys(digests), self.train_keys)


def save_head(
    path: Path,
    training: Training,
    samples: Samples,
    *,
    request: dict[str, Any] | Sequence[dict[str, Any]],
    weights_file: str | Sequence[str],
    corrections: dict[str, Any] | None = None,
) -> None:
    """Write a head; the same training gives the same bytes.

    Parameters
    ----------
    path : Path
        The file; an old one is replaced at once or not at all.
    training : Training
        The head and how it came about.
    samples : Samples
        What it was trained on.
    request : dict or sequence of dict
        The command that the features came from (`extract.backbones.request`), so that `predict` can build the
        network again; one for each feature.
    weights_file : str or sequence of str
        Where the weights lay if they were a file; a hint, which the digest in the spec checks. One for each feature.
    corrections : dict, optional
        What corrected labels did to `samples` (`data.relabel.Corrections.count`).

    Raises
    ------
    DiskFull
        If it does not fit.
    """
    refuse_overwrite(path)
    samples = samples.labelled()
    requests = [request] if isinstance(request, dict) else list(request)
    files = [weights_file] if isinstance(weights_file, str) else list(weights_file)
    sources = [Source(*source) for source in zip(samples.specs, requests, files, strict=True)]
    info = {
        "format": FORMAT_VERSION,
        **_features(sources, samples.widths),
        "kind": training.kind,
        "params": training.head.get_params(),
        "scale": _plain(training.head.scale_),
        "classes": samples.classes,
        "trained_on": {
            "dataset": samples.dataset,
            "split": samples.split,
            "n": len(samples),
            "views": 1 + len(samples.others),
            "identity": training_identity(samples),
            **({"corrections": corrections} if corrections else {}),
        },
        "selection": {
            "tuned_on": training.tuned_on,
            "rule": training.rule,
            "calibration": training.calibration.method if training.calibration else "none",
            "folds": training.folds,
            "seed": training.seed,
            "cv_accuracy": training.cv_accuracy,
            "candidates": [dataclasses.asdict(c) for c in training.candidates],
        },
        "versions": {"penult": VERSION, "scikit-learn": version("scikit-learn"), "numpy": version("numpy")},
    }
    if np.any(training.head.bias_):
        info["bias"] = _plain(training.head.bias_)
    arrays = {f"head.{name}": array for name, array in training.head.state().items()}
    arrays["scaler.mean"] = training.scaler.mean
    arrays["scaler.scale"] = training.scaler.scale
    arrays["train_keys"] = np.sort(_keys(samples.digests))
    _write(path, info, arrays)


def save_projected(
    path: Path, trained: TrainedHead, head: Head, scaler: Scaler, sources: Sequence[Source], widths: Sequence[int]
) -> None:
    """Write a head that was made to read other features from one that was trained; the rest of it stays as it was.

    Parameters
    ----------
    path : Path
        The file; an old one is replaced at once or not at all.
    trained : TrainedHead
        Where it came from: its classes, its training set and how its parameters were chosen.
    head : Head
        What reads the new features, once `scaler` has standardised them.
    scaler : Scaler
        Of the new features.
    sources : sequence of Source
        The new features.
    widths : sequence of int
        The length of each.

    Raises
    ------
    DiskFull
        If it does not fit.
    """
    kept = ("format", "kind", "params", "scale", "bias", "classes", "trained_on", "selection", "versions")
    info = {
        **{key: trained.info[key] for key in kept if key in trained.info},
        **_features(sources, widths),
        "projected_from": [spec.fingerprint for spec in trained.specs],
    }
    arrays = {f"head.{name}": array for name, array in head.state().items()}
    arrays |= {"scaler.mean": scaler.mean, "scaler.scale": scaler.scale, "train_keys": trained.train_keys}
    _write(path, info, arrays)


def _write(path: Path, info: dict[str, Any], arrays: dict[str, Array]) -> None:
    info = {**info, "arrays": _arrays_digest(arrays)}
    content = save(arrays, metadata={_KEY: json.dumps(info, sort_keys=True)})
    with disk_full_hint(path, len(content)):
        write_atomically(path, content)


def refuse_overwrite(path: Path) -> None:
    """Raise if a head written to `path` would replace something else than a head, or a network that was trained.

    Raises
    ------
    HeadError
        With another name as the next step.
    BundleError
        If it would be in a bundle.
    """
    refuse_inside(path)
    if path.is_dir():
        raise HeadError(f"{path} is a folder: name a file, such as {path / 'lr.head'}")
    if path.exists():
        try:
            old = load_head(path).kind
        except HeadError:
            raise HeadError(f"{path} exists and is no head: name another file with -o, or remove it first") from None
        if old == "finetuned":
            raise HeadError(
                f"{path} is a fine-tuned network, which a head must not replace: name another file with -o, or remove "
                "it first"
            )


def load_head(path: Path) -> TrainedHead:
    """Read a head; nothing in the file is run.

    Raises
    ------
    MissingFile
        If there is no such file.
    HeadError
        If it is no head, is damaged, or is of a newer format.
    """
    if is_bundle(path):
        names = ", ".join(str(head) for head in read_bundle(path).heads().values()) or "but it holds none"
        raise HeadError(f"{path} is a bundle: name a head of it, {names}")
    if path.is_dir():
        raise HeadError(f"{path} is a folder: name a head's file")
    if not path.is_file():
        raise MissingFile(f"{path} does not exist: make a head with `fit STORE --head lr -o {path}`")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if _CHECKPOINT in metadata:
                return _of_checkpoint(path, json.loads(metadata[_CHECKPOINT]), file)
            if _KEY not in metadata:
                raise HeadError(f"{path} is a safetensors file but not a head of Penult's: make one with `fit`")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        info = json.loads(metadata[_KEY])
        if info["format"] > FORMAT_VERSION:
            raise HeadError(
                f"{path} has format {info['format']}, this Penult reads up to {FORMAT_VERSION}: update Penult"
            )
        if _arrays_digest(arrays) != info["arrays"]:
            raise HeadError(f"{path} is damaged (its arrays are not what was written): make it anew with `fit`")
        params = {k: tuple(v) if isinstance(v, list) else v for k, v in dict(info["params"]).items()}
        head = HEADS[info["kind"]](**params)
        state = {name[5:]: array for name, array in arrays.items() if name.startswith("head.")}
        head.restore(state, len(info["classes"]), _factor(info["scale"]), _factor(info.get("bias", 0.0)))
        return TrainedHead(
            name=str(path),
            kind=info["kind"],
            head=head,
            scaler=Scaler(arrays["scaler.mean"], arrays["scaler.scale"]),
            classes=info["classes"],
            sources=tuple(
                Source(FeatureSpec.from_json(json.dumps(f["spec"])), f["request"], f["weights_file"])
                for f in info.get("features", [info])
            ),
            info=info,
            train_keys=arrays["train_keys"],
        )
    except HeadError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        unread = f"{path} cannot be read as a head ({first_line(error)}): make it anew with `fit`"
        raise HeadError(mistaken(path, "a head") or unread) from None


class NetworkHead(LinearHead):
    """The last layer of a fine-tuned network, on its own penultimate features: read from a checkpoint, never fitted."""

    def _fit(self, X: Vectors, y: npt.NDArray[np.intp], weights: Floats | None) -> None:
        raise HeadError("the last layer of a network is trained with the network: run `finetune`")


def _of_checkpoint(path: Path, info: dict[str, Any], file: Any) -> TrainedHead:
    """Read the last layer of a fine-tuned network as a head on that network's own penultimate features."""
    if info["format"] > 1:
        raise HeadError(f"{path} has format {info['format']}, this Penult reads format 1: update Penult")
    weight, bias = (file.get_tensor(f"{info['last']}.{name}") for name in ("weight", "bias"))
    if info.get("last_weights", "") not in ("", _layer_digest(weight, bias)):
        raise HeadError(f"{path} is damaged (its last layer is not what was written): train it anew with `finetune`")
    head = NetworkHead()
    head.restore({"coef_": weight, "intercept_": bias.astype(np.float64)}, len(info["classes"]), 1.0)
    with open(path, "rb") as whole:
        request = {**info["request"], "weights": {"sha256": hashlib.file_digest(whole, "sha256").hexdigest()}}
    spec = FeatureSpec.from_json(json.dumps(info["spec"]))
    unit = np.ones(weight.shape[1], dtype=np.float32)
    return TrainedHead(
        name=str(path),
        kind="finetuned",
        head=head,
        scaler=Scaler(0 * unit, unit),
        classes=info["classes"],
        sources=(Source(spec, request, str(path)),),
        info={**info, "selection": {"tuned_on": info["strategy"]["mode"]}},
        train_keys=np.frombuffer(base64.b64decode(info["train_keys"]), dtype="<u8").astype(np.uint64),
    )


def _layer_digest(weight: Array, bias: Array) -> str:
    """Return the digest of a linear layer, as the spec has those of networks (docs/format.md)."""
    digest = hashlib.sha256()
    for name, tensor in (("bias", bias), ("weight", weight)):
        digest.update(f"{name}{tensor.shape}".encode() + np.ascontiguousarray(tensor, dtype="<f4").tobytes())
    return f"sha256:{digest.hexdigest()}"


def _plain(factor: float | Floats) -> float | list[float]:
    return np.asarray(factor, dtype=np.float64).tolist()  # type: ignore[no-any-return]  # a float or a list


def _factor(value: float | list[float]) -> float | Floats:
    return np.asarray(value, dtype=np.float64) if isinstance(value, list) else float(value)


def training_identity(samples: Samples) -> str:
    """Return the SHA-256 of the training pictures' digests and class names, in order: what was learnt from."""
    digest = hashlib.sha256()
    for content, target in zip(samples.digests.tolist(), samples.y.tolist(), strict=True):
        digest.update(content + b" " + samples.classes[target].encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _features(sources: Sequence[Source], widths: Sequence[int]) -> dict[str, Any]:
    """Return what the metadata say of the features: of one as it always was, of several as a list."""
    features = [
        {
            "spec": json.loads(source.spec.canonical_json()),
            "fingerprint": source.spec.fingerprint,
            "request": source.request,
            "weights_file": source.weights_file,
        }
        for source in sources
    ]
    if len(features) == 1:
        return features[0]
    return {"features": [{**feature, "width": width} for feature, width in zip(features, widths, strict=True)]}


def _arrays_digest(arrays: dict[str, Array]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes: safetensors itself has no checksum."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _keys(digests: Digests) -> npt.NDArray[np.uint64]:
    return np.array([int(d[:16], 16) for d in digests.tolist()], dtype=np.uint64)
