"""Numbers in sentences."""

WAITING = ("block of an unfinished extraction waits", "blocks of an unfinished extraction wait")


def counted(n: int, what: str, several: str = "") -> str:
    """Return a number and what is counted, in the singular where it is one.

    Parameters
    ----------
    n : int
        How many.
    what : str
        One of them.
    several : str
        More of them, where that is not `what` and an s.

    Examples
    --------
    >>> counted(1, "file"), counted(2000, "file"), counted(1, "picture is", "pictures are")
    ('1 file', '2,000 files', '1 picture is')
    """
    return f"{n:,} {what if n == 1 else several or what + 's'}"
