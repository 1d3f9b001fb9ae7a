"""What all stages show on a terminal: the console, progress as a bar or as plain lines, small formats."""

import re
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Without a terminal a line now and then is enough to see that it lives, after twice as long each time; in seconds.
_LINE_EVERY, _LINE_AT_MOST_EVERY = 10.0, 600.0
# A line that is written over.
_REDRAWN_EVERY = 0.2
# Wider than any table of ours, in columns: what a table would take is measured in it.
_UNBOUNDED = 10_000
_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


class Terminal(Protocol):
    """What results and progress are shown on: a console of rich's, or a `PlainTerminal`."""

    @property
    def is_terminal(self) -> bool:
        """Whether a person watches."""

    def print(self, *texts: Any, style: str | None = None, soft_wrap: bool | None = None) -> None:
        """Show a line."""


class PlainTerminal:
    """Lines as they are, where rich is not installed.

    Parameters
    ----------
    stderr : bool
        Whether standard output belongs to something else.
    """

    is_terminal = False

    def __init__(self, stderr: bool = False) -> None:
        self.stderr = stderr

    def print(self, *texts: Any, style: str | None = None, soft_wrap: bool | None = None) -> None:
        """Show a line."""
        print(*texts, file=sys.stderr if self.stderr else sys.stdout, flush=True)


class Trimmed:
    """A text file whose lines lose the blanks at their ends, with which rich fills tables up.

    Parameters
    ----------
    file : text file
        Where they are written.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> None:
        """Write whole lines."""
        self._file.write(re.sub(r" +(?=\n)", "", text))


class ProgressDisplay:
    """Progress with rate, remaining time and skipped count.

    A bar on a terminal. Elsewhere, where results may go to a file, it is on standard error: one line that is written
    over where that is a terminal, else a few lines, and none of what takes less than ten seconds.

    Parameters
    ----------
    console : Terminal
        Where to draw.
    what : str
        What is being counted, such as ``pictures``.
    """

    def __init__(self, console: Terminal, what: str) -> None:
        self.console = console
        self.what = what

    def __enter__(self) -> "ProgressDisplay":
        self._bar = None
        self._is_overwritten = not self.console.is_terminal and sys.stderr.isatty()
        self._every = _REDRAWN_EVERY if self._is_overwritten else _LINE_EVERY
        self._last_line = time.monotonic()
        self.count(self.what)
        if self.console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.fields[count]}"),
                BarColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                TextColumn("{task.fields[skipped]}"),
                TextColumn("{task.fields[remark]}"),
                console=self.console,  # type: ignore[arg-type]  # only rich's say that they are terminals
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=None, count=self.what, rate="", skipped="", remark="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._is_overwritten:
            self._line("")

    def count(self, what: str) -> None:
        """Begin to count something else."""
        self.what = what
        self._start = time.monotonic()
        self._began = self._start
        self._first: int | None = None
        self._going = False
        self._to_be_ended = False  # a line has said how far it is

    def update(self, done: int, total: int, skipped: int = 0) -> None:
        """Show that `done` of `total` are done."""
        if self._first is None:  # what was known before takes no time and must not count in the rate
            self._first = done
        now = time.monotonic()
        if not self._going and done > self._first:  # nor must what came before: opening a network takes seconds
            self._first, self._start, self._going = done, now, True
            self._last_line = now
        rate = (done - self._first) / max(now - self._start, 1e-9)
        if self._bar is not None:
            shown = f"{rate:,.1f}/s" if done > self._first else ""
            self._bar.update(
                self._task,
                completed=done,
                total=total,
                count=f"{done}/{total} {self.what}",
                rate=shown,
                skipped=f"{skipped} skipped" if skipped else "",
            )
            return
        tail = f", {skipped} skipped" if skipped else ""
        if done == total and self._to_be_ended:
            self._line(f"{total} of {total} {self.what} in {duration(now - self._began)}{tail}")
            self._to_be_ended = False
        elif 0 < done < total and rate > 0 and self._is_due(now):
            left = duration((total - done) / rate)
            self._line(f"{done} of {total} {self.what}, {rate:,.1f}/s, {left} left{tail}")
            self._to_be_ended = not self._is_overwritten

    def remark(self, text: str) -> None:
        """Show a person who watches how what is being done right now is coming on."""
        if self._bar is not None:
            self._bar.update(self._task, remark=text)
        elif self._is_overwritten and self._is_due(time.monotonic()):
            self._line(text)

    def _is_due(self, now: float) -> bool:
        """Whether it is time for another line, which then is written."""
        if now - self._last_line < self._every:
            return False
        self._last_line = now
        if not self._is_overwritten:
            self._every = min(2 * self._every, _LINE_AT_MOST_EVERY)
        return True

    def _line(self, text: str) -> None:
        ends = ("\r", "\x1b[K") if self._is_overwritten else ("", "\n")
        print(ends[0] + text, end=ends[1], file=sys.stderr, flush=True)


def print_fitting(console: "Console", *tables: "Table") -> int:
    """Print the first of several tables for which the terminal is wide enough, or the last; return which it was.

    Examples
    --------
    >>> from rich.console import Console
    >>> from rich.table import Table
    >>> wide, narrow = Table(box=None, pad_edge=False), Table(box=None, pad_edge=False)
    >>> wide.add_column("accuracy, with its 95% interval")
    >>> narrow.add_column("accuracy")
    >>> print_fitting(Console(width=20), wide, narrow)
    accuracy
    1
    """
    room = console.options.update(max_width=_UNBOUNDED)
    fits = (i for i, table in enumerate(tables) if console.measure(table, options=room).maximum <= console.width)
    chosen = next(fits, len(tables) - 1)
    console.print(tables[chosen])
    return chosen


def duration(seconds: float) -> str:
    """Return a time in words of one unit or two.

    Examples
    --------
    >>> duration(0.25), duration(59.4), duration(59.6), duration(7300)
    ('0.25 s', '59 s', '1 min 0 s', '2 h 1 min')
    """
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def milliseconds(value: float | None) -> str:
    """Return a time of a picture, in milliseconds, or a dash where it is not known.

    Examples
    --------
    >>> milliseconds(12.34), milliseconds(None)
    ('12.3 ms', '-')
    """
    return "-" if value is None else f"{value:.3g} ms"


def size(nbytes: float) -> str:
    """Return a number of bytes in the unit that fits.

    Examples
    --------
    >>> size(512), size(2_735_915)
    ('512 bytes', '2.7 MB')
    """
    for unit, scale in _UNITS:
        if nbytes >= scale:
            return f"{nbytes / scale:,.1f} {unit}"
    return f"{nbytes:.0f} bytes"


def parse_size(text: str) -> int:
    """Return the bytes that a text such as 2GB means.

    Raises
    ------
    ValueError
        If it means none.

    Examples
    --------
    >>> parse_size("2GB"), parse_size("0.5MB")
    (2000000000, 500000)
    """
    for unit, scale in _UNITS:
        if text.lower().endswith(unit.lower()) and text[:-2].replace(".", "", 1).isdigit():
            return int(float(text[:-2]) * scale)
    raise ValueError(f"must be a size such as 2GB or 500MB, got {text!r}")


def printable(text: str) -> str:
    """Return a path or label as it can be printed: bytes that are no UTF-8, and control characters, as escapes."""
    return "".join(
        c
        if c.isprintable()
        else c.encode("utf-8", "surrogateescape").decode("latin-1").encode("unicode_escape").decode()
        for c in text
    )
