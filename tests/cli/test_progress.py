from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from rich.console import Console

from atb_fast import TrainingConfig
from atb_fast.cli.progress import Bars, bars

CONFIG = TrainingConfig(symbol="1000SHIBUSDT", source="sample")


def shown() -> tuple[Bars, Console]:
    """Return bars as on a terminal, with a stopped clock."""
    made = Bars(Console(force_terminal=True, width=80))
    made.progress.get_time = lambda: 0.0
    return made, Console(file=io.StringIO(), width=80)


def logs(train: float, validation: float, unchanged: float) -> dict[str, float]:
    return {"rmse": train, "val_rmse": validation, "val_persistence_rmse": unchanged}


def lines(made: Bars, plain: Console) -> list[str]:
    """Return the bars that are visible, without their spinners and times."""
    plain.print(made.progress.make_tasks_table(made.progress.tasks))
    assert isinstance(plain.file, io.StringIO)
    text = plain.file.getvalue()
    plain.file.truncate(0)
    plain.file.seek(0)
    return [" ".join(line.split()[1:]) for line in text.splitlines() if line.strip()]


def test_epochs_loss_and_time_left_fit_a_narrow_terminal() -> None:
    clock = 0.0
    made, plain = shown()
    made.progress.get_time = lambda: clock
    listener = made.for_training(CONFIG, several=True)
    for epoch in (1, 2, 3):
        clock += 420.0  # an epoch of minute candles
        listener.epoch(epoch, logs(23_456.7, 34_567.8, 1_680.2))
    (line,) = lines(made, plain)
    assert line.endswith("3/300 epochs 34:39:00 val. 34,568, pers. 1,680")
    assert line.startswith("1000SHIBUSDT")


def test_classes_are_compared_with_their_shares() -> None:
    made, plain = shown()
    made.for_training(CONFIG).epoch(
        1, {"loss": 0.65, "val_loss": 0.7012, "val_shares_loss": 0.6931}
    )
    (line,) = lines(made, plain)
    assert "val. 0.701200, shares 0.693100" in line


def test_windows_are_shown_in_long_epochs_only() -> None:
    made, plain = shown()
    listener = made.for_training(CONFIG)
    listener.windows(32, 1_600)
    (training,) = lines(made, plain)
    assert training.startswith("training")
    listener.windows(40_000, 1_000_000)
    listener.fetched("1000SHIBUSDT 1m", 5, 10)
    _, epoch, fetched = lines(made, plain)
    assert epoch.startswith("epoch")
    assert "40000/1000000 windows" in epoch
    assert "5/10 candles" in fetched


def test_stages_after_training_are_shown() -> None:
    made, plain = shown()
    listener = made.for_training(CONFIG)
    # The stage artifacts runs twice: first for the model, and at the end for the rest.
    listener.stage("artifacts")
    assert "finishing" not in "".join(lines(made, plain))
    for step, stage in enumerate(("evaluation", "diagnostics", "onnx", "artifacts")):
        listener.stage(stage)
        (line,) = lines(made, plain)
        assert f"{step}/4 steps" in line
        assert line.endswith(stage)
    listener.stage("evaluation")  # the comparison with the live model
    (line,) = lines(made, plain)
    assert "3/4 steps" in line


def test_bars_of_a_symbol_disappear_at_its_end() -> None:
    made, plain = shown()
    listeners = [
        made.for_training(TrainingConfig(symbol=symbol, source="sample"), several=True)
        for symbol in ("BTCUSDT", "ETHUSDT")
    ]
    listeners[0].windows(40_000, 1_000_000)
    listeners[0].finished()
    (line,) = lines(made, plain)
    assert line.startswith("ETHUSDT")


def test_folds_and_their_epochs_are_shown() -> None:
    made, plain = shown()
    listener = made.for_folds(CONFIG, 5)
    listener.stage("importing TensorFlow")
    (line,) = lines(made, plain)
    assert line.startswith("walk-forward")
    assert line.endswith("importing TensorFlow")
    listener.stage("compiling")
    _, line = lines(made, plain)
    assert line.startswith("fold 1 of 5")
    assert line.endswith("compiling")
    # The errors of returns differ only in later digits.
    listener.epoch(1, logs(0.02534124, 0.02541199, 0.02541187))
    _, line = lines(made, plain)
    assert "1/300 epochs" in line
    assert "val. 0.0254120, pers. 0.0254119" in line


def test_folds_of_several_symbols_are_shown_until_each_ends() -> None:
    made, plain = shown()
    listeners = [
        made.for_folds(TrainingConfig(symbol=symbol, source="sample"), 5, several=True)
        for symbol in ("BTCUSDT", "ETHUSDT")
    ]
    for listener in listeners:
        listener.stage("importing TensorFlow")
        listener.epoch(1, logs(0.5, 0.25, 0.125))
    assert [line.split()[:2] for line in lines(made, plain)] == [
        ["BTCUSDT", "walk-forward"],
        ["BTCUSDT", "fold"],
        ["ETHUSDT", "walk-forward"],
        ["ETHUSDT", "fold"],
    ]
    listeners[0].finished()  # it failed
    assert {line.split()[0] for line in lines(made, plain)} == {"ETHUSDT"}


