"""Charts are PNG files of one size that show their data, and leave matplotlib's settings alone."""

import builtins

import numpy as np
import pytest
from PIL import Image

from classify.charts import curve_chart, path_chart, ranking_chart, shots_chart
from data.errors import MissingDependency

PATH = [(10.0**k, 0.8 + 0.02 * k, 0.01, 0.5 - 0.03 * k) for k in range(-4, 2)]
RANKING = [("lr on $a_1$ \udcff 猫", 0.95, (0.92, 0.97), True), ("svm", 0.9, (0.86, 0.93), False)]
POINTS = [(n, 1 - n**-0.5, (0.98 - n**-0.5, 1.02 - n**-0.5), [1 - n**-0.5] * 3) for n in (4, 16, 64)]
CHARTS = {
    "path": lambda p: path_chart(p, PATH, 3, parameter="C", title="lr", one_standard_error=1),
    "ranking": lambda p: ranking_chart(p, RANKING, title="toys", remark="blue: ties"),
    "shots": lambda p: shots_chart(p, POINTS, title="lr", remark="band"),
    "curve": lambda p: curve_chart(
        p,
        POINTS,
        fitted=([4, 256], [0.5, 0.94]),
        forecasts=[(128, 0.91, (0.88, 0.94)), (256, 0.94, (0.9, 0.97))],
        title="lr",
        remark="r",
    ),
}
every_chart = pytest.mark.parametrize("name", CHARTS)


def pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def coloured(image):
    return int((np.ptp(image, axis=2) > 40).sum())


@every_chart
def test_a_chart_is_a_png_of_1200_by_800_that_shows_something(tmp_path, name):
    CHARTS[name](tmp_path / "deeper" / "c.png")
    image = pixels(tmp_path / "deeper" / "c.png")
    assert image.shape == (800, 1200, 3)
    assert coloured(image) > 1500
    # nothing runs over the edge
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        assert (edge == 255).all()


@every_chart
def test_the_same_data_give_the_same_file_and_matplotlibs_settings_stay(tmp_path, name):
    import matplotlib

    before = dict(matplotlib.rcParams)
    CHARTS[name](tmp_path / "a.png")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        CHARTS[name](tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert dict(matplotlib.rcParams) == before


def test_other_data_give_another_chart(tmp_path):
    CHARTS["path"](tmp_path / "a.png")
    path_chart(tmp_path / "b.png", PATH, 2, parameter="C", title="lr", one_standard_error=1)
    assert (pixels(tmp_path / "a.png") != pixels(tmp_path / "b.png")).any()


def test_a_path_with_zero_one_value_or_no_deviation_is_drawn(tmp_path):
    for candidates in ([(0.0, 0.9, 0.0, 0.3), (1.0, 0.8, 0.0, 0.4)], [(1.0, 0.9, 0.01, 0.3)]):
        path_chart(tmp_path / "c.png", candidates, 0, parameter="k", title="knn")
        assert coloured(pixels(tmp_path / "c.png")) > 300


def test_a_long_ranking_gets_a_higher_picture(tmp_path):
    rows = [(f"head {i}", 0.9 - 0.005 * i, (0.88 - 0.005 * i, 0.92 - 0.005 * i), i < 3) for i in range(60)]
    ranking_chart(tmp_path / "r.png", rows, title="many", remark="r")
    assert pixels(tmp_path / "r.png").shape == (2000, 1200, 3)


def test_points_without_intervals_or_forecasts_are_drawn(tmp_path):
    bare = [(n, mean, None, [mean]) for n, mean, _, _ in POINTS]
    curve_chart(tmp_path / "c.png", bare, fitted=None, forecasts=[], title="lr", remark="cannot tell")
    assert coloured(pixels(tmp_path / "c.png")) > 500


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingDependency, match=r"charts need matplotlib: install it with `pip install '\.\[plot\]'`"):
        CHARTS["shots"](tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()
