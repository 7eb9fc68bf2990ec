"""What differs between runs, and intervals over seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from atb_fast import TrainingConfig
from atb_fast.errors import ArgumentError
from atb_fast.experiments.compare import compare, interval
from atb_fast.runs import ledger
from atb_fast.runs.facts import facts, plain
from atb_fast.runs.records import of_config


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return tmp_path / "models"


def add(registry: Path, identity: str, *, error: float = 2.0, **options: Any) -> dict[str, Any]:
    """Append a training to the ledger and return its record."""
    data = options.pop("data", {"candles": "ab" * 32})
    kind, bundle = options.pop("kind", "train"), options.pop("bundle", None)
    still = options.pop("still", False)  # predicts no move
    config = TrainingConfig(**{"symbol": "BTCUSDT", "recipe": "causal", **options})
    made = of_config(
        kind,
        config,
        data=data,
        metrics={
            "rmse": error,
            "persistence_rmse": 4.0,
            **({} if still else {"directional_accuracy": 0.5}),
            "directional_bars": 0 if still else round(100 * error),
        },
        seconds=error,
        machine={"cpu": "x"},
        identity=identity * 16,
    )
    made["bundle"] = bundle
    ledger.append(registry, made)
    return made


def add_curves(registry: Path, bundle: str, forecast: list[float], *, first: int = 1) -> None:
    """Write the curves.json of a bundle, with a forecast for consecutive days."""
    days = range(first, first + len(forecast))
    document = {
        "history": {"loss": [3.0, 2.0], "val_loss": [4.0, None]},
        "tested": {
            "unit": "quote currency",
            "times": [f"2024-01-{day:02}T00:00:00+00:00" for day in days],
            "actual": [float(day) for day in days],
            "forecast": forecast,
        },
    }
    (registry / bundle).mkdir(parents=True)
    (registry / bundle / "curves.json").write_text(json.dumps(document))


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 20, 100])
def test_intervals_are_those_of_scipy(count: int) -> None:
    values = np.random.default_rng(count).normal(5.0, 2.0, count).tolist()
    low, high = stats.t.interval(0.95, count - 1, np.mean(values), stats.sem(values))
    ends = interval(values)
    assert ends is not None
    # The half width has an error of at most 0.2%.
    assert ends == pytest.approx((low, high), abs=0.002 * (high - low))


def test_one_value_has_no_interval() -> None:
    assert interval([1.0]) is None


def test_what_differs(registry: Path) -> None:
    add(registry, "a", epochs=5)
    add(registry, "b", network="mlp", network_units=8)
    found = compare(registry, ["a", "b"])
    assert [run["id"] for run in found["runs"]] == ["a" * 16, "b" * 16]
    # Of an option, the default is known, so it is shown next to the other value.
    assert found["options"] == {
        "network": ["cnn_lstm", "mlp"],
        "network_filters": [64, "–"],
        "network_units": [100, 8],
        "network_dropout": [0.2, 0.1],
        "epochs": [5, 300],
        "network_layers": ["–", 2],
    }
    assert found["same"]["symbol"] == "BTCUSDT"
    assert found["same"]["target"] == "log_return"


def test_runs_that_differ_only_in_the_seed_are_one_entry(registry: Path) -> None:
    errors = {"a": 2.0, "b": 3.0, "c": 7.0}
    for seed, (identity, error) in enumerate(errors.items(), 1):
        add(registry, identity, error=error, seed=seed)
    add(registry, "d", error=1.0, epochs=5)
    found = compare(registry, ["d", "a", "b", "c"])
    assert [run["seeds"] for run in found["runs"]] == [1, 3]
    assert [run["seed_values"] for run in found["runs"]] == [[42], [1, 2, 3]]
    assert found["options"] == {"epochs": [5, 300]}
    metrics = {each["name"]: each for each in found["metrics"]}
    alone, together = metrics["test RMSE"]["values"]
    assert alone == {"mean": 1.0, "seeds": 1}
    low, high = stats.t.interval(0.95, 2, 4.0, stats.sem([2.0, 3.0, 7.0]))
    assert together["mean"] == 4.0
    assert (together["low"], together["high"]) == pytest.approx((low, high), rel=1e-6)
    ratio = metrics["ratio to persistence"]
    assert ratio["level"] == 1.0
    assert ratio["lower_is_better"]
    assert ratio["values"][1]["mean"] == 1.0
    assert not metrics["directional accuracy"]["lower_is_better"]
    assert [each["bars"] for each in metrics["directional accuracy"]["values"]] == [100, 200]
    assert "bars" not in together
    # Seconds depend on the machine, not on the seed.
    assert "low" not in metrics["seconds"]["values"][1]


def test_a_seed_without_an_accuracy_has_no_bars_to_count(registry: Path) -> None:
    add(registry, "a", seed=1)
    add(registry, "b", seed=2, still=True)
    add(registry, "c", epochs=5, still=True)
    found = {each["name"]: each for each in compare(registry, ["a", "b", "c"])["metrics"]}
    assert found["directional accuracy"]["values"] == [
        {"mean": 0.5, "seeds": 1, "bars": 200},
        None,
    ]


def test_a_repeated_run_does_not_narrow_the_interval(registry: Path) -> None:
    add(registry, "a", seed=1)
    add(registry, "b", seed=1)
    add(registry, "c", epochs=5)
    found = compare(registry, ["a", "b", "c"])
    assert [run["seeds"] for run in found["runs"]] == [1, 1]
    assert found["notes"][0].startswith("Left out: 1 of the runs")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"symbol": "ETHUSDT"}, "symbol"),
        ({"timeframe": "1h"}, "timeframe"),
        ({"target": "binary_direction"}, "target"),
        ({"horizon": 3}, "horizon"),
        ({"data": {"candles": "cd" * 32}}, "data"),
        ({"kind": "evaluate"}, "kind of run"),
    ],
)
def test_errors_of_other_values_are_not_comparable(
    options: dict[str, Any], named: str, registry: Path
) -> None:
    add(registry, "a")
    add(registry, "b", **options)
    note = compare(registry, ["a", "b"])["notes"][0]
    assert note.startswith(f"The runs differ in {named}, so they were tested on different values")


def test_other_options_do_not_hinder_a_comparison(registry: Path) -> None:
    add(registry, "a")
    add(registry, "b", epochs=5)
    assert [note for note in compare(registry, ["a", "b"])["notes"] if "differ" in note] == []


def test_losses_and_forecasts(registry: Path) -> None:
    homes = [f"BTCUSDT/causal/v{number}" for number in (1, 2, 3)]
    add(registry, "a", bundle=homes[0])
    add(registry, "b", bundle=homes[1], epochs=5)
    add(registry, "c", bundle=homes[2], epochs=6)  # its bundle was removed
    add_curves(registry, homes[0], [1.5, 2.5, 3.5])
    add_curves(registry, homes[1], [2.1, 3.1, 4.1], first=2)
    found = compare(registry, ["a", "b", "c"])
    expected = {"training": [3.0, 2.0], "validation": [4.0, None], "best_epoch": 2}
    assert found["losses"] == [expected, expected, None]
    (panel,) = found["predictions"]
    assert (panel["title"], panel["unit"]) == ("BTCUSDT 1d", "quote currency")
    rows = panel["frame"].select("actual", "a" * 16, "b" * 16).rows()
    assert rows == [(2.0, 2.5, 2.1), (3.0, 3.5, 3.1)]  # the days that both forecast
    assert [run["state"] for run in found["runs"]] == ["published", "published", "removed"]
    assert "unknown for cccccc" in found["notes"][-1]


def test_forecasts_of_other_values_are_apart(registry: Path) -> None:
    homes = [f"BTCUSDT/causal/v{number}" for number in (1, 2)]
    for identity, home, epochs in zip("ab", homes, (5, 6), strict=True):
        add(registry, identity, bundle=home, epochs=epochs)
        add_curves(registry, home, [1.5, 2.5, 3.5])
    path = registry / homes[1] / "curves.json"
    document = json.loads(path.read_text())
    document["tested"]["actual"] = [9.0, 9.0, 9.0]
    path.write_text(json.dumps(document))
    assert len(compare(registry, ["a", "b"])["predictions"]) == 2


def test_probabilities_of_different_classes_are_apart(registry: Path) -> None:
    homes = [f"BTCUSDT/causal/v{number}" for number in (1, 2)]
    for identity, home, name in zip("ab", homes, ("up", "yes"), strict=True):
        add(registry, identity, bundle=home, epochs=5 + len(name))
        add_curves(registry, home, [0.5, 0.6, 0.7])
        path = registry / home / "curves.json"
        document = json.loads(path.read_text())
        document["tested"] |= {"unit": "probability", "class": name}
        path.write_text(json.dumps(document))
    found = compare(registry, ["a", "b"])["predictions"]
    assert [(panel["unit"], panel["class"]) for panel in found] == [
        ("probability", "up"),
        ("probability", "yes"),
    ]


def test_numbers_that_no_run_has_are_missing(registry: Path) -> None:
    home = "BTCUSDT/causal/v1"
    add(registry, "a", bundle=home)
    add(registry, "b", epochs=5)
    add_curves(registry, home, [1.7e308, -1.7e308, 3.5])
    (panel,) = compare(registry, ["a", "b"])["predictions"]
    assert panel["frame"]["a" * 16].to_list() == [None, None, 3.5]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"history": [], "tested": []}',
        '{"history": {"loss": 1, "val_loss": 2}}',
        '{"history": {"loss": ["x"], "val_loss": []}}',
        '{"tested": {"unit": 1, "times": ["x"], "actual": [1], "forecast": [1]}}',
        '{"tested": {"unit": 1, "times": [5], "actual": [1], "forecast": [1]}}',
        '{"tested": {"unit": "", "times": [], "actual": [1], "forecast": [[1]]}}',
    ],
)
def test_damaged_curves_are_left_out(content: str, registry: Path) -> None:
    add(registry, "a", bundle="BTCUSDT/causal/v1")
    add(registry, "b", epochs=5)
    (registry / "BTCUSDT/causal/v1").mkdir(parents=True)
    (registry / "BTCUSDT/causal/v1/curves.json").write_text(content)
    found = compare(registry, ["a", "b"])
    assert (found["losses"], found["predictions"]) == ([None, None], [])


def test_what_cannot_be_compared(registry: Path) -> None:
    add(registry, "a")
    for identities, message in (
        (["a"], "one run is given"),
        (["a", "aa"], "is given twice"),
        (["a", "b"], "no run has the id 'b'"),
    ):
        with pytest.raises(ArgumentError, match=message):
            compare(registry, identities)


def test_facts_are_texts_and_numbers(registry: Path) -> None:
    made = add(
        registry, "a", recipe="volatility", timeframe="1h", data={"BTCUSDT": {"candles": "ab" * 32}}
    )
    found = facts(made)
    assert found["BTCUSDT candles sha256"] == "abababab"
    assert found["target_quantiles"] == "0.05, 0.25, 0.5, 0.75, 0.95"
    assert all(isinstance(value, str | int | float) for value in found.values())


def test_a_midnight_is_a_date_and_other_times_are_whole() -> None:
    assert plain("2023-12-14T00:00:00+00:00") == "2023-12-14"
    assert plain("2023-12-14T05:00:00+00:00") == "2023-12-14T05:00:00+00:00"


def test_weighted_and_unweighted_log_losses_are_not_compared(registry: Path) -> None:
    for identity, weights in (("a", "balanced"), ("b", "none"), ("c", "none")):
        options: dict[str, Any] = {"target": "triple_barrier", "target_class_weights": weights}
        made = add(registry, identity, epochs=ord(identity), **options)
        figures = {"test_log_loss": 0.5, "class_shares_log_loss": 1.0}
        ledger.append(registry, made | {"id": identity * 15 + "0", "metrics": figures})
    found = compare(registry, [f"{identity * 15}0" for identity in "abc"])
    assert [each for each in found["notes"] if "class weights" in each] == [
        "The runs differ in class weights, so neither their log losses nor the ratios of these can "
        "be compared: only some are weighted. The accuracies can be compared."
    ]
    values = {each["name"]: each["values"] for each in found["metrics"]}
    one = {"seeds": 1, "mean": 0.5}
    assert values["test weighted log loss"] == [one, None, None]
    assert values["test log loss"] == [None, one, one]
    assert values["weighted ratio to class shares"] == [one, None, None]
    assert values["ratio to class shares"] == [None, one, one]
    alike = compare(registry, [f"{identity * 15}0" for identity in "bc"])
    assert not [each for each in alike["notes"] if "class weights" in each]
