"""Spaces: what a file may contain, and which candidates follow from it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atb_fast import ArgumentError, TrainingConfig
from atb_fast.experiments import space
from atb_fast.experiments.space import Choices, Range
from atb_fast.recipes.documents import to_document


@pytest.fixture(scope="module")
def base() -> TrainingConfig:
    return TrainingConfig(symbol="BTCUSDT", recipe="causal", source="sample")


FILE = """
epochs = {low = 5, high = 50, step = 5}
recipe = ["causal", "volatility"]
seed = [1, 2, 3]
scaler = ["standard", "robust"]
[network]
kind = ["mlp", "linear"]
units = {low = 16, high = 256, log = true}
dropout = {low = 0.0, high = 0.3, step = 0.1}
"""


def test_a_file_and_its_contents_are_the_same_space(tmp_path: Path, base: TrainingConfig) -> None:
    (tmp_path / "space.toml").write_text(FILE)
    found = space.read(tmp_path / "space.toml", base)
    same = {
        "epochs": {"low": 5, "high": 50, "step": 5},
        "recipe": ["causal", "volatility"],
        "seed": [1, 2, 3],
        "scaler": ["standard", "robust"],
        "network.kind": ["mlp", "linear"],
        "network.units": {"low": 16, "high": 256, "log": True},
        "network.dropout": {"low": 0.0, "high": 0.3, "step": 0.1},
    }
    assert found == space.read(same, base)
    assert found.to_dict() == same


def test_keys_can_be_written_as_options(base: TrainingConfig) -> None:
    made = space.read({"batch-size": [16, 32], "network": ["mlp"], "network_units": [8]}, base)
    assert [each.name for each in made.dimensions] == ["batch_size", "network", "network_units"]


def test_types_are_those_of_the_options(base: TrainingConfig) -> None:
    found = space.read(
        {"epochs": {"low": 1, "high": 9}, "network.dropout": {"low": 0, "high": 0.5}}, base
    )
    assert [type(each.low) for each in found.dimensions if isinstance(each, Range)] == [int, float]
    other = TrainingConfig(symbol="BTCUSDT", recipe="volatility", source="sample")
    listed = space.read({"target.quantiles": [[0.1, 0.9], []]}, other).dimensions[0]
    assert listed == Choices("target.quantiles", "target_quantiles", ((0.1, 0.9), ()))


def test_a_candidate_differs_only_in_its_values(base: TrainingConfig) -> None:
    found = space.read({"epochs": {"low": 1, "high": 9}, "seed": [7]}, base)
    made = found.config(base, {"epochs": 3, "seed": 7}).to_dict()
    assert made == base.to_dict() | {"epochs": 3, "seed": 7}


def test_another_recipe_has_its_own_defaults(base: TrainingConfig) -> None:
    made = space.read({"recipe": ["engine"]}, base).config(base, {"recipe": "engine"})
    fresh = TrainingConfig(symbol="BTCUSDT", source="sample", timeframe="1d", recipe="engine")
    assert made == fresh
    given = replace(base, sequence_length=33)
    assert space.candidate(given, {"recipe": "volatility"}).sequence_length == 33


def test_only_a_recipe_with_the_index_gets_sentiment() -> None:
    base = TrainingConfig(symbol="BTCUSDT", recipe="engine", source="sample")
    assert base.force_price_only
    assert not space.candidate(base, {"recipe": "causal"}).force_price_only


def test_a_key_of_the_recipe_changes_its_document(base: TrainingConfig) -> None:
    made = space.candidate(base, {"scaler": "robust", "network": "mlp", "epochs": 3})
    before, after = to_document(base.definition), to_document(made.definition)
    assert after == before | {"scaler": "robust", "network": after["network"]}
    assert after["network"]["kind"] == "mlp"
    assert made.recipe == "causal"


def test_keys_of_another_network_are_left_out(base: TrainingConfig) -> None:
    found = space.read(
        {"network.kind": ["mlp", "linear"], "network.units": [8], "network.bars": [2], "seed": [1]},
        base,
    )
    params = {"network.kind": "mlp", "network.units": 8, "network.bars": 2, "seed": 1}
    used = found.applicable(base, params)
    assert used == {"network.kind": "mlp", "network.units": 8, "seed": 1}
    assert found.config(base, used).network_units == 8


def test_values_of_the_defaults(base: TrainingConfig) -> None:
    found = space.read(
        {"epochs": [1], "network.units": [8], "scaler": ["robust"], "network.bars": [2]}
        | {"network.kind": ["cnn_lstm", "linear"]},
        base,
    )
    assert found.params(base) == {
        "epochs": 300,
        "network.units": 100,
        "scaler": "standard",
        "network.kind": "cnn_lstm",
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "the space is empty"),
        ({"epoch": [1]}, "unknown key 'epoch'; did you mean epochs"),
        ({"network.unit": [1]}, "did you mean network_units"),
        ({"epochs": 5}, "epochs is 5, expected a list of values, or a range"),
        ({"epochs": []}, "epochs has 0 values"),
        ({"seed": list(range(1001))}, "seed has 1,001 values"),
        ({"epochs": {"low": 9, "high": 5}}, "epochs is empty: low 9 is above high 5"),
        ({"epochs": {"low": 9}}, "expected low and high"),
        ({"epochs": {"low": 1, "high": 9, "steps": 2}}, "expected low and high"),
        ({"epochs": {"low": 1.5, "high": 9}}, "epochs.low is 1.5, expected an integer"),
        ({"epochs": {"low": True, "high": 9}}, "epochs.low is True, expected an integer"),
        ({"network.dropout": {"low": 0.0, "high": math.nan}}, "nan, expected a number"),
        ({"epochs": {"low": 1, "high": 9, "step": 0}}, "epochs.step is 0"),
        ({"epochs": {"low": 1, "high": 9, "log": 1}}, "epochs.log is 1, expected true or false"),
        ({"seed": {"low": 0, "high": 9, "log": True}}, "seed.low is 0, expected a number above 0"),
        ({"epochs": {"low": 1, "high": 9, "log": True, "step": 2}}, "log and step"),
        ({"network": {"low": 1, "high": 9}}, "network is a range, but network is not a number"),
        ({"engine": {"low": 1, "high": 9}}, "engine is a range, but engine is not a number"),
        ({"epochs": ["a"]}, "epochs has the value 'a', expected integers"),
        ({"epochs": [0]}, "epochs: --epochs is 0, expected at least 1"),
        ({"epochs": {"low": 0, "high": 5}}, "epochs: --epochs is 0, expected at least 1"),
        ({"epochs": [10**5000]}, "a huge integer"),
        ({"seed": [1, 1]}, "seed has the value 1 twice"),
        ({"epochs": [1], "network": ["mlp"], "network.kind": ["mlp"]}, "is given twice"),
        ({"recipe": ["causl"]}, "did you mean causal"),
        ({"network": ["mpl"]}, "--network is 'mpl', expected one of linear"),
        ({"network": ["mlp"], "network.units": {"low": 0, "high": 5}}, "found 0, expected an int"),
        ({"network": ["mlp"], "network.blocks": [2]}, "does not apply to the network mlp"),
        ({"lag": [5]}, "lag: found 5, expected 0 or 1"),
        ({"registry": ["models"]}, "registry does not change the error of a model"),
        ({"skip_onnx": [True]}, "skip_onnx does not change the error of a model"),
        ({"jobs": [1, 2]}, "unknown key 'jobs'"),
        ({"timeframe": ["1h"]}, "timeframe must be the same for all candidates"),
        ({"embargo": [1]}, "embargo must be the same for all candidates"),
        ({f"x{number}": [1] for number in range(200)}, "unknown key 'x0'"),
    ],
)
def test_what_is_wrong(given: dict[str, Any], message: str, base: TrainingConfig) -> None:
    with pytest.raises(ArgumentError) as error:
        space.read(given, base)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epochs = [1, 2", "is not valid TOML"),
        (b"\xff\xfe", "is not valid TOML"),
        (b"a = \0", "is not valid TOML"),
        (b"a = " + b"[" * 100_000, "is not valid TOML"),
        (b"#" * (1 << 21), "has 2,097,152 bytes, expected at most 1,048,576"),
        (b"epochs = [0]", "space.toml: epochs: --epochs is 0"),
        (None, "cannot be read"),
    ],
    ids=["cut off", "not UTF-8", "NUL", "deep", "huge", "invalid value", "missing"],
)
def test_hostile_files(
    content: bytes | None, message: str, tmp_path: Path, base: TrainingConfig
) -> None:
    path = tmp_path / "space.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArgumentError, match=r"space\.toml") as error:
        space.read(path, base)
    assert message in str(error.value)


def test_a_folder_is_not_a_file(tmp_path: Path, base: TrainingConfig) -> None:
    with pytest.raises(ArgumentError, match="is not a file; pass the path of a space file"):
        space.read(tmp_path, base)


def test_recipe_files_are_relative_to_the_space(tmp_path: Path, base: TrainingConfig) -> None:
    recipe = 'name = "own"\n[features]\nx = "close / open"\n[target]\nkind = "log_return"\n'
    (tmp_path / "own.toml").write_text(recipe)
    (tmp_path / "space.toml").write_text('recipe = ["own.toml", "causal"]\n')
    found = space.read(tmp_path / "space.toml", base)
    path = str(tmp_path / "own.toml")
    assert found.dimensions[0].ends == (path, "causal")
    assert found.config(base, {"recipe": path}).recipe == "own"


@pytest.mark.parametrize(
    ("dimension", "values"),
    [
        (Range("k", "k", 1, 9, 3), (1, 4, 7)),
        (Range("k", "k", 0.0, 0.3, 0.1), (0.0, 0.1, 0.2, 0.3)),
        (Choices("k", "k", ("b", "a")), ("b", "a")),
    ],
)
def test_grid(dimension: Range | Choices, values: tuple[Any, ...]) -> None:
    assert dimension.grid() == values
    random = np.random.default_rng(0)
    assert {dimension.draw(random) for _ in range(200)} == set(values)


def test_the_end_of_a_range_is_a_whole_number_of_steps_away(base: TrainingConfig) -> None:
    found = space.read({"epochs": {"low": 5, "high": 12, "step": 5}}, base).dimensions[0]
    assert found.ends == (5, 10)


def test_random_values_are_uniform() -> None:
    random = np.random.default_rng(1)
    drawn = Counter(Range("k", "k", 1, 4).draw(random) for _ in range(4000))
    assert sorted(drawn) == [1, 2, 3, 4]
    assert min(drawn.values()) > 900
    logs = [math.log2(Range("k", "k", 1.0, 256.0, log=True).draw(random)) for _ in range(4000)]
    assert 0.0 <= min(logs) < 0.1 < 7.9 < max(logs) <= 8.0
    assert np.mean(logs) == pytest.approx(4.0, abs=0.15)
    whole = Counter(Range("k", "k", 1, 8, log=True).draw(random) for _ in range(4000))
    assert sorted(whole) == list(range(1, 9))
    assert all(type(value) is int for value in whole)
    assert whole[1] > whole[2] > whole[4] > whole[8]
