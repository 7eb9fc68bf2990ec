"""The charts of a training run, by what its model predicts.

`draw_charts` renders them as SVG for the page; `picture.plot_training` draws four of them into
training.png.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from atb_fast.evaluation.record import RunRecord
from atb_fast.evaluation.scoring import Scoring, Tested
from atb_fast.reports.charts import classes, common, prices, volatility
from atb_fast.reports.charts.drawing import Chart, svg
from atb_fast.reports.charts.periods import period_charts

_Forecasts = NDArray[np.float64] | None

#: The charts of each kind of forecast; see `Scoring.kind`.
_KINDS: dict[str, Callable[[RunRecord, _Forecasts], dict[str, Chart]]] = {
    "prices": prices.charts,
    "returns": prices.charts,
    "classes": classes.charts,
    "volatility": volatility.charts,
}


def charts_of(record: RunRecord, unshrunk: _Forecasts = None) -> dict[str, Chart]:
    """Return the charts of a run by name, in page order; see `draw_charts`."""
    found = record.evaluation
    own = _KINDS[found.scoring.kind](record, unshrunk)
    over_time = period_charts(found.scoring, found.tested, found.reference.removeprefix("the "))
    return over_time | {"market": common.market_chart(record)} | own


def forecast_charts(scoring: Scoring, tested: Tested) -> dict[str, Chart]:
    """Return the charts of forecasts for test windows by name, in page order."""
    kinds: dict[str, Callable[[Scoring, Tested], dict[str, Chart]]] = {
        "classes": classes.forecast_charts,
        "volatility": volatility.forecast_charts,
    }
    return kinds.get(scoring.kind, prices.forecast_charts)(scoring, tested)


def draw_charts(record: RunRecord, unshrunk: _Forecasts = None) -> dict[str, str]:
    """Return the charts of a run by name, each an `<svg>` as `markupsafe.Markup`.

    Colors are CSS variables that the page must define, one for each key of `style.LIGHT`. The same
    run always gives the same bytes.

    Args:
        record: The run, with its importance measured.
        unshrunk: The forecasts for the test windows before shrinkage; None if the model is not
            shrunk.
    """
    return draw(charts_of(record, unshrunk))


def draw(charts: Mapping[str, Chart]) -> dict[str, str]:
    """Return charts by name, each an `<svg>` as `markupsafe.Markup`; see `draw_charts`.

    The labels of charts of one page must differ.
    """
    return {name: svg(chart) for name, chart in charts.items()}
