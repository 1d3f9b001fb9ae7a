"""Verb `drop`: features that are not needed any more."""

import argparse
from typing import TYPE_CHECKING, Any

from verbs.arguments import Adder, Result, wrong_usage

if TYPE_CHECKING:
    from rich.console import Console

TEXT = "take features out of a store that are not needed any more; its image sets stay"


def add_arguments(add: Adder) -> None:
    """Name the arguments of `drop`."""
    # fmt: off
    add("store", metavar="STORE")
    add("features", nargs="*", metavar="NAME", help="network, layer, NETWORK/LAYER or fingerprint: all that it fits")
    add("--activations", action="store_true", help="what finetune and depth kept of frozen stages")
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `drop`."""
    from data.errors import StoreError
    from data.publish import drop
    from data.store import FeatureStore
    from data.terminal import size

    if not arguments.features and not arguments.activations:
        wrong_usage("drop", "name the features that go, or --activations: `penult info STORE` shows what there is")
    store = FeatureStore(arguments.store)
    held = store.features()
    gone = {fp for fp, info in held.items() if arguments.activations and info.kept}
    for name in arguments.features:
        found = store.named(name)
        if not found:
            titles = ", ".join(sorted(info.spec.title for info in held.values())) or "none at all"
            raise StoreError(f"{store.path} holds no features {name!r}, only {titles}: name one of these")
        gone.update(found)
    freed = drop(store.path, gone) if gone else 0
    dropped: list[dict[str, Any]] = [
        {"fingerprint": fp, "title": info.spec.title, "rows": info.rows, "bytes": info.nbytes}
        for fp, info in held.items()
        if fp in gone
    ]
    for item in dropped:
        console.print(f"dropped {item['title']} of {item['rows']:,} pictures, {size(item['bytes'])}")
    console.print(f"{store.path} takes {size(freed)} less" if gone else f"{store.path} keeps no activations")
    return {"store": str(store.path), "dropped": dropped, "freed_bytes": freed}, 0
