"""The number of threads: where it comes from; no result depends on it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from core_features import PRICE_FEATURES, of_column

from atb_fast import _core
from atb_fast.errors import ArgumentError

DAY = 86_400_000
ROWS = 300_001  # enough for nine threads
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    rng = np.random.default_rng(11)
    close = 30_000 * np.exp(np.cumsum(rng.standard_normal(ROWS) * 1e-3))
    columns = {name: close * rng.uniform(0.9, 1.1, ROWS) for name in ("open", "high", "low")}
    volume = np.where(rng.random(ROWS) < 0.5, 0.0, -0.0)  # either is the smallest
    frame = pl.DataFrame({**columns, "close": close, "volume": volume})
    holes = rng.integers(0, ROWS, 50)
    return frame.with_row_index().with_columns(
        close=pl.when(pl.col("index").is_in(holes.tolist())).then(None).otherwise("close")
    )


@pytest.fixture(scope="module")
def files() -> list[tuple[int, bytes]]:
    def day(number: int) -> bytes:
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as file:
            row = (
                f"{number * DAY},1.5,2.5,{'x' if number == 7 else 0.5},{1 + number / 99},7,,,,,,\n"
            )
            file.writestr("day.csv", row)
        return target.getvalue()

    return [(number * DAY, day(number)) for number in range(20)]


@pytest.mark.parametrize("threads", [2, 3, 7, 1024])
def test_features_do_not_depend_on_it(frame: pl.DataFrame, threads: int) -> None:
    one, several = (
        _core.FeaturePipeline(PRICE_FEATURES).fit(frame, threads=count) for count in (1, threads)
    )
    for ours, theirs in zip(one.scalers, several.scalers, strict=True):
        ends = [np.array([each.data_min, each.data_max]).tobytes() for each in (ours, theirs)]
        assert ends[0] == ends[1]
    matrix, other = (one.transform(frame, threads=count) for count in (1, threads))
    assert matrix.values.tobytes() == other.values.tobytes()
    assert matrix.rows.tobytes() == other.rows.tobytes()
    unrounded = [one.transform_float64(frame, threads=count) for count in (1, threads)]
    assert unrounded[0].tobytes() == unrounded[1].tobytes()


@pytest.mark.parametrize("threads", [2, 3, 7, 1024])
def test_archives_do_not_depend_on_it(files: list[tuple[int, bytes]], threads: int) -> None:
    def read(threads: int) -> tuple[pl.DataFrame, list[tuple[int, str]]]:
        table, problems = _core.read_archive(files, max_rows=1, day_ms=DAY, threads=threads)
        return pl.DataFrame(table), problems

    table, problems = read(1)
    assert len(table) == 19
    assert problems == [(7, "row 0, low: found 'x', expected a number")]
    other, same = read(threads)
    assert other.equals(table)
    assert same == problems


@pytest.mark.parametrize("threads", [2, 3, 7, 1024])
def test_labels_do_not_depend_on_it(frame: pl.DataFrame, threads: int) -> None:
    prices = [frame[name].to_numpy() for name in ("high", "low", "close")]
    one, several = (
        _core.triple_barrier(
            np.arange(ROWS),
            *prices,
            bar_ms=1,
            horizon=50,
            take_profit=0.1,
            stop_loss=0.1,
            threads=count,
        )
        for count in (1, threads)
    )
    assert set(one[~np.isnan(one)]) == {-1.0, 0.0, 1.0}
    assert one.tobytes() == several.tobytes()


def calls(frame: pl.DataFrame) -> dict[str, Call]:
    fitted = _core.FeaturePipeline([of_column("x", "close")]).fit(frame, threads=1)
    return {
        "fit": lambda **threads: fitted.fit(frame, **threads),
        "transform": lambda **threads: fitted.transform(frame, **threads),
        "transform_float64": lambda **threads: fitted.transform_float64(frame, **threads),
        "read_archive": lambda **threads: _core.read_archive([], max_rows=1, day_ms=1, **threads),
        "triple_barrier": lambda **threads: _core.triple_barrier(
            [0], [1], [1], [1], bar_ms=1, horizon=1, take_profit=0.1, stop_loss=0.1, **threads
        ),
    }


@pytest.mark.parametrize(
    "name", ["fit", "transform", "transform_float64", "read_archive", "triple_barrier"]
)
def test_an_argument_comes_before_the_variable(
    frame: pl.DataFrame, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = calls(frame)[name]
    for value in ("2", ""):
        monkeypatch.setenv("ATB_FAST_THREADS", value)
        call()
    for value in ("0", "-1", "many", "1025"):
        monkeypatch.setenv("ATB_FAST_THREADS", value)
        expected = f"ATB_FAST_THREADS is {value}, expected an integer from 1 to 1024"
        with pytest.raises(ArgumentError, match=expected):
            call()
        call(threads=2)
    monkeypatch.delenv("ATB_FAST_THREADS")
    with pytest.raises(ArgumentError, match="threads is 0, expected an integer of at least 1"):
        call(threads=0)
    with pytest.raises(ArgumentError, match=r"threads is 1025, expected .* at most 1024"):
        call(threads=1025)
