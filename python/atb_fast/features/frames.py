"""Frames of candles and sentiment, from any library that supports Arrow."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import epoch_ms as integers_to_ms

if TYPE_CHECKING:
    import polars as pl

#: Column with the relative change of the Fear & Greed index.
MOMENTUM = "sentiment_momentum"


class ArrowFrame(Protocol):
    """A frame that supports the Arrow PyCapsule interface.

    For example a Polars or pyarrow frame, or a pandas frame (2.2 or newer, with pyarrow installed).
    """

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the columns as an Arrow stream, wrapped in a PyCapsule."""


class PandasFrame(ArrowFrame, Protocol):
    """A pandas frame, for type checkers that lack the types of pandas."""

    @property
    def iloc(self) -> Any:
        """The rows by position, which only pandas has."""


def epoch_ms(times: pl.Series) -> NDArray[np.int64]:
    """Return times as milliseconds since 1970; see `_core.epoch_ms` for the unit of integers."""
    import polars as pl

    if times.dtype.is_integer():
        return integers_to_ms(times.to_numpy())
    zone = times.dtype.time_zone if isinstance(times.dtype, pl.Datetime) else None
    milliseconds = times.cast(pl.Datetime("ms", zone)).cast(pl.Int64)
    return milliseconds.to_numpy().copy()


def ends(frame: pl.DataFrame) -> tuple[datetime, datetime]:
    """Return the first and the last timestamp."""
    times = frame["timestamp"]
    return cast(datetime, times[0]), cast(datetime, times[-1])
