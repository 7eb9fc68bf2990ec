"""The ledger: nothing is lost, and nothing in the file is trusted."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from atb_fast import TrainingConfig
from atb_fast.errors import ArgumentError, StorageError
from atb_fast.runs import ledger
from atb_fast.runs.records import of_config

#: Appends records whose ids begin with a digit, in another process.
_APPEND = """
import json, sys
from pathlib import Path
from atb_fast.runs import ledger
registry, record, first, count, limit = sys.argv[1:]
if int(limit):
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
for number in range(int(count)):
    identity = f"{first}{number:015x}"
    print(ledger.append(Path(registry), json.loads(record) | {"id": identity}))
"""


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return tmp_path / "models"


def record(identity: str = "0" * 16, **changes: Any) -> dict[str, Any]:
    """Return a record of an evaluation. It is always the same, as the ids of tests must be."""
    config = TrainingConfig(symbol="BTCUSDT", source="sample")
    made = of_config(
        "evaluate",
        config,
        data={"candles": "ab" * 32},
        metrics={"rmse": 2.0},
        seconds=1.234,
        machine={"cpu": "x"},
        identity=identity,
    )
    return made | {"created": "2026-11-01T12:00:00+00:00"} | changes


def appending(registry: Path, first: str, count: int, limit: int = 0) -> subprocess.Popen[str]:
    arguments = [str(registry), json.dumps(record()), first, str(count), str(limit)]
    command = [sys.executable, "-c", _APPEND, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_record_comes_back(registry: Path) -> None:
    assert ledger.read(registry) == ledger.Ledger([], [])
    assert ledger.append(registry, record())
    assert ledger.read(registry) == ledger.Ledger([record()], [])
    assert ledger.path_of(registry) == registry.parent / ".models-work" / "ledger.jsonl"
    assert not registry.exists()  # engines would see anything in it
    assert (registry.parent / ".models-work" / ".gitignore").read_text() == "*\n"


def test_a_changed_digit_is_noticed(registry: Path) -> None:
    ledger.append(registry, record())
    path = ledger.path_of(registry)
    line = json.loads(path.read_text())
    line["metrics"]["test_rmse"] = 1.0
    path.write_text(json.dumps(line) + "\n")
    found = ledger.read(registry)
    assert found.records == []
    assert found.problems == [f"{path}, line 1: is damaged: it does not match its own hash"]
    del line["sha256"]  # as in records of early versions
    path.write_text(json.dumps(line) + "\n")
    assert ledger.read(registry).records[0]["metrics"]["test_rmse"] == 1.0


def test_processes_lose_nothing(registry: Path) -> None:
    processes = [appending(registry, first, 50) for first in "abcd"]
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert (output.split(), errors) == (["True"] * 50, "")
    found = ledger.read(registry)
    assert found.problems == []
    assert len(found.records) == 200
    for first in "abcd":  # each in its own order
        own = [each["id"] for each in found.records if each["id"].startswith(first)]
        assert own == sorted(own)


def test_a_torn_line_is_named_and_breaks_nothing(registry: Path) -> None:
    ledger.append(registry, record("1" * 16))
    path = ledger.path_of(registry)
    path.write_bytes(path.read_bytes() + json.dumps(record("2" * 16)).encode()[:100])
    found = ledger.read(registry)
    assert [each["id"] for each in found.records] == ["1" * 16]
    assert found.problems == [
        f"{path}, line 2: is incomplete: its writer was stopped, or is still writing"
    ]
    assert ledger.append(registry, record("3" * 16))
    found = ledger.read(registry)
    assert [each["id"] for each in found.records] == ["1" * 16, "3" * 16]
    assert len(found.problems) == 1
    assert f"{path}, line 2: is not a record" in found.problems[0]


def test_a_full_disk_leaves_the_ledger_as_it_was(registry: Path) -> None:
    ledger.append(registry, record("1" * 16))
    path = ledger.path_of(registry)
    before = path.read_bytes()
    process = appending(registry, "2", 1, limit=len(before) + 100)
    output, errors = process.communicate(timeout=120)
    assert output.split() == ["False"]
    assert "the run is complete, but" in errors
    assert "File too large" in errors
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_what_cannot_be_written_is_a_warning(
    kind: str, registry: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.path_of(registry).parent.write_text("a file")
    with caplog.at_level(logging.WARNING):
        assert not ledger.append(registry, record(kind=kind))
    (message,) = caplog.messages
    assert "the run is complete, but" in message
    assert ("run atb-fast runs reindex" in message) == (kind == "train")
    with pytest.raises(StorageError, match="Not a directory"):
        ledger.read(registry)


def test_the_last_record_with_an_id_counts(registry: Path) -> None:
    for identity, seconds in (("1" * 16, 1.0), ("2" * 16, 2.0), ("1" * 16, 3.0)):
        ledger.append(registry, record(identity, seconds=seconds))
    found = [(each["id"], each["seconds"]) for each in ledger.read(registry).records]
    assert found == [("2" * 16, 2.0), ("1" * 16, 3.0)]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[]", "has the id None"),
        ("{", "is not a record"),
        ("\udcff", "is not a record"),
        ("[" * 100_000, "nested too deeply"),
        (json.dumps({"options": {"a": {"b": {"c": {"d": {"e": {}}}}}}}), "nested too deeply"),
        (json.dumps(record(seconds="1")), "has the seconds '1', expected a number"),
        (
            json.dumps(record(seconds=-1.7e308)),
            "has the seconds -1.7e+308, expected a number up to 1e",
        ),
        (json.dumps(record(metrics={"rmse": True})), "expected numbers by name"),
        (json.dumps(record(metrics={"rmse": 1.7e308})), "expected numbers by name, up to 1e+100"),
        (json.dumps(record(metrics={"rmse": 1.0}))[:-1] + ', "x": NaN}', "not a finite float"),
        (json.dumps(record()).replace("1.23", "1" * 400), "not a finite float"),
        (json.dumps(record()).replace("1.23", "1" * 5000), "is not a record"),
        (json.dumps(record(kind="other")), "has the kind 'other'"),
        (json.dumps(record(id="../../etc")), "expected 8 to 64 hexadecimal digits"),
        (json.dumps(record(created="2024-01-01")), "expected an ISO time with a time zone"),
        (json.dumps(record(created=5)), "expected an ISO time with a time zone"),
        (json.dumps(record(bundle="../../etc")), "expected SYMBOL/TYPE/VERSION"),
        (json.dumps(record(bundle="/etc/x")), "expected SYMBOL/TYPE/VERSION"),
        (json.dumps(record(symbols=[])), "expected a list of texts"),
        (json.dumps(record(network=[])), "expected an object"),
        (json.dumps(record(recipe=1)), "expected a text"),
        (json.dumps(record(recipe="x" * 300_000)), "has more than 262,144 bytes"),
    ],
)
def test_the_file_is_not_trusted(content: str, problem: str, registry: Path) -> None:
    ledger.append(registry, record("1" * 16))
    with ledger.path_of(registry).open("ab") as file:
        file.write(content.encode(errors="surrogateescape") + b"\n")
    ledger.append(registry, record("2" * 16))
    found = ledger.read(registry)
    assert [each["id"] for each in found.records] == ["1" * 16, "2" * 16]
    assert len(found.problems) == 1
    assert "line 2" in found.problems[0]
    assert problem in found.problems[0]
    assert len(found.problems[0]) < 500


def test_control_characters_do_not_reach_a_terminal(registry: Path) -> None:
    ledger.append(registry, record(recipe="\x1b[2J", options={"\x07": "\x9b"}))
    (found,) = ledger.read(registry).records
    assert (found["recipe"], found["options"]) == ("\\x1b[2J", {"\\x07": "\\x9b"})


def test_an_id_can_be_shortened() -> None:
    records = [record(identity) for identity in ("12ab" * 4, "12cd" * 4)]
    assert ledger.find(records, "12A") == records[0]
    with pytest.raises(ArgumentError, match=f"2 runs begin with '12': {'12ab' * 4}, {'12cd' * 4};"):
        ledger.find(records, "12")
    for unknown in ("", "3"):
        with pytest.raises(ArgumentError, match="no run has the id"):
            ledger.find(records, unknown)


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"test_rmse": 2.0, "persistence_rmse": 4.0}, ("test_rmse", 2.0, "persistence", 4.0, 0.5)),
        (
            {"test_rmse": 2.0, "persistence_rmse": 4.0, "har_rmse": 1.0},
            ("test_rmse", 2.0, "HAR", 1.0, 2.0),
        ),
        (
            {"test_rmse": 1e100, "persistence_rmse": 1e-300},
            ("test_rmse", 1e100, "persistence", 1e-300, None),
        ),
        (
            {"test_log_loss": 0.5, "class_shares_log_loss": 1.0},
            ("test_log_loss", 0.5, "the class shares", 1.0, 0.5),
        ),
        ({"test_rmse": 2.0, "persistence_rmse": 0.0}, ("test_rmse", 2.0, "persistence", 0.0, None)),
        ({"ratio": 0.9}, ("test_rmse", None, None, None, 0.9)),
        ({}, ("test_rmse", None, None, None, None)),
    ],
)
def test_the_error_of_a_run(metrics: dict[str, float], expected: tuple[Any, ...]) -> None:
    assert ledger.headline(metrics) == ledger.Headline(*expected)


@pytest.fixture
def copied(models: Path, registry: Path) -> Path:
    """A registry with three bundles and no ledger."""
    shutil.copytree(models, registry, symlinks=True)
    return registry


def test_a_ledger_is_rebuilt_from_the_bundles(copied: Path) -> None:
    done = ledger.reindex(copied)
    assert done == ledger.Reindexed(added=3, kept=0, dropped=[])
    found = ledger.read(copied)
    assert found.problems == []
    assert {each["bundle"].split("/")[1] for each in found.records} == {
        "basic",
        "price",
        "sentiment",
    }
    for each in found.records:
        assert ledger.state(copied, each) == "live"
        metadata = json.loads((copied / each["bundle"] / "metadata.json").read_text())
        assert each["metrics"]["test_rmse"] == metadata["evaluation_results"]["test_rmse"]
        assert each["data"] == metadata["dataset"]["sha256"]
        assert each["created"] == metadata["created_at"]
        assert str(copied.parent) not in json.dumps(each)
    assert ledger.reindex(copied) == ledger.Reindexed(added=0, kept=3, dropped=[])
    assert ledger.read(copied) == found


def test_reindex_of_a_registry_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"registry .*typo does not exist"):
        ledger.reindex(tmp_path / "typo")
    assert list(tmp_path.iterdir()) == []


def test_reindex_keeps_what_bundles_do_not_have(copied: Path) -> None:
    ledger.reindex(copied)
    known = ledger.read(copied).records[0]
    ledger.append(copied, known | {"seconds": 12.0})
    ledger.append(copied, record("e" * 16))
    gone = record("f" * 16, kind="train", bundle="BTCUSDT/price/2020-01-01_00h00m00s_v1")
    ledger.append(copied, gone)
    with ledger.path_of(copied).open("a") as file:
        file.write("damaged\n")
    done = ledger.reindex(copied)
    assert (done.added, done.kept) == (0, 5)
    assert len(done.dropped) == 1
    assert "line 7" in done.dropped[0]
    found = {each["id"]: each for each in ledger.read(copied).records}
    assert found[known["id"]]["seconds"] == 12.0
    assert found["e" * 16] == record("e" * 16, created=found["e" * 16]["created"])
    assert ledger.state(copied, found["f" * 16]) == "removed"
    assert ledger.read(copied).problems == []


def test_bundles_of_other_trainers_are_added(
    registry: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain, odd, broken = (registry / "BTCUSDT" / "basic" / name for name in ("v7", "v8", "v9"))
    for home in (plain, odd, broken):
        home.mkdir(parents=True)
    metadata = {"symbol": "BTCUSDT", "timeframe": "1h", "created_at": "2024-05-06T07:08:09"}
    (plain / "metadata.json").write_text(json.dumps(metadata))
    strange = {"symbol": 5, "config": {"epochs": float("nan")}, "evaluation_results": []}
    (odd / "metadata.json").write_text(json.dumps(strange))
    (broken / "metadata.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert ledger.reindex(registry).added == 1
    (found,) = ledger.read(registry).records
    assert found["bundle"] == "BTCUSDT/basic/v7"
    assert (found["symbols"], found["timeframe"]) == (["BTCUSDT"], "1h")
    assert found["created"] == "2024-05-06T07:08:09+00:00"
    assert (found["recipe"], found["metrics"], found["options"]) == (None, {}, {})
    assert len(caplog.messages) == 2
    assert str(odd) in caplog.text
    assert str(broken) in caplog.text
