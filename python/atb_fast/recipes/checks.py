"""Checks of the parts of a recipe. Each message begins with the key that it is about."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any, cast

from atb_fast.config import CANDLE_COLUMNS, TIMEFRAMES, wrong_column_name
from atb_fast.errors import ArgumentError, ExpressionError
from atb_fast.features.expressions import LOOK_AHEAD, Expr
from atb_fast.features.frames import MOMENTUM
from atb_fast.features.parser import parse
from atb_fast.features.specs import INDEX_COLUMNS, SCALERS, FeatureSpec, Scaler
from atb_fast.recipes.targets import Target

#: Maximum number of features in a recipe.
MOST_FEATURES = 1000
#: A name of a recipe, which is also a directory in the registry.
NAME = "[a-z][a-z0-9_-]{0,63}"
#: A name of a feature or of a column.
COLUMN_NAME = "[A-Za-z_][A-Za-z0-9_]{0,63}"

_FEATURE_KEYS = tuple(item.name for item in fields(FeatureSpec))


def unknown(key: str, name: str, known: Collection[str]) -> ArgumentError:
    """Return an error for a `name` that is not in `known`, with a suggestion."""
    return ArgumentError(f"{key}: found {name!r:.80}; {_suggestion(name, known)}")


def _suggestion(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"


def check_choice(key: str, value: Any, known: Collection[str]) -> None:
    """Raise ArgumentError unless `value` is one of `known`."""
    if not isinstance(value, str):
        raise wrong(key, value, f"one of {', '.join(known)}")
    if value not in known:
        raise unknown(key, value, known)


def wrong(key: str, value: Any, expected: str) -> ArgumentError:
    """Return an error for a `value` of the wrong type or out of range."""
    return ArgumentError(f"{key}: found {value!r:.80}, expected {expected}")


def check_table(key: str, given: Any, known: Collection[str]) -> None:
    """Raise ArgumentError unless `given` is a table whose keys are all `known`."""
    if not isinstance(given, Mapping):
        raise wrong(key, given, "a table")
    for name in given:
        if name not in known:
            raise ArgumentError(f"{key}: unknown key {name!r:.80}; {_suggestion(str(name), known)}")


def check_name(name: Any) -> None:
    """Raise ArgumentError unless `name` is valid for a recipe and a directory."""
    if not isinstance(name, str) or not re.fullmatch(NAME, name, re.ASCII):
        raise wrong(
            "name", name, "at most 64 lowercase letters, digits, - and _, starting with a letter"
        )


def check_whole(key: str, value: Any, least: int, most: int = 2**31 - 1) -> None:
    """Raise ArgumentError unless `value` is an integer from `least` to `most`."""
    if type(value) is not int or not least <= value <= most:
        above = type(value) is int and value > most
        expected = f"an integer of at most {most}" if above else f"an integer of at least {least}"
        raise wrong(key, value, expected)


def check_description(text: Any) -> None:
    """Raise ArgumentError unless `text` can be printed and is short."""
    if not isinstance(text, str) or len(text) > 1000:
        raise wrong("description", text, "a text of up to 1,000 characters")
    if not all(each.isprintable() or each == "\n" for each in text):
        raise wrong("description", text, "a text without control characters")


def check_extra(extra: Any) -> tuple[str, ...]:
    """Return the names of the extra columns.

    Raises:
        ArgumentError: It is not a list of names, or a name is not valid or not unique.
    """
    if isinstance(extra, str) or not isinstance(extra, list | tuple):
        raise wrong("extra", extra, "a list of column names")
    for i, name in enumerate(extra):
        problem = wrong_column_name(name) if isinstance(name, str) else "expected a string"
        if problem:
            raise ArgumentError(f"extra: found {name!r:.80}, {problem}")
        if name in extra[:i]:
            raise ArgumentError(f"extra: {name} is given twice; remove one")
    return tuple(extra)


def check_read(extra: tuple[str, ...], features: Mapping[str, FeatureSpec]) -> None:
    """Raise ArgumentError if no feature reads one of the columns `extra`."""
    read = {name for spec in features.values() for name in spec.expression.columns}
    unread = [name for name in extra if name not in read]
    if unread:
        raise ArgumentError(
            f"extra: no feature reads {' or '.join(unread)}; remove it, or add a feature that does"
        )


def read_features(
    features: Any, *, scaler: str, extra: tuple[str, ...], sentiment_join: str
) -> dict[str, FeatureSpec]:
    """Return the features by name.

    Args:
        features: Each is a `FeatureSpec` or a table with its fields, or just an expression or the
            text of one.
        scaler: The scaler of those that do not name one.
        extra: Further columns that features may read.
        sentiment_join: How the index is joined.

    Raises:
        ArgumentError: A name, an expression or a scaler is invalid.
    """
    if not isinstance(features, Mapping) or not features:
        raise wrong("features", features, "at least one feature: a name and its expression")
    if len(features) > MOST_FEATURES:
        raise ArgumentError(f"features: found {len(features)}, expected at most {MOST_FEATURES}")
    index = INDEX_COLUMNS if sentiment_join == "as_of" else (MOMENTUM,)
    columns = (*CANDLE_COLUMNS, *index, *extra)
    return {
        name: _read_feature(name, feature, scaler, columns) for name, feature in features.items()
    }


def _read_feature(name: Any, feature: Any, scaler: str, columns: tuple[str, ...]) -> FeatureSpec:
    plain = isinstance(name, str) and name.isprintable() and name
    key = f"features.{name:.80}" if plain else f"features.{name!r:.80}"
    if not isinstance(name, str) or not re.fullmatch(COLUMN_NAME, name, re.ASCII):
        raise ArgumentError(
            f"{key}: expected a name of at most 64 letters, digits and _, not starting with a digit"
        )
    if isinstance(feature, Mapping):
        check_table(key, feature, _FEATURE_KEYS)
        rest = {"scaler": scaler} | {k: v for k, v in feature.items() if k != "expression"}
        text = feature.get("expression")
        if not isinstance(text, str):
            raise wrong(f"{key}.expression", text, "the expression as a string")
        feature = FeatureSpec(parse(text, columns=columns, label=f"{key}.expression"), **rest)
    if isinstance(feature, str):
        feature = parse(feature, columns=columns, label=key)
    if isinstance(feature, Expr):
        feature = FeatureSpec(feature, cast(Scaler, scaler))
    if not isinstance(feature, FeatureSpec):
        raise wrong(key, feature, "an expression, or a table with the key expression")
    check_choice(f"{key}.scaler", feature.scaler, SCALERS)
    timeframes = check_timeframes(f"{key}.timeframes", feature.timeframes)
    if feature.null_as is not None and not _is_finite(feature.null_as):
        raise wrong(f"{key}.null_as", feature.null_as, "a finite number")
    _check_expression(key, feature.expression, columns)
    return replace(feature, timeframes=timeframes)


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2**1023 and math.isfinite(value)


def _check_expression(key: str, expression: Expr, columns: tuple[str, ...]) -> None:
    """Check an expression that was built in Python as the parser checks a text."""
    if any(part.op == "lead" for part in expression.walk()):
        raise ExpressionError(f"{key}: {LOOK_AHEAD}")
    missing = sorted(expression.columns.difference(columns))
    if missing:
        error = unknown(key, missing[0], columns)
        raise ExpressionError(
            f"{error}. For a column of your own, add its name to `extra` and "
            "pass its file as --extra NAME=FILE"
        )


def check_scaled_by_window(features: Mapping[str, FeatureSpec], target: Target) -> None:
    """Raise ArgumentError unless all features or none are scaled by window, as `target` needs.

    Windows that are scaled by their own values do not contain the level of the price. Of the
    targets that are prices, they support only the one that is relative to the window.
    """
    by_window = {name: spec for name, spec in features.items() if spec.scaler == "window"}
    for name, spec in features.items():
        if by_window and spec.scaler != "window":
            raise ArgumentError(
                f"features.{name}.scaler: found {spec.scaler!r}, expected 'window' for every "
                "feature or for none"
            )
        plain = spec.expression.op == "column" and spec.expression.params[0] in CANDLE_COLUMNS
        if by_window and not plain:
            raise ArgumentError(
                f"features.{name}: found {str(spec.expression)!r:.80}, expected a column of the "
                "candles, because the scaler is 'window'"
            )
    if target.scaled_by_window and not by_window:
        raise ArgumentError(
            f"target: {target.kind} needs the scaler 'window', but the features have another one; "
            'set scaler = "window", with columns of the candles as features, or use another target'
        )
    if by_window and target.price and not target.scaled_by_window:
        raise ArgumentError(
            f"target: {target.kind} is a price, which windows scaled by their own values do not "
            "determine; use window_close, a target that is not a price, or another scaler"
        )


def check_lag(lag: Any, target: Target) -> None:
    """Raise ArgumentError unless `lag` is 0 or 1, and 0 if the target is a price."""
    if type(lag) is not int or lag not in (0, 1):  # bool is a subclass of int
        raise wrong("lag", lag, "0 or 1")
    if lag and target.price:
        raise ArgumentError(
            f"lag: found {lag} with the target {target.kind}, expected 0, because a price has no "
            "lag; remove it, or use a target that is not a price"
        )


def check_timeframes(key: str, timeframes: Any) -> tuple[str, ...]:
    """Return the timeframes that a feature exists for; empty for all.

    Raises:
        ArgumentError: It is not a list of timeframes, or one is given twice.
    """
    if not isinstance(timeframes, list | tuple):
        raise wrong(key, timeframes, "a list of timeframes")
    for i, timeframe in enumerate(timeframes):
        check_choice(key, timeframe, TIMEFRAMES)
        if timeframe in timeframes[:i]:
            raise ArgumentError(f"{key}: {timeframe} is given twice; remove one")
    return tuple(timeframes)
