"""How results become JSON. Imports neither numpy nor h5py: whoever only predicts needs no store."""

import json
import math
import sys
from pathlib import Path
from typing import Any


def write_json(target: str, result: dict[str, Any]) -> None:
    """Write a result as one JSON object to a file, or to standard output where `target` is ``-``."""
    text = json.dumps(plain(result), indent=2, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        Path(target).write_text(text, encoding="utf-8")


def plain(value: Any) -> Any:
    """Return a result as JSON can say it: NaN becomes null, undecodable file names get escapes."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value
