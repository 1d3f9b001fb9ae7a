"""What a file of ours is, by its first bytes, for those who named one in the place of another."""

import json
from pathlib import Path

from data.bundle import is_bundle

_HDF5 = b"\x89HDF\r\n\x1a\n"
# What is wanted, what was named instead, and the next step.
_STEPS = {
    ("a head", "a feature store"): "name a head (`fit {0} --head lr -o lr.head` makes one), in the order that --help "
    "has",
    ("a head", "an exported model"): "`predict` alone takes it: name the head that it was made of",
    ("a feature store", "a head"): "name the store that it was fitted on, in the order that --help has",
    ("a feature store", "a fine-tuned network"): "name one (`extract IMAGES -o features.h5 --weights {0}` makes it)",
    ("a feature store", "an exported model"): "`predict` alone takes it: name a store, which `extract` makes",
    ("pictures", "a head"): "name a folder of pictures (`predict {0} IMAGES` classifies them)",
    ("pictures", "a fine-tuned network"): "name a folder of pictures (`predict {0} IMAGES` classifies them)",
    ("pictures", "an exported model"): "name a folder of pictures (`predict {0} IMAGES` classifies them)",
    ("pictures", "a feature store"): "name the folder that it was made of",
    ("pictures", "a bundle"): "name the folder that it was made of",
}


def kind_of(path: Path) -> str:
    """Return what a file or folder of ours is, such as ``a head``; nothing where it is none of them.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    if path.is_dir():
        return "a bundle" if is_bundle(path) else ""
    if path.suffix.lower() == ".onnx":
        return "an exported model"
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        start = file.read(8)
        if start == _HDF5:
            return "a feature store"
        # safetensors: the length of a JSON header in 8 bytes, then the header
        length = int.from_bytes(start, "little")
        header = file.read(length) if length < 1 << 26 else b""
    try:
        metadata = json.loads(header).get("__metadata__", {})
    except (ValueError, AttributeError):
        return ""
    return "a head" if "penult_head" in metadata else "a fine-tuned network" if "penult_checkpoint" in metadata else ""


def mistaken(path: Path, wanted: str) -> str:
    """Return what to say of a file of ours that was named where ``a head``, ``a feature store`` or ``pictures`` belong.

    Nothing is said of other files.
    """
    kind = kind_of(path)
    step = _STEPS.get((wanted, kind), "")
    return f"{path} is {kind}, not {wanted}: {step.format(path)}" if step else ""
