"""training.png: its size, its pixels, and the data in it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from atb_fast.evaluation.record import RunRecord
from atb_fast.features.windows import WindowedData
from atb_fast.reports.picture import plot_training, training_figure
from atb_fast.reports.style import LIGHT


@pytest.fixture
def arguments(data: WindowedData, make_record: Callable[..., RunRecord]) -> dict[str, Any]:
    record = make_record()
    return {
        "title": "BTCUSDT 1d, sentiment model",
        "fitted": record.fitted,
        "data": data,
        "test_predictions": data.targets(data.test) * 1.2,
        "importance": record.importance,
        "deviation": record.importance_deviation,
    }


def test_the_png_shows_four_charts(tmp_path: Path, arguments: dict[str, Any]) -> None:
    path = tmp_path / "training.png"
    plot_training(path, **arguments)
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
    data: WindowedData, arguments: dict[str, Any]
) -> None:
    figure = training_figure(**arguments)
    assert figure.get_suptitle() == "BTCUSDT 1d, sentiment model"
    axes = {axis.get_title(loc="left"): axis for axis in figure.axes}
    assert list(axes) == [
        "Loss by epoch",
        "RMSE by epoch",
        "Permutation importance on the test windows",
        "Last 100 test predictions",
    ]
    last = axes["Last 100 test predictions"]
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in last.lines}
    np.testing.assert_array_equal(lines["model"], arguments["test_predictions"][-100:])
    np.testing.assert_array_equal(lines["actual"], data.targets(data.test)[-100:])
    shown = {text.get_text() for text in last.get_legend().get_texts()}
    assert shown == {"actual", "persistence", "model"}


def test_the_figure_shows_the_network_before_shrinkage(
    data: WindowedData, arguments: dict[str, Any]
) -> None:
    network = data.targets(data.test) * 1.3
    last = training_figure(**arguments, unshrunk=network).axes[-1]
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in last.lines}
    np.testing.assert_array_equal(lines["unshrunk"], network[-100:])
