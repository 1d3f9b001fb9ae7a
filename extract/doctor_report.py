"""What `doctor` prints: a page that can be pasted into an issue."""

from typing import Any

from rich.console import Console
from rich.table import Table

from data.splits import SplitRule
from data.terminal import duration, printable, size
from extract.doctor import Examination
from extract.estimate import Job

# What most questions are about comes first.
_FIRST = ("python", "penult", "torch", "torchvision", "timm", "onnx", "onnxruntime")
_NETWORKS = 12


def print_examination(console: Console, found: Examination) -> None:
    """Print every section, what is wrong last."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    sections = (
        ("versions", _versions),
        ("extras", _extras),
        ("machine", _machine),
        ("devices", _devices),
        ("speed", _speed),
        ("caches", _caches),
        ("offline", _offline),
    )
    for name, lines_of in sections:
        for i, line in enumerate(lines_of(found)):
            table.add_row("" if i else name, printable(line))
    if found.job is not None:
        for i, line in enumerate(_job(found.job, found.failed.get("job", ""))):
            table.add_row("" if i else "this job", printable(line))
    with console.capture() as page:
        console.print(table)
    # to be pasted: without the blanks that fill a table's last column
    console.out("\n".join(line.rstrip() for line in page.get().splitlines()), highlight=False)
    console.print()
    for problem in found.problems:
        console.print(f"problem: {printable(problem.problem)}\n   next: {printable(problem.step)}")
    if not found.problems:
        console.print("nothing wrong was found")


def _failed(found: Examination, name: str) -> list[str]:
    return [f"not known: {found.failed[name]}"] if name in found.failed else []


def _versions(found: Examination) -> list[str]:
    held = found.facts.get("versions")
    if held is None:
        return _failed(found, "versions")
    said = {**held, "h5py": f"{held['h5py']} (HDF5 {held['hdf5']})"}
    if held["pillow"]:
        turbo = held["libjpeg-turbo"]
        said["pillow"] = f"{held['pillow']} ({'libjpeg-turbo ' + turbo if turbo else 'without libjpeg-turbo'})"
    blas = found.facts.get("blas") or []
    libraries = [f"{one['library']} {one['version']} with {_n(one['threads'], 'thread')}" for one in blas]
    if libraries:
        said["numpy"] = f"{held['numpy']} ({', '.join(libraries)})"
    rest = [name for name in said if name not in (*_FIRST, "hdf5", "libjpeg-turbo")]
    return [", ".join(f"{name} {said[name] or 'missing'}" for name in names) for names in (_FIRST, rest)]


def _extras(found: Examination) -> list[str]:
    held = found.facts.get("extras")
    if held is None:
        return _failed(found, "extras")
    named = [extra for extra in held if extra["name"]]
    whole = [extra["name"] for extra in named if extra["complete"]]
    others = "; from Penult's checkout:" if len(whole) < len(named) else ""
    lines = [f"installed: {', '.join(whole) or 'none'}{others}"]
    for extra in named:
        if not extra["complete"]:
            what = ", ".join([*(f"{item} missing" for item in extra["missing"]), *extra["outdated"]])
            lines.append(f"{extra['name']}: {what}: {extra['command']}")
    return lines


def _machine(found: Examination) -> list[str]:
    held = found.facts.get("machine")
    if held is None:
        return _failed(found, "machine")
    cores = f"{_n(held['cores'], 'core')}"
    if held["cores_of_machine"] and held["cores_of_machine"] != held["cores"]:
        cores += f" of {held['cores_of_machine']}"
    if held["cores_quota"] is not None:
        cores += f" (limited to the time of {held['cores_quota']:g})"
    memory = [f"{size(held['memory'])} of memory"] if held["memory"] else []
    memory += [f"{size(held['memory_available'])} available"] if held["memory_available"] is not None else []
    memory += [f"limited to {size(held['memory_limit'])}"] if held["memory_limit"] else []
    free = found.facts.get("disk_free")
    disk = f"{size(free)} free on the disk of this folder" if free is not None else "free space on the disk not known"
    load = f"load {held['load']:g}" if held["load"] is not None else ""
    return [
        ", ".join(filter(None, [held["system"], held["processor"], cores, load])),
        ", ".join([*memory, disk]),
    ]


def _devices(found: Examination) -> list[str]:
    held = found.facts.get("devices")
    driver = (found.facts.get("machine") or {}).get("nvidia_driver")
    tail = [f"NVIDIA driver {driver}"] if driver else []
    if held is None:
        return [", ".join(["what PyTorch sees is not known: see speed", *tail])]
    lines = []
    for device in held:
        if "name" in device:
            memory = f"{size(device['memory_free'])} of {size(device['memory'])} free"
            lines.append(f"{device['device']}: {device['name']}, {memory}, capability {device['capability']}")
        else:
            lines.append(device["device"])
    build = found.facts["torch"]["cuda_build"] if found.facts.get("torch") else None
    return [*lines, *tail, f"PyTorch built for {'CUDA ' + build if build else 'the CPU'}"]


def _speed(found: Examination) -> list[str]:
    lines = []
    for engine in found.facts.get("engines") or []:
        if "reason" in engine:
            lines.append(f"{engine['engine']}: {engine['reason']}")
        else:
            on = f" ({engine['device']})" if ":" in engine["device"] else ""
            lines.append(
                f"{engine['engine']}{on}, {engine['precision']}: {engine['images_per_second']:,.0f} pictures/s through "
                "efficientnet_lite0 (warm, median)"
            )
    lines += _failed(found, "engines")
    decoding = found.facts.get("decoding")
    if decoding:
        lines.append(
            f"decoding by {decoding['decoder']}: {decoding['images_per_second_per_core']:,.0f} pictures/s on one core "
            f"({decoding['picture']})"
        )
    torch = found.facts.get("torch")
    if torch:
        lines.append(f"loading PyTorch took {duration(torch['import_seconds'])}")
    return lines + _failed(found, "decoding")


def _caches(found: Examination) -> list[str]:
    held = found.facts.get("caches")
    if held is None:
        return _failed(found, "caches")
    return [
        f"{cache['what']}: {cache['path']}, {_n(cache['files'], 'file')}, {size(cache['nbytes'])}"
        + (f" of {size(cache['limit'])} at most" if cache["limit"] is not None else "")
        + ("" if cache["writable"] else ", not writable")
        for cache in held
    ]


def _offline(found: Examination) -> list[str]:
    held = found.facts.get("offline")
    if held is None:
        return ["networks whose weights are here: not known, since that needs PyTorch"]
    more = f" and {len(held) - _NETWORKS} more (all of them: --json -)" if len(held) > _NETWORKS else ""
    return [f"networks whose weights are here: {', '.join(held[:_NETWORKS]) or 'none'}{more}"]


def planned_splits(job: Job) -> str:
    """Return the splits of a set, or how `extract` splits one that brings none."""
    if job.classes and not any(job.splits):
        return f"no splits: extract holds out {SplitRule().test_fraction:.0%} of each class as test"
    return ", ".join(f"{name or 'no split'} {n:,}" for name, n in job.splits.items())


def _job(job: Job, failed: str) -> list[str]:
    seen = job.glance
    splits = planned_splits(job)
    classes = f" in {_n(job.classes, 'class')}" if job.classes else ""
    lines = [f"{job.source}: {_n(job.pictures, 'picture')}{classes} ({splits})"]
    if seen.width is not None:
        formats = ", ".join(f"{name} {n:,}" for name, n in list(seen.formats.items())[:4])
        lines.append(
            f"{_n(seen.looked_at, 'header')} looked at: {formats}; median {seen.width:,} x {seen.height:,} pixels, "
            f"{size(seen.nbytes / max(seen.looked_at, 1))} a file"
        )
    estimate = job.estimate
    if estimate is None:
        return [*lines, f"time, size and memory were not measured: {failed}"]
    low, high = estimate.range
    dims = " + ".join(f"{dim:,}" for dim in estimate.dims)
    free = f", and {size(job.free)} are free here" if job.free is not None else ""
    lines += [
        f"time: {duration(estimate.seconds)} ({duration(low)} to {duration(high)}): "
        f"{duration(estimate.start_seconds)} to start, then {estimate.milliseconds:.3g} ms a picture, measured on "
        f"{estimate.measured:,} of them ({', '.join(dict.fromkeys(estimate.engines))})",
        f"store: {size(estimate.store_bytes)}, {dims} float32 a picture; {size(estimate.disk_bytes)} while it is "
        f"written{free}",
    ]
    if estimate.memory_bytes:
        lines.append(f"memory: {size(estimate.memory_bytes)} at most, as the sample had it")
    return lines + [f"note: {note}" for note in estimate.notes]


def _n(n: Any, one: str) -> str:
    if n == 1:
        return f"1 {one}"
    return f"{n:,} {one + ('es' if one.endswith('s') else 's')}"
