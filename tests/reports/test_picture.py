"""training.png: its size, its pixels, and the data in it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from atb_fast.evaluation.record import RunRecord
from atb_fast.features.windows import WindowedData
from atb_fast.reports.picture import plot_training, training_figure
from atb_fast.reports.style import LIGHT

TITLE = "BTCUSDT 1d, sentiment model"


def test_the_png_shows_four_charts(tmp_path: Path, make_record: Callable[..., RunRecord]) -> None:
    path = tmp_path / "training.png"
    plot_training(path, TITLE, make_record())
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height) == (1430, 935)
    pixels = np.round(imread(path)[:, :, :3] * 255).astype(int)
    model = [int(LIGHT["model"][i : i + 2], 16) for i in (1, 3, 5)]
    for rows in (slice(40, height // 2), slice(height // 2, None)):
        for columns in (slice(width // 2), slice(width // 2, None)):
            chart = pixels[rows, columns]
            assert (chart == model).all(axis=2).sum() > 100
            assert (chart == 255).all(axis=2).mean() > 0.5


def test_the_figure_shows_the_last_predictions(
    data: WindowedData, make_record: Callable[..., RunRecord]
) -> None:
    predictions = data.targets(data.test) * 1.2
    figure = training_figure(TITLE, make_record(predictions))
    assert figure.get_suptitle() == TITLE
    axes = {axis.get_title(loc="left"): axis for axis in figure.axes}
    assert list(axes) == [
        "Loss by epoch",
        "RMSE by epoch",
        "Permutation importance on the test windows",
        "Last 100 test predictions",
    ]
    last = axes["Last 100 test predictions"]
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in last.lines}
    np.testing.assert_array_equal(lines["model"], predictions[-100:])
    np.testing.assert_array_equal(lines["actual"], data.targets(data.test)[-100:])
    shown = {text.get_text() for text in last.get_legend().get_texts()}
    assert shown == {"actual", "persistence", "model"}


def test_the_figure_shows_the_network_before_shrinkage(
    data: WindowedData, make_record: Callable[..., RunRecord]
) -> None:
    network = data.targets(data.test) * 1.3
    last = training_figure(TITLE, make_record(), network).axes[-1]
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in last.lines}
    np.testing.assert_array_equal(lines["unshrunk"], network[-100:])


@pytest.mark.parametrize(
    ("kind", "titles"),
    [
        ("returns", ["Loss by epoch", "RMSE by epoch", "Last 100 test predictions"]),
        ("two", ["Loss by epoch", "Confusion matrix", "Calibration of probabilities"]),
        ("three", ["Loss by epoch", "Confusion matrix", "Calibration of probabilities"]),
        (
            "volatility",
            [
                "Ratio to HAR by month",
                "Realized by predicted volatility",
                "Last 100 test predictions",
            ],
        ),
    ],
)
def test_the_figure_of_other_forecasts(
    tmp_path: Path, record_of: Callable[..., RunRecord], kind: str, titles: list[str]
) -> None:
    record = record_of(kind)
    plot_training(tmp_path / "training.png", TITLE, record)
    shown = [axis.get_title(loc="left") for axis in training_figure(TITLE, record).axes]
    titles.insert(2, "Permutation importance on the test windows")
    assert shown == titles