def trial(
    value: float | None, state: str = "complete", error: str | None = None
) -> dict[str, object]:
    return {"trial_id": "0" * 15 + "a", "value": value, "state": state, "error": error}


def test_a_study_has_a_bar_and_a_line_for_each_trial(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made, plain = shown()
    listener = made.for_study(4)
    (line,) = lines(made, plain)
    assert line.startswith("study")
    assert "0/4 trials" in line
    listener.trial(trial(0.98765), 1, 4)
    listener.trial(trial(1.02), 2, 4)
    listener.trial(trial(None, "failed", "the loss became NaN"), 3, 4)
    (line,) = lines(made, plain)
    assert "3/4 trials" in line
    assert line.endswith("best so far 0.9877")
    listener.trial(trial(None, "pruned"), 4, 4)
    assert lines(made, plain) == []
    assert caplog.messages == [
        "trial 000000000000000a: 0.9877",
        "trial 000000000000000a: 1.0200",
        "trial 000000000000000a: failed: the loss became NaN",
        "trial 000000000000000a: pruned",
    ]


def test_what_happens_before_the_first_epoch_is_shown() -> None:
    made, plain = shown()
    listener = made.for_training(CONFIG)
    for stage in ("ingestion", "importing TensorFlow", "training", "compiling"):
        listener.stage(stage)
        (line,) = lines(made, plain)
        assert line.startswith("training")
        assert line.endswith(stage)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


@pytest.fixture
def clock(caplog: pytest.LogCaptureFixture) -> Iterator[list[float]]:
    """Seconds, in a list that tests change."""
    with caplog.at_level(logging.INFO, "atb_fast"):
        yield [0.0]


def quiet(clock: list[float]) -> Bars:
    """Return bars without a terminal, which follow `clock`."""
    return Bars(Console(file=io.StringIO()), lambda: clock[0])


def test_a_line_every_30_seconds_without_a_terminal(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    listener = quiet(clock).for_training(CONFIG)
    for name in ("ingestion", "importing TensorFlow", "training", "compiling"):
        listener.stage(name)
    clock[0] = 20.0  # for compilation
    seen = {}
    for epoch in range(1, 301):
        clock[0] += 4.0
        listener.epoch(epoch, logs(23_456.7, 34_567.8, 1_680.2))
        if lines := logged(caplog):
            seen[epoch] = lines
    errors = "RMSE 23,457, val. 34,568, persistence 1,680"
    assert list(seen)[:4] == [3, 11, 19, 27]
    assert seen[3] == [f"training: 3 of 300 epochs, {errors}, about 20 min left"]
    assert seen[291] == [f"training: 291 of 300 epochs, {errors}, about 36 s left"]


def test_a_short_run_logs_no_progress(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    listener = quiet(clock).for_training(CONFIG)
    for epoch in range(1, 300):
        clock[0] += 0.1
        listener.epoch(epoch, logs(1.0, 1.0, 1.0))
    listener.stage("evaluation")
    assert logged(caplog) == []


def test_each_symbol_has_its_lines(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    made = quiet(clock)
    listeners = [
        made.for_training(TrainingConfig(symbol=symbol, source="sample"), several=True)
        for symbol in ("BTCUSDT", "ETHUSDT")
    ]
    for epoch in (1, 2):
        clock[0] += 3600.0
        for listener in listeners:
            listener.windows(25_000, 1_000_000)
            listener.epoch(epoch, logs(0.5, 0.25, 0.125))
    lines = logged(caplog)
    errors = "RMSE 0.500000, val. 0.250000, persistence 0.125000"
    assert lines[0] == f"BTCUSDT: 1 of 300 epochs, {errors}"
    assert lines[1] == f"ETHUSDT: 1 of 300 epochs, {errors}"
    assert lines[2] == "BTCUSDT epoch: 25,000 of 1,000,000 windows"
    assert lines[3] == f"BTCUSDT: 2 of 300 epochs, {errors}, about 298 h 0 min left"


def test_folds_and_downloads_have_lines(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    listener = quiet(clock).for_folds(CONFIG, 5)
    listener.fetched("BTCUSDT 1m", 1_000, 1_000_000)
    clock[0] = 60.0
    listener.fetched("BTCUSDT 1m", 251_000, 1_000_000)
    assert logged(caplog) == ["BTCUSDT 1m: 251,000 of 1,000,000 candles, about 3 min left"]
    listener.stage("compiling")
    listener.epoch(1, logs(0.5, 0.25, 0.125))
    clock[0] = 90.0
    listener.epoch(4, logs(0.5, 0.25, 0.125))
    errors = "RMSE 0.500000, val. 0.250000, persistence 0.125000"
    (line,) = logged(caplog)
    assert line == f"fold 1 of 5: 4 of 300 epochs, {errors}, about 49 min left"


def test_a_study_has_lines(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    listener = quiet(clock).for_study(50)
    listener.trial(trial(0.98765), 1, 50)
    clock[0] += 31
    listener.trial(trial(0.9), 2, 50)
    assert caplog.messages == ["study: 2 of 50 trials, best so far 0.9000, about 25 min left"]


def test_nothing_is_written_to_a_console_that_is_not_a_terminal() -> None:
    console = Console(file=io.StringIO())
    with bars(console) as made:
        made.for_training(CONFIG).epoch(1, logs(1.0, 2.0, 3.0))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""
