from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from atb_fast.errors import StorageError
from atb_fast.serving import registry
from atb_fast.storage import umask

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def publish(root: Path, *, live: bool = True, **options: Any) -> Path:
    with registry.staging(root) as staged:
        (staged / "model.onnx").write_text("model")

        def finish(version: str) -> None:
            (staged / "metadata.json").write_text(version)

        defaults: dict[str, Any] = {
            "symbol": "BTCUSDT",
            "model_type": "price",
            "created": CREATED,
            "finish": finish,
        }
        path, version = registry.publish(staged, root, live=live, **{**defaults, **options})
        assert path.name.endswith(version)
        return path


def test_layout(tmp_path: Path) -> None:
    path = publish(tmp_path)
    assert path == tmp_path / "BTCUSDT" / "price" / "2026-01-02_03h04m05s_v1"
    assert (path / "metadata.json").read_text() == path.name
    latest = path.parent / "latest"
    assert str(latest.readlink()) == path.name
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, "latest"]
    assert list((tmp_path / ".staging").iterdir()) == []
    assert path.stat().st_mode & 0o777 == 0o777 & ~umask()


def test_versions_of_the_same_second(tmp_path: Path) -> None:
    names = [publish(tmp_path).name for _ in range(3)]
    assert names == [f"2026-01-02_03h04m05s_v{n}" for n in (1, 2, 3)]
    latest = tmp_path / "BTCUSDT" / "price" / "latest"
    assert latest.resolve().name == names[-1]
    for name in names:
        assert (latest.parent / name / "metadata.json").read_text() == name


def test_not_live_is_kept_where_engines_do_not_look(tmp_path: Path) -> None:
    before = publish(tmp_path)
    kept = publish(tmp_path, live=False)
    assert kept.parent == tmp_path / ".unpublished"
    assert not any(p.is_dir() for p in kept.iterdir())
    assert str((before.parent / "latest").readlink()) == before.name
    assert len(list(before.parent.iterdir())) == 2


def test_a_failure_leaves_nothing_visible(tmp_path: Path) -> None:
    before = publish(tmp_path)

    def full(version: str) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"cannot be written to .*: No space left on device"):
        publish(tmp_path, finish=full)
    assert str((before.parent / "latest").readlink()) == before.name
    assert len(list(before.parent.iterdir())) == 2
    assert list((tmp_path / ".staging").iterdir()) == []


@pytest.mark.parametrize("root", ["file/registry", "/proc/registry"])
def test_unwritable_registry(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").write_text("a file where a directory should be")
    with (
        pytest.raises(StorageError, match=r"cannot be written .*; give a writable --registry"),
        registry.staging(tmp_path / root),
    ):
        pass


def test_what_killed_runs_left_is_swept(tmp_path: Path) -> None:
    root = tmp_path / ".staging"
    for name, age in [("old", 8), ("fresh", 1)]:
        (root / name).mkdir(parents=True)
        stamp = time.time() - age * 86_400
        os.utime(root / name, (stamp, stamp))
    with registry.staging(tmp_path) as staged:
        assert {path.name for path in root.iterdir()} == {"fresh", staged.name}
