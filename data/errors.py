"""Every exception that Penult raises on purpose, in one tree.

A message names its subject, the rule, the value it got and the next step. Each class is also the builtin that
a caller would expect, so that `except FileNotFoundError` works without importing this file.
"""


class PenultError(Exception):
    """Base of all; `pipeline.py` turns one into a clear sentence and exit code 1."""


class MissingFile(PenultError, FileNotFoundError):
    """A path that was named does not exist."""


class ImageSetError(PenultError, ValueError):
    """A folder or manifest that is no usable image set."""


class SpecError(PenultError, ValueError):
    """A feature spec with an impossible or unknown value."""


class FingerprintMismatch(PenultError, ValueError):
    """Features of another spec than the one wanted."""


class StoreError(PenultError, ValueError):
    """A store that cannot answer the question: no such image set, split or features."""


class DamagedStore(PenultError, OSError):
    """A store whose bytes are not what was written."""


class StoreBusy(PenultError, TimeoutError):
    """Another process is publishing into the same store."""


class DiskFull(PenultError, OSError):
    """A write did not fit on the disk."""


class BundleError(PenultError, ValueError):
    """A bundle that cannot be made, read or written to, or is not what was packed."""


class OutputError(PenultError, ValueError):
    """Results that would replace a file of another kind, or cannot be written where they are wanted."""


class StagingError(PenultError, OSError):
    """An address for staged blocks that cannot be written or read."""


class ClusterError(PenultError, RuntimeError):
    """A cluster that is not there, or whose machines do not suit."""


class BackboneError(PenultError, ValueError):
    """A network that is unknown or has no penultimate layer we can find."""


class WeightsError(PenultError, ValueError):
    """Weights that cannot be had, read or fitted into the network."""


class EngineError(PenultError, RuntimeError):
    """An engine that cannot run a network, or whose outputs are not the reference's."""


class ProjectionError(PenultError, ValueError):
    """A projection that is unknown, or cannot be fitted, read or used on these features."""


class HeadError(PenultError, ValueError):
    """A head that cannot be trained, read or used on these features."""


class TrainingError(PenultError, ValueError):
    """A network that cannot be trained so, or a training that cannot go on."""


class Diverged(TrainingError):
    """The loss of a training is no number any more."""


class MissingDependency(PenultError, ImportError):
    """A package of an optional extra is not installed."""


def pip_install(extra: str = "") -> str:
    """Return what to type in a checkout of Penult, which no index has, to install it with an optional extra.

    Examples
    --------
    >>> pip_install("extract"), pip_install()
    ("pip install '.[extract]'", 'pip install .')
    """
    return f"pip install '.[{extra}]'" if extra else "pip install ."


def how_to_install(extra: str) -> str:
    """Return the next step where a package of an optional extra is missing.

    Examples
    --------
    >>> how_to_install("extract")
    "install it with `pip install '.[extract]'` in Penult's checkout"
    """
    return f"install it with `{pip_install(extra)}` in Penult's checkout"


def why_unread(error: Exception) -> str:
    """Return why a file could not be read: what the system says, or else the error's first line."""
    return getattr(error, "strerror", None) or first_line(error)


def first_line(error: BaseException, limit: int = 120) -> str:
    """Return the first line of an error's message, or its type's name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]
