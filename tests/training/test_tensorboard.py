from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from atb_fast import TrainingConfig, run_training_pipeline
from atb_fast.callbacks import Listener
from atb_fast.errors import MissingExtraError
from atb_fast.training import tensorboard


def config(directory: Path, engine: str = "auto") -> TrainingConfig:
    return TrainingConfig(
        symbol="BTCUSDT",
        source="sample",
        start_date="2024-01-01",  # type: ignore[arg-type]
        sequence_length=20,
        epochs=2,
        engine=engine,  # type: ignore[arg-type]
        skip_onnx=True,
        skip_plots=True,
        skip_robustness=True,
        registry=directory / "models",
        tensorboard=directory / "board",
    )


@pytest.mark.parametrize("engine", ["compiled", "keras"])
def test_the_curves_equal_the_history(tmp_path: Path, engine: str) -> None:
    logs: list[dict[str, float]] = []
    options = config(tmp_path, engine)

    class Logs(Listener):
        def epoch(self, number: int, got: dict[str, float]) -> None:
            logs.append(dict(got))

    result = run_training_pipeline(options, listener=Logs())
    assert result.engine == engine
    (run,) = (tmp_path / "board" / "BTCUSDT_1d").iterdir()
    read = {}
    for part, prefix in (("train", ""), ("validation", "val_")):
        events = EventAccumulator(str(run / part)).Reload()
        for name in ("loss", "rmse"):
            curve = [(e.step, e.tensor_proto) for e in events.Tensors(f"epoch_{name}")]
            assert [step for step, _ in curve] == [0, 1]
            read[prefix + name] = [float(make_ndarray(proto)) for _, proto in curve]
    assert read == {name: pytest.approx([log[name] for log in logs]) for name in read}


def test_nothing_is_written_unless_requested() -> None:
    assert tensorboard.callbacks(None, "BTCUSDT_1d") == []


def test_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="pip install tensorboard"):
        tensorboard.callbacks(tmp_path, "BTCUSDT_1d")
