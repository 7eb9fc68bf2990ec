"""The source of a feature in feature_schema.json."""

from __future__ import annotations

import pytest

from atb_fast.errors import BundleError
from atb_fast.features.indicators import (
    PRICE_FEATURES,
    SENTIMENT_FEATURE,
    from_source,
    to_source,
)


def test_a_source_gives_the_feature_again() -> None:
    for feature in (*PRICE_FEATURES, SENTIMENT_FEATURE):
        assert from_source(feature.name, to_source(feature)) == feature


def test_a_transform_of_a_newer_version() -> None:
    with pytest.raises(BundleError, match="feature x has the unknown transform 'ema'"):
        from_source("x", {"column": "close", "transform": "ema", "window": 7})


def test_a_message_does_not_quote_a_whole_schema() -> None:
    with pytest.raises(BundleError) as caught:
        from_source("x" * 100_000, {"column": "close", "transform": "t" * 100_000})
    assert len(str(caught.value)) < 400
