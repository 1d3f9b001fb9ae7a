"""What a feature vector *is*: the frozen spec, its canonical JSON and its fingerprint."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from data.errors import FingerprintMismatch, SpecError

# Fields that came after format version 1 go here with the value that means "as before": they are left out of
# the canonical JSON while they hold it, so that old fingerprints stay valid (docs/format.md, "Spec").
_LATER_DEFAULTS: dict[str, object] = {"projection": "", "normalize": ""}


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """Everything that decides the value of a feature vector, and nothing else.

    The engine, the device and the versions that computed a vector are provenance: they agree within a stated
    tolerance. The storage dtype is a property of the store.

    Parameters
    ----------
    backbone : str
        Library and architecture, such as ``torchvision/resnet18`` or ``timm/tf_efficientnet_lite0``.
    weights : str
        ``sha256:`` and the hex digest of the tensors that reach the layer (`extract.weights.weights_digest`).
    layer : str
        ``penultimate``: the input of the last layer that has one output a class; or a node's own name.
    pooling : str
        ``network``: whatever the network itself does between its last feature map and that layer; ``none`` where the
        layer gives one vector already; ``avg``, ``max``, ``gem``, ``cls`` or ``flatten``.
    resize : int
        Length that `fit` refers to, in pixels.
    fit : str
        ``shorter``: the shorter side becomes `resize`; ``squash``: both sides do; ``pad``: the longer side does, and
        what the crop then lacks is filled with `mean`.
    crop : tuple of int
        Height and width in pixels of the centre crop that the network sees.
    interpolation : str
        ``bilinear``, ``bicubic``, ``lanczos`` or ``nearest``, each with Pillow's antialiasing.
    mean, std : tuple of float
        Subtracted from and dividing the channels after scaling to [0, 1].
    color : str
        ``rgb``; ``gray``: luma in three equal channels; ``luma``: in one channel; ``rgba``: alpha as a fourth.
    alpha, exif : str
        Transparent pixels are laid over ``white``; ``apply``: the EXIF orientation is applied.
    view : str
        ``center``; ``flip``: its mirror image; ``top-left`` and the other corners; ``random:SEED:K``: the K-th random
        resized crop; ``mean(A,B)``: the mean of the features of views A and B.
    decoder : str
        ``pillow``: full size, by the policy in `extract.preprocess`; ``draft``: JPEG at reduced size.
    projection : str
        Empty, ``random:DIM:SEED``, or ``pca:DIM:`` and the digest of mean and components.
    normalize : str
        Empty, or ``l2``: vectors, once averaged and projected, have length 1.

    Examples
    --------
    >>> spec = FeatureSpec("torchvision/resnet18", "sha256:00", resize=256, crop=(224, 224))
    >>> FeatureSpec.from_json(spec.canonical_json()) == spec
    True
    >>> len(spec.fingerprint)
    64
    """

    backbone: str
    weights: str
    layer: str = "penultimate"
    pooling: str = "network"
    resize: int = 256
    fit: str = "shorter"
    crop: tuple[int, int] = (224, 224)
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    color: str = "rgb"
    alpha: str = "white"
    exif: str = "apply"
    view: str = "center"
    decoder: str = "pillow"
    projection: str = ""
    normalize: str = ""

    def canonical_json(self) -> str:
        """Return the JSON that is hashed: sorted keys, no spaces, later fields only where they are set."""
        fields = dataclasses.asdict(self)
        kept = {k: v for k, v in fields.items() if k not in _LATER_DEFAULTS or v != _LATER_DEFAULTS[k]}
        return json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON, 64 hex digits."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> "FeatureSpec":
        """Read a spec back from its canonical JSON.

        Raises
        ------
        SpecError
            If the text is no JSON object or has a field that this version of Penult does not know.
        """
        try:
            fields = json.loads(text)
            known = {f.name for f in dataclasses.fields(cls)}
            unknown = sorted(set(fields) - known)
            if unknown:
                raise SpecError(
                    f"a feature spec has the unknown fields {', '.join(unknown)}: "
                    "it was written by a newer Penult, update this one"
                )
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
            return cls(**values)
        except (json.JSONDecodeError, TypeError, AttributeError) as error:
            raise SpecError(f"not a feature spec ({error}): {text[:80]!r}") from None

    @property
    def is_activations(self) -> bool:
        """Whether these are a layer's whole outputs, kept to train what follows it rather than to fit heads on."""
        return self.pooling == "flatten" and self.layer != "penultimate"

    @property
    def title(self) -> str:
        """Short name for tables and messages, such as ``torchvision/resnet18/penultimate``."""
        changes = {
            "pooling": self.pooling if self.pooling not in ("network", "none", "avg") else "",
            "color": self.color if self.color != "rgb" else "",
            "view": self.view if self.view != "center" else "",
            "projection": ":".join(self.projection.split(":")[:2]),
            "normalize": self.normalize,
        }
        return "/".join([self.backbone, self.layer, *filter(None, changes.values())])


