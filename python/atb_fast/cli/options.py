"""Options that several commands have, made from TrainingConfig, and the exit codes."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from atb_fast.cli import settings
from atb_fast.config import OPTIONS, TrainingConfig
from atb_fast.errors import ArgumentError

EXIT_CODES = """\b
Exit codes: 0 done, 1 an error in atb-fast itself, 2 wrong options, 3 candles or sentiment that
cannot be used, 4 training failed, 5 ONNX failed (the model is kept), 6 the registry or the store
cannot be read or written, or is damaged, 7 a part is not installed, 8 candles or sentiment cannot
be fetched, 9 a bundle is missing, damaged or must not be live, 10 a recipe sees the future,
130 interrupted."""

#: Engines define the basic model: it has no sentiment, and windows of one kind.
NOT_FOR_PRICE = (
    *("sentiment", "force_sentiment", "force_price_only", "freshness_days", "skip_robustness"),
    *("onnx_input", "sequence_length", "recipe", "horizon", "embargo", "sentiment_lag_days"),
)
#: The tables of a settings file, and what each may hold.
TABLES = {
    "train": [*OPTIONS],
    "train.model": [*OPTIONS],
    "train.price": [name for name in OPTIONS if name not in NOT_FOR_PRICE],
}

as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout; all else on stderr."
)


def training_options(*leave_out: str, **changed: dict[str, Any]) -> list[click.Parameter]:
    """Return one option for each of TrainingConfig, named after it.

    Args:
        leave_out: Options that the command does not have.
        changed: Another `default`, or other `choices`, by option.
    """
    parameters: list[click.Parameter] = []
    for name, item in OPTIONS.items():
        if name in leave_out:
            continue
        flag = name.replace("_", "-")
        kind = str(item.type)
        switch = kind == "bool"
        default = changed.get(name, {}).get("default", item.default)
        has_default = default is not dataclasses.MISSING and default is not None
        parameters.append(
            click.Option(
                # What the settings file switches on, a flag must be able to switch off.
                [f"--{flag}/--no-{flag}" if switch else f"--{flag}", name],
                type=None if switch else _type(kind, {**item.metadata, **changed.get(name, {})}),
                default=default if has_default else None,
                show_default=has_default and default is not False,
                help=item.metadata["help"],
            )
        )
    return parameters


def as_given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that have a value, as TrainingConfig takes them."""
    return {
        name: value.date() if isinstance(value, datetime) else value
        for name, value in options.items()
        if value is not None
    }


def training_config(context: click.Context, symbol: str, options: dict[str, Any]) -> TrainingConfig:
    """Return the options of a command; what is wrong with them is said with where they are from.

    Raises:
        ArgumentError: An option outside of its range, or options that contradict each other.
    """
    try:
        return TrainingConfig(symbol=symbol, **as_given(options))
    except ArgumentError as error:
        raise ArgumentError(settings.explained(context, str(error))) from error


def _type(kind: str, metadata: Any) -> click.ParamType[Any]:
    """Return the click type of a field annotated with `kind`."""
    if "choices" in metadata:
        return click.Choice(metadata["choices"])
    types: dict[str, click.ParamType[Any]] = {
        "date": click.DateTime(["%Y-%m-%d"]),
        "Path": click.Path(path_type=Path),
        "int": click.IntRange(min=metadata.get("minimum")),
    }
    return types[kind.removesuffix(" | None")]
