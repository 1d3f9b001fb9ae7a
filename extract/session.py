"""ONNX Runtime sessions on the CPU. Imports no torch: a graph runs where no network can be built."""

from pathlib import Path
from typing import Any

from data.errors import EngineError, MissingDependency, first_line, how_to_install

OPSET = 17
# What graphs call their input.
PIXELS = "pixels"
_INSTALL = how_to_install("predict")


def open_session(graph: bytes | Path, threads: int, title: str) -> Any:
    """Return a session that runs a graph in float32 on the CPU.

    Parameters
    ----------
    graph : bytes or Path
        The graph, or its file.
    threads : int
        Of each run; several runs may go on at once.
    title : str
        How messages call the graph.

    Raises
    ------
    MissingDependency
        If ONNX Runtime is not installed.
    EngineError
        If it does not take the graph.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingDependency(f"{title} needs onnxruntime, which is not installed: {_INSTALL}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; warnings are of graph optimisations
    # threads that spin while they wait would take the cores from decoding
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        given = graph if isinstance(graph, bytes) else str(graph)
        return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors have no common class but this one
        raise EngineError(f"ONNX Runtime does not take {title} ({first_line(error)})") from error
