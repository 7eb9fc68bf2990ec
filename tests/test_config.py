from __future__ import annotations

import inspect
import json
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atb_fast import TrainingConfig
from atb_fast.config import OPTIONS, RESERVED_NAMES, FitOptions, MarketOptions, lag_ms
from atb_fast.errors import ArgumentError
from atb_fast.features.signatures import FUNCTIONS
from atb_fast.recipes.recipe import Recipe


def config(**options: Any) -> TrainingConfig:
    return TrainingConfig(**{"symbol": "BTCUSDT", "source": "sample", **options})


def test_defaults_are_those_of_the_legacy_trainer() -> None:
    made = config()
    assert (made.epochs, made.sequence_length, made.patience) == (300, 120, 15)
    assert made.batch_size is None
    assert made.timeframe == "1d"


def test_every_option_has_help() -> None:
    assert all(item.help for item in OPTIONS.values())
    assert {"symbol", "definition", *OPTIONS} == {item.name for item in fields(TrainingConfig)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symbol": "btc/usdt"}, "symbol is 'btc/usdt', expected capital letters and digits"),
        ({"symbol": "../X"}, "symbol is"),
        ({"symbol": "BTCUSDT\n"}, "symbol is"),
        ({"timeframe": "1d\n"}, "timeframe is"),
        ({"start_date": "2024-01-31\n"}, "--start-date is"),
        ({"timeframe": "2d"}, "timeframe is '2d', expected one of"),
        ({"epochs": 0}, "epochs is 0, expected at least 1"),
        ({"batch_size": -1}, "--batch-size is -1, expected at least 1"),
        ({"sequence_length": 9}, "--sequence-length is 9, expected at least 10"),
        ({"seed": 2**32}, "--seed is 4294967296, expected at most 4294967295"),
        ({"embargo": 2**31}, "--embargo is 2147483648, expected at most 2147483647"),
        ({"patience": 2**63}, "--patience is 9223372036854775808, expected at most 2147"),
        ({"epochs": 10**30}, f"--epochs is {10**30}, expected at most 2147483647"),
        ({"batch_size": 10**5000}, "--batch-size is a huge integer, expected at most 2147483647"),
        ({"patience": -(10**5000)}, "--patience is a huge integer, expected at least 1"),
        (
            {"start_date": date(2024, 2, 1), "end_date": date(2024, 1, 1)},
            "--start-date 2024-02-01 is after --end-date 2024-01-01; swap them",
        ),
        ({"source": "files"}, "--source files is given without --candles; pass --candles FILE"),
        ({"candles": Path("x.csv")}, "--source sample does not use --candles; leave out"),
        (
            {"sentiment": Path("y.csv")},
            "--source sample does not use --sentiment; leave out --sentiment, or pass --source",
        ),
        (
            {"source": None, "sentiment": Path("y.csv")},
            "--sentiment is given without --candles; pass --candles FILE, or leave out --sentiment",
        ),
        ({"source": None, "candles": Path(__file__)}, "--candles is given without --sentiment"),
        (
            {"force_price_only": True, "force_sentiment": True},
            "--force-price-only and --force-sentiment contradict",
        ),
        ({"epochs": 2.5}, "epochs is 2.5, expected an integer"),
        ({"seed": True}, "seed is True, expected an integer"),
        ({"symbol": None}, "symbol is None, expected capital"),
        ({"skip_plots": "no"}, "--skip-plots is 'no', expected True or False"),
        ({"start_date": datetime(2024, 1, 1, 12, tzinfo=UTC)}, "expected a date such as"),
        ({"start_date": 20240101}, "--start-date is 20240101, expected a date"),
        ({"registry": ""}, "--registry is empty; pass a path, or leave it out"),
        ({"candles": " "}, "--candles is empty; pass a path"),
        ({"start_date": "1.1.2024"}, "--start-date is '1.1.2024', expected a date such as"),
        ({"timeframe": "1y"}, "timeframe is '1y', expected one of"),
        ({"registry": "a\0b"}, "registry is .*, expected a path"),
        ({"registry": "~nobody0/models"}, "registry is .*, expected a path"),
        ({"timeframe": "1w"}, "--timeframe 1w is longer than a day and sentiment is daily"),
        ({"extra": "a=b"}, "--extra is 'a=b', expected a mapping, or a list of NAME=FILE"),
        ({"extra": ["a"]}, "--extra is 'a', expected NAME=FILE"),
        ({"extra": ["=b"]}, "--extra is '=b', expected NAME=FILE"),
        ({"extra": ["a= "]}, "--extra is 'a= ', expected NAME=FILE"),
        ({"extra": {"a": ""}}, "--extra is 'a=', expected NAME=FILE"),
        ({"extra": {"a": None}}, "--extra is {'a': None}, expected NAME=FILE, both as strings"),
        ({"extra": {1: "b"}}, "--extra is {1: 'b'}, expected NAME=FILE, both as strings"),
        ({"extra": ["a=b", "a=c"]}, "--extra a is given twice; remove one"),
        ({"extra": {"a": "~nobody0/x"}}, "--extra is 'a=~nobody0/x', expected NAME=FILE"),
        ({"extra": {"a b": "c"}}, "--extra has the name 'a b', expected at most 64 letters"),
        ({"extra": {"1m": "c"}}, "--extra has the name '1m', expected at most 64 letters"),
        ({"extra": {"größe": "c"}}, "--extra has the name 'größe', expected at most 64 letters"),
        (
            {"recipe": "causal", "sentiment_lag_days": 366},
            "--sentiment-lag-days is 366, expected at most 365",
        ),
        ({"extra": {"a" * 65: "c"}}, "--extra has the name 'a*', expected at most 64 letters"),
        ({"extra": {"close": "c"}}, "--extra has the name 'close', which is reserved"),
        ({"extra": {"candles": "c"}}, "--extra has the name 'candles', which is reserved"),
        ({"extra": {"mean": "c"}}, "--extra has the name 'mean', which is reserved"),
        ({"extra": {"lambda": "c"}}, "--extra has the name 'lambda', which is reserved"),
        ({"extra": {"sentiment_x": "c"}}, "--extra has the name 'sentiment_x', which is"),
        (
            {"extra_lag": {"a": "8h"}},
            r"--extra-lag is given for 'a', but --extra is not \(found: none\); add --extra a=FILE",
        ),
        (
            {"extra": {"a": "b"}, "extra_lag": {"a": "8"}},
            "--extra-lag is '8', expected a whole number",
        ),
        (
            {"extra": {"a": "b"}, "extra_lag": {"a": "-8h"}},
            "--extra-lag is '-8h', expected a whole",
        ),
        (
            {"extra": {"a": "b"}, "extra_lag": {"a": "1.5h"}},
            "--extra-lag is '1.5h', expected a whole",
        ),
        (
            {"extra": {"a": "b"}, "extra_lag": {"a": "9999w"}},
            "--extra-lag is '9999w', expected .*3653d",
        ),
        ({"extra": {"a": "b"}, "recipe": "basic"}, "--extra does not apply to the basic recipe"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        config(**options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"horizon": 3}, {"horizon", "recipe"}),
        ({"network_layers": 3}, {"network_layers", "network"}),
        ({"engine": "exact"}, {"engine", "network"}),
        ({"embargo": 5}, {"embargo", "recipe"}),
        ({"recipe": "causal", "onnx_input": "ohlcv"}, {"onnx_input", "recipe"}),
        ({"recipe": "basic", "force_sentiment": True}, {"force_sentiment", "recipe"}),
        ({"recipe": "basic", "sequence_length": 60}, {"sequence_length", "recipe"}),
        ({"batch_size": 0}, {"batch_size"}),
        ({"offline": True, "force_refresh": True}, {"offline", "force_refresh"}),
    ],
)
def test_errors_name_the_options_they_are_about(options: dict[str, Any], named: set[str]) -> None:
    with pytest.raises(ArgumentError) as caught:
        config(**options)
    assert set(caught.value.options) == named
    assert all(OPTIONS[name].flag in str(caught.value) for name in named)


