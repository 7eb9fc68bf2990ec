"""The markets of a study."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from atb_fast.callbacks import Listener
from atb_fast.experiments import trial
from atb_fast.features.frames import epoch_ms
from atb_fast.ingestion.market import Market, load_market
from atb_fast.recipes.config import TrainingConfig


class Markets:
    """The markets of a study, loaded once."""

    def __init__(self, configs: Sequence[TrainingConfig], listener: Listener) -> None:
        self._listener = listener
        self._described: dict[tuple[str, bool], dict[str, Any]] = {}
        #: Contents of the markets by their sha256.
        self.contents: dict[str, bytes] = {}
        self._times = [epoch_ms(self._load(each).candles["timestamp"]) for each in configs]

    def _load(self, config: TrainingConfig) -> Market:
        market = load_market(config, listener=self._listener)
        described, contents = trial.pack(market)
        self._described[config.symbol, config.force_price_only] = described
        self.contents |= contents
        return market

    def described(self, configs: Sequence[TrainingConfig]) -> list[dict[str, Any]]:
        """Return the description of the market of each configuration."""
        for config in configs:
            if (config.symbol, config.force_price_only) not in self._described:
                self._load(config)
        return [self._described[each.symbol, each.force_price_only] for each in configs]

    def split(self, share: float) -> str | None:
        """Return the time at which the newest `share` of all bars begins, ISO 8601, UTC."""
        if not share:
            return None
        times = np.sort(np.concatenate(self._times))
        first = int(times[min(len(times) - 1, int(len(times) * (1.0 - share)))])
        return datetime.fromtimestamp(first / 1000, UTC).isoformat()
