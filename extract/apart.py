"""A function in a process of its own: whatever it imports, crashes or waits for, the caller goes on."""

import contextlib
import dataclasses
import io
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from data.errors import PenultError, first_line

Yielded = Iterator[tuple[str, Any]]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came of it.

    Parameters
    ----------
    found : dict of str to object
        What the function has yielded.
    reason : str
        Why that is not all; empty where it is.
    """

    found: dict[str, Any]
    reason: str


def run_apart(function: Callable[..., Yielded], *arguments: Any, seconds: float) -> Answer:
    """Call a generator of names and values in a new process, for so many seconds at most.

    Parameters
    ----------
    function : callable
        Found by its name in its module; what it prints is thrown away.
    arguments : object
        Pickled, as are the values.
    seconds : float
        Until the process is ended.

    Returns
    -------
    Answer
        What was found until then.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit what this process has loaded
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, function, arguments), daemon=True)
    until = time.monotonic() + seconds
    found: dict[str, Any] = {}
    process.start()
    theirs.close()
    try:
        while ours.poll(max(until - time.monotonic(), 0.0)):
            name, value = ours.recv()
            if not name:
                return Answer(found, value)
            found[name] = value
        return Answer(found, f"it was not done after {seconds:.0f} s: give it more with --seconds")
    except EOFError:
        process.join()
        return Answer(found, f"its process ended by itself (exit code {process.exitcode})")
    finally:
        if process.is_alive():
            process.kill()
        process.join()
        ours.close()


def _answer(connection: Connection, function: Callable[..., Yielded], arguments: tuple[Any, ...]) -> None:
    """Send names and values, and at the end no name and the reason of a failure or an empty one."""
    reason = ""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who then ends this process
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            for fact in function(*arguments):
                connection.send(fact)
        except PenultError as error:
            reason = str(error)
        except Exception as error:  # a broken installation raises anything
            reason = f"{type(error).__name__}: {first_line(error, 300)}"
    connection.send(("", reason))
