"""How results become JSON. Imports neither numpy nor h5py: whoever only predicts needs no store."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from data.staging import disk_full_hint, write_atomically


def write_json(target: str, result: dict[str, Any]) -> None:
    """Write a result as one JSON object to a file, or to standard output where `target` is ``-``.

    A file is replaced whole: whoever reads it meanwhile has the old result or the new one.
    """
    text = json.dumps(plain(result), indent=2, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
    elif os.path.exists(target) and not os.path.isfile(target):  # a pipe, /dev/null
        Path(target).write_text(text, encoding="utf-8")
    else:
        path = Path(target).resolve()  # what a link leads to, not the link
        with disk_full_hint(path, len(text)):
            write_atomically(path, text.encode())


def escaped(text: str) -> str:
    """Return a path or label whose bytes that are no UTF-8 stand as escapes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def plain(value: Any) -> Any:
    """Return a result as JSON can say it: NaN becomes null, undecodable file names get escapes."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value
