"""Under which licence weights come, where that is known."""

from typing import Any

from data.spec import Source
from extract.backbones import DEFAULT_BACKBONE
from extract.zoo import resolve_name, torchvision_weights


def licence_of(source: Source) -> str:
    """Return the licence of the weights of a feature; empty where nobody says.

    The packaged weights are Apache-2.0 (as their package says), timm names a licence for most of its weights, and
    torchvision for few. Of weights from a file nothing is known.
    """
    asked: Any = source.request.get("weights", {})
    if "random" in asked:
        return "none, since the weights are random"
    named = asked.get("named")
    if named is None:
        return ""
    if named == "default" and source.request["backbone"] == DEFAULT_BACKBONE:
        return "Apache-2.0"
    library, arch = resolve_name(source.request["backbone"])
    if library == "torchvision":
        return str(torchvision_weights(arch, named).meta.get("license", ""))
    import timm.models

    return str(getattr(timm.models.get_pretrained_cfg(arch), "license", None) or "")
