"""What tests of the report share: drawn pictures of classes with hostile names, and a store and heads of them."""

import hashlib
from pathlib import Path

import numpy as np
from conftest import SPEC, draw, make_view

from classify.artifact import save_head
from classify.selection import train
from data.layout import block_image
from data.publish import publish
from data.staging import new_run_id, stage_block
from data.store import FeatureStore

HOSTILE = ("<img src=x onerror=document.title='owned'>", "</script><b>bold", 'plain & "quoted", it\'s')
REQUEST = {"backbone": "timm/test_resnet", "weights": {"random": 0}, "options": {}, "versions": {}}
_DIM = 12


def make_store(
    folder: Path, classes: tuple[str, ...] = HOSTILE, per_class: int = 16, copied_as: int = 1
) -> FeatureStore:
    """Draw pictures and publish features of them that tell the classes apart, for the most part.

    Of each class the last quarter is for test. Picture 0 of the first class bears the label of the second; the first
    test picture of the second class is a copy of one of its training pictures, with the label of class `copied_as`.
    """
    rng = np.random.default_rng(0)
    paths, targets, splits, vectors = [], [], [], []
    for k in range(len(classes)):
        for i in range(per_class):
            path = f"{k}/<b>{i:02d}.png"
            draw(folder / "pictures" / path, 1000 * k + i, k)
            paths.append(path)
            targets.append((k + 1) % len(classes) if (k, i) == (0, 0) else k)
            splits.append("test" if i >= per_class * 3 // 4 else "train")
            vectors.append(1.5 * (np.arange(_DIM) % len(classes) == k) + rng.normal(size=_DIM))
    copy = per_class + per_class * 3 // 4
    targets[copy] = copied_as
    (folder / "pictures" / paths[copy]).write_bytes((folder / "pictures" / paths[per_class]).read_bytes())
    contents = [(folder / "pictures" / path).read_bytes() for path in paths]
    digests = np.array([hashlib.sha256(content).hexdigest() for content in contents], dtype="S64")
    view = make_view(
        list(range(len(paths))),
        "paper",
        str(folder / "pictures"),
        classes=sorted(classes),
        paths=paths,
        digests=digests,
        targets=np.array([sorted(classes).index(classes[k]) for k in targets], dtype=np.int32),
        splits=np.array(splits, dtype=np.str_),
        sizes=np.array([len(content) for content in contents], dtype=np.int64),
    )
    _, first = np.unique(digests, return_index=True)
    features = {
        "spec": SPEC,
        "provenance": [{"run": "made-by-a-test", "engine": "none"}],
        "requests": [],
        "rows": len(first),
        "dim": _DIM,
        "dtype": np.dtype("<f4"),
        "slabs": [(digests[first], np.stack(vectors).astype(np.float32)[first])],
    }
    store = folder / "features.h5"
    stage_block(store, new_run_id(), 1, block_image(features, view))
    publish(store, view, commands={SPEC.fingerprint: REQUEST})
    return FeatureStore(store)


def make_heads(store: FeatureStore, kinds: tuple[str, ...] = ("ridge", "lr")) -> list[Path]:
    """Fit heads on the training pictures of a store, beside it."""
    samples = store.load("train")
    paths = [store.path.parent / f"{kind}.head" for kind in kinds]
    for kind, path in zip(kinds, paths, strict=True):
        save_head(path, train(kind, samples), samples, request=REQUEST, weights_file="")
    return paths
