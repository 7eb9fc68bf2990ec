"""Too few candles: one error says how many are enough, and what else would help."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from atb_fast import TrainingConfig, walk_forward
from atb_fast.errors import DataError
from atb_fast.ingestion.market import Market
from atb_fast.recipes import prepare, split


def config(recipe: str, **options: Any) -> TrainingConfig:
    given = {"symbol": "BTCUSDT", "source": "sample", "timeframe": "1d", "epochs": 1}
    return TrainingConfig(**{**given, "recipe": recipe, **options})


def newest(market: Market, count: int) -> Market:
    return Market(market.candles.tail(count), market.sentiment)


def trained(market: Market, given: TrainingConfig) -> None:
    split(prepare(market, given), given)


def message(run: Callable[[Market, TrainingConfig], Any], *arguments: Any) -> str:
    with pytest.raises(DataError) as error:
        run(*arguments)
    return str(error.value)


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("legacy", {}),
        ("legacy", {"sequence_length": 40, "force_price_only": True}),
        ("basic", {}),
        ("causal", {"sequence_length": 10}),
        ("causal", {"sequence_length": 30, "horizon": 20}),
        ("causal", {"sequence_length": 10, "embargo": 90}),
        ("engine", {}),
    ],
)
def test_the_number_in_the_message_is_the_smallest_that_is_enough(
    market: Market, recipe: str, options: dict[str, Any]
) -> None:
    given = config(recipe, **options)
    found = re.match(
        r"the range has 9 candles, expected at least ([\d,]+) ",
        message(trained, newest(market, 9), given),
    )
    assert found
    least = int(found[1].replace(",", ""))
    trained(newest(market, least), given)
    text = message(trained, newest(market, least - 1), given)
    assert text.startswith(f"the range has {least - 1:,} candles, expected at least {least:,} ")


def test_the_message_is_complete(market: Market) -> None:
    assert message(trained, newest(market, 420), config("causal", horizon=2)) == (
        "the range has 420 candles, expected at least 847 (including 405 of warm-up) to train and "
        "test a model with windows of 120 bars and a horizon of 2 bars; use more candles (an "
        "earlier --start-date or a finer --timeframe)"
    )


@pytest.mark.parametrize(
    ("count", "options", "helps"),
    [
        (547, {}, ["a shorter --sequence-length"]),
        (420, {}, []),  # even the shortest windows would be too many
        (500, {"sequence_length": 10, "horizon": 50}, ["a shorter --horizon"]),
        (500, {"sequence_length": 10, "embargo": 90}, ["a smaller --embargo"]),
    ],
)
def test_only_what_helps_is_suggested(
    market: Market, count: int, options: dict[str, Any], helps: list[str]
) -> None:
    text = message(trained, newest(market, count), config("causal", **options))
    assert text.endswith("".join(["finer --timeframe)", *(f", or {each}" for each in helps)]))


def folds(market: Market, given: TrainingConfig, **options: Any) -> None:
    walk_forward(given, market=market, **options)


@pytest.mark.parametrize(
    ("options", "least", "helps"),
    [
        ({}, "least 1,043 (including 405 of warm-up) to test 5 folds", "--sequence-length"),
        (
            {"folds": 400},
            "least 1,324 (including 405 of warm-up) to test 400 folds",
            "--timeframe)",
        ),
        ({"folds": 10**21}, "more than ", "--timeframe)"),
    ],
)
def test_too_few_candles_for_the_folds(
    market: Market, options: dict[str, Any], least: str, helps: str
) -> None:
    text = message(partial(folds, **options), newest(market, 698), config("causal"))
    assert text.startswith("the range has 698 candles, expected ")
    assert least in text
    assert text.endswith(helps)


@pytest.mark.parametrize("count", [1, 40, 250])
@pytest.mark.parametrize(
    ("recipe", "options", "plan"),
    [
        ("legacy", {"force_price_only": True}, {"folds": 2}),
        ("causal", {"sequence_length": 10, "horizon": 7, "embargo": 30}, {"window": "rolling"}),
        ("volatility", {"horizon": 100}, {"folds": 3}),
        ("basic", {}, {"embargo": 3}),
    ],
)
def test_whoever_follows_the_message_succeeds_at_once(
    market: Market, recipe: str, options: dict[str, Any], plan: dict[str, Any], count: int
) -> None:
    given = config(recipe, network="linear", **options)
    text = message(partial(folds, **plan), newest(market, count), given)
    found = re.search(r"expected at least ([\d,]+) ", text)
    assert found
    folds(newest(market, int(found[1].replace(",", ""))), given, **plan)
