"""What is wrong or slow about a machine, an installation or a job, each with what to do about it."""

import dataclasses
import os
import shlex
from typing import Any

from data.errors import pip_install
from data.terminal import size
from extract.estimate import Job

_LITTLE_DISK, _LITTLE_MEMORY = 2 << 30, 2 << 30
_MUCH_CACHE = 5 << 30
# Processes that want a core, for each core, from which on a machine is busy.
_BUSY = 1.5
_WHERE = "in Penult's checkout"
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

Facts = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that is wrong or slow, and what to do about it."""

    problem: str
    step: str


def problems_of(facts: Facts) -> list[Problem]:
    """Return what is wrong with a machine or an installation.

    Parameters
    ----------
    facts : dict
        The sections of `extract.doctor.Examination`; those that are missing have no problems.

    Examples
    --------
    >>> found = problems_of({"disk_free": 10**9})
    >>> found[0].problem
    '1.0 GB are free on the disk of this folder'
    """
    computer = facts.get("machine") or {}
    return [*_of_installation(facts), *_of_computer(computer, facts), *_of_devices(computer, facts), *_of_places(facts)]


def problems_of_job(job: Job, computer: Facts) -> list[Problem]:
    """Return what would be wrong with an extraction on this machine."""
    found = []
    seen, estimate = job.glance, job.estimate
    if seen.unreadable:
        what = f"{seen.unreadable:,} of {seen.looked_at:,} files that were looked at are no pictures that can be read"
        found.append(Problem(f"{what}: extract would skip them", f"penult info {shlex.quote(job.source)}"))
    if estimate is None:
        return found
    if job.free is not None and estimate.disk_bytes > job.free:
        what = f"the store needs {size(estimate.disk_bytes)} while it is written, and {size(job.free)} are free"
        found.append(Problem(what, "name another disk with -o, or halve it with --dtype float16"))
    allowed = _memory(computer)
    if allowed is not None and estimate.memory_bytes > allowed:
        what = f"the extraction takes {size(estimate.memory_bytes)} of memory, and there are {size(allowed)}"
        found.append(Problem(what, "name fewer networks or a smaller one, or a smaller --batch-size"))
    return found


def _of_installation(facts: Facts) -> list[Problem]:
    found = []
    for path in facts.get("strangers") or []:
        step = "rename it, or install Penult into an environment of its own"
        found.append(Problem(f"{path} has the name of a package of ours", step))
    for extra in facts.get("extras") or []:
        if extra["outdated"]:
            found.append(Problem(f"too old: {', '.join(extra['outdated'])}", f"{extra['command']} --upgrade {_WHERE}"))
        if extra["missing"] and extra["name"] in ("", "extract"):
            for_what = "no picture can be extracted as it should" if extra["name"] else "Penult does not work"
            found.append(Problem(f"{for_what} without {', '.join(extra['missing'])}", f"{extra['command']} {_WHERE}"))
    if "versions" in facts and facts["versions"].get("libjpeg-turbo") is None:
        what = "this Pillow has no libjpeg-turbo, which decodes JPEG several times faster"
        found.append(Problem(what, "pip install --force-reinstall pillow"))
    if (facts.get("decoding") or {}).get("decoder") == "pillow":
        found.append(Problem("JPEG is decoded by Pillow alone, which takes longer", "pip install simplejpeg"))
    return found


def _of_computer(computer: Facts, facts: Facts) -> list[Problem]:
    found = []
    cores, quota, load = computer.get("cores") or 1, computer.get("cores_quota"), computer.get("load")
    if cores > 1 and any(blas["threads"] == 1 for blas in facts.get("blas") or []):
        named = [name for name in _THREADS if name in os.environ]
        step = f"unset {' '.join(named)}" if named else "install numpy from PyPI or conda-forge"
        found.append(Problem(f"linear algebra uses one thread of {cores} cores: heads are fitted slowly", step))
    if quota is not None and quota < cores:
        what = f"this container may use the time of {quota:g} cores and sees {cores}: threads wait for each other"
        found.append(Problem(what, f"put `taskset -c 0-{max(round(quota), 1) - 1}` before the command"))
    if load is not None and load > _BUSY * cores:
        what = f"other processes use this machine (load {load:g} on {cores} cores): what is measured now is too slow"
        found.append(Problem(what, "wait for them, and look again"))
    allowed = _memory(computer)
    if allowed is not None and allowed < _LITTLE_MEMORY:
        what = f"there are {size(allowed)} of memory, and the default network wants up to 1.5 GB"
        found.append(Problem(what, "close other programs, or raise the container's limit"))
    return found


def _memory(computer: Facts) -> int | None:
    """Return the bytes that a process may have: what is free now, and no more than a container's limit."""
    known = [value for name in ("memory_limit", "memory_available") if (value := computer.get(name)) is not None]
    return min(known, default=None)


def _of_devices(computer: Facts, facts: Facts) -> list[Problem]:
    found = []
    driver, torch = computer.get("nvidia_driver"), facts.get("torch")
    on_gpu = any(device["device"] != "cpu" for device in facts.get("devices") or [])
    if driver and torch and not on_gpu:
        build = torch["cuda_build"]
        why = f"built for CUDA {build}, perhaps too new for the driver" if build else "built for the CPU alone"
        what = f"there is an NVIDIA driver ({driver}) and PyTorch finds no GPU: it is {why}"
        found.append(Problem(what, "install PyTorch as https://pytorch.org/get-started says"))
    for engine in facts.get("engines") or []:
        if "reason" in engine:
            what = f"the engine {engine['engine']} does not run: {engine['reason']}"
            found.append(Problem(what, "nothing has to be done: extract then takes another one by itself"))
    if facts.get("weights") == "random":
        found.append(Problem("the default network's weights are not installed", f"{pip_install('extract')} {_WHERE}"))
    return found


def _of_places(facts: Facts) -> list[Problem]:
    found = []
    for cache in facts.get("caches") or []:
        where = f"{cache['path']} ({cache['what']})"
        if not cache["writable"]:
            step = "set PENULT_CACHE, TORCH_HOME or HF_HOME to a folder of yours"
            found.append(Problem(f"{where} cannot be written to: they are made or fetched anew each time", step))
        if cache["limit"] is None and cache["nbytes"] > _MUCH_CACHE:
            step = "remove what you do not need: it is made or fetched again"
            found.append(Problem(f"{where} takes {size(cache['nbytes'])}", step))
    free = facts.get("disk_free")
    if free is not None and free < _LITTLE_DISK:
        found.append(Problem(f"{size(free)} are free on the disk of this folder", "make room, or work elsewhere"))
    return found
