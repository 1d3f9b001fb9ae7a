"""What tests of fine-tuning share: a tiny network, trained in a moment."""

from conftest import TINY

from data.images import open_images
from data.store import FeatureStore
from extract.options import Options
from finetune.strategies import make_strategy
from finetune.tuning import Tuner

SMALL = [*TINY, "--input-size", "32", "--seed", "1"]
FAST = [*SMALL, "--epochs", "2", "--batch-size", "8"]


def tuner(pictures, tmp_path, mode="full", name="net.ckpt", **changes):
    values = {"epochs": 2, "batch_size": 8, "lr": 0.05, "warmup": 0.0, "seed": 1, "precision": "float32", **changes}
    source = pictures if isinstance(pictures, FeatureStore) else open_images(pictures)
    strategy = make_strategy(mode, changes=values)
    return Tuner(source, tmp_path / name, strategy, TINY[1], "random", Options(input_size=32), device="cpu")