def test_options_without_effect_are_kept_or_ignored() -> None:
    made = config(recipe="basic", skip_robustness=True, freshness_days=3)
    assert made.force_price_only
    assert config(recipe="causal", horizon=3, embargo=0).embargo == 0


def test_a_group_is_checked_on_its_own() -> None:
    assert MarketOptions(symbol="BTCUSDT").source == "binance"
    assert FitOptions(epochs=np.int64(7)).epochs == 7  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="--patience is 0, expected at least 1"):
        FitOptions(patience=0)
    with pytest.raises(ArgumentError, match="swap them"):
        MarketOptions(symbol="BTCUSDT", start_date=date(2024, 2, 1), end_date=date(2024, 1, 1))


def test_source_follows_from_candles() -> None:
    made = config(source=None, candles=Path("x.csv"), force_price_only=True, timeframe="1w")
    assert made.source == "files"


def test_text_becomes_paths_and_dates() -> None:
    made = config(source=None, candles="x.csv", sentiment="y.csv", start_date="2024-01-31")
    assert made.candles == Path("x.csv")
    assert made.start_date == date(2024, 1, 31)
    assert config(registry="~/models").registry == Path.home() / "models"
    assert config(epochs=np.int64(7)).epochs == 7


def test_range_is_inclusive() -> None:
    made = config(start_date=date(2019, 1, 1), end_date=date(2024, 12, 1))
    assert made.start == datetime(2019, 1, 1, tzinfo=UTC)
    assert made.end == datetime(2024, 12, 1, 23, 59, 59, tzinfo=UTC)
    assert config().start is config().end is None


