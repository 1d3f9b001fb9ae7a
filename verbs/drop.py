"""Verb `drop`: features and image sets that are not needed any more."""

import argparse
from typing import TYPE_CHECKING, Any

from verbs.arguments import Adder, Result, wrong_usage

if TYPE_CHECKING:
    from rich.console import Console

    from data.store import FeatureInfo, FeatureStore

TEXT = "take features, or an image set, out of a store that are not needed any more"


def add_arguments(add: Adder) -> None:
    """Name the arguments of `drop`."""
    # fmt: off
    add("store", metavar="STORE")
    add("features", nargs="*", metavar="NAME", help="network, layer, NETWORK/LAYER or fingerprint: all that it fits")
    add("--activations", action="store_true", help="what finetune, depth, eval and contests kept to go on from there")
    add("--dataset", metavar="NAME", help="an image set instead, and the vectors that no other image set has pictures "
        "of")
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `drop`."""
    from data.store import FeatureStore

    features = arguments.features or arguments.activations
    if arguments.dataset and features:
        wrong_usage("drop", "--dataset drops a whole image set: name features in a command of their own")
    if not arguments.dataset and not features:
        wrong_usage(
            "drop",
            "name the features that go, --activations or a --dataset: `penult info STORE` shows what there is",
        )
    store = FeatureStore(arguments.store)
    if arguments.dataset:
        return _drop_set(store, arguments.dataset, console), 0
    return _drop_features(store, arguments.features, arguments.activations, console), 0


def _drop_features(store: "FeatureStore", names: list[str], activations: bool, console: "Console") -> dict[str, Any]:
    from data.drop import drop
    from data.errors import StoreError
    from data.spec import told_apart
    from data.terminal import size

    held = store.features()
    gone = {fp for fp, info in held.items() if activations and info.kept}
    for name in names:
        found = store.named(name)
        if not found:
            titles = ", ".join(sorted(told_apart(info.spec for info in held.values()).values())) or "none at all"
            raise StoreError(f"{store.path} holds no features {name!r}, only {titles}: name one of these")
        gone.update(found)
    freed = drop(store.path, gone) if gone else 0
    dropped = _dropped(held, {fp: info.rows for fp, info in held.items() if fp in gone}, console)
    console.print(f"{store.path} takes {size(freed)} less" if gone else f"{store.path} keeps no activations")
    return {"store": str(store.path), "dropped": dropped, "datasets": [], "freed_bytes": freed}


def _drop_set(store: "FeatureStore", name: str, console: "Console") -> dict[str, Any]:
    from data.drop import drop_set
    from data.terminal import printable, size
    from data.words import counted

    held, view = store.features(), store.view(name)
    freed, rows = drop_set(store.path, name)
    n = len(view.paths)
    console.print(f"dropped the image set {printable(name)}, {counted(n, 'picture')} of {printable(view.root)}")
    dropped = _dropped(held, rows, console)
    left = store.views()
    if left:
        stay = "the vectors that it shares with others stay" if dropped else "all vectors stay, since others share them"
        sets = f"left: {', '.join(map(printable, sorted(left)))}; {stay}"
    else:
        sets = f"no image set is left: run `extract IMAGES -o {store.path}`, or remove the store"
    console.print(f"{store.path} takes {size(freed)} less; {sets}")
    datasets = [{"name": name, "root": view.root, "images": n}]
    return {"store": str(store.path), "dropped": dropped, "datasets": datasets, "freed_bytes": freed}


def _dropped(held: "dict[str, FeatureInfo]", rows: dict[str, int], console: "Console") -> list[dict[str, Any]]:
    """Say which vectors went, and return it as JSON has it."""
    from data.spec import told_apart
    from data.terminal import size
    from data.words import counted

    titles = told_apart(info.spec for info in held.values())
    dropped: list[dict[str, Any]] = [
        {
            "fingerprint": fp,
            "title": held[fp].spec.title,
            "rows": n,
            "bytes": n * held[fp].nbytes // max(held[fp].rows, 1),
        }
        for fp, n in rows.items()
    ]
    for item in dropped:
        title = titles[item["fingerprint"]]
        console.print(f"dropped {title} of {counted(item['rows'], 'picture')}, {size(item['bytes'])}")
    return dropped
