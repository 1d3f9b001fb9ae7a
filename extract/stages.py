"""The last layer of each stage of a network: what ``all-stages`` stands for.

timm's networks say where their stages end (``feature_info``). Of others it is the last layer of each resolution
along the trunk: the outermost modules, and inside those that span several resolutions (``features``) their parts. Of
networks on tokens, whose resolution does not change, it is every block.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from extract.pooling import layout_of
from extract.tracing import Survey

# Layers that change no value, and the pooling behind the last stage.
_NOT_A_STAGE = ("Dropout", "Identity", "Permute", "Flatten", "AdaptiveAvgPool2d")
# A module whose side shrinks to less than this of its input's holds several stages, unless one unpadded convolution of
# 3 x 3 with stride 2 would do as much to a map that is small already.
_SEVERAL = 0.4
# A side below this of the stage's first one begins another stage: unpadded convolutions take off less.
_ANOTHER = 0.75


def stages_of(found: Survey, crop: tuple[int, int], head: Sequence[str]) -> list[str]:
    """Return the names of the last layers of all stages, first stage first.

    Parameters
    ----------
    found : Survey
        The network's layers.
    crop : tuple of int
        Height and width of the pictures.
    head : sequence of str
        Names of the layers that were taken off: what stands beside them belongs to the classifier.
    """
    info: Any = getattr(found.network, "feature_info", None) or []
    named = list(dict.fromkeys(entry["module"] for entry in getattr(info, "info", info)))
    if named and all(_has_shape(found, name, crop) for name in named):
        return named
    stages = _by_resolution(found, crop, head)
    return stages if len(stages) > 1 else _by_blocks(found, crop) or stages


def _by_resolution(found: Survey, crop: tuple[int, int], head: Sequence[str]) -> list[str]:
    classifiers = tuple(f"{name.rpartition('.')[0]}." for name in head if "." in name)
    stages: list[str] = []
    first = 0
    for name, side in _trunk(found, crop, "", min(crop)):
        if name.startswith(classifiers) if classifiers else False:
            continue
        if type(found.modules.get(name)).__name__ in _NOT_A_STAGE or name.startswith("adaptive_avg_pool2d"):
            continue
        if stages and side > _ANOTHER * first:
            stages[-1] = name
        else:
            stages.append(name)
            first = side
    return stages


def _trunk(found: Survey, crop: tuple[int, int], parent: str, side: int) -> Iterator[tuple[str, int]]:
    """Yield the layers of the trunk inside a module, with the shorter side of their maps."""
    began = bool(parent)
    for name in _inside(found, parent):
        began = began or name in found.modules
        new = _side(found, name, crop)
        if not began or new is None:  # functions before the first module prepare the pixels
            continue
        several = new < min(_SEVERAL * side, (side - 3) // 2 + 1)
        parts = list(_trunk(found, crop, name, side)) if several else []
        yield from parts or [(name, new)]
        side = new


def _inside(found: Survey, parent: str) -> list[str]:
    """Return the layers right inside a module: modules that are in no other one, and at the top the functions."""
    start = f"{parent}." if parent else ""
    within = [name for name in found.shapes if name.startswith(start) and name != "penultimate"]
    calls = [name for name in within if name in found.modules]
    outer = tuple(f"{name}." for name in calls)
    functions = [name for name in within if "." not in name and not any(n.startswith(f"{name}.") for n in within)]
    return [name for name in within if name in {*calls, *functions} and not name.startswith(outer)]


def _by_blocks(found: Survey, crop: tuple[int, int]) -> list[str]:
    """Return the outputs of the longest row of equal siblings that give tokens."""
    tokens = {
        name: (name.rpartition(".")[0], type(module).__name__)
        for name, module in found.modules.items()
        if _has_shape(found, name, crop) and len(found.shapes[name] or ()) == 3
    }
    if not tokens:
        return []
    (longest, count), *_ = Counter(tokens.values()).most_common(1)
    return [name for name, kind in tokens.items() if kind == longest] if count > 1 else []


def _has_shape(found: Survey, name: str, crop: tuple[int, int]) -> bool:
    shape = found.shapes.get(name)
    return shape is not None and layout_of(found.network, shape, crop) is not None


def _side(found: Survey, name: str, crop: tuple[int, int]) -> int | None:
    shape = found.shapes[name]
    layout = layout_of(found.network, shape, crop) if shape is not None else None
    if shape is None or layout is None or layout.kind != "map":
        return None
    return min(shape[i] for i in layout.positions)
