"""Features as bundles of version 0.1.0 and of other trainers describe them."""

from __future__ import annotations

from typing import Any

import pytest

from atb_fast.errors import BundleError
from atb_fast.recipes import library
from atb_fast.serving.old_schema import upgraded


def converted(*features: dict[str, Any]) -> dict[str, Any]:
    return upgraded({"sequence_length": 12, "features": list(features)})


def legacy_source(name: str) -> dict[str, Any]:
    column, _, window = name.removesuffix("_scaled").partition("_")
    if column == "sma":
        return {"column": "close", "transform": "sma", "window": int(window)}
    if column == "rsi":
        return {"column": "close", "transform": "rsi_simple_mean", "window": 14}
    return {"column": name.removesuffix("_scaled")}


def test_the_legacy_recipe_of_0_1_0_is_the_one_of_today() -> None:
    specs = library.get("legacy").specs
    scaler = {"method": "minmax", "data_min": 1.0, "data_max": 3.0}
    given = [{"name": n, "source": legacy_source(n), "scaler": scaler} for n in specs]
    made = converted(*given)
    assert made["sentiment"] == {"method": "resampled"}
    for feature, (name, spec) in zip(made["features"], specs.items(), strict=True):
        assert feature["name"] == name
        assert feature["expression"] == spec.expression
        assert feature["null_as"] == spec.null_as
        assert feature["scaler"] == scaler


def test_the_causal_recipe_of_0_1_0_is_the_one_of_today() -> None:
    specs = library.get("causal").specs
    source = {"recipe": "causal", "sentiment_lag_days": 2}
    made = converted(*({"name": n, "source": {"column": n} | source} for n in specs))
    assert made["sentiment"] == {"method": "as_of", "lag_days": 2}
    assert [f["expression"] for f in made["features"]] == [s.expression for s in specs.values()]
    prices = converted({"name": "rsi_14", "source": {"column": "rsi_14"} | source})
    assert prices["sentiment"] is None


def test_names_that_engines_know() -> None:
    made = converted({"name": "close_normalized"}, {"name": "low"})["features"]
    assert [str(feature["expression"]) for feature in made] == ["close", "low"]
    assert made[0]["scaler"] == {"method": "window"}
    ends = {"mean": 3.0, "std": 2.0}
    (scaled,) = converted({"name": "open", "normalization": ends})["features"]
    assert scaled["scaler"] == {"data_min": 3.0, "data_max": 5.0}
    with pytest.raises(BundleError, match="does not say how x is computed and scaled"):
        converted({"name": "x"})


def test_schemas_of_today_stay_as_they_are() -> None:
    schema = {"sequence_length": 12, "features": [{"name": "x", "expression": "close"}]}
    assert upgraded(schema) is schema


def test_a_transform_of_a_newer_version() -> None:
    source = {"column": "close", "transform": "ema", "window": 7}
    with pytest.raises(BundleError, match="feature x has the unknown transform 'ema'"):
        converted({"name": "x", "source": source})


def test_a_message_does_not_quote_a_whole_schema() -> None:
    with pytest.raises(BundleError) as caught:
        converted({"name": "x" * 100_000, "source": {"column": "c", "transform": "t" * 100_000}})
    assert len(str(caught.value)) < 400
