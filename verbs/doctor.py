"""Verb `doctor`: the machine, the installation, and what a job would take."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from verbs.arguments import ENGINES, FITS, Adder, Result, add_device, positive

if TYPE_CHECKING:
    from rich.console import Console

TEXT = "look at this machine and set-up, at its speed, and at what an extraction would take; fetches nothing"


def add_arguments(add: Adder) -> None:
    """Name the arguments of `doctor`."""
    # fmt: off
    add("images", metavar="IMAGES", nargs="?", help="pictures as for extract: say what time, disk and memory they "
        "would take")
    add("--seconds", type=positive, default=30, metavar="N", help="for what needs PyTorch, and again for the sample "
        "of IMAGES, at most (default: %(default)s)")
    add = add.group("the extraction of IMAGES")
    add("--backbone", action="extend", nargs="+", metavar="NAME", help="as for extract (default: efficientnet_lite0)")
    add("--weights", default="default", metavar="FILE|default|random", help="as for extract")
    add("--layer", "--layers", action="extend", nargs="+", metavar="NODE", help="as for extract")
    add("--input-size", type=positive, metavar="PX", help="as for extract")
    add("--fit", choices=FITS, help="as for extract")
    add("--engine", default="auto", choices=ENGINES, help="what runs the network (default: %(default)s)")
    add_device(add)
    # fmt: on


def run(arguments: argparse.Namespace, console: "Console") -> Result:
    """Run `doctor`."""
    import time

    from extract.backbones import DEFAULT_BACKBONE
    from extract.checkpoints import read_checkpoint
    from extract.datasets import open_source
    from extract.doctor import examine, examine_job
    from extract.doctor_report import print_examination
    from extract.networks import Setup
    from extract.options import FITS as FITS_OF_SPECS
    from extract.options import Options
    from extract.wanted import Wanted

    began = time.perf_counter()
    images = open_source(arguments.images) if arguments.images else None
    fit = FITS_OF_SPECS[arguments.fit] if arguments.fit else None
    options = Options(input_size=arguments.input_size, fit=fit)
    checkpoint = read_checkpoint(Path(arguments.weights)) if Path(arguments.weights).is_file() else None
    own = [checkpoint.spec.backbone] if checkpoint else [DEFAULT_BACKBONE]
    layers = tuple(arguments.layer or ["penultimate"])
    wanted = [
        Wanted(name, arguments.weights, checkpoint.options(options) if checkpoint else options, layers=layers)
        for name in dict.fromkeys(arguments.backbone or own)
    ]
    with console.status("") as status:
        found = examine(arguments.seconds, status.update)
        if images is not None:
            setup = Setup(arguments.engine, arguments.device)
            examine_job(found, arguments.images, images, wanted, setup, arguments.seconds, status.update)
    print_examination(console, found)
    return {**found.as_json(), "seconds": round(time.perf_counter() - began, 1)}, 0
