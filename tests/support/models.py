"""Models that stand in for trained ones."""

from __future__ import annotations

from typing import Any

from atb_fast.features.windows import WindowedData


class Momentum:
    """Predicts from the close and the sentiment of the last row."""

    def __init__(self, data: WindowedData) -> None:
        names = data.prepared.matrix.names
        self.columns = [names.index("close_scaled"), names.index("sentiment_momentum_scaled")]

    def predict_on_batch(self, windows: Any) -> Any:
        return (windows[:, -1, self.columns] @ [5000.0, 1000.0])[:, None]
