"""The previous run that a new one is compared with, and how they differ."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atb_fast import TrainingConfig
from atb_fast.bundles.contents import metadata
from atb_fast.evaluation.diagnostics import evaluate
from atb_fast.evaluation.record import RunRecord
from atb_fast.ingestion.market import Market
from atb_fast.recipes import prepare, split
from atb_fast.reports.before import Before, section
from atb_fast.runs.previous import run_before
from atb_fast.runs.promotion import Promotion
from atb_fast.serving import registry
from atb_fast.training.device import decide as device
from atb_fast.training.engine import FitResult

OLD, OLDER, NEW = (f"2026-01-0{day}_03h04m05s_v1" for day in (2, 1, 3))
Document = dict[str, Any]


class Still:
    """A model that always predicts 0."""

    def predict_on_batch(self, windows: Any) -> Any:
        return np.zeros((len(windows), 1))


@pytest.fixture(scope="module")
def document(market: Market) -> Document:
    config = TrainingConfig(
        symbol="BTCUSDT", source="sample", sequence_length=12, force_sentiment=True
    )
    few = Market(market.candles.head(400), market.sentiment)
    data = split(prepare(few, config), config)
    record = RunRecord(
        config,
        data,
        device([], engine="keras", mixed_precision=False, batch_size=None),
        FitResult("keras", {"loss": [1.0], "val_loss": [1.0]}, 1, 1, [1.0]),
        evaluate(Still(), data, data.persistence(data.test) * 1.001),
    )
    created = registry.age(Path(NEW))[0]
    made: Document = json.loads(json.dumps(metadata(record, version=NEW, created=created)))
    return made


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "models" / "BTCUSDT" / "sentiment"


Publish = Callable[..., Document]


@pytest.fixture
def publish(home: Path, document: Document) -> Publish:
    """Write the metadata of an earlier version, which `change` may alter."""

    def made(
        version: str = OLD,
        change: Callable[[Document], Any] = lambda _: None,
        *,
        live: bool = True,
    ) -> Document:
        old = copy.deepcopy(document) | {"version_id": version}
        change(old)
        (home / version).mkdir(parents=True)
        (home / version / "metadata.json").write_text(json.dumps(old))
        if live:
            (home / "latest").symlink_to(version)
        return old

    return made


def existing(home: Path, document: Document) -> Before:
    """Return the previous run, which exists."""
    found = run_before(home, document)
    assert found is not None
    return found


def test_the_first_run_has_none_before(home: Path, document: Document) -> None:
    assert run_before(home, document) is None
    home.mkdir(parents=True)
    assert run_before(home, document) is None


def test_the_live_version_is_before_else_the_newest(
    home: Path, document: Document, publish: Publish
) -> None:
    publish(OLDER, live=False)
    publish(OLD, live=False)
    found = existing(home, document)
    assert (found.version, found.live) == (OLD, False)
    (home / "latest").symlink_to(OLDER)
    found = existing(home, document)
    assert (found.version, found.live) == (OLDER, True)


def test_a_repeated_run_differs_in_nothing(
    home: Path, document: Document, publish: Publish
) -> None:
    publish()
    found = existing(home, document)
    assert (found.problem, found.incomparable, dict(found.differs)) == ("", "", {})
    results = document["evaluation_results"]
    assert found.figures["test_rmse"] == (results["test_rmse"],) * 2
    assert found.figures["diebold_mariano"] == (results["diebold_mariano"],) * 2
    assert found.figures["ratio"][0] == pytest.approx(
        results["test_rmse"] / results["persistence_rmse"]
    )
    assert found.reference == "persistence"


def test_only_what_differs_is_named(home: Path, document: Document, publish: Publish) -> None:
    def change(old: Document) -> None:
        old["config"] |= {"epochs": 5, "seed": 1}
        old["versions"]["keras"] = "3.9.9"
        old["feature_names"] = ["gone", *old["feature_names"][1:]]
        old["evaluation_results"]["test_rmse"] *= 2

    publish(OLD, change)
    found = existing(home, document)
    assert dict(found.differs) == {
        "epochs": (5, document["config"]["epochs"]),
        "keras": ("3.9.9", document["versions"]["keras"]),
        "columns": ("gone", document["feature_names"][0]),
        "seed": (1, document["config"]["seed"]),
    }
    before, now = found.figures["test_rmse"]
    assert before == 2 * now
    assert found.incomparable == ""


@pytest.mark.parametrize(
    "change",
    [
        lambda old: old["dataset"]["split"]["test"].update(first="2020-01-01T00:00:00+00:00"),
        lambda old: old["dataset"].update(test_windows=7),
        lambda old: old["dataset"]["sha256"].update(candles="0" * 64),
        lambda old: old["dataset"].pop("split"),
        lambda old: old.pop("dataset"),
    ],
)
def test_errors_on_other_test_windows_are_not_compared(
    home: Path, document: Document, publish: Publish, change: Callable[[Document], Any]
) -> None:
    publish(OLD, change)
    found = existing(home, document)
    assert found.problem == ""
    assert found.incomparable.startswith("The test windows differ, so the errors are not comp")
    assert list(found.figures) == ["ratio"]
    assert found.differs


@pytest.mark.parametrize(
    "change",
    [
        lambda old: old["price_normalization"].update(horizon=3),
        lambda old: old.update(timeframe="1h"),
        lambda old: old.update(symbol="ETHUSDT"),
        lambda old: old["evaluation_results"].update(har_rmse=1.0),
        lambda old: old["evaluation_results"].clear(),
    ],
)
def test_figures_of_another_forecast_are_not_compared(
    home: Path, document: Document, publish: Publish, change: Callable[[Document], Any]
) -> None:
    publish(OLD, change)
    found = existing(home, document)
    assert found.problem == ""
    assert (
        found.incomparable == "It predicted a different target, so its figures are not comparable."
    )
    assert not found.figures


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda old: old.pop("config"), "another trainer made it"),
        (lambda old: old.update(environment={"git": 5}), "its metadata.json has unexpected cont"),
        (lambda old: old.update(environment=[]), ""),
        (lambda old: old.update(versions={"keras": ["x"]}, feature_names=7), ""),
        (lambda old: old.update(price_normalization=[1]), "price_normalization"),
        (lambda old: old["config"].update(epochs={"deep": [1]}, symbol=None), ""),
        (lambda old: old["evaluation_results"].update(ratio=float("nan"), mape=[1]), ""),
        (lambda old: old["evaluation_results"].update(test_rmse=10**400, r2=1e308), ""),
        (lambda old: old["evaluation_results"].update(test_rmse=0.0, r2=float("inf")), ""),
        (lambda old: old["config"].update(epochs=10**400, batch_size=float("nan")), ""),
        (lambda old: old.update(recipe_document={"target": 5, "network": [], "name": {}}), ""),
    ],
)
def test_unexpected_metadata_is_not_an_error(
    home: Path,
    document: Document,
    publish: Publish,
    change: Callable[[Document], Any],
    problem: str,
) -> None:
    publish(OLD, change)
    found = existing(home, document)
    assert problem in found.problem
    assert bool(found.problem) == bool(problem)
    assert section(found, str) is not None  # what is shown of it


@pytest.mark.parametrize("damage", ["missing", "cut", "binary", "list", "pipe", "huge"])
def test_damaged_files_are_not_an_error(
    home: Path, document: Document, publish: Publish, damage: str
) -> None:
    publish()
    path = home / OLD / "metadata.json"
    content = path.read_bytes()
    path.unlink()
    if damage == "pipe":
        os.mkfifo(path)  # reading it would wait for a writer
    elif damage != "missing":
        path.write_bytes(
            {
                "cut": content[:999],
                "binary": b"\xff" * 99,
                "list": b"[]",
                "huge": content + b" " * (4 << 20),
            }[damage]
        )
    found = existing(home, document)
    assert OLD in found.problem
    assert str(home) not in found.problem  # the page must not name directories


def test_a_live_link_that_leads_nowhere(home: Path, document: Document, publish: Publish) -> None:
    publish(OLD, live=False)
    (home / "latest").symlink_to("gone")
    found = existing(home, document)
    assert (found.version, found.live) == (OLD, False)


def test_the_comparison_on_the_same_bars_is_that_of_the_promotion(
    home: Path, document: Document, publish: Publish
) -> None:
    publish()
    found = existing(home, document)
    assert found.scored is None
    other = {"other": "persistence", "bars": 1}
    scored = {"other": f"the live model {OLD}", "bars": 50, "rmse": 2.0, "other_rmse": 3.0}
    promotion = Promotion("gate", True, "why").to_dict() | {"compared": [other, scored]}
    found = existing(home, document | {"promotion": promotion})
    assert found.scored == scored
