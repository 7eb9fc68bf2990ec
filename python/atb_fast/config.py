"""The options of a training run, in four groups.

The command line is generated from these fields, so each flag, its default and its help text are
defined here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import keyword
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Literal

from atb_fast.errors import ArgumentError, DataError
from atb_fast.options import Option, declared, option

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

#: The columns of a candle, without its timestamp, in the order that models use.
CANDLE_COLUMNS = ("open", "high", "low", "close", "volume")
#: Larger than any price or volume, and its square still fits float32.
LARGEST_VALUE = 1e15
#: The largest figure that is read from a file of a run; sums and axes of larger ones can overflow.
LARGEST_FIGURE = 1e100

#: Names that an extra column cannot have.
RESERVED_NAMES = frozenset(
    {
        *("timestamp", *CANDLE_COLUMNS, "fear_greed"),
        # Keys of `dataset.sha256` in metadata.json.
        *("candles", "sentiment"),
        # Functions and styles of expressions.
        *("log", "log1p", "exp", "sqrt", "abs", "sign", "tanh", "clip", "minimum", "maximum"),
        *("col", "plain", "where", "fill", "equal", "unequal", "lag", "lead", "diff", "sum"),
        *("mean", "min", "max"),
        *("median", "std", "var", "quantile", "rank", "argmax", "argmin", "count", "corr", "cov"),
        *("slope", "rsquare", "resid", "zscore", "ema", "wilder", "rsi", "simple", "true_range"),
        *("atr", "hour", "weekday", "day_of_year", "sin", "cos"),
    }
)
_MOST_NAME = 64
#: Units of a lag, in milliseconds.
_LAG_UNITS = {"s": 1000, "m": _MINUTE, "h": 60 * _MINUTE, "d": _DAY, "w": 7 * _DAY}

#: Largest minimum age of the index, in days, that a bundle can have.
LONGEST_LAG_DAYS = 365

#: The timeframe of a basic bundle that strategies expect.
BASIC_TIMEFRAME = "1h"
#: Number of bars that engines pass to a basic model.
BASIC_SEQUENCE_LENGTH = 120

#: The network needs this many rows: two convolutions of width 3 and two poolings by 2 leave one.
MIN_SEQUENCE_LENGTH = 10
#: Maximum number of values in a window: more than any model needs, and hundreds of windows still
#: fit into memory.
LARGEST_WINDOW = 1 << 17

#: What each built-in recipe does, for help texts.
RECIPES = {
    "legacy": "features, scaling and target of the trainer that atb-fast replaces",
    "causal": "no look-ahead bias, predicts returns",
    "basic": "raw candles, each window scaled by its own values, as in live strategies",
    "engine": "the features of basic, for live strategies that expect classes or returns",
    "meta_label": "whether a signal of the basic model pays after costs",
    "volatility": "volatility of the next bar, with bands around the close",
}

#: The targets that any recipe can have, and what each predicts.
TARGETS = {
    "close": "the next close",
    "window_close": "the next close in the range of the window",
    "log_return": "the log return over the horizon",
    "binary_direction": "whether the close rises over the horizon",
    "smoothed_return": "the return to the mean close over the horizon",
    "triple_barrier": "whether take profit, stop loss or neither is reached first",
    "volatility": "the volatility over the horizon",
}
#: The targets that a recipe can have if the trading bot loads its bundles.
TARGETS_OF_THE_BOT = {
    "legacy": ("close",),
    "basic": ("window_close",),
    "engine": ("binary_direction", "smoothed_return", "triple_barrier"),
    "meta_label": ("meta_label",),
}

#: The networks, and what each is.
NETWORKS = {
    "linear": "least squares or logistic regression on the last bars",
    "dlinear": "linear, on the trend and the remainder of each window",
    "mlp": "dense layers",
    "tcn": "dilated causal convolutions",
    "lstm": "LSTM layers",
    "cnn_lstm": "convolutions and LSTM layers",
}

#: Model types that are used or reserved by built-in recipes.
MODEL_TYPES = ("basic", "price", "sentiment", "causal", "meta_label", "volatility")

Engine = Literal["auto", "compiled", "keras", "exact"]
#: Weights of the classes in the loss: all 1, or so that each class has the same total weight.
ClassWeights = Literal["none", "balanced"]


def _explained(kinds: Mapping[str, str]) -> str:
    return "; ".join(f"{kind}: {text}" for kind, text in kinds.items())


def recipe_help(names: Iterable[str]) -> str:
    """Return the help text of --recipe for a command that accepts these recipes."""
    explained = _explained({name: RECIPES[name] for name in names})
    return (
        "The recipe, which defines features, target and network: a built-in one, a recipe file "
        f"(FILE.toml), or a Python class (package.module:Recipe). Built in: {explained}. Run "
        "atb-fast recipes ls for more."
    )


def variables(name: str) -> list[str]:
    """Return the environment variables of an option; the first that is not empty is used."""
    other = OPTIONS[name].variable if name in OPTIONS else None
    return [f"ATB_FAST_{name.upper()}", *([other] if other else [])]


def variable_set(name: str) -> str | None:
    """Return the environment variable that has a value for an option."""
    return next((variable for variable in variables(name) if os.environ.get(variable)), None)


def default_registry() -> Path:
    """Return the registry of the engines: from the environment, else `src/ml/models`."""
    return _from_environment("registry") or Path("src/ml/models")


def default_cache_dir() -> Path:
    """Return the cache directory: from the environment, else that of the platform."""
    given = _from_environment("cache_dir")
    if given:
        return given
    from platformdirs import user_cache_path

    return user_cache_path("atb-fast", appauthor=False)


def _from_environment(name: str) -> Path | None:
    """Return the path that the environment gives an option, None if it gives none."""
    given = os.environ.get(variable_set(name) or "")
    return OPTIONS[name].check(given) if given else None


def check_cache_dir(path: Path) -> None:
    """Raise ArgumentError if `path` exists and is not a directory."""
    if path.exists() and not path.is_dir():
        raise ArgumentError(
            f"--cache-dir is {path}, which is a file; expected a directory", options=["cache_dir"]
        )


def check_exists(path: Path) -> None:
    """Raise DataError if there is no file at `path`."""
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path")


def check_symbol(symbol: str) -> None:
    """Raise ArgumentError unless `symbol` is valid; it becomes part of URLs and paths."""
    if not (isinstance(symbol, str) and re.fullmatch(r"[A-Z0-9]{2,30}", symbol)):
        raise ArgumentError(
            f"symbol is {symbol!r:.80}, expected capital letters and digits, for example BTCUSDT"
        )


def wrong_column_name(name: str) -> str | None:
    """Return what is wrong with `name` as the name of an extra column; None if it is valid."""
    if len(name) > _MOST_NAME or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        return (
            f"expected at most {_MOST_NAME} letters, digits and underscores, not starting with a "
            "digit"
        )
    # The built-in recipes compute columns whose names begin like this.
    if name in RESERVED_NAMES or keyword.iskeyword(name) or name.startswith("sentiment_"):
        return "which is reserved in recipes; choose another name"
    return None


def lag_ms(lag: str) -> int:
    """Return a lag such as 30m, 8h or 1d in milliseconds.

    Raises:
        ArgumentError: It is not a whole number and a unit, or it is longer than 10 years.
    """
    found = re.fullmatch("([0-9]{1,12})([smhdw])", lag)
    milliseconds = int(found[1]) * _LAG_UNITS[found[2]] if found else 0
    if lag != "0" and not (found and milliseconds <= 3653 * _DAY):
        raise ArgumentError(
            f"--extra-lag is {lag!r:.80}, expected a whole number and a unit (s, m, h, d or w), at "
            "most 3653d, for example 8h",
            options=["extra_lag"],
        )
    return milliseconds


class _Group:
    """A group of options, converted and checked on construction."""

    def __post_init__(self) -> None:
        """Check each option on its own, and convert text to a date or a path where one is due."""
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            if item.name in OPTIONS:
                found, value = OPTIONS[item.name], getattr(self, item.name)
                if value is None and found.from_recipe:
                    value = found.default
                self._set(item.name, found.check(value))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


@dataclass(frozen=True, kw_only=True)
class MarketOptions(_Group):
    """Which candles, sentiment and extra series to use, and where they come from."""

    symbol: str
    timeframe: str = option("1d", "Bar length.", choices=tuple(TIMEFRAMES), from_recipe=True)
    start_date: date | None = option(
        None, "First day, UTC, inclusive. Default: the first day available."
    )
    end_date: date | None = option(
        None, "Last day, UTC, inclusive. Default: the last day available."
    )
    source: Literal["binance", "files", "sample"] | None = option(
        None,
        "Where candles and sentiment come from. binance: Binance and alternative.me, stored; "
        "files: the files given by --candles and --sentiment; sample: a synthetic market. "
        "Default: files if --candles is given, else binance.",
    )
    candles: Path | None = option(
        None,
        "CSV, Feather or Parquet file with the columns timestamp, open, high, low, close, volume. "
        "{symbol} in the path is replaced by the symbol.",
        input_file=True,
    )
    sentiment: Path | None = option(
        None,
        "CSV, Feather or Parquet file with the Fear & Greed index: timestamp, value (0-100).",
        input_file=True,
        needs="index",
    )
    extra: dict[str, Path] | None = option(
        None,
        "Join another series to the candles, for recipes that read it: a CSV, Feather or Parquet "
        "file with a timestamp and one or more value columns. Features read it as NAME, or as "
        "NAME_COLUMN if there are several value columns. Each candle gets the newest row known at "
        "its open (see --extra-lag). Can be repeated. {symbol} in the path is replaced by the "
        "symbol.",
        metavar="NAME=FILE",
        input_file=True,
        needs="extra",
    )
    extra_lag: dict[str, str] | None = option(
        None,
        "Delay between the timestamp of a row of --extra NAME and the time its values were known, "
        "for example 30m, 8h or 1d. Candles of another symbol with the same timeframe need none. "
        "Can be repeated. Default: 0.",
        metavar="NAME=LAG",
        needs="extra",
    )
    allow_bad_candles: bool = option(
        False,
        "Accept a file of candles with bars whose open or close is not between low and high. "
        "Without this option, such a file is an error, as in data verify.",
    )
    force_price_only: bool = option(False, "Train without sentiment.", needs="index", ignored=True)
    freshness_days: int = option(
        7,
        "Days by which stored sentiment may be older than the end date before it is downloaded "
        "again.",
        minimum=0,
        needs="index",
        ignored=True,
    )
    offline: bool = option(
        False, "Open no connection; data that is not stored is an error.", machine=True
    )
    force_refresh: bool = option(
        False, "Download the range again and recompute the features.", machine=True
    )
    cache_dir: Path = option(
        default_cache_dir,
        "Cache directory, for candles, sentiment, features and checkpoints. Default: "
        "$ATB_FAST_CACHE, else that of the platform.",
        machine=True,
        variable="ATB_FAST_CACHE",
    )

    def __post_init__(self) -> None:
        """Check that the options do not contradict each other."""
        super().__post_init__()
        check_symbol(self.symbol)
        if self.candles:
            self._set("candles", Path(str(self.candles).replace("{symbol}", self.symbol)))
        if self.start_date and self.end_date and self.start_date > self.end_date:
            raise ArgumentError(
                f"--start-date {self.start_date} is after --end-date {self.end_date}; swap them",
                options=("start_date", "end_date"),
            )
        if self.source is None and self.sentiment and not self.candles:
            raise ArgumentError(
                "--sentiment is given without --candles; pass --candles FILE, or leave out "
                "--sentiment to download both",
                options=("sentiment", "candles"),
            )
        if self.source is None:
            self._set("source", "binance" if self.candles is None else "files")
        unused = [name for name in ("candles", "sentiment") if getattr(self, name)]
        if self.source != "files" and unused:
            flags = " and ".join(OPTIONS[name].flag for name in unused)
            raise ArgumentError(
                f"--source {self.source} does not use {flags}; leave out {flags}, or pass "
                "--source files",
                options=("source", *unused),
            )
        if self.source == "files" and self.candles is None:
            raise ArgumentError(
                "--source files is given without --candles; pass --candles FILE", options=["source"]
            )
        if self.candles and self.sentiment is None and not self.force_price_only:
            check_exists(self.candles)  # the more likely mistake is named first
            raise ArgumentError(
                "--candles is given without --sentiment; pass --sentiment FILE, or "
                "--force-price-only to train without sentiment",
                options=("candles", "sentiment", "force_price_only"),
            )
        self._check_extras()
        if self.offline and self.force_refresh:
            raise ArgumentError(
                "--offline and --force-refresh contradict each other; pass only one",
                options=("offline", "force_refresh"),
            )

    def _check_extras(self) -> None:
        for name in self.extra or ():
            if wrong := wrong_column_name(name):
                raise ArgumentError(f"--extra has the name {name!r:.80}, {wrong}", ["extra"])
        for name, lag in (self.extra_lag or {}).items():
            if name not in (self.extra or {}):
                raise ArgumentError(
                    f"--extra-lag is given for {name!r:.80}, but --extra is not (found: "
                    f"{', '.join(self.extra or ()) or 'none'}); add --extra {name:.80}=FILE, or "
                    "remove it",
                    options=("extra", "extra_lag"),
                )
            lag_ms(lag)
        if self.extra:
            paths = {
                name: Path(str(path).replace("{symbol}", self.symbol))
                for name, path in self.extra.items()
            }
            self._set("extra", paths)

    @property
    def bar_ms(self) -> int:
        """Bar length in milliseconds."""
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


@dataclass(frozen=True, kw_only=True)
class RecipeOptions(_Group):
    """How candles become features, targets and parts."""

    # `TrainingConfig` also accepts a recipe object, whose class this module must not import.
    recipe: str | Any = option("legacy", recipe_help(RECIPES))
    sequence_length: int = option(
        120,
        f"Bars in a window, at least {MIN_SEQUENCE_LENGTH}, except for recipes that fix another "
        "number.",
        minimum=1,  # for recipes whose windows have a fixed length of 1
        needs="length",
        from_recipe=True,
    )
    horizon: int = option(
        1,
        "Number of bars that a forecast covers, for targets that have a horizon.",
        minimum=1,
        needs="horizon",
        from_recipe=True,
    )
    embargo: int | None = option(
        None,
        "Bars dropped between training, validation and test, in addition to purging. For recipes "
        "whose parts are purged. Default: 1% of the bars.",
        minimum=0,
        needs="purge",
    )
    sentiment_lag_days: int = option(
        1,
        "Days between a sentiment value and the first candle that may use it, at most 365. Not for "
        "the legacy recipe.",
        minimum=0,
        maximum=LONGEST_LAG_DAYS,
        needs="lag",
        from_recipe=True,
    )
    force_sentiment: bool = option(
        False,
        "Use sentiment even if it covers too few of the candles.",
        needs="index",
    )


@dataclass(frozen=True, kw_only=True)
class TargetOptions(_Group):
    """What the model predicts, in place of the target of the recipe.

    Each key of a target is an option too; see `recipes.keys`, which also checks the limits. The
    help text names the targets that have the key in parentheses.
    """

    target: str | None = option(
        None,
        f"What the model predicts. {_explained(TARGETS)}. Default: the target of the recipe.",
        choices=tuple(TARGETS),
        metavar="KIND",
    )
    target_take_profit: float | None = option(
        None,
        "Distance of the upper barrier, as a share of the close: 0.04 is 4% (triple_barrier, "
        "meta_label).",
    )
    target_stop_loss: float | None = option(
        None,
        "Distance of the lower barrier, as a share of the close (triple_barrier, meta_label).",
    )
    target_class_weights: ClassWeights | None = option(
        None,
        "Weights of the classes in the loss: none, or balanced, which gives each class the same "
        "total weight (binary_direction, triple_barrier, meta_label).",
    )
    target_cost: float | None = option(
        None,
        "Cost of entry and exit together, as a share of the price: 0.002 is 0.2% (meta_label).",
    )
    target_quantiles: tuple[float, ...] | None = option(
        None,
        "Levels of the quantiles of the return that the model also predicts, as prices around the "
        "last close, for example 0.05,0.95 (volatility).",
        metavar="Q,Q",
    )


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(_Group):
    """The network, in place of that of the recipe.

    Each key of a network is an option too; see `recipes.keys`, which also checks the limits. The
    help text names the networks that have the key in parentheses.
    """

    network: str | None = option(
        None,
        f"The network. {_explained(NETWORKS)}. Default: the network of the recipe.",
        choices=tuple(NETWORKS),
        metavar="KIND",
    )
    network_bars: int | None = option(None, "Number of newest bars that it reads (linear).")
    network_l2: float | None = option(None, "L2 penalty, with --engine exact (linear).")
    network_kernel: int | None = option(
        None, "Bars of the moving average (dlinear), or of each convolution (tcn)."
    )
    network_units: int | None = option(
        None,
        "Units of each hidden layer (mlp), or of the first LSTM; later layers have half (lstm, "
        "cnn_lstm).",
    )
    network_layers: int | None = option(None, "Number of hidden layers (mlp).")
    network_filters: int | None = option(
        None,
        "Filters of each convolution (tcn), or of the first one; the second one has twice as many "
        "(cnn_lstm).",
    )
    network_blocks: int | None = option(None, "Number of residual blocks (tcn).")
    network_dropout: float | None = option(
        None, "Dropout rate in training: the share of values set to 0 (mlp, tcn, cnn_lstm)."
    )


@dataclass(frozen=True, kw_only=True)
class FitOptions(_Group):
    """How the model is fitted."""

    epochs: int = option(
        300, "Maximum number of epochs; early stopping usually ends sooner.", minimum=1
    )
    batch_size: int | None = option(
        None, "Windows in a batch. Default: 32 on a CPU, 128 on a GPU.", minimum=1
    )
    patience: int = option(
        15, "Epochs without improvement of the validation loss before training stops.", minimum=1
    )
    seed: int = option(
        42,
        "Random seed for weights, shuffling and dropout.",
        minimum=0,
        maximum=2**32 - 1,  # the limit of NumPy and TensorFlow
    )
    engine: Engine = option(
        "auto",
        "How the network is fitted. keras: Keras' own training loop; compiled: whole epochs "
        "compiled by XLA, faster after a few seconds of compilation, with different random numbers "
        "for the same seed; exact: computes the optimum without epochs, only for the linear "
        "network; auto: exact for the linear network, else compiled on a CPU and keras on a GPU.",
    )
    mixed_precision: bool = option(True, "Train the hidden layers in mixed float16 on a GPU.")
    tensorboard: Path | None = option(
        None, "Write TensorBoard logs to this directory.", machine=True
    )
    compile_cache: bool = option(
        True,
        "Keep compiled programs in the cache directory, so that the next run starts sooner; the "
        "model is identical.",
        machine=True,
    )
    resume: bool = option(
        False,
        "Continue an interrupted run from its last checkpoint; the final model is identical.",
        machine=True,
    )


@dataclass(frozen=True, kw_only=True)
class OutputOptions(_Group):
    """What is written, and where."""

    onnx_input: Literal["features", "ohlcv"] = option(
        "features",
        "Input of model.onnx. features: windows of scaled features; ohlcv: windows of raw open, "
        "high, low, close and volume, from which the graph computes the features.",
        needs="candle graph",
    )
    skip_plots: bool = option(False, "Do not write training.png and report.html.")
    skip_robustness: bool = option(
        False,
        "Do not measure the test error without sentiment.",
        needs="index",
        ignored=True,
    )
    skip_onnx: bool = option(False, "Do not export ONNX. The model is kept but not published.")
    promote: Literal["always", "gate", "never"] | None = option(
        None,
        "Whether the new model goes live. always: even if it is worse than the live one; gate: "
        "only if its test error is not significantly larger than that of the baseline to beat, "
        "such as persistence, or of the live model; never: it is only published. Default: always "
        "for the legacy recipe, gate for the others, never for train --from.",
        machine=True,
    )
    registry: Path = option(
        default_registry,
        "Directory of the model registry. Default: $MODEL_REGISTRY_PATH, else src/ml/models.",
        machine=True,
        variable="MODEL_REGISTRY_PATH",
    )


#: The groups in the order of `--help`, with their headings.
GROUPS: dict[str, type] = {
    "Data": MarketOptions,
    "Recipe": RecipeOptions,
    "Target": TargetOptions,
    "Network": NetworkOptions,
    "Training": FitOptions,
    "Output": OutputOptions,
}
#: Every option by name. The symbol is an argument, not an option.
OPTIONS: dict[str, Option] = {
    item.name: item for group in GROUPS.values() for item in declared(group)
}


def names(*groups: type) -> tuple[str, ...]:
    """Return the names of the options in these groups."""
    return tuple(item.name for group in groups for item in declared(group))
