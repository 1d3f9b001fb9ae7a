"""What stage one knows of the network behind features, carried to stage two, which has no torch."""

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from classify.probing import Original
    from data.spec import Source


def original_of(source: "Source", classes: Sequence[str]) -> "Original":
    """Return the last layer that a network was pretrained with, as far as it knows the classes.

    Parameters
    ----------
    source : Source
        Of penultimate features.
    classes : sequence of str
        Of the image set.
    """
    from classify.probing import Original
    from data.errors import BackboneError, MissingDependency
    from extract.class_names import describe_matches, match_classes
    from extract.cost import count_macs
    from extract.original import original_layer_of

    macs = None
    with contextlib.suppress(BackboneError, MissingDependency):
        macs = float(count_macs(source.spec.backbone, source.spec.crop))
    layer, reason = original_layer_of(source, "advise")
    if layer is None:
        return Original(reason=reason, macs=macs)
    matches = match_classes(classes, layer.names)
    lines = [*([layer.note] if layer.note else []), *(describe_matches(matches, layer.names) if layer.names else [])]
    return Original(
        weight=layer.weight,
        bias=layer.bias,
        names=tuple(synonyms[0] for synonyms in layer.names),
        rows=tuple(match.rows for match in matches),
        lines=tuple(lines),
        reason="",
        macs=macs,
    )