@dataclasses.dataclass(frozen=True)
class Source:
    """A feature, and what is needed to compute it of new pictures.

    Parameters
    ----------
    spec : FeatureSpec
        What the vectors are.
    request : dict
        The command that they came from (`extract.backbones.request`); empty where it is not known.
    weights_file : str
        Where the weights lay if they were a file; a hint, which the digest in the spec checks.
    """

    spec: FeatureSpec
    request: dict[str, Any]
    weights_file: str = ""

    @property
    def weights(self) -> str:
        """What `extract.backbones.open_backbone` calls the weights; empty if they were a file that has no known place.

        Raises
        ------
        KeyError
            If the command is not known.
        """
        asked = self.request["weights"]
        return self.weights_file if "sha256" in asked else "random" if "random" in asked else str(asked["named"])


def only(specs: Sequence[FeatureSpec], what: str) -> FeatureSpec:
    """Return the one spec of `what`.

    Raises
    ------
    SpecError
        If there are several.
    """
    if len(specs) != 1:
        names = ", ".join(spec.title for spec in specs)
        raise SpecError(f"{what} has {len(specs)} features side by side ({names}): ask for `specs`, or name one")
    return specs[0]


def told_apart(specs: Iterable[FeatureSpec], *, fingerprints: bool = False) -> dict[str, str]:
    """Return what messages call several specs, by fingerprint.

    Parameters
    ----------
    specs : iterable of FeatureSpec
        Called by their titles; where these agree also by the size of the pictures, and then by the fingerprint.
    fingerprints : bool
        Name the beginning of every fingerprint, for the user to type.

    Examples
    --------
    >>> a, b = (FeatureSpec("torchvision/resnet18", "", crop=(side, side)) for side in (128, 224))
    >>> list(told_apart([a, b]).values())
    ['torchvision/resnet18/penultimate at 128x128', 'torchvision/resnet18/penultimate at 224x224']
    """
    known = {spec.fingerprint: spec for spec in specs}
    crops: dict[str, set[tuple[int, int]]] = {}
    for spec in known.values():
        crops.setdefault(spec.title, set()).add(spec.crop)
    sized = {fp: " at {}x{}".format(*s.crop) if len(crops[s.title]) > 1 else "" for fp, s in known.items()}
    names = {fp: spec.title + sized[fp] for fp, spec in known.items()}
    taken = list(names.values())
    return {fp: f"{n} ({fp[:12]})" if fingerprints or taken.count(n) > 1 else n for fp, n in names.items()}


def differences(have: FeatureSpec, want: FeatureSpec) -> list[str]:
    """Name every field in which two specs differ, as ``field: have, not want``."""
    pairs = ((f.name, getattr(have, f.name), getattr(want, f.name)) for f in dataclasses.fields(FeatureSpec))
    return [f"{name}: {_short(a)}, not {_short(b)}" for name, a, b in pairs if a != b]


def refuse_other(available: Iterable[FeatureSpec], want: FeatureSpec, where: str, wants: str) -> None:
    """Raise unless `want` is one of `available`, with the nearest spec's differences named field by field.

    Parameters
    ----------
    available : iterable of FeatureSpec
        The specs that `where` holds.
    want : FeatureSpec
        The spec that is needed.
    where, wants : str
        How the message names the store and the one who asks, such as ``features.h5`` and ``head lr.head``.

    Raises
    ------
    FingerprintMismatch
        If no spec of `available` has the fingerprint of `want`.
    """
    specs = list(available)
    if any(spec.fingerprint == want.fingerprint for spec in specs):
        return
    if not specs:
        raise FingerprintMismatch(f"{where} holds no features: extract them with --backbone {want.backbone}")
    nearest = min(specs, key=lambda spec: len(differences(spec, want)))
    raise FingerprintMismatch(
        f"{where} holds {nearest.title}, {wants} wants {want.title}; they differ in "
        f"{'; '.join(differences(nearest, want))}: extract the pictures with --backbone {want.backbone} and the "
        "same options, or name another head or store"
    )


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{part:.4g}" if isinstance(part, float) else str(part) for part in value)
    text = str(value)
    return text[:19] + "..." if text.startswith("sha256:") else text or "none"
