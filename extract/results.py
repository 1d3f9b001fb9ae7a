"""What an extraction did, and which of its stages was the limit."""

import dataclasses

from data.views import Skipped

# A stage with this share of the work is named as the limit.
_LIMIT = 0.5
# What takes less is over before anybody could make it faster; in seconds.
_SHORT = 1.0


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far an extraction is: pictures done of `total`, of which `skipped` gave no features."""

    done: int
    total: int
    skipped: int


@dataclasses.dataclass(frozen=True)
class FeatureResult:
    """One of the vectors that an extraction gave each picture: its spec's title, fingerprint, length and engine."""

    title: str
    fingerprint: str
    dim: int  # 0 where no picture gave one
    engine: str


@dataclasses.dataclass(frozen=True)
class Extraction:
    """What an extraction did; `pipeline.py extract --json` prints it.

    Parameters
    ----------
    images : int
        Pictures in the image set: `extracted` + `reused` + skipped.
    extracted, reused : int
        Pictures that a network saw now, and those whose content had all its vectors already (duplicates among them).
    skipped : list of Skipped
        Pictures that gave no features, with the reason.
    dim : int
        Length of a vector of the first of `features`.
    fingerprint, engine : str
        Its spec's fingerprint, and what computed the vectors (``none`` if nothing had to be).
    seconds, images_per_second : float
        Wall time of the whole run, loading included, and pictures of the set over it.
    stage_seconds : dict
        Seconds of work in ``read``, ``decode``, ``forward`` and ``write``, summed over threads.
    limit : str
        Which stage was the limit, and what to try; empty if nothing was computed.
    published : bool
        False if the store held everything already and was not touched.
    splits : dict
        Pictures in each split.
    notes : list of str
        What a user would want to know.
    features : list of FeatureResult
        Every vector that was wanted, in the order of networks, layers and views.
    workers : int
        Processes that computed: 1, or as many as did so on a cluster; 0 if nothing had to be.
    """

    images: int
    extracted: int
    reused: int
    skipped: list[Skipped]
    dim: int
    fingerprint: str
    engine: str
    seconds: float
    images_per_second: float
    stage_seconds: dict[str, float]
    limit: str
    published: bool
    splits: dict[str, int]
    notes: list[str]
    features: list[FeatureResult]
    workers: int


def name_limit(seconds: dict[str, float], *, on_cpu: bool, engine: str, workers: int, cores: int, wall: float) -> str:
    """Say which stage took most of the work, and what would make it less.

    On a CPU all stages share the cores, so the stage with the most work is the limit, and reading is one as far as it
    left cores idle. Beside a GPU the stages run on their own, so it is the one that was busy for most of the time.

    Parameters
    ----------
    seconds : dict
        Work of each stage.
    on_cpu : bool
        Whether the network ran on the CPU.
    engine : str
        Its engine.
    workers, cores : int
        Reading threads, and cores.
    wall : float
        Seconds from the first picture to the last.
    """
    busy = dict(seconds)
    if on_cpu:
        idle = cores * wall - seconds["decode"] - seconds["forward"]
        busy["read"] = max(0.0, min(seconds["read"], idle))
    else:
        busy |= {stage: seconds[stage] / workers for stage in ("read", "decode")}
    total = sum(busy.values())
    if not total or wall < _SHORT:
        return ""
    stage = max(busy, key=lambda name: busy[name])
    share = busy[stage] / total
    if share < _LIMIT:
        return "no stage alone was the limit: " + ", ".join(f"{name} {t / total:.0%}" for name, t in busy.items())
    more = f"--workers {2 * workers}"
    advice = {
        "read": f"reading was the limit: {share:.0%} of the time; try {more}, or a local copy of the pictures",
        "decode": f"decoding was the limit: {share:.0%} of the time; try "
        + (f"{more}, or " if workers < cores and not on_cpu else "")
        + "--decoder draft if the pictures are large",
        "forward": f"the network was the limit: {share:.0%} of the time; "
        + ("try --engine onnx, " if engine == "torch/cpu" else "try ")
        + ("a GPU or a smaller network" if on_cpu else "--compile or a larger --batch-size"),
        "write": f"writing was the limit: {share:.0%} of the time; try a faster disk or --dtype float16",
    }
    return advice[stage]
