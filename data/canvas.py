"""A chart as a PNG file, in the one quiet style of all of ours; matplotlib is imported by what draws."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import MissingDependency, how_to_install
from data.staging import write_atomically
from data.terminal import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people can tell apart.
BLUE, ORANGE, INK, QUIET, GRID = "#0072B2", "#D55E00", "#222222", "#767676", "#E4E4E4"
_DPI = 100
_STYLE: dict[str, Any] = {
    "font.size": 14,
    "axes.titlesize": 16,
    "axes.titlelocation": "left",
    "axes.titlepad": 16,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.parse_math": False,  # a class or a path may hold a dollar
}


class Canvas:
    """A figure with one column of axes; it is written when the block ends without an error.

    Parameters
    ----------
    path : Path
        The PNG file.
    rows : int
        How many axes, one below the other.
    height : float
        In hundreds of pixels; the width is 1,200 pixels.
    ratios : tuple of float, optional
        Of the heights of the axes.
    """

    def __init__(self, path: Path, rows: int, *, height: float = 8.0, ratios: tuple[float, ...] | None = None) -> None:
        self.path, self.rows, self.height, self.ratios = path, rows, height, ratios

    def check(self) -> None:
        """Raise if it could not be drawn, before the work whose result it is to show.

        Raises
        ------
        MissingDependency
            If matplotlib is not installed.
        """
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise MissingDependency(f"charts need matplotlib: {how_to_install('plot')}, or leave out --png") from None

    def __enter__(self) -> "tuple[Figure, list[Axes]]":
        self.check()
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        # the style is put back when the chart is done, also where a caller has one of his own
        style: dict[Any, Any] = {**matplotlib.rcParamsDefault, **_STYLE}
        self._context = matplotlib.rc_context(style)
        self._context.__enter__()
        layout = ConstrainedLayoutEngine(w_pad=0.25, h_pad=0.2, hspace=0.04)  # inches, and a share
        self.figure = Figure(figsize=(12, self.height), dpi=_DPI, layout=layout)
        axes = self.figure.subplots(self.rows, 1, squeeze=False, height_ratios=self.ratios)[:, 0].tolist()
        return self.figure, axes

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                self._write()
        finally:
            self._context.__exit__(kind, error, trace)

    def _write(self) -> None:
        png = io.BytesIO()
        with warnings.catch_warnings():  # a letter that the font lacks is drawn as a box
            warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
            self.figure.savefig(png, format="png")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, png.getvalue())


def remark_below(axes: "Axes", text: str, offset: float = 62) -> None:
    """Write a quiet line below a chart, at its right, so many points under the axis."""
    axes.annotate(
        printable(text),
        (1.0, 0.0),
        xycoords="axes fraction",
        xytext=(0, -offset),
        textcoords="offset points",
        ha="right",
        va="top",
        color=QUIET,
        fontsize=12,
        annotation_clip=False,
    )
