"""Which of a user's classes a pretrained network knows: by name or synonym, and nothing by guessing."""

import pytest

from extract.class_names import describe_matches, match_classes

NAMES = [
    ("ant", "emmet", "pismire", "n02219486"),
    ("bee", "n02206856"),
    ("hotdog", "hot dog", "red hot", "n07697537"),
    ("crane", "n02012849"),
    ("crane", "n03126707"),
    ("jack-o'-lantern", "n03590841"),
    ("Chihuahua", "n02085620"),
    ("timber wolf", "wolf", "n02114367"),
    ("tabby", "tabby cat", "n02123045"),
    ("lampshade", "lamp shade", "n03637318"),
    ("sunglasses", "shades", "n04356056"),
    ("bra", "n02892767"),
]


@pytest.mark.parametrize(
    ("name", "rows", "by"),
    [
        ("ant", (0,), "name"),
        ("Ants", (0,), "plural"),
        ("bees", (1,), "plural"),
        ("EMMET", (0,), "name"),
        ("hot_dog", (2,), "name"),
        ("Hot-Dog", (2,), "name"),
        ("hotdogs", (2,), "plural"),
        ("crane", (3, 4), "name"),
        ("jack_o_lantern", (5,), "name"),
        ("n02085620-Chihuahua", (6,), "wordnet"),
        ("n02085620", (6,), "wordnet"),
        ("wolves", (7,), "plural"),
        ("tabbies", (8,), "plural"),
        ("shades", (10,), "name"),  # and not the lamp's
        ("Chihuahúa", (6,), "name"),
    ],
)
def test_a_name_or_a_synonym_in_any_spelling(name, rows, by):
    (match,) = match_classes([name], NAMES)
    assert (match.name, match.rows, match.by) == (name, rows, by)


@pytest.mark.parametrize(
    "name", ["not_hot_dog", "antler", "an", "dog", "lamp", "shade", "brass", "0", "9", "2219486", "n99999999", "", "--"]
)
def test_what_is_only_similar_is_no_match(name):
    assert match_classes([name], NAMES)[0].rows == ()


def test_a_plural_is_understood_only_where_nothing_bears_the_name():
    assert match_classes(["shades"], [("shade",), ("shades",)])[0].rows == (1,)


def test_the_report_shows_every_synonym_and_what_has_none():
    classes = ["hot_dog", "crane", *map(str, range(10))]
    assert describe_matches(match_classes(classes, NAMES), NAMES) == [
        "hot_dog: output 2 (hotdog, hot dog, red hot)",
        "crane: outputs 3 (crane) and 4 (crane); several bear the name",
        "no output bears the name of 10 of the 12 classes: 0, 1, 2, 3, 4, 5, 6, 7, ...",
    ]