def test_registry_follows_the_engines_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODEL_REGISTRY_PATH", raising=False)
    assert config().registry == Path("src/ml/models")
    monkeypatch.setenv("MODEL_REGISTRY_PATH", "/models")
    assert config().registry == Path("/models")


def test_options_can_be_written_as_json() -> None:
    document = json.loads(json.dumps(config(start_date=date(2019, 1, 1)).to_dict()))
    assert document["start_date"] == "2019-01-01"
    assert document["epochs"] == 300
    assert document["candles"] is None


def test_the_constructor_begins_with_the_market() -> None:
    given = list(inspect.signature(TrainingConfig).parameters)
    assert given == ["symbol", *OPTIONS, "definition"]


def test_extras_are_named_files_with_lags() -> None:
    recipe = Recipe(name="mine", features={"funding": "funding"}, extra=("funding",))

    def config(**options: Any) -> TrainingConfig:
        return TrainingConfig(symbol="BTCUSDT", recipe="mine", definition=recipe, **options)

    made = config(
        extra={"funding": "f_{symbol}.csv", "eth": Path("e.csv")}, extra_lag={"eth": "1d"}
    )
    assert made.extra == {"funding": Path("f_BTCUSDT.csv"), "eth": Path("e.csv")}
    assert config(extra=["funding=f=1.csv"], extra_lag=["funding=0"]).extra == {
        "funding": Path("f=1.csv")
    }
    assert config(extra={}).extra is config(extra=()).extra is None
    document = json.loads(json.dumps(made.to_dict()))
    assert document["extra"] == {"funding": "f_BTCUSDT.csv", "eth": "e.csv"}
    assert config(**{name: document[name] for name in ("extra", "extra_lag")}) == made
    assert lag_ms("0") == 0
    assert [lag_ms(f"2{unit}") for unit in "smhdw"] == [
        int(timedelta(**{unit: 2}).total_seconds()) * 1000
        for unit in ("seconds", "minutes", "hours", "days", "weeks")
    ]


def test_extras_cannot_be_called_like_functions_of_expressions() -> None:
    styles = {
        choice
        for function in FUNCTIONS.values()
        for parameter in function.parameters
        for choice in parameter.choices
    }
    assert {"col", *FUNCTIONS, *styles} <= RESERVED_NAMES
