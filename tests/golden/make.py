"""Make the golden files anew. To be run once for each format version, never to mend a failing test."""

import dataclasses
import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from classify.artifact import save_head
from classify.linear import CentroidHead
from classify.training import Candidate, Training
from classify.trials import Scaler
from data.layout import block_image
from data.publish import publish
from data.spec import FeatureSpec
from data.staging import stage_block
from data.store import FeatureStore
from data.views import Skipped, View

HERE = Path(__file__).parent
SPEC = FeatureSpec(
    "torchvision/golden", "sha256:" + "0123456789abcdef" * 4, mean=(0.5, 0.25, 0.125), std=(1.0, 2.0, 4.0)
)
REQUEST = {"backbone": "golden", "options": {}, "versions": {}, "weights": {"random": 0}}
N, DIM = 5, 3
# Every value is a small whole number, so that anyone can check it by eye.
VECTORS = np.arange(N * DIM, dtype=np.float32).reshape(N, DIM) - 7
DIGESTS = np.array([hashlib.sha256(b"picture %d" % i).hexdigest() for i in range(N)], dtype="S64")
VIEW = View(
    name="golden",
    root="/pictures/golden",
    classes=["ant", "bee"],
    paths=["test/ant/ü.png", "train/ant/1.png", "train/bee/2.png", "train/bee/copy.png", "train/loose.png"],
    digests=DIGESTS[[4, 0, 1, 1, 2]],
    targets=np.array([0, 0, 1, 1, -1], dtype=np.int32),
    splits=np.array(["test", "train", "train", "train", "train"]),
    sizes=np.array([10, 11, 12, 12, 13], dtype=np.int64),
    mtimes=np.array([10**18, 10**18, 10**18, 10**18, -1], dtype=np.int64),
    skipped=[Skipped("train/bee/bad.png", "the file is empty", 0, 10**18)],
    split_rule={"test_fraction": 0.2, "val_fraction": 0.0, "seed": 0},
)


def make_store(path: Path) -> None:
    """Write the golden store."""
    rows: dict[str, Any] = {
        "spec": SPEC,
        "provenance": [{"run": "golden", "engine": "none", "versions": {"penult": "0.1.0"}}],
        "requests": [],
        "rows": N,
        "dim": DIM,
        "dtype": np.dtype("<f4"),
        "slabs": [(DIGESTS, VECTORS)],
    }
    stage_block(path, "golden", 1, block_image(rows, VIEW))
    publish(path, VIEW, commands={SPEC.fingerprint: REQUEST})


def make_head(path: Path, store: Path) -> None:
    """Write the golden head."""
    samples = FeatureStore(store).load("train").labelled()
    scaler = Scaler(np.array([1, 2, 3], dtype=np.float32), np.array([1, 2, 4], dtype=np.float32))
    head = CentroidHead()
    head.classes_ = np.arange(2)
    head.coef_ = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)
    head.intercept_ = np.array([0.5, -0.5])
    head.scale_, head.bias_ = 0.25, 0.0
    tried = [Candidate({}, 0.5, 0.75)]
    training = Training("centroid", head, scaler, {}, tried, 0.5, "cv", 5, 0, 0.0, [])
    save_head(path, training, samples, request=REQUEST, weights_file="")


def make_checkpoint(path: Path) -> None:
    """Write the golden checkpoint."""
    import torch
    from torch import nn

    from finetune.checkpoint import save_checkpoint
    from finetune.epochs import Epoch
    from finetune.strategies import make_strategy
    from finetune.surgery import Operated, Tuned

    network = Tuned(nn.Sequential(OrderedDict(conv=nn.Linear(3, 3))), 3, 2)
    for i, parameter in enumerate(network.parameters()):
        nn.init.constant_(parameter, i)
    with torch.no_grad():
        network.last.weight[1] = torch.tensor([0.0, 1.0, -1.0])
    found: Any = None  # nothing of it is written
    facts = {
        "classes": ["ant", "bee"],
        "weights_before": SPEC.weights,
        "strategy": dataclasses.asdict(make_strategy("full", "ants", {"epochs": 1})),
        "trained_on": {"dataset": "golden", "split": "train", "n": 2, "identity": "0123456789abcdef" * 4},
        "epochs": [Epoch(1, 0.001, 0.5, 0.75, 0.25, 1.0, 2.0).without_time()],
        "kept_epoch": 1,
    }
    save_checkpoint(path, Operated(network, SPEC, ("fc",), found, ()), facts, DIGESTS[:2])


if __name__ == "__main__":
    make_store(HERE / "store-v1.h5")
    make_checkpoint(HERE / "checkpoint-v1.ckpt")
    make_head(HERE / "head-v1.head", HERE / "store-v1.h5")
