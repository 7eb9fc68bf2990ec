"""Windows whose model predicts something else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from atb_fast.features.price import PriceScale
from atb_fast.features.windows import Labels, WindowedData


def relabelled(data: WindowedData, scale: PriceScale, values: Any = None) -> WindowedData:
    """Return `data` with another price scale and, if given, other labels."""
    values = data.labels.values if values is None else values
    return replace(data, labels=Labels.of_prices(data.prepared.close, values, scale))
