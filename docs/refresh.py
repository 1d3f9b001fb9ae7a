"""Run a page's commands as they stand and write what they print into it.

Fences marked `sh` hold commands, one a line; fences marked `console` hold commands after `$ ` and what each printed,
which this replaces. Both run in their order in one folder, so a page reads as one session.

    python docs/refresh.py docs/tutorial.md
    python docs/refresh.py docs/tutorial.md --work tutorial --only report
"""

import argparse
import dataclasses
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
# Lines of progress, which come where a machine is slow.
_PROGRESS = re.compile(r"^\d+ of \d+ [\w ,]+(, .*/s, .* left.*)?$|^step \d+, gap |^freeze \d+, epoch \d+: ")


@dataclasses.dataclass(frozen=True)
class Fence:
    """A fenced block of a page.

    Parameters
    ----------
    language : str
        What the fence is marked with.
    text : str
        What stands in it.
    start, end : int
        Where the text is in the page.
    """

    language: str
    text: str
    start: int
    end: int

    def commands(self) -> list[str]:
        """Return the commands to type, in their order."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [line for line in lines if line and not line.startswith("#")]


def fences(page: str) -> list[Fence]:
    """Return the fenced blocks of a page."""
    return [Fence(found[1], found[2], found.start(2), found.end(2)) for found in _FENCE.finditer(page)]


def refresh(page: str, folder: Path, only: str = "") -> str:
    """Run a page's commands in a folder and return the page with what they printed.

    Parameters
    ----------
    page : str
        Its text.
    folder : Path
        Where the commands run.
    only : str
        Run only blocks in which this regular expression is found, in a folder that has what they need.
    """
    pieces, done = [], 0
    for fence in fences(page):
        if fence.language not in ("sh", "console") or not re.search(only, fence.text):
            continue
        printed = [(command, _run(command, folder)) for command in fence.commands()]
        if fence.language == "console":
            shown = "\n".join(f"$ {command}\n{output}" for command, output in printed)
            pieces += [page[done : fence.start], shown]
            done = fence.end
    return "".join([*pieces, page[done:]])


def _run(command: str, folder: Path) -> str:
    print(f"$ {command}", file=sys.stderr)
    ours = f'penult() {{ {shlex.quote(sys.executable)} {shlex.quote(str(ROOT / "pipeline.py"))} "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-c", ours + command],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = [line.rstrip() for line in done.stdout.replace(f"{folder.resolve()}/", "").splitlines()]
    text = "\n".join(line for line in lines if not _PROGRESS.match(line)).strip("\n")
    if done.returncode:
        raise SystemExit(f"{command}\n{text}\nended with {done.returncode}")
    return text + "\n" if text else ""


def main() -> None:
    """Rewrite the pages that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--work", type=Path, help="folder to run in, kept (default: a new one for each page)")
    parser.add_argument("--only", default="", metavar="REGEX", help="blocks to run (default: all)")
    arguments = parser.parse_args()
    for page in arguments.pages:
        with tempfile.TemporaryDirectory() as spare:
            folder = arguments.work or Path(spare)
            folder.mkdir(parents=True, exist_ok=True)
            page.write_text(refresh(page.read_text(), folder, arguments.only))


if __name__ == "__main__":
    main()
