"""The parser of all verbs, in the order in which `--help` names them."""

import argparse

from verbs import (
    advise,
    audit,
    compare,
    completion,
    demo,
    depth,
    doctor,
    drop,
    eval,
    export,
    extract,
    finetune,
    fit,
    info,
    pack,
    predict,
    probe_preprocess,
    report,
    verify,
)
from verbs.arguments import Adder
from verbs.usage import Parser

VERBS = {
    "extract": extract,
    "fit": fit,
    "eval": eval,
    "predict": predict,
    "compare": compare,
    "audit": audit,
    "advise": advise,
    "report": report,
    "finetune": finetune,
    "depth": depth,
    "info": info,
    "probe-preprocess": probe_preprocess,
    "verify": verify,
    "export": export,
    "pack": pack,
    "drop": drop,
    "doctor": doctor,
    "demo": demo,
    "completion": completion,
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    from data import VERSION

    parser = Parser(
        prog="penult",
        description="Extract once, classify many: a frozen network's features in a store that can be trusted, and "
        "honest classifiers on them in seconds.",
        epilog="Start with `penult demo`, or: penult extract PICTURES -o features.h5, penult fit features.h5 --head lr "
        "-o lr.head, penult eval lr.head features.h5",
    )
    parser.add_argument("--version", action="version", version=f"penult {VERSION}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        own = verbs.add_parser(name, help=verb.TEXT, description=verb.TEXT[0].upper() + verb.TEXT[1:] + ".")
        own.set_defaults(run=verb.run, parser=parser)
        add = Adder(own)
        add("--json", metavar="FILE", help="write the results there as one JSON object (- is standard output)")
        add("--debug", action="store_true", help="show the traceback of a failure")
        verb.add_arguments(add)
    return parser
