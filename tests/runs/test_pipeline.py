"""A training run from start to finish."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

from atb_fast import Listener, TrainingConfig, run_training_pipeline
from atb_fast.bundles import publishing
from atb_fast.serving.registry import age


class Publishes(Listener):
    """Reserves a version of the same symbol and type while the model is trained."""

    def __init__(self, registry: Path) -> None:
        self.registry, self.version = registry, ""

    def epoch(self, number: int, logs: dict[str, float]) -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        with publishing.reserve(self.registry, "BTCUSDT", "price", now) as draft:
            self.version = draft.version
            draft.keep()


def test_of_two_runs_the_one_that_ends_last_is_the_newest(tmp_path: Path) -> None:
    config = TrainingConfig(
        symbol="BTCUSDT",
        source="sample",
        start_date=date(2023, 1, 1),
        end_date=date(2023, 6, 30),
        force_price_only=True,
        sequence_length=10,
        epochs=1,
        engine="keras",
        skip_plots=True,
        skip_onnx=True,
        registry=tmp_path / "models",
    )
    other = Publishes(config.registry)
    result = run_training_pipeline(config, listener=other)
    assert other.version
    assert age(Path(other.version)) < age(Path(result.version_id))
