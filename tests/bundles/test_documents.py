"""The documents of a bundle reveal nothing about the machine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atb_fast import TrainingConfig, run_training_pipeline
from atb_fast.bundles.contents import write_json
from atb_fast.errors import DataError
from atb_fast.evaluation.record import portable
from atb_fast.ingestion import sample
from atb_fast.runs import pipeline
from atb_fast.runs.repeat import read_run

#: Absolute paths: of directories that every machine has, and of this machine.
ABSOLUTE = re.compile(r"""(?<![\w.:/<])/(?:tmp|home|root|usr|var|opt|work|Users)/[^\s"'<]*""")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that the bundle below was trained in."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def written() -> list[str]:
    """The names of the JSON documents in the order in which they were written."""
    return []


def noting(written: list[str]) -> Callable[[Path, Any], None]:
    def write(path: Path, document: Any) -> None:
        written.append(path.name)
        write_json(path, document)

    return write


@pytest.fixture(scope="module")
def bundle(home: Path, written: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a run whose paths were all absolute, some outside its working directory."""
    outside = tmp_path_factory.mktemp("outside")
    (home / "data").mkdir()
    sample.candles("BTCUSDT", "1d").tail(300).write_parquet(home / "data" / "candles.parquet")
    sample.sentiment().write_parquet(outside / "index.parquet")
    config = TrainingConfig(
        symbol="BTCUSDT",
        candles=home / "data" / "candles.parquet",
        sentiment=outside / "index.parquet",
        registry=home / "models",
        cache_dir=outside / "cache",
        tensorboard=outside / "curves",
        epochs=1,
        sequence_length=20,
        engine="keras",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(pipeline, "write_json", noting(written))
        return Path(run_training_pipeline(config).paths["bundle"])


def test_no_document_names_a_directory_of_the_machine(bundle: Path, home: Path) -> None:
    texts = {
        path.name: path.read_text()
        for path in bundle.iterdir()
        if path.suffix not in (".npz", ".onnx", ".keras", ".png")
    }
    assert set(texts) == {
        *("curves.json", "feature_schema.json", "metadata.json", "report.html", "SHA256SUMS")
    }
    for name, text in texts.items():
        assert str(home.parent) not in text, name
        assert str(Path.home()) + "/" not in text, name
        assert ABSOLUTE.findall(text) == [], name
    options = json.loads(texts["metadata.json"])["config"]
    assert options["candles"] == "data/candles.parquet"
    assert options["sentiment"] == "index.parquet"
    assert (options["registry"], options["cache_dir"]) == ("models", "cache")
    assert options["tensorboard"] == "curves"
    assert "data/candles.parquet" in texts["report.html"].replace("<wbr>", "")
    assert json.loads(texts["metadata.json"])["diagnostic_failures"] == {}


def test_a_file_name_that_looks_like_a_home_directory(tmp_path: Path) -> None:
    candles = tmp_path / "~nobody.csv"
    config = TrainingConfig(symbol="BTCUSDT", candles=candles, force_price_only=True)
    assert portable(config).candles == Path("~nobody.csv")
    assert config.candles == candles


def test_each_document_is_written_once_and_complete(bundle: Path, written: list[str]) -> None:
    assert written == ["feature_schema.json", "metadata.json"]
    metadata = json.loads((bundle / "metadata.json").read_text())
    assert metadata["version_id"] == bundle.name
    assert metadata["verification"]["feature_skew"] <= 1e-6
    assert (
        f"{metadata['verification']['prediction_difference']:.1e}"
        in (bundle / "report.html").read_text()
    )


def test_the_run_is_repeated_from_its_working_directory(
    bundle: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    index = tmp_path / "index.parquet"
    with pytest.raises(
        DataError, match=r"names index\.parquet as --sentiment, which does not exist; "
    ):
        read_run(str(bundle))
    sample.sentiment().write_parquet(index)
    run = read_run(str(bundle), sentiment=index)
    assert run.config.candles == Path("data/candles.parquet")
    assert run.config.candles.is_file()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"pass --candles FILE"):
        read_run(str(bundle), sentiment=index)
