"""Trainings in separate processes, and the progress that they report."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from atb_fast import TrainingConfig
from atb_fast.callbacks import Listener
from atb_fast.runs.parallel import Failure, train_all
from atb_fast.runs.timing import STAGES


class Seen(Listener):
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.epochs: list[int] = []
        self.done: list[tuple[int, int]] = []
        self.ends = 0

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def windows(self, done: int, total: int) -> None:
        self.done.append((done, total))

    def epoch(self, number: int, logs: dict[str, float]) -> None:
        assert logs["val_loss"] > 0
        assert logs["val_persistence_rmse"] > 0
        self.epochs.append(number)

    def finished(self) -> None:
        self.ends += 1


def test_events_of_each_process_reach_its_listener(tmp_path: Path) -> None:
    good = TrainingConfig(
        symbol="BTCUSDT",
        source="sample",
        start_date=date(2024, 6, 1),
        sequence_length=10,
        epochs=2,
        engine="keras",
        skip_onnx=True,
        skip_plots=True,
        skip_robustness=True,
        registry=tmp_path,
    )
    bad = TrainingConfig(
        symbol="ETHUSDT", candles=tmp_path / "gone.csv", force_price_only=True, registry=tmp_path
    )
    seen = {"BTCUSDT": Seen(), "ETHUSDT": Seen()}
    trained, failed = train_all([good, bad], jobs=2, listen=lambda config: seen[config.symbol])
    assert not isinstance(trained, Failure)
    assert isinstance(failed, Failure)
    assert failed.exit_code == 3
    assert seen["BTCUSDT"].epochs == [1, 2]
    assert set(seen["BTCUSDT"].stages) == {*STAGES, "importing TensorFlow", "compiling"}
    windows = seen["BTCUSDT"].done
    # The end of every epoch is reported, even if most batches are not.
    assert [done for done, total in windows if done == total] == [windows[0][1]] * 2
    assert seen["ETHUSDT"].stages == ["ingestion"]
    assert [listener.ends for listener in seen.values()] == [1, 1]
