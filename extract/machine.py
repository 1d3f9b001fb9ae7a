"""What this machine and this installation are, as far as can be told without loading torch."""

import configparser
import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from data import VERSION
from data.cores import available_cores
from data.errors import pip_install
from data.layout import HDF5_VERSION
from data.provenance import version_of

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxruntime",
    "numpy",
    "scipy",
    "scikit-learn",
    "h5py",
    "pillow",
    "simplejpeg",
    "safetensors",
    "joblib",
    "zlib-ng",
    "rich",
)
_ROOT = Path(__file__).resolve().parent.parent
_OURS = ("data", "extract", "classify", "finetune", "verbs")
# `torch>=2.6; extra == "extract"`: name, extras of its own, rule, version, ours.
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*(?:(>=|==)\s*([0-9.]+))?[^;]*(?:;.*extra == .([a-z]+))?")
# Extras for whoever works on Penult itself.
_INTERNAL = ("test",)


@dataclasses.dataclass(frozen=True)
class Extra:
    """What `pip install '.[NAME]'` adds; the name is empty for what every installation has.

    Parameters
    ----------
    name : str
    missing : list of str
        Requirements that are not installed.
    outdated : list of str
        Packages that are older than what is required, each with both versions.
    """

    name: str
    missing: list[str]
    outdated: list[str]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing or too old."""
        return not (self.missing or self.outdated)

    @property
    def command(self) -> str:
        """What to type in a checkout of Penult to have it."""
        return pip_install(self.name)

    def as_json(self) -> dict[str, Any]:
        """Return it as `doctor --json` prints it."""
        return {**vars(self), "complete": self.complete, "command": self.command}


def versions() -> dict[str, str | None]:
    """Return the versions of Python, Penult and what it stands on; None of packages that are not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "penult": VERSION}
    found |= {name: version_of(name) for name in PACKAGES}
    return {**found, "hdf5": HDF5_VERSION, "libjpeg-turbo": libjpeg_turbo()}


def libjpeg_turbo() -> str | None:
    """Return the version of libjpeg-turbo that Pillow decodes with; None where it has the slow libjpeg or none."""
    from PIL import features

    turbo: str | None = features.version_feature("libjpeg_turbo") if features.check_feature("libjpeg_turbo") else None
    return turbo


def extras() -> list[Extra]:
    """Return the extras of this installation, what all installations have first."""
    wanted: dict[str, list[tuple[str, str, str]]] = {}
    for text in _requirements():
        match = _REQUIREMENT.match(text)
        if match:
            name, rule, least, extra = match.groups()
            wanted.setdefault(extra or "", []).append((name, rule or "", least or ""))
    return [_extra(name, needs) for name, needs in wanted.items() if name not in _INTERNAL]


def computer() -> dict[str, Any]:
    """Return what the machine is: system, processor, cores, memory in bytes; None where it cannot be told."""
    memory = _meminfo()
    limit = _limit("memory.max", "memory/memory.limit_in_bytes")
    total = memory.get("MemTotal") or _physical_memory()
    return {
        "system": platform.platform(terse=True),
        "processor": _processor(),
        "cores": available_cores(),
        "cores_of_machine": os.cpu_count(),
        "cores_quota": _cpu_quota(),
        "memory": total,
        "memory_available": memory.get("MemAvailable"),
        "memory_limit": limit if limit and (total is None or limit < total) else None,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "nvidia_driver": _nvidia_driver(),
    }


def blas() -> list[dict[str, Any]]:
    """Return the linear algebra libraries that numpy has loaded, with the threads that each uses."""
    import numpy  # noqa: F401  (which loads its own)
    from threadpoolctl import threadpool_info

    found = (info for info in threadpool_info() if info["user_api"] == "blas")
    return [{"library": i["internal_api"], "version": i["version"], "threads": i["num_threads"]} for i in found]


def strangers() -> list[str]:
    """Return packages and modules on Python's path that have a name of ours and are not ours."""
    found = []
    for folder in dict.fromkeys(os.path.abspath(entry or os.curdir) for entry in sys.path):
        if Path(folder).resolve() == _ROOT:
            continue
        for name in _OURS:
            for path in (Path(folder, name, "__init__.py"), Path(folder, f"{name}.py")):
                if path.is_file() and path.resolve().parent not in (_ROOT, _ROOT / name):
                    found.append(str(path))
    return found


def free_bytes(path: Path) -> int | None:
    """Return how much fits on the disk of a path, which need not exist; None where that cannot be told."""
    nearest = next((p for p in (path, *path.absolute().parents) if p.exists()), None)
    return shutil.disk_usage(nearest).free if nearest is not None else None


def _requirements() -> list[str]:
    """Return what Penult asks for, of the checkout that runs or else of what was installed."""
    here = _ROOT / "setup.cfg"
    if not here.is_file():
        try:
            return importlib.metadata.requires("penult") or []
        except importlib.metadata.PackageNotFoundError:
            return []
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(here)
    lines = parser.get("options", "install_requires", fallback="").splitlines()
    for name, text in parser["options.extras_require"].items():
        lines += [f'{line}; extra == "{name}"' for line in text.splitlines() if line]
    return [line for line in lines if line and not line.startswith("#")]


def _extra(name: str, needs: list[tuple[str, str, str]]) -> Extra:
    missing, outdated = [], []
    for package, rule, wanted in needs:
        held = version_of(package)
        if held is None:
            missing.append(f"{package}{rule}{wanted}")
        elif (rule == ">=" and _numbers(held) < _numbers(wanted)) or (rule == "==" and held != wanted):
            outdated.append(f"{package} {held} (wanted: {rule}{wanted})")
    return Extra(name, missing, outdated)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:3])


def _meminfo() -> dict[str, int]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {words[0].rstrip(":"): 1024 * int(words[1]) for words in pairs if len(words) == 3}


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _cgroup(*names: str) -> str:
    """Return the first of some files of this process's control group that can be read."""
    for name in names:
        try:
            return Path("/sys/fs/cgroup", name).read_text().strip()
        except OSError:
            continue
    return ""


def _limit(*names: str) -> int | None:
    text = _cgroup(*names)
    return int(text) if text.isdigit() else None


def _cpu_quota() -> float | None:
    """Return how many cores' time a container may use; None where that is not limited."""
    quota, _, period = _cgroup("cpu.max").partition(" ")
    if not quota:
        quota, period = _cgroup("cpu/cpu.cfs_quota_us"), _cgroup("cpu/cpu.cfs_period_us")
    return round(int(quota) / int(period), 2) if quota.isdigit() and period.isdigit() and int(period) else None


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"model name\s*:\s*(.+)", text)
    return match.group(1).strip() if match else platform.machine()


def _nvidia_driver() -> str | None:
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    match = re.search(r"\b\d+\.\d+(?:\.\d+)?\b", text)
    return match.group(0) if match else "unknown"
