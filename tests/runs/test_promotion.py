"""Whether a new model goes live: stand-in models on the sample market, as if it were real."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import write_bundle
from relabelling import of_kind
from sklearn import metrics

from atb_fast import TrainingConfig
from atb_fast.evaluation.diagnostics import evaluate
from atb_fast.evaluation.record import RunRecord
from atb_fast.features.outputs import Classes
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.market import Market
from atb_fast.recipes import prepare, split
from atb_fast.recipes.documents import to_document
from atb_fast.recipes.recipe import Recipe
from atb_fast.recipes.targets import TripleBarrier
from atb_fast.runs.promotion import Promotion, decide, policy_of, unpublished
from atb_fast.serving.verification import verify
from atb_fast.training.device import decide as device
from atb_fast.training.engine import FitResult

LIVE = "2026-01-02_03h04m05s_v1"
#: Candles that the live model knows, and all of them.
KNOWN, CANDLES = 700, 800
#: Errors in quote currency that are large and small compared with a day's move of the price.
HUGE, TINY = 5_000.0, 0.01


class Anything:
    """A model whose outputs do not matter here."""

    def __init__(self, data: WindowedData) -> None:
        self.units = data.output.head.units

    def predict_on_batch(self, windows: Any) -> Any:
        return np.full((len(windows), self.units), 1 / self.units)


Decide = Callable[..., Promotion]
Live = Callable[..., Path]


def config(**options: Any) -> TrainingConfig:
    given: dict[str, Any] = {"symbol": "BTCUSDT", "candles": "candles.csv"}
    given |= {"sentiment": "sentiment.csv", "sequence_length": 12, "force_sentiment": True}
    return TrainingConfig(**given | options)


def windows(market: Market, candles: int) -> WindowedData:
    some = Market(market.candles.head(candles), market.sentiment)
    return split(prepare(some, config()), config())


@pytest.fixture(scope="module")
def data(market: Market) -> WindowedData:
    return windows(market, CANDLES)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "models" / "BTCUSDT" / "sentiment"


@pytest.fixture
def live(market: Market, home: Path) -> Live:
    """Make a model live that predicts the last close plus `bias`."""

    def made(bias: float = TINY, *, candles: int = KNOWN, **changes: Any) -> Path:
        path = write_bundle(home / LIVE, windows(market, candles), bias=bias, **changes)
        (home / "latest").symlink_to(LIVE)
        return path

    return made


@pytest.fixture
def decision(data: WindowedData, home: Path) -> Decide:
    """Decide about a new model that predicts the last close plus `bias`."""

    def made(
        policy: str = "gate",
        *,
        bias: float = 0.0,
        predictions: Any = None,
        data: WindowedData = data,
        **options: Any,
    ) -> Promotion:
        if predictions is None:
            predictions = data.persistence(data.test) + bias
        record = RunRecord(
            config(**options),
            data,
            device([], engine="keras", mixed_precision=False, batch_size=None),
            FitResult("keras", {"loss": [1.0], "val_loss": [1.0]}, 1, 1, [1.0]),
            evaluate(Anything(data), data, predictions),
        )
        found = decide(record, predictions, home, policy)
        # The metadata must not name directories of this machine.
        assert str(home.parents[2]) not in json.dumps(found.to_dict(), allow_nan=False)
        assert "\n" not in found.reason
        return found

    return made


@pytest.mark.parametrize(
    ("options", "repeated", "policy"),
    [
        ({}, False, "always"),
        ({}, True, "never"),
        ({"promote": "gate"}, True, "gate"),
        ({"recipe": "causal", "force_sentiment": False}, False, "gate"),
        ({"recipe": "causal", "force_sentiment": False}, True, "never"),
        ({"promote": "never"}, False, "never"),
    ],
)
def test_the_policy_of_a_run(options: Any, repeated: bool, policy: str) -> None:
    assert policy_of(config(**options), repeated=repeated) == policy


def test_the_policy_of_a_basic_model() -> None:
    given = TrainingConfig(symbol="BTCUSDT", recipe="basic", timeframe="1h")
    assert policy_of(given, repeated=False) == "gate"


def test_the_first_model_is_compared_with_no_change(decision: Decide, data: WindowedData) -> None:
    found = decision(bias=TINY)
    assert found.promoted
    assert found.reason.startswith("the model is not significantly worse than persistence (RMSE ")
    assert found.reason.endswith(", and no model was live")
    (comparison,) = found.to_dict()["compared"]
    times = data.times(data.test)
    assert comparison["other"] == "persistence"
    assert comparison["bars"] == len(data.test)
    actual = data.targets(data.test)
    errors = [data.persistence(data.test) + bias - actual for bias in (TINY, 0.0)]
    assert [comparison["rmse"], comparison["other_rmse"]] == pytest.approx(
        [np.sqrt(np.mean(error**2)) for error in errors]
    )
    assert [comparison["first"], comparison["last"]] == [
        times[0].isoformat(),
        times[-1].isoformat(),
    ]


def test_a_model_that_is_worse_than_no_change(decision: Decide) -> None:
    held = decision("gate", bias=HUGE)
    assert not held.promoted
    assert held.reason.startswith("the model is significantly worse than persistence (RMSE ")
    moved = decision("always", bias=HUGE)
    assert (moved.promoted, moved.refused) == (True, True)
    assert moved.reason == f"promoted although {held.reason}"


def test_the_figures_of_the_comparison_with_the_live_model(
    decision: Decide, live: Live, data: WindowedData, market: Market
) -> None:
    """With the last close of each window, and the statistic written out."""
    live(bias=30.0)
    found = decision(bias=HUGE)
    assert not found.promoted
    compared = found.compared[1]
    candles = market.candles.head(CANDLES)
    times, close = candles["timestamp"], candles["close"].to_numpy()
    rows = np.flatnonzero((times > times[KNOWN - 1]).to_numpy())
    assert compared.bars == len(rows) == CANDLES - KNOWN < len(data.test)
    assert (compared.first, compared.last) == (times[KNOWN], times[CANDLES - 1])
    actual, last = close[rows], close[rows - 1]
    assert compared.error == pytest.approx(np.sqrt(np.mean((last + HUGE - actual) ** 2)))
    assert compared.other_error == pytest.approx(
        np.sqrt(np.mean((last + 30.0 - actual) ** 2)), rel=1e-4
    )
    gain = (last + 30.0 - actual) ** 2 - (last + HUGE - actual) ** 2
    statistic = gain.mean() / (gain.std() / len(gain) ** 0.5)
    assert compared.diebold_mariano == pytest.approx(statistic, rel=1e-4)
    assert statistic < -2
    assert (
        f"and the live model {LIVE} (RMSE {compared.error:,.6g} against "
        f"{compared.other_error:,.6g} on {len(rows)} test bars, {times[KNOWN]:%Y-%m-%d} to "
        f"{times[CANDLES - 1]:%Y-%m-%d})"
    ) in found.reason


def test_rounding_is_no_difference(decision: Decide, live: Live) -> None:
    """The live model computes in float32, so the same model has slightly other errors."""
    live(bias=40.0)
    for bias in (40.0, 40.0 + TINY):
        compared = decision(bias=bias).compared[1]
        assert compared.error == compared.other_error
        assert compared.diebold_mariano == 0.0
        assert not compared.worse


@pytest.mark.parametrize(
    ("bias", "of_live", "promoted"),
    [(0.0, HUGE, True), (TINY, 0.0, True), (HUGE, TINY, False), (HUGE, HUGE, False)],
)
def test_only_a_model_that_is_not_worse_replaces_the_live_one(
    decision: Decide, live: Live, bias: float, of_live: float, promoted: bool
) -> None:
    live(bias=of_live)
    found = decision(bias=bias)
    assert found.promoted is promoted
    assert len(found.compared) == 2
    # A live model that is as bad as the new one is no reason to promote a bad model.
    assert ("worse than persistence" in found.reason and not promoted) is (bias == HUGE)
    assert found.live == found.replacing == LIVE
    assert found.command(Path("models/BTCUSDT/sentiment/v2"), "1d") == (
        "" if promoted else "atb-fast models promote BTCUSDT:1d:sentiment:v2 --registry models"
    )


def test_a_model_that_is_worse_than_the_live_one_only(
    decision: Decide, live: Live, data: WindowedData
) -> None:
    """It knew the prices that the live model was trained on, and is worse on later ones."""
    live()
    actual, last = data.targets(data.test), data.persistence(data.test)
    seen = np.arange(len(actual)) < len(actual) - (CANDLES - KNOWN)
    too_high_and_too_low = np.where(np.arange(len(actual)) % 2, 1.0, -1.0)
    off = last + 0.6 * np.std((actual - last)[~seen]) * too_high_and_too_low
    found = decision(predictions=np.where(seen, actual, off))
    assert [comparison.worse for comparison in found.compared] == [False, True]
    assert not found.promoted
    assert found.reason.startswith(f"the model is significantly worse than the live model {LIVE} (")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"config": None}, "another trainer made it, so it is unknown which bars"),
        (
            {"price_normalization": {"mean": 0.0, "std": 1.0, "horizon": 2}},
            "its horizon is 2, but that of the new model is 1",
        ),
        ({"dataset": {"validation_last": None, "last": None}}, "does not say which bars it was"),
        ({"dataset": {"validation_last": "x"}}, "dataset.validation_last 'x', expected an ISO"),
        ({"price_normalization": None}, "cannot be converted to a price"),
        ({"price_normalization": {"mean": 1e300, "std": 1.0}}, "errors are not finite"),
    ],
)
@pytest.mark.parametrize("policy", ["gate", "always"])
def test_a_live_model_that_cannot_be_compared(
    decision: Decide, live: Live, policy: str, changes: Any, why: str
) -> None:
    live(**changes)
    found = decision(policy)
    assert found.promoted is (policy == "always")
    assert found.refused
    assert f"the live model {LIVE} cannot be compared: " in found.reason
    assert why in found.reason


DOCUMENT = to_document(config().definition)
BARRIERS = {"kind": "triple_barrier", "horizon": 1, "take_profit": 0.04, "stop_loss": 0.05}


def test_probabilities_are_compared_by_their_log_loss(
    market: Market, data: WindowedData, decision: Decide, home: Path
) -> None:
    """The stand-in for the live model computes the same probability from the close."""
    known, new = (of_kind(some, "two") for some in (windows(market, KNOWN), data))
    write_bundle(home / LIVE, known, bias=-0.4, recipe_document=DOCUMENT)
    (home / "latest").symlink_to(LIVE)
    actual = new.targets(new.test)
    wrong = np.where(actual == 1.0, 0.3, 0.7)
    found = decision(data=new, predictions=wrong)
    assert not found.promoted
    shares, live = found.to_dict()["compared"]
    assert [shares["other"], live["other"]] == ["the class shares", f"the live model {LIVE}"]
    assert shares["log_loss"] == pytest.approx(-np.log(0.3))
    share = new.fitted(new.train).mean()
    expected = metrics.log_loss(actual, np.full(len(actual), share))
    assert shares["other_log_loss"] == pytest.approx(expected)

    assert known.prepared.pipeline is not None
    column = new.prepared.matrix.names.index("close_scaled")
    unseen = new.test[-(CANDLES - KNOWN) :]
    scaled = known.prepared.pipeline.transform(new.prepared.frame).values[:, column]
    probability = 1 / (1 + np.exp(0.4 - scaled[unseen + new.length - 1].astype(float)))
    assert live["bars"] == len(unseen)
    assert live["other_log_loss"] == pytest.approx(
        metrics.log_loss(new.targets(unseen), probability), rel=1e-5
    )
    assert "worse than the class shares (log loss 1.20397 against" in found.reason


@pytest.mark.parametrize(
    ("kind", "changes", "why"),
    [
        ("prices", {}, "it predicts prices, but the new model predicts the classes -1, 0, 1"),
        ("two", {}, "it predicts the classes -1, 1, but the new model predicts the classes -1,"),
        ("volatility", {}, "it predicts volatility, but the new model predicts the classes"),
        ("returns", {}, "it predicts returns, but the new model predicts the classes"),
        (
            "three",
            {"output": {"kind": "classes", "horizon": 3, "lag": 0}},
            "its horizon is 3, but that of the new model is 1",
        ),
        (
            "three",
            {"output": {"kind": "classes", "horizon": 1, "lag": 1}},
            "its lag is 1, but that of the new model is 0",
        ),
        (
            "three",
            {"recipe_document": {"target": BARRIERS | {"take_profit": 0.03}}},
            "its target has take_profit 0.03, but that of the new model has 0.04",
        ),
        (
            "three",
            {"recipe_document": {"target": {"kind": "own", "horizon": 1}}},
            "its target has kind 'own', but that of the new model has 'triple_barrier'",
        ),
        (
            "three",
            {"recipe_document": {"python": "mine:Own"}},
            "its target has horizon None, but that of the new model has 1",
        ),
        ("three", {"recipe_document": "x"}, "its target has horizon None, but that of the new"),
    ],
)
def test_models_of_different_targets_are_not_compared(
    market: Market,
    data: WindowedData,
    decision: Decide,
    home: Path,
    kind: str,
    changes: Any,
    why: str,
) -> None:
    known = of_kind(windows(market, KNOWN), kind)
    document = {"recipe_document": {"target": BARRIERS}}
    write_bundle(home / LIVE, known, bias=0.0, **document | changes)
    (home / "latest").symlink_to(LIVE)
    new = of_kind(data, "three")
    shares = np.bincount(new.fitted(new.train).astype(int)) / len(new.train)
    given = config().definition
    assert isinstance(given, Recipe)
    recipe = replace(given, name="own", target=TripleBarrier(horizon=1))
    found = decision(data=new, predictions=np.tile(shares, (len(new.test), 1)), recipe=recipe)
    assert not found.promoted
    assert f"the live model {LIVE} cannot be compared: {why}" in found.reason


@pytest.mark.parametrize("kind", ["two", "returns"])
def test_only_given_does_always_replace_another_kind(
    market: Market, decision: Decide, home: Path, kind: str
) -> None:
    """Legacy models of prices have the type of the classes and returns that strategies load."""
    known = of_kind(windows(market, KNOWN), kind)
    write_bundle(home / LIVE, known, bias=0.0, recipe_document=DOCUMENT)
    (home / "latest").symlink_to(LIVE)
    held, given = decision("always"), decision("always", promote="always")
    assert [held.promoted, given.promoted] == [False, True]
    assert f"the live model {LIVE} cannot be compared: it predicts " in held.reason
    assert held.reason.endswith("; pass --promote always to replace it")
    assert [held.by_hand, decision("never").by_hand] == ["--force", "--force"]
    assert given.reason.startswith("promoted although the live model ")


def test_a_verification_names_the_timeframe_that_strategies_need(
    data: WindowedData, tmp_path: Path
) -> None:
    why = "use by strategies, because they load classes and returns of 1h only, but the timeframe "
    for kind, timeframe, expected in (
        ("two", "4h", [f"{why}is 4h"]),
        ("returns", "1d", [f"{why}is 1d"]),
        ("two", "1h", []),
        ("prices", "4h", []),
    ):
        path = tmp_path / kind / timeframe
        write_bundle(path, of_kind(data, kind), bias=0.0, model_type="price", timeframe=timeframe)
        found = [what for what in verify(path).unchecked if what.startswith("use by")]
        assert found == expected


@pytest.mark.parametrize("policy", ["gate", "always"])
def test_strategies_load_classes_of_one_hour_only(
    data: WindowedData, decision: Decide, policy: str
) -> None:
    new = of_kind(data, "two")
    new = replace(new, prepared=replace(new.prepared, model_type="price"))
    shares = np.full(len(new.test), new.fitted(new.train).mean())
    held = decision(policy, data=new, predictions=shares, promote=policy)
    assert held.reason == "engines expect the timeframe 1h, but this model has 1d"
    assert held.by_hand == "--force"
    assert decision(policy, data=new, predictions=shares, timeframe="1h").promoted
    prices = replace(data, prepared=replace(data.prepared, model_type="price"))
    assert decision(policy, data=prices).promoted


def test_horizons_that_do_not_overlap_are_counted(
    market: Market, data: WindowedData, decision: Decide, home: Path
) -> None:
    def far(some: WindowedData, horizon: int) -> WindowedData:
        some = of_kind(some, "two")
        output = Classes((-1, 1), horizon)
        return replace(some, labels=replace(some.labels, output=output))

    for horizon, promoted in ((10, True), (12, False)):
        shutil.rmtree(home, ignore_errors=True)
        known, new = (far(some, horizon) for some in (windows(market, KNOWN), data))
        write_bundle(home / LIVE, known, bias=0.0, recipe_document=DOCUMENT)
        (home / "latest").symlink_to(LIVE)
        shares = np.full(len(new.test), new.fitted(new.train).mean())
        found = decision(data=new, predictions=shares)
        assert len(found.compared) == 1 + promoted
        if not promoted:
            assert (
                "9 test bars whose horizons do not overlap are later than its training and "
                "validation" in found.reason
            )
            assert "at least 10 are needed" in found.reason


@pytest.mark.parametrize("name", ["model.onnx", "feature_schema.json", "metadata.json"])
def test_a_damaged_live_model(decision: Decide, live: Live, name: str) -> None:
    (live() / name).write_bytes(b"nothing")
    found = decision()
    assert not found.promoted
    assert f"the live model {LIVE} cannot be compared: {LIVE}" in found.reason


def test_too_few_bars_that_the_live_model_has_not_seen(decision: Decide, live: Live) -> None:
    live(candles=CANDLES - 29)
    found = decision()
    assert not found.promoted
    assert "cannot be compared: 29 test bars are later than its training and v" in found.reason
    assert "at least 30 are needed" in found.reason


def test_no_bar_that_the_live_model_has_not_seen(decision: Decide, live: Live) -> None:
    live(candles=CANDLES)
    found = decision()
    assert not found.promoted
    assert "cannot be compared: 0 test bars are later than its training and v" in found.reason


def test_bundles_of_early_versions_have_seen_all_of_their_data(
    decision: Decide, live: Live, market: Market
) -> None:
    last = market.candles["timestamp"][KNOWN + 49].isoformat()
    live(dataset={"validation_last": None, "last": last})
    compared = decision().compared[1]
    assert compared.first == datetime.fromisoformat(last) + timedelta(days=1)
    assert compared.bars == CANDLES - KNOWN - 50


def test_a_real_model_replaces_one_of_the_sample_market(decision: Decide, live: Live) -> None:
    live(dataset={"synthetic": True})
    found = decision(bias=TINY)
    assert found.promoted
    assert found.reason.endswith(f", and the live model {LIVE} was trained on the sample market")
    assert [comparison.other for comparison in found.compared] == ["persistence"]
    assert not decision(bias=HUGE).promoted


SAMPLE: dict[str, Any] = {"source": "sample", "candles": None, "sentiment": None}


@pytest.mark.parametrize("policy", ["gate", "always", "never"])
@pytest.mark.parametrize("changes", [{}, {"config": None}])
def test_a_model_of_the_sample_market_never_replaces_a_real_one(
    decision: Decide, live: Live, policy: str, changes: Any
) -> None:
    live(bias=HUGE, **changes)
    found = decision(policy, **SAMPLE)
    assert not found.promoted
    assert found.reason == (
        "a model trained on the sample market, whose prices are synthetic, never replaces a real "
        f"one, and {LIVE} is live; use another --registry for such models"
    )
    assert found.command(Path("models/BTCUSDT/sentiment/v2"), "1d") == ""


def test_models_of_the_sample_market_replace_each_other(decision: Decide, live: Live) -> None:
    live(dataset={"synthetic": True})
    assert decision(**SAMPLE).promoted


def test_another_timeframe(decision: Decide, live: Live) -> None:
    live(timeframe="4h")
    found = decision("always")
    assert not found.promoted
    assert found.reason == "engines expect the timeframe 4h, but this model has 1d"
    assert "--force" in found.command(Path("models/BTCUSDT/sentiment/v2"), "1d")


def test_never(decision: Decide, live: Live) -> None:
    live()
    repeated, asked = decision("never"), decision("never", promote="never")
    assert [repeated.promoted, asked.promoted] == [False, False]
    assert repeated.reason == "the model of a repeated run goes live only if --promote is given"
    assert asked.reason == "--promote never was given"


def test_a_model_that_is_not_published() -> None:
    for skipped, why in ((True, "--skip-onnx was given"), (False, "failed a check")):
        found = unpublished("gate", skipped=skipped)
        assert not found.promoted
        assert why in found.reason
        assert found.command(Path("models/BTCUSDT/sentiment/v2"), "1d") == ""
