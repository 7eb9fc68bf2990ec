"""The plot of the features of a recipe."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure

from atb_fast.errors import ArgumentError
from atb_fast.ingestion import sample
from atb_fast.reports.preview import plot_features

TIMES = sample.candles("BTCUSDT", "1d")["timestamp"][:50]


def values(count: int) -> pl.DataFrame:
    return pl.DataFrame({f"x{i}": np.arange(50.0) for i in range(count)})


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    saved: list[Figure] = []
    save = Figure.savefig

    def savefig(figure: Figure, *arguments: object, **options: object) -> None:
        saved.append(figure)
        save(figure, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_chart_for_each_feature(count: int, tmp_path: Path, figures: list[Figure]) -> None:
    plot_features(tmp_path / "x.png", TIMES, values(count), "a title")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = figures
    shown = [axis.get_title(loc="left") for axis in figure.axes if axis.axison]
    assert shown == [f"x{i}" for i in range(count)]
    assert figure.get_suptitle() == "a title"


def test_the_title_says_that_features_are_left_out(
    tmp_path: Path, figures: list[Figure], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    plot_features(tmp_path / "x.png", TIMES, values(41), "a title")
    assert figures[0].get_suptitle() == "a title: the first 40 of 41 features"
    assert "has the first 40 of 41 features" in caplog.text


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"expected a name that ends with \.png, .* x\.png$"):
        plot_features(tmp_path / "x.svg", TIMES, values(1), "a title")
    assert not [*tmp_path.iterdir()]
