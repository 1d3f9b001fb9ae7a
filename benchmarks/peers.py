"""Other packages that turn pictures into features, as contestants of `bench_extract.py` where they are installed.

Their networks get random weights (for time they are as good), since their own need a download. They compute other
features than Penult (another resize, no `eval()`), so that only their time is compared.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
from PIL import Image

Contestant = Callable[[list[Path]], npt.NDArray[np.float32]]

_BATCH = 32


def find_peers(network: str) -> dict[str, Contestant]:
    """Return the installed packages that know a network (torchvision's name), each ready to run."""
    peers: dict[str, Contestant] = {}
    if importlib.util.find_spec("img2vec_pytorch") and network.startswith("resnet"):
        peers["img2vec"] = _img2vec(network)
    if importlib.util.find_spec("embetter"):
        peers["embetter"] = _embetter(network)
    return peers


def _img2vec(network: str) -> Contestant:
    import torchvision.models as models
    from img2vec_pytorch import Img2Vec

    state = models.get_model(network, weights=None).state_dict()
    with mock.patch("torchvision.models._api.WeightsEnum.get_state_dict", return_value=state):
        encoder: Any = Img2Vec(model=network, layer_output_size=Img2Vec.RESNET_OUTPUT_SIZES[network])

    def run(files: list[Path]) -> npt.NDArray[np.float32]:
        parts = []
        for at in range(0, len(files), _BATCH):
            parts.append(encoder.get_vec([Image.open(f).convert("RGB") for f in files[at : at + _BATCH]]))
        return np.concatenate(parts)

    return run


def _embetter(network: str) -> Contestant:
    import timm
    from embetter.vision import ImageLoader, TimmEncoder

    known = {"efficientnet_lite0": "tf_efficientnet_lite0", "mobilenet_v2": "mobilenetv2_100"}
    real = timm.create_model
    with mock.patch("timm.create_model", lambda name, pretrained, **kw: real(name, pretrained=False, **kw)):
        encoder: Any = TimmEncoder(known.get(network, network))
    loader: Any = ImageLoader()

    def run(files: list[Path]) -> npt.NDArray[np.float32]:
        vectors: npt.NDArray[np.float32] = encoder.transform(loader.fit([]).transform(files))
        return vectors

    return run
