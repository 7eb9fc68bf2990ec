from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from atb_fast.errors import StorageError
from atb_fast.serving import registry


def bundle(home: Path, name: str, **metadata: Any) -> Path:
    path = home / name
    path.mkdir(parents=True)
    if metadata:
        (path / "metadata.json").write_text(json.dumps(metadata))
    return path


def test_versions_sort_by_the_time_in_the_name_or_in_the_metadata_or_of_the_directory(
    tmp_path: Path,
) -> None:
    home = tmp_path / "BTCUSDT" / "price"
    bundle(home, "2026-01-02_00h00m00s_v10", training_date="2026-01-02T00:00:00+00:00")
    bundle(home, "2026-01-02_00h00m00s_v9", training_date="1999-01-02T00:00:00+00:00")
    bundle(home, "champion", training_date="2025-06-01T12:00:00", created_at="garbage")
    bundle(home, "z-first", created_at="2024-01-01T00:00:00+02:00", training_date=7)
    bundle(home, "2025-07-01_00h00m00s_v1")  # without metadata
    undated = bundle(home, "undated", timeframe="1d")
    os.utime(undated, (1_700_000_000, 1_700_000_000))  # November 2023
    assert [path.name for path in registry.versions(tmp_path)] == [
        "undated",
        "z-first",
        "champion",
        "2025-07-01_00h00m00s_v1",
        "2026-01-02_00h00m00s_v9",
        "2026-01-02_00h00m00s_v10",
    ]


def test_directories_that_are_not_versions(tmp_path: Path) -> None:
    home = tmp_path / "BTCUSDT" / "price"
    kept = bundle(home, "2026-01-02_00h00m00s_v1")
    bundle(home, "notes")
    bundle(home, ".hidden", timeframe="1d")
    bundle(home, "2026-01-02_00h00m00s_v2\n", timeframe="1d")
    bundle(tmp_path / "BTCUSDT" / "price\n", "2026-01-02_00h00m00s_v1")
    (home / "latest").symlink_to(kept.name)
    (home / "linked").symlink_to(bundle(tmp_path.parent / "elsewhere", "x", timeframe="1d"))
    (tmp_path / "README").write_text("")
    assert registry.versions(tmp_path) == [kept]


def test_a_registry_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"none does not exist; train a model first, or pass"):
        registry.versions(tmp_path / "none")


@pytest.mark.parametrize(
    ("metadata", "foreign"),
    [
        ({}, True),
        ({"timeframe": "1d", "config": {}}, True),
        ({"config": {}, "versions": "1"}, True),
        ({"config": {}, "versions": {}}, False),
    ],
)
def test_bundles_of_other_trainers_lack_our_keys(metadata: Any, foreign: bool) -> None:
    assert registry.is_foreign(metadata) is foreign


def test_the_work_folder_is_next_to_the_registry_that_a_link_points_to(tmp_path: Path) -> None:
    (tmp_path / "real" / "models").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "models")
    expected = tmp_path.resolve() / "real" / ".models-work"
    assert registry.work_folder(tmp_path / "link") == expected
    assert registry.work_folder(tmp_path / "real" / "models" / ".") == expected
    assert registry.work_folder(tmp_path / "real" / "other") != expected


@pytest.mark.parametrize("model_type", ["basic", "meta_label"])
def test_strategies_load_these_types_of_one_hour_only(tmp_path: Path, model_type: str) -> None:
    home = tmp_path / "BTCUSDT" / model_type
    home.mkdir(parents=True)
    assert registry.other_live_timeframe(home, "4h") == "1h"
    assert registry.other_live_timeframe(home, "1h") is None
    live = bundle(home, "2026-01-02_00h00m00s_v1", timeframe="4h")  # promoted with --force
    (home / "latest").symlink_to(live.name)
    assert registry.other_live_timeframe(home, "1h") == "4h"
