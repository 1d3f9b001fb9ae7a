import dataclasses
import hashlib
import json

import pytest

from data.errors import FingerprintMismatch, SpecError
from data.spec import FeatureSpec, differences, refuse_other
from extract.options import Options

SPEC = FeatureSpec("torchvision/resnet18", "sha256:" + "ab" * 32)


def test_the_fingerprint_is_the_hash_of_the_canonical_json():
    text = SPEC.canonical_json()
    assert SPEC.fingerprint == hashlib.sha256(text.encode()).hexdigest()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert FeatureSpec.from_json(text) == SPEC


def test_the_fingerprint_of_a_spec_never_changes():
    # Pinned: a store made by any earlier version must still be recognised.
    assert SPEC.fingerprint == "2bfee10a882e3f9e00739bcc8bf89d98350d35a5a9a9784ec599169e65b1f9c9"


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(FeatureSpec)])
def test_every_field_is_part_of_the_identity(field):
    old = getattr(SPEC, field)
    new = {str: "other", int: 999, tuple: (1,) * len(old) if isinstance(old, tuple) else ()}[type(old)]
    changed = dataclasses.replace(SPEC, **{field: new})
    assert changed.fingerprint != SPEC.fingerprint
    assert [d.split(": ")[0] for d in differences(changed, SPEC)] == [field]


def test_other_features_are_refused_field_by_field():
    want = dataclasses.replace(SPEC, resize=232, interpolation="bicubic")
    with pytest.raises(FingerprintMismatch) as caught:
        refuse_other([SPEC], want, "f.h5", "head lr.head")
    message = str(caught.value)
    assert message.startswith("f.h5 holds torchvision/resnet18/penultimate, head lr.head wants")
    assert "resize: 256, not 232" in message
    assert "interpolation: bilinear, not bicubic" in message
    assert "--backbone torchvision/resnet18" in message
    refuse_other([SPEC, want], want, "f.h5", "head lr.head")


def test_a_spec_of_the_future_is_refused_by_name():
    text = json.dumps({**json.loads(SPEC.canonical_json()), "hologram": 1})
    with pytest.raises(SpecError, match="unknown fields hologram"):
        FeatureSpec.from_json(text)
    with pytest.raises(SpecError, match="not a feature spec"):
        FeatureSpec.from_json("[1]")


def test_options_change_only_what_they_name():
    assert Options().apply(SPEC) == SPEC
    assert Options(interpolation="nearest").apply(SPEC) == dataclasses.replace(SPEC, interpolation="nearest")
    changed = Options(input_size=288, mean=(0.5,), std=(0.5, 0.4, 0.3)).apply(SPEC)
    assert (changed.crop, changed.resize) == ((288, 288), 329)  # 256 / 224 * 288
    assert (changed.mean, changed.std) == ((0.5,) * 3, (0.5, 0.4, 0.3))
    assert Options(fit="shorter").apply(SPEC) == SPEC
    for fit in ("squash", "pad"):  # the whole picture is seen, unless another side is named
        assert Options(fit=fit).apply(SPEC) == dataclasses.replace(SPEC, fit=fit, resize=224)
        assert Options(fit=fit, input_size=160).apply(SPEC).resize == 160
    assert Options(fit="squash", resize=256).apply(SPEC) == dataclasses.replace(SPEC, fit="squash")
    squashed = dataclasses.replace(SPEC, fit="squash")
    assert Options(fit="squash").apply(squashed) == squashed  # a network's own way keeps its own side
    assert Options(fit="pad", resize=200).apply(SPEC).resize == 200


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(resize=100), "resized to 100 and cropped to 224"),
        (Options(resize=100, fit="squash"), "resized to 100 and cropped to 224"),
        (Options(fit="stretch"), "no way to fit pictures 'stretch': use --fit crop, squash, pad"),
        (Options(mean=(0.5, 0.5)), "--mean takes one or three numbers"),
        (Options(std=(0.0,)), "--std takes one or three numbers, above 0"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(SpecError, match=words):
        options.apply(SPEC)
