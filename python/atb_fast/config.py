"""The options of a training run, each defined once.

The command line is generated from these fields, so a flag, its default and its help text are found
here and nowhere else. Nothing heavy is imported: this module is on the way to `--help`.
"""

from __future__ import annotations

import dataclasses
import operator
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Literal

from atb_fast.errors import ArgumentError

_MINUTE = 60_000
_DAY = 1440 * _MINUTE

#: Bar length of each timeframe in milliseconds. Names are Binance's, case-sensitive.
TIMEFRAMES = {
    "1m": _MINUTE,
    "3m": 3 * _MINUTE,
    "5m": 5 * _MINUTE,
    "15m": 15 * _MINUTE,
    "30m": 30 * _MINUTE,
    "1h": 60 * _MINUTE,
    "2h": 120 * _MINUTE,
    "4h": 240 * _MINUTE,
    "6h": 360 * _MINUTE,
    "8h": 480 * _MINUTE,
    "12h": 720 * _MINUTE,
    "1d": _DAY,
    "3d": 3 * _DAY,
    "1w": 7 * _DAY,
}

#: What a candle has beside its time, in the order that models take them.
CANDLE_COLUMNS = ("open", "high", "low", "close", "volume")

#: What the strategies that load a basic bundle are made for.
BASIC_TIMEFRAME = "1h"
#: Bars that engines feed a basic model.
BASIC_SEQUENCE_LENGTH = 120

#: Two convolutions of 3 and two poolings of 2 leave one step of 10 rows.
MIN_SEQUENCE_LENGTH = 10


#: Variables that an option has beside `ATB_FAST_<OPTION>`; engines and older versions read these.
_OTHER_VARIABLES = {"cache_dir": "ATB_FAST_CACHE", "registry": "MODEL_REGISTRY_PATH"}


def variables(option: str) -> list[str]:
    """Return the environment variables of an option; the first that is not empty counts."""
    other = _OTHER_VARIABLES.get(option)
    return [f"ATB_FAST_{option.upper()}", *([other] if other else [])]


def variable_set(option: str) -> str | None:
    """Return the environment variable that has a value for `option`."""
    return next((name for name in variables(option) if os.environ.get(name)), None)


def default_registry() -> Path:
    """Return the registry that the engines read, as the environment says, else `src/ml/models`."""
    return Path(os.environ.get(variable_set("registry") or "", "src/ml/models"))


def default_cache_dir() -> Path:
    """Return where candles and sentiment are kept: as the environment says, else the platform."""
    given = os.environ.get(variable_set("cache_dir") or "")
    if given:
        return Path(given).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("atb-fast", appauthor=False)


def check_cache_dir(path: Path) -> None:
    """Raise ArgumentError if `path`, where candles and sentiment are to be kept, is a file."""
    if path.exists() and not path.is_dir():
        raise ArgumentError(f"--cache-dir is {path}, expected a directory")


def check_symbol(symbol: str) -> None:
    """Raise ArgumentError unless `symbol` can be one; it becomes part of URLs and paths."""
    if not (isinstance(symbol, str) and re.fullmatch(r"[A-Z0-9]{2,30}", symbol)):
        raise ArgumentError(
            f"symbol is {symbol!r}, expected capitals and digits, for example BTCUSDT"
        )


def _option(default: Any, help_text: str, **extra: Any) -> Any:
    """Return a field with what the command line needs to know about it."""
    return field(default=default, metadata={"help": help_text, **extra})


def _to_date(value: date | str) -> date:
    if isinstance(value, str):
        return date.fromisoformat(value)
    # A datetime is a date, too, but its hours would be lost.
    if type(value) is not date:
        raise TypeError
    return value


def _to_path(value: Path | str) -> Path:
    if not str(value).strip() or "\0" in str(value):
        raise ValueError
    return Path(value).expanduser()


def _to_int(value: int) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def _to_bool(value: bool) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


_CONVERTERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "date": (_to_date, "a date such as 2024-01-31"),
    "Path": (_to_path, "a path"),
    "int": (_to_int, "a whole number"),
    "bool": (_to_bool, "True or False"),
}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What to train, on what, and how. Immutable; checked when made.

    Raises:
        ArgumentError: An option outside of its range, or options that contradict each other.
    """

    symbol: str
    recipe: Literal["legacy", "basic", "causal"] = _option(
        "legacy",
        "How rows become features and targets: as the old trainer made them (legacy); without "
        "anything from the future, predicting returns (causal); or candles scaled window by "
        "window, as live strategies scale them (basic).",
        choices=("legacy", "basic", "causal"),
    )
    timeframe: str = _option("1d", "Length of a bar.", choices=tuple(TIMEFRAMES))
    start_date: date | None = _option(
        None, "First day, UTC, inclusive. Default: the first day the source has."
    )
    end_date: date | None = _option(
        None, "Last day, UTC, inclusive. Default: the last day the source has."
    )
    source: Literal["binance", "files", "sample"] | None = _option(
        None,
        "Where candles and sentiment come from: Binance and alternative.me, through the store; the "
        "files named by --candles and --sentiment; or the synthetic sample market. Default: files "
        "if --candles is given, else binance.",
        choices=("binance", "files", "sample"),
    )
    candles: Path | None = _option(
        None,
        "Candles: CSV, Feather or Parquet with timestamp, open, high, low, close, volume. {symbol} "
        "in the name stands for the symbol.",
    )
    sentiment: Path | None = _option(
        None, "Fear & Greed index: CSV, Feather or Parquet with timestamp, value (0..100)."
    )
    force_sentiment: bool = _option(
        False, "Train the sentiment model even if sentiment covers little of the candles."
    )
    force_price_only: bool = _option(False, "Train without sentiment.")
    epochs: int = _option(300, "Most epochs; early stopping usually ends sooner.", minimum=1)
    batch_size: int | None = _option(
        None, "Windows in a batch. Default: 32 on a CPU, 128 on a GPU.", minimum=1
    )
    sequence_length: int = _option(120, "Bars in a window.", minimum=MIN_SEQUENCE_LENGTH)
    horizon: int = _option(
        1, "Bars from a window to the predicted close. Causal recipe only.", minimum=1
    )
    embargo: int | None = _option(
        None,
        "Bars left out between the parts, beside those that windows share. Causal recipe and "
        "evaluate only. Default: 1 % of the bars.",
        minimum=0,
    )
    sentiment_lag_days: int = _option(
        1, "Days that sentiment must be old to be seen by a candle. Causal recipe only.", minimum=0
    )
    patience: int = _option(
        15, "Epochs without a better validation loss before training stops.", minimum=1
    )
    seed: int = _option(42, "Seed of weights, shuffling and dropout.", minimum=0)
    engine: Literal["auto", "compiled", "keras"] = _option(
        "auto",
        "How the model is fitted: by Keras' own loop (keras), or by epochs that XLA compiles "
        "(compiled): the same arithmetic, faster after some seconds of compiling, with other "
        "random numbers for one seed. auto: compiled on a CPU, keras on a GPU.",
        choices=("auto", "compiled", "keras"),
    )
    mixed_precision: bool = _option(
        True, "On a GPU, train hidden layers in mixed float16; else in float32."
    )
    tensorboard: Path | None = _option(
        None, "Write curves for TensorBoard into this directory, by symbol, timeframe and time."
    )
    skip_plots: bool = _option(False, "Do not draw training.png and report.html.")
    skip_robustness: bool = _option(False, "Do not measure the model without sentiment.")
    skip_onnx: bool = _option(
        False, "Do not export ONNX. The model is kept, but engines will not see it."
    )
    onnx_input: Literal["features", "ohlcv"] = _option(
        "features",
        "What model.onnx takes: windows of scaled features, or of raw open, high, low, close and "
        "volume, of which it computes the features itself (ohlcv).",
        choices=("features", "ohlcv"),
    )
    force_refresh: bool = _option(
        False, "Fetch candles and sentiment of the range anew; prepare the features anew."
    )
    offline: bool = _option(False, "Open no connection; what is not stored is an error.")
    freshness_days: int = _option(
        7, "Days that the newest stored sentiment may be older than the end date.", minimum=0
    )
    resume: bool = _option(
        False,
        "Go on from the last checkpoint of the same training, if it was killed; the model is the "
        "same as without the break.",
    )
    cache_dir: Path = field(
        default_factory=default_cache_dir,
        metadata={
            "help": "Where candles, sentiment, features and checkpoints are kept. Default: "
            "$ATB_FAST_CACHE, else the platform's cache directory."
        },
    )
    registry: Path = field(
        default_factory=default_registry,
        metadata={
            "help": "Directory of the model registry. Default: $MODEL_REGISTRY_PATH, else "
            "src/ml/models."
        },
    )

    def __post_init__(self) -> None:
        """Check every option; text is taken for a date or a path where one is expected."""
        for name in OPTIONS:
            object.__setattr__(self, name, check_option(name, getattr(self, name)))
        check_symbol(self.symbol)
        if self.candles:
            path = Path(str(self.candles).replace("{symbol}", self.symbol))
            object.__setattr__(self, "candles", path)
        if self.start_date and self.end_date and self.start_date > self.end_date:
            raise ArgumentError(
                f"start_date {self.start_date} is after end_date {self.end_date}; swap them"
            )
        if self.seed >= 2**32:
            raise ArgumentError(f"seed is {self.seed}, expected less than 2**32")
        self._check_recipe()
        self._check_source()

    def _check_recipe(self) -> None:
        if self.recipe != "causal":
            for name, neutral in (("horizon", 1), ("sentiment_lag_days", 1)):
                if getattr(self, name) != neutral:
                    raise ArgumentError(
                        f"{name} is {getattr(self, name)}, and the {self.recipe} recipe has none; "
                        "leave it out, or use --recipe causal"
                    )
        elif self.onnx_input != "features":
            raise ArgumentError(
                "onnx_input is 'ohlcv', but features of the causal recipe need more candles than a "
                "window has; leave it out"
            )
        if self.recipe == "basic":
            if self.force_sentiment or self.sentiment:
                raise ArgumentError("the basic model has no sentiment; leave its options out")
            if self.sequence_length != BASIC_SEQUENCE_LENGTH:
                raise ArgumentError(
                    f"sequence_length is {self.sequence_length}, and engines feed a basic model "
                    f"{BASIC_SEQUENCE_LENGTH} bars; leave it out"
                )
            if self.onnx_input != "features":
                raise ArgumentError(
                    "onnx_input is 'ohlcv', but engines scale the windows of a basic model; leave "
                    "it out"
                )
            object.__setattr__(self, "force_price_only", True)

    def _check_source(self) -> None:
        if self.source is None:
            object.__setattr__(self, "source", "binance" if self.candles is None else "files")
        if self.source != "files" and (self.candles or self.sentiment):
            raise ArgumentError(
                f"--source {self.source} and --candles/--sentiment contradict each other; give "
                "both --candles and --sentiment, or neither"
            )
        if self.source == "files" and self.candles is None:
            raise ArgumentError("--source files needs --candles FILE")
        if self.offline and self.force_refresh:
            raise ArgumentError("--offline contradicts --force-refresh; give one")
        if self.force_price_only and self.force_sentiment:
            raise ArgumentError("--force-price-only contradicts --force-sentiment; give one")
        if self.force_price_only:
            return
        if self.source == "files" and self.sentiment is None:
            raise ArgumentError(
                "no sentiment for --candles; give --sentiment FILE, or --force-price-only for a "
                "model without sentiment"
            )
        if TIMEFRAMES[self.timeframe] > _DAY and self.recipe != "causal":
            raise ArgumentError(
                f"timeframe is {self.timeframe} and sentiment is daily; use a timeframe up to 1d, "
                "or --force-price-only"
            )

    def check_embargo(self) -> None:
        """Raise ArgumentError if there is an embargo that the recipe's own split does not have."""
        if self.embargo is not None and self.recipe != "causal":
            raise ArgumentError(
                f"embargo is {self.embargo}, and the {self.recipe} recipe leaves nothing out "
                "between its parts; leave it out, or use --recipe causal"
            )

    @property
    def bar_ms(self) -> int:
        """Length of a bar in milliseconds."""
        return TIMEFRAMES[self.timeframe]

    @property
    def start(self) -> datetime | None:
        """First moment of the range, inclusive, UTC."""
        return datetime.combine(self.start_date, time(), UTC) if self.start_date else None

    @property
    def end(self) -> datetime | None:
        """Last second of the range, inclusive, UTC."""
        if self.end_date is None:
            return None
        return datetime.combine(self.end_date, time(23, 59, 59), UTC)

    def to_dict(self) -> dict[str, Any]:
        """Return every option as something JSON can hold."""
        return {
            key: value if isinstance(value, bool | int | str | None) else str(value)
            for key, value in dataclasses.asdict(self).items()
        }


#: Every option by name; the symbol is none.
OPTIONS = {item.name: item for item in dataclasses.fields(TrainingConfig) if item.name != "symbol"}


def check_option(name: str, value: Any) -> Any:
    """Return `value` as option `name` has it; text is taken for a date or a path.

    Raises:
        ArgumentError: Another type than that of the option, or outside of its range.
    """
    item = OPTIONS[name]
    kind, _, optional = str(item.type).partition(" | ")
    if value is None and optional:
        return None
    if kind in _CONVERTERS:
        convert, expected = _CONVERTERS[kind]
        try:
            value = convert(value)
        except (TypeError, ValueError, RuntimeError):  # the last: ~nobody
            raise ArgumentError(f"{name} is {value!r}, expected {expected}") from None
    choices, minimum = item.metadata.get("choices"), item.metadata.get("minimum")
    if choices and value not in choices:
        raise ArgumentError(f"{name} is {value!r}, expected one of {choices}")
    if minimum is not None and value < minimum:
        raise ArgumentError(f"{name} is {value}, expected at least {minimum}")
    return value
