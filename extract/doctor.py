"""One look at the machine, the installation and perhaps a job: what there is, how fast it is, and what is wrong.

What was not measured is None or absent, and a part that fails leaves its reason under `failed`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from data.errors import PenultError, first_line
from data.images import ImageSet
from extract import machine
from extract.apart import run_apart
from extract.at_hand import caches
from extract.estimate import Job, draw, measure_job
from extract.findings import Problem, problems_of, problems_of_job
from extract.glance import glance
from extract.networks import Setup
from extract.speed import look_at_torch, measure_decoding
from extract.wanted import Wanted

# Seconds for each engine once it is warm, and of running pictures of a job.
_ENGINE_SECONDS, _JOB_SECONDS = 1.0, 6.0


@dataclasses.dataclass
class Examination:
    """Everything that was found.

    Parameters
    ----------
    facts : dict of str to object
        By section, as `doctor --json` prints them.
    failed : dict of str to str
        Why sections have nothing, or not all.
    problems : list of Problem
    job : Job or None
        Where pictures were named.
    """

    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    problems: list[Problem] = dataclasses.field(default_factory=list)
    job: Job | None = None

    def section(self, name: str, look: Callable[[], Any]) -> None:
        """Look at one thing; what goes wrong is noted."""
        try:
            self.facts[name] = look()
        except PenultError as error:
            self.failed[name] = str(error)
        except Exception as error:  # a broken installation raises anything, and the other sections matter then
            self.failed[name] = f"{type(error).__name__}: {first_line(error, 300)}"

    def as_json(self) -> dict[str, Any]:
        """Return all of it, as `doctor --json` prints it."""
        job = self.job
        return {
            **self.facts,
            "problems": [vars(problem) for problem in self.problems],
            "failed": self.failed,
            "job": job and job.as_json(),
        }


def examine(patience: float, told: Callable[[str], None] = lambda _: None) -> Examination:
    """Look at machine and installation.

    Parameters
    ----------
    patience : float
        Seconds for what needs torch, at most.
    told : callable
        Told what begins.
    """
    found = Examination()
    told("looking at the installation")
    found.section("versions", machine.versions)
    found.section("extras", lambda: [extra.as_json() for extra in machine.extras()])
    found.section("machine", machine.computer)
    found.section("blas", machine.blas)
    found.section("strangers", machine.strangers)
    found.section("caches", lambda: [vars(cache) for cache in caches()])
    found.section("disk_free", lambda: machine.free_bytes(Path.cwd()))
    told("decoding a picture")
    found.section("decoding", measure_decoding)
    told("running the default network")
    answer = run_apart(look_at_torch, _ENGINE_SECONDS, seconds=patience)
    known = dict(answer.found)
    for name in ("torch", "devices", "offline", "weights"):
        found.facts[name] = known.pop(name, None)
    found.facts["engines"] = list(known.values())
    if answer.reason:
        found.failed["engines"] = answer.reason
    found.problems += problems_of(found.facts)
    return found


def examine_job(
    found: Examination,
    source: str,
    images: ImageSet,
    wanted: Sequence[Wanted],
    setup: Setup,
    patience: float,
    told: Callable[[str], None] = lambda _: None,
) -> None:
    """Add to an examination what an extraction of pictures would take.

    Parameters
    ----------
    found : Examination
        Changed in place.
    source : str
        How the user named the pictures.
    images : ImageSet
        The pictures.
    wanted : sequence of Wanted
        The networks, and the vectors of each.
    setup : Setup
        How they would be run.
    patience : float
        Seconds for running a sample, at most.
    told : callable
        Told what begins.
    """
    told("parsing headers")
    headers = glance(images)
    told("running a sample")
    with TemporaryDirectory(prefix="penult-doctor-") as spare:
        sample = (draw(images), len(images), list(wanted), setup, _JOB_SECONDS, spare)
        answer = run_apart(measure_job, *sample, seconds=patience)
    if answer.reason:
        found.failed["job"] = answer.reason
    splits = images.splits.tolist()
    found.job = Job(
        source=source,
        pictures=len(images),
        classes=len(images.classes),
        splits={name: splits.count(name) for name in sorted(set(splits))},
        glance=headers,
        estimate=answer.found.get("estimate"),
        free=found.facts.get("disk_free"),
    )
    found.problems += problems_of_job(found.job, found.facts.get("machine") or {})
