"""What extracting many pictures takes: hours, money, bytes, files and requests, computed from rates given as options.

Nothing is measured here. Every default names where it is from: rates measured in this project or by others, and
prices that are assumptions for the reader to replace (--help lists all). Prints one table, the arithmetic behind it,
and one JSON object on the last line.

    python benchmarks/plan_scale.py
    python benchmarks/plan_scale.py --pictures 2e7 --gpus 8 --gpu-rate 8039 --gpu-hour 1.20
"""

import argparse
import dataclasses
import json
import math

# (name, default, unit, source). Sources: 'here' is 2 cores of an AMD EPYC (Zen 4); 'timm' is timm's own benchmark
# table (RTX 4090, mixed precision, 224 px, forward alone); 'assumed' is a guess of November 2026 at a large cloud's
# list price or usual size, and no quotation: replace it by your own.
INPUTS = (
    ("pictures", 100e6, "pictures", "the question"),
    ("picture-bytes", 110e3, "bytes a picture", "assumed: photographs of about 500 x 375, as in ImageNet"),
    ("dim", 1280, "values a vector", "efficientnet_lite0; resnet50 has 2048"),
    ("decode-rate", 256, "pictures/s a core", "here: 3.9 ms to decode, resize and crop (simplejpeg, 500 x 375)"),
    ("cpu-rate", 39, "pictures/s a core", "here: efficientnet_lite0 all included, 12.9 ms on 2 cores"),
    ("gpu-rate", 4303, "pictures/s a GPU", "timm: resnet50, eager; 8039 compiled; resnet18 13726 and 24941"),
    ("efficiency", 0.8, "of the slower side", "this project's budget for extraction against its engine's limit"),
    ("gpus", 8, "GPUs", "the question"),
    ("gpu-cores", 16, "cores a GPU", "assumed: what machines with such a GPU come with"),
    ("cpu-cores", 512, "cores", "the question, without GPUs"),
    ("cpu-worker-cores", 8, "cores a worker", "what Penult gives a worker"),
    ("core-hour", 0.05, "$ a core and hour", "assumed: on-demand, a whole core (two threads) with its memory"),
    ("gpu-hour", 0.60, "$ a GPU and hour", "assumed: the GPU alone, of the RTX 4090's or L4's class"),
    ("spot", 0.4, "of the price", "assumed: spot machines against on-demand ones"),
    ("interruptions", 0.05, "a machine and hour", "assumed: how often a spot machine is taken away"),
    ("restart", 180, "s", "assumed: until a new machine is there, with Ray, PyTorch and the network loaded"),
    ("cpu-chunk", 512, "pictures", "what Penult sends a worker at once on a CPU"),
    ("gpu-chunk", 4096, "pictures", "the same with a GPU"),
    ("set", 10e6, "pictures a run", "advice: one run, one manifest, one file of the folder store"),
    ("driver-bytes", 1000, "bytes a picture", "here: 460 for the list, digests and chunks; doubled for publishing"),
    ("get", 0.4e-6, "$ a request", "assumed: reading from object storage"),
    ("put", 5e-6, "$ a request", "assumed: writing to object storage"),
    ("storage", 0.023, "$ a GB and month", "assumed: object storage"),
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one way of doing it takes.

    Parameters
    ----------
    name : str
        Which machines.
    workers : int
        Processes that compute.
    rate : float
        Pictures a second of one worker, after `efficiency`.
    limit : str
        Which side is the slower one in a worker.
    hours, dollars, spot_dollars : float
        Wall time without interruptions, and machines' price for it; on spot machines with what interruptions cost.
    lost_share : float
        Share of the work that interruptions waste on spot machines.
    read_gbit_s : float
        Network that reading the pictures takes, in all.
    blocks : int
        Staged blocks.
    """

    name: str
    workers: int
    rate: float
    limit: str
    hours: float
    dollars: float
    spot_dollars: float
    lost_share: float
    read_gbit_s: float
    blocks: int


def make_plan(name: str, given: dict[str, float], *, on_gpu: bool) -> Plan:
    """Return what the pictures take on GPUs, or on cores alone."""
    if on_gpu:
        workers, cores = int(given["gpus"]), given["gpu_cores"]
        decoding, network = cores * given["decode_rate"], given["gpu_rate"]
        chunk = given["gpu_chunk"]
    else:
        cores = given["cpu_worker_cores"]
        workers = int(given["cpu_cores"] // cores)
        # decoding is a part of the measured rate
        decoding, network = math.inf, cores * given["cpu_rate"] / given["efficiency"]
        chunk = given["cpu_chunk"]
    slower = min(decoding, network)
    rate = slower * given["efficiency"]
    hours = given["pictures"] / (workers * rate) / 3600
    an_hour = workers * (cores * given["core_hour"] + on_gpu * given["gpu_hour"])
    # each interruption costs its worker half a chunk, on average, and the wait for another machine
    lost = given["interruptions"] * (chunk / rate / 2 + given["restart"]) / 3600
    return Plan(
        name=name,
        workers=workers,
        rate=rate,
        limit="decoding" if decoding < network else "the network",
        hours=hours,
        dollars=hours * an_hour,
        spot_dollars=hours * an_hour * given["spot"] / (1 - lost),
        lost_share=lost,
        read_gbit_s=workers * rate * given["picture_bytes"] * 8 / 1e9,
        blocks=math.ceil(given["pictures"] / chunk),
    )


def fixed_costs(given: dict[str, float], blocks: int) -> dict[str, float]:
    """Return what does not depend on the machines: bytes, files, requests."""
    n, dim = given["pictures"], given["dim"]
    # a row of the store is a digest in hex and a vector; a row of the view about 200 bytes: path, digest, numbers
    row = 64 + 200
    store16 = n * (2 * dim + row)
    return {
        "picture_tb": n * given["picture_bytes"] / 1e12,
        "float32_gb": n * (4 * dim + row) / 1e9,
        "float16_gb": store16 / 1e9,
        "files": math.ceil(n / given["set"]),
        "file_gb_float16": given["set"] * (2 * dim + row) / 1e9,
        "driver_gb": given["set"] * given["driver_bytes"] / 1e9,
        "get_requests": n + blocks,
        "put_requests": blocks,
        "request_dollars": (n + blocks) * given["get"] + blocks * given["put"],
        "storage_dollars_a_month": store16 / 1e9 * given["storage"],
        "cores_a_gpu_needs": given["gpu_rate"] / given["decode_rate"],
    }


def main() -> None:
    """Print the plan."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    for name, default, unit, source in INPUTS:
        words = f"{unit} (default: {default:g}; {source})".replace("%", "%%")
        parser.add_argument(f"--{name}", type=float, default=default, metavar="X", help=words)
    given: dict[str, float] = vars(parser.parse_args())
    wrong = [name for name, value in given.items() if not value > 0 or not math.isfinite(value)]
    if wrong:
        parser.error(f"--{wrong[0].replace('_', '-')} must be a positive number")
    plans = [
        make_plan(f"{given['gpus']:.0f} GPUs with {given['gpu_cores']:.0f} cores each", given, on_gpu=True),
        make_plan(f"{given['cpu_cores']:.0f} cores", given, on_gpu=False),
    ]
    fixed = fixed_costs(given, max(plan.blocks for plan in plans))
    print(f"{given['pictures']:,.0f} pictures, {fixed['picture_tb']:,.1f} TB\n")
    print("| machines | workers | pictures/s each | limit | hours | $ | $ on spot | lost on spot | Gbit/s | blocks |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for p in plans:
        print(
            f"| {p.name} | {p.workers} | {p.rate:,.0f} | {p.limit} | {p.hours:.1f} | {p.dollars:,.0f} | "
            f"{p.spot_dollars:,.0f} | {p.lost_share:.1%} | {p.read_gbit_s:.1f} | {p.blocks:,} |"
        )
    print(f"\n{_arithmetic(given, plans[0], fixed)}")
    inputs = {name: {"value": given[name.replace("-", "_")], "unit": u, "source": s} for name, _, u, s in INPUTS}
    print(json.dumps({"inputs": inputs, "plans": [vars(plan) for plan in plans], "fixed": fixed}))


def _arithmetic(given: dict[str, float], gpu: Plan, fixed: dict[str, float]) -> str:
    n, dim = given["pictures"], given["dim"]
    lines = [
        f"a GPU's worker: min({given['gpu_cores']:g} cores x {given['decode_rate']:g}, {given['gpu_rate']:g}) x "
        f"{given['efficiency']:g} = {gpu.rate:,.0f} pictures/s; the GPU is busy with "
        f"{given['gpu_rate']:g} / {given['decode_rate']:g} = {fixed['cores_a_gpu_needs']:.0f} cores or more",
        f"hours: {n:,.0f} / ({gpu.workers} x {gpu.rate:,.0f}) / 3600 = {gpu.hours:.1f}",
        f"lost on spot: {given['interruptions']:g}/h x ({given['gpu_chunk']:g} / {gpu.rate:,.0f} / 2 + "
        f"{given['restart']:g}) s / 3600 = {gpu.lost_share:.2%}",
        f"features: {n:,.0f} x (4 x {dim:g} + 264) bytes = {fixed['float32_gb']:,.0f} GB as float32, "
        f"{fixed['float16_gb']:,.0f} GB as float16 (${fixed['storage_dollars_a_month']:,.0f} a month); as much again "
        "while blocks wait",
        f"files: {n:,.0f} / {given['set']:,.0f} = {fixed['files']:,} in a folder store, "
        f"{fixed['file_gb_float16']:,.0f} GB each as float16; a run's driver takes about {fixed['driver_gb']:.0f} GB "
        "of memory",
        f"requests, where pictures and blocks are objects: {fixed['get_requests']:,.0f} reads and "
        f"{fixed['put_requests']:,.0f} writes = ${fixed['request_dollars']:,.0f}",
        f"reading: {gpu.workers} x {gpu.rate:,.0f} x {given['picture_bytes']:g} bytes x 8 = "
        f"{gpu.read_gbit_s:.1f} Gbit/s in all, {gpu.read_gbit_s / gpu.workers:.1f} a worker",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
