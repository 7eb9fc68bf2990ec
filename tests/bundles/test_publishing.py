"""Writing to the registry: each change is one step, and the registry contains only versions."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from atb_fast.bundles import publishing
from atb_fast.bundles.publishing import Draft, reserve
from atb_fast.bundles.workspace import check_place
from atb_fast.errors import BundleError, StorageError
from atb_fast.serving.registry import unpublished, work_folder
from atb_fast.storage import umask

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FIRST = "2026-01-02_03h04m05s_v1"


def write(draft: Draft) -> None:
    (draft.directory / "model.onnx").write_text("model")
    (draft.directory / "metadata.json").write_text(json.dumps(draft.version))


def publish(registry: Path, *, live: bool = True) -> Path:
    with reserve(registry, "BTCUSDT", "price", CREATED) as draft:
        write(draft)
        return draft.publish(live=live)


def staged(registry: Path) -> list[Path]:
    return list((work_folder(registry) / "staging").iterdir())


def everything(registry: Path) -> set[str]:
    return {str(path.relative_to(registry)) for path in registry.rglob("*")}


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return tmp_path / "models"


def test_layout(registry: Path) -> None:
    path = publish(registry)
    assert path == registry / "BTCUSDT" / "price" / FIRST
    assert json.loads((path / "metadata.json").read_text()) == FIRST
    assert str((path.parent / "latest").readlink()) == FIRST
    assert {child.name for child in registry.iterdir()} == {"BTCUSDT"}
    assert {child.name for child in path.parent.iterdir()} == {FIRST, "latest"}
    assert staged(registry) == []
    assert path.stat().st_mode & 0o777 == 0o777 & ~umask()


def test_a_version_is_not_in_the_registry_before_it_is_published(registry: Path) -> None:
    with reserve(registry, "BTCUSDT", "price", CREATED) as draft:
        assert draft.version == FIRST
        write(draft)
        assert everything(registry) == set()
        path = draft.publish(live=False)
    assert path.name == FIRST
    assert not (path.parent / "latest").is_symlink()


def test_a_reserved_version_is_not_given_twice(registry: Path) -> None:
    with (
        reserve(registry, "BTCUSDT", "price", CREATED) as one,
        reserve(registry, "BTCUSDT", "price", CREATED) as two,
        reserve(registry, "BTCUSDT", "basic", CREATED) as other_type,
    ):
        assert two.version == one.version[:-1] + "2"
        assert other_type.version == one.version
        write(two)
        two.publish(live=True)
        write(one)
        one.keep()
    assert publish(registry).name == one.version[:-1] + "3"


def test_versions_of_the_same_second_from_many_threads(registry: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: publish(registry), range(24)))
    assert {path.name for path in paths} == {f"{FIRST[:-1]}{n}" for n in range(1, 25)}
    for path in paths:
        assert json.loads((path / "metadata.json").read_text()) == path.name
    assert staged(registry) == []


def test_a_kept_model_is_invisible_to_engines(registry: Path) -> None:
    before = publish(registry)
    seen = everything(registry)
    with reserve(registry, "BTCUSDT", "price", CREATED) as draft:
        write(draft)
        kept = draft.keep()
    assert everything(registry) == seen
    assert unpublished(registry) == [kept]
    assert kept.name == f"BTCUSDT_price_{FIRST[:-1]}2"
    assert str((before.parent / "latest").readlink()) == before.name


@pytest.mark.parametrize("target", ["latest", "gone", "/nowhere", "../.."])
def test_a_broken_link_is_replaced(registry: Path, target: str) -> None:
    home = publish(registry).parent
    (home / "latest").unlink()
    (home / "latest").symlink_to(target)
    assert str((home / "latest").readlink()) == target
    path = publish(registry)
    assert str((home / "latest").readlink()) == path.name


def test_a_bundle_that_cannot_go_live_is_published_and_the_error_says_where(registry: Path) -> None:
    (registry / "BTCUSDT" / "price" / "latest").mkdir(parents=True)
    path = registry / "BTCUSDT" / "price" / FIRST
    with pytest.raises(StorageError, match=rf"latest cannot be replaced: .* not live: {path}"):
        publish(registry)
    assert (path / "model.onnx").is_file()


def test_a_kept_model_is_sealed_like_a_published_one(registry: Path) -> None:
    published = publish(registry)
    with reserve(registry, "BTCUSDT", "price", CREATED) as draft:
        write(draft)
        kept = draft.keep()
    for bundle in (published, kept):
        lines = (bundle / "SHA256SUMS").read_text().splitlines()
        assert [line[66:] for line in lines] == ["metadata.json", "model.onnx"]


@pytest.mark.parametrize("link", ["BTCUSDT", "BTCUSDT/price"])
@pytest.mark.parametrize("target", ["gone", "outside"])
def test_a_link_instead_of_a_directory(registry: Path, link: str, target: str) -> None:
    """It may lead out of the registry."""
    outside = registry.parent / "outside"
    outside.mkdir()
    (registry / link).parent.mkdir(parents=True)
    (registry / link).symlink_to(outside.with_name(target))
    with (
        pytest.raises(StorageError, match=rf"{link} is (a symbolic link|not a directory)"),
        reserve(registry, "BTCUSDT", "price", CREATED),
    ):
        pass
    assert list(outside.iterdir()) == []


def test_a_failure_leaves_nothing(registry: Path) -> None:
    publish(registry)
    seen = everything(registry)

    def fail() -> None:
        with reserve(registry, "BTCUSDT", "price", CREATED) as draft:
            write(draft)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert everything(registry) == seen
    assert staged(registry) == unpublished(registry) == []


def publish_synthetic(registry: Path, synthetic: bool | None) -> Path:
    """Publish and promote a bundle whose metadata says whether its market is the sample market."""
    with reserve(registry, "BTCUSDT", "price", CREATED) as draft:
        document = {} if synthetic is None else {"dataset": {"synthetic": synthetic}}
        (draft.directory / "metadata.json").write_text(json.dumps(document))
        return draft.publish(live=True)


@pytest.mark.parametrize("real", [False, None])
def test_a_model_of_the_sample_market_never_replaces_a_real_one(
    registry: Path, real: bool | None
) -> None:
    samples = [publish_synthetic(registry, True) for _ in range(2)]
    live = publish_synthetic(registry, real)
    seen = everything(registry)
    with pytest.raises(BundleError, match=f"never replaces a real one, and {live.name} is live"):
        publish_synthetic(registry, True)
    with pytest.raises(BundleError, match=rf"{samples[0]} must not go live: .*--registry"):
        publishing.promote(samples[0])
    assert everything(registry) == seen
    assert str((live.parent / "latest").readlink()) == live.name
    assert staged(registry) == []
    publish_synthetic(registry, real)


@pytest.mark.parametrize("content", [None, '{"dataset": '])
def test_a_model_without_metadata_may_be_a_real_one(registry: Path, content: str | None) -> None:
    live = publish_synthetic(registry, True)
    path = live / "metadata.json"
    path.unlink() if content is None else path.write_text(content)
    message = f"{live.name} is live, and its metadata.json cannot be read, so it may be a real one;"
    with pytest.raises(BundleError, match=message):
        publish_synthetic(registry, True)


@pytest.mark.parametrize("target", ["latest", "removed"])
def test_a_sample_model_does_not_go_live_if_a_real_one_may_have_been(
    registry: Path, target: str
) -> None:
    sample = publish_synthetic(registry, True)
    latest = sample.parent / "latest"
    latest.unlink()
    latest.symlink_to(target)
    assert publishing.promote(sample) is None  # no real model
    real = publish_synthetic(registry, False)
    latest.unlink()
    latest.symlink_to(target)
    with pytest.raises(BundleError, match=f"latest is broken: {real.name} may have been live"):
        publishing.promote(sample)
    assert str(latest.readlink()) == target
    publishing.promote(real)


def test_only_what_was_compared_is_replaced(registry: Path) -> None:
    with reserve(registry, "BTCUSDT", "price", CREATED) as draft:
        write(draft)
        first = publish(registry)
        with pytest.raises(BundleError, match=rf"{first.name} live .* with no live model"):
            draft.publish(live=True, replacing=None)
        assert {path.name for path in first.parent.iterdir()} == {first.name, "latest"}
        draft.publish(live=True, replacing=first.name)
        assert str((first.parent / "latest").readlink()) == draft.version


def test_a_bundle_that_cannot_be_moved(registry: Path) -> None:
    with reserve(registry, "BTCUSDT", "price", CREATED) as draft:
        write(draft)
        (registry / "BTCUSDT").write_text("a file where a directory should be")
        with pytest.raises(StorageError, match=r"the bundle cannot be moved to .*BTCUSDT/price"):
            draft.publish(live=False)
        with pytest.raises(StorageError, match=r"cannot be written \(.*BTCUSDT is not a directory"):
            draft.publish(live=True)
        assert draft.keep().is_dir()


@pytest.mark.parametrize("place", ["file/registry", "/proc/registry"])
def test_a_registry_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("a file where a directory should be")
    with (
        pytest.raises(StorageError, match=r"cannot be written .*; pass a writable --registry"),
        reserve(tmp_path / place, "BTCUSDT", "price", CREATED),
    ):
        pass


def test_a_work_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / ".models-work").write_text("a file where a directory should be")
    with (
        pytest.raises(StorageError, match=r"work folder .*models-work .* cannot be used .*"),
        reserve(tmp_path / "models", "BTCUSDT", "price", CREATED),
    ):
        pass
    assert everything(tmp_path / "models") == set()


@pytest.mark.parametrize("target", ["a_file", "nowhere", "models"])
def test_a_registry_that_is_no_directory(tmp_path: Path, target: str) -> None:
    (tmp_path / "a_file").write_text("")
    registry = tmp_path / "models"
    registry.symlink_to(target)  # "models" is a link to itself
    for check in (check_place, lambda path: reserve(path, "BTCUSDT", "price", CREATED).__enter__()):
        with pytest.raises(StorageError, match=r"models cannot be written \(it is not a directory"):
            check(registry)
    assert not (tmp_path / ".models-work").exists()


def test_what_is_checked_before_there_is_a_registry(tmp_path: Path) -> None:
    check_place(tmp_path / "new" / "models")
    assert everything(tmp_path) == set()
    (tmp_path / ".models-work").write_text("a file where a directory should be")
    with pytest.raises(StorageError, match=r"work folder .*models-work .* is not a directory"):
        check_place(tmp_path / "models")


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="there is no /dev/shm")
def test_a_symbol_on_another_file_system(registry: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        registry.mkdir()
        (registry / "BTCUSDT").symlink_to(elsewhere)
        with (
            pytest.raises(StorageError, match=r"BTCUSDT is on another file system than"),
            reserve(registry, "BTCUSDT", "price", CREATED),
        ):
            pass
        assert list(Path(elsewhere).iterdir()) == []


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="there is no /dev/shm")
def test_a_registry_that_is_a_mount_point() -> None:
    registry = Path("/dev/shm")
    before = set(registry.iterdir())
    with (
        pytest.raises(StorageError, match=r"is a mount point.*use a directory inside it"),
        reserve(registry, "BTCUSDT", "price", CREATED),
    ):
        pass
    with pytest.raises(StorageError, match="is a mount point"):
        check_place(registry)
    assert set(registry.iterdir()) == before
    assert not work_folder(registry).exists()


def test_git_ignores_the_work_folder(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    with reserve(tmp_path / "models", "BTCUSDT", "price", CREATED) as draft:
        (draft.directory / "model.onnx").touch()
        status = ["git", "status", "--porcelain", "--untracked-files=all"]
        assert subprocess.run(status, cwd=tmp_path, check=True, capture_output=True).stdout == b""


def test_registries_in_one_folder_have_separate_work_folders(tmp_path: Path) -> None:
    with (
        reserve(tmp_path / "a", "BTCUSDT", "price", CREATED) as one,
        reserve(tmp_path / "b", "BTCUSDT", "price", CREATED) as two,
    ):
        assert one.version == two.version
        assert one.directory != two.directory


def test_a_registry_that_is_a_link(tmp_path: Path) -> None:
    real = tmp_path / "disk" / "models"
    real.mkdir(parents=True)
    (tmp_path / "models").symlink_to(real)
    path = publish(tmp_path / "models")
    assert (real / "BTCUSDT" / "price" / "latest").resolve() == path.resolve()
    assert {child.name for child in tmp_path.iterdir()} == {"disk", "models"}
    assert {child.name for child in real.parent.iterdir()} == {"models", ".models-work"}


def test_the_live_version_is_not_removed(registry: Path) -> None:
    first, second = publish(registry), publish(registry)
    assert not publishing.remove(second)
    assert publishing.remove(first)
    assert publishing.remove(first)  # it is gone
    assert {child.name for child in second.parent.iterdir()} == {second.name, "latest"}
    with pytest.raises(StorageError, match="the version has been removed"):
        publishing.promote(first)
    assert str((second.parent / "latest").readlink()) == second.name
    assert staged(registry) == []


def test_files_of_killed_runs_are_deleted_after_a_week(registry: Path) -> None:
    staging = work_folder(registry) / "staging"
    for name, age in [("old", 8), ("fresh", 1)]:
        (staging / name).mkdir(parents=True)
        stamp = time.time() - age * 86_400
        os.utime(staging / name, (stamp, stamp))
    with reserve(registry, "BTCUSDT", "price", CREATED) as draft:
        assert {path.name for path in staging.iterdir()} == {"fresh", draft.directory.name}


def old_registry(registry: Path) -> None:
    """A registry with the working files of an early version."""
    kept = registry / ".unpublished" / f"BTCUSDT_price_{FIRST}"
    kept.mkdir(parents=True)
    (kept / "model.keras").write_text("model")
    (registry / ".lock").write_text("")
    (registry / ".staging").mkdir()


def test_working_files_of_early_versions_are_moved_out(registry: Path) -> None:
    old_registry(registry)
    (registry / ".staging" / "tmp1" / FIRST).mkdir(parents=True)  # a killed prune
    assert [path.name for path in unpublished(registry)] == [f"BTCUSDT_price_{FIRST}"]
    with reserve(registry, "BTCUSDT", "price", CREATED) as draft:
        assert list(registry.iterdir()) == []
        assert draft.version == FIRST[:-1] + "2"
    (kept,) = unpublished(registry)
    assert (kept / "model.keras").read_text() == "model"
    assert kept.parent == work_folder(registry) / "unpublished"
    assert staged(registry) == []


def test_a_running_early_version_is_not_disturbed(
    registry: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old_registry(registry)
    training = registry / ".staging" / "tmp2"
    training.mkdir()
    path = publish(registry)
    assert training.is_dir()
    assert "may be in use by an early version" in caplog.text
    # It publishes like an early version.
    (training / "model.onnx").write_text("model")
    training.rename(path.parent / "2026-01-02_03h04m05s_v7")
    publish(registry)
    assert {child.name for child in registry.iterdir()} == {"BTCUSDT"}


def test_an_old_lock_that_cannot_be_removed_does_no_harm(registry: Path) -> None:
    registry.mkdir()
    (registry.parent / "elsewhere").write_text("")
    (registry / ".lock").symlink_to(registry.parent / "elsewhere")  # filelock refuses links
    assert publish(registry).is_dir()


def test_a_working_folder_that_cannot_be_locked(registry: Path) -> None:
    old_registry(registry)
    (work_folder(registry) / "lock").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"work folder .* cannot be used"):
        publish(registry)


def test_many_processes_move_the_old_files_at_once(registry: Path) -> None:
    old_registry(registry)
    start = threading.Barrier(8)

    def work(_: int) -> Path:
        start.wait(30)
        return publish(registry)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(work, range(8)))) == 8
    assert {child.name for child in registry.iterdir()} == {"BTCUSDT"}
    assert len(unpublished(registry)) == 1
