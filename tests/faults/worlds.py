"""The home folder that faults are injected into, and the truth that it is compared with.

It has everything that the program stores: candles and sentiment, bundles, a ledger, a study,
cached features and compiled programs, and the checkpoint of a killed training run. The program's
own commands build it once, and each fault gets a copy.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import injecting
import polars as pl
from commands import CommandLine
from exchange import Exchange

from atb_fast import load_bundle
from atb_fast.config import TIMEFRAMES
from atb_fast.errors import InSampleWarning
from atb_fast.ingestion import sample
from atb_fast.ingestion.market import Market
from atb_fast.ingestion.spans import timestamps_ms
from atb_fast.runs import ledger
from atb_fast.serving.registry import versions

NOW = int(datetime(2024, 8, 15, 12, 34, 56, tzinfo=UTC).timestamp()) * 1000
#: When the sentiment in the home was downloaded; it is too old by now.
EARLIER = int(datetime(2024, 5, 1, tzinfo=UTC).timestamp()) * 1000
#: Relative paths in the home folder, which is the working directory of all commands.
CACHE, REGISTRY, WORK, STUDY = "cache", "models", ".models-work", "study"

RECIPE = """name = "{name}"
fit_scalers_on = "all"
[features.move]
expression = "close / open - 1"
scaler = "minmax"
[network]
kind = "{network}"
[target]
kind = "binary_direction"
"""
MARKET = ["BTCUSDT", "--candles", "candles.parquet", "--sequence-length", "10"]
MARKET += ["--registry", REGISTRY]
TINY = [*MARKET, "--recipe", "tiny.toml"]
QUICK = ["--skip-plots", "--skip-robustness", "--json"]
TRAIN = ["train", "model", *TINY, "--start-date", "2024-06-01", *QUICK, "--promote", "always"]
#: Small enough to train in a second, with checkpoints.
NETWORK = [*MARKET, "--recipe", "net.toml", "--start-date", "2024-09-01", "--network-units", "4"]
RESUME = ["train", "model", *NETWORK, "--engine", "keras", "--epochs", "3", *QUICK]
RESUME += ["--skip-onnx", "--resume"]
EVALUATE = ["evaluate", *TINY, "--start-date", "2024-06-01", "--folds", "2", "--json"]
SWEEP = ["sweep", *TINY, "--start-date", "2024-06-01", "--folds", "2", "--study", STUDY]
SWEEP += ["--space", "space.toml", "--search", "grid", "--jobs", "1", "--holdout", "0", "--json"]
FETCH = ["data", "fetch", "BTCUSDT", "--timeframe", "1h"]

Done = CompletedProcess[str]


class Lost(Exception):  # noqa: N818
    """A fault was not survived; the message says why."""


def candles() -> dict[tuple[str, str], pl.DataFrame]:
    """Return the candles of the exchange by symbol and timeframe."""
    spans = {
        "1h": (datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 9, 1, tzinfo=UTC)),
        "5m": (datetime(2024, 4, 25, tzinfo=UTC), datetime(2024, 5, 10, tzinfo=UTC)),
    }
    return {
        ("BTCUSDT", timeframe): sample.candles("BTCUSDT", timeframe).filter(
            pl.col("timestamp").is_between(*span, closed="left")
        )
        for timeframe, span in spans.items()
    }


@dataclass
class Tools:
    """What one worker uses: its own command line and exchange."""

    exchange: Exchange
    line: CommandLine

    def close(self) -> None:
        """Stop both."""
        self.line.close()
        self.exchange.__exit__()


def tools(truth: Mapping[tuple[str, str], pl.DataFrame], index: pl.DataFrame) -> Tools:
    """Start the tools of a worker."""
    exchange = Exchange(dict(truth), index, NOW).__enter__()
    variables = exchange.environment | {"ATB_FAST_CACHE": CACHE, "TF_CPP_MIN_LOG_LEVEL": "2"}
    return Tools(exchange, CommandLine(variables, small_steps=True, patience=900.0))


@dataclass(frozen=True)
class Measured:
    """What a command does without a fault.

    Attributes:
        operations: Number of file operations.
        largest: Size of the largest file that it writes, in bytes.
        changed: Relative paths of the files that it changes.
    """

    operations: int
    largest: int
    changed: list[str]


@dataclass
class World:
    """The home folder without any fault, and what is known about it.

    Attributes:
        home: The folder; never changes after it is built.
        truth: Candles by symbol and timeframe.
        index: The Fear & Greed index.
        swept: What the study printed.
        evaluated: The figures of the evaluation.
        resumed: The figures of the training run with the checkpoint, if it is not interrupted.
    """

    home: Path
    truth: Mapping[tuple[str, str], pl.DataFrame] = field(default_factory=candles)
    index: pl.DataFrame = field(default_factory=sample.sentiment)
    swept: dict[str, Any] = field(default_factory=dict)
    evaluated: dict[str, Any] = field(default_factory=dict)
    resumed: dict[str, Any] = field(default_factory=dict)
    _measured: dict[str, Measured] = field(default_factory=dict)
    _measuring: threading.Lock = field(default_factory=threading.Lock)

    def build(self, tools: Tools) -> None:
        """Fill the home folder."""

        def run(*arguments: str, code: int = 0, **fault: Any) -> Done:
            done = tools.line.run(*arguments, cwd=self.home, **fault)
            if done.returncode != code:
                raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stderr}")
            return done

        self.home.mkdir(parents=True)
        for name, network in (("tiny", "linear"), ("net", "mlp")):
            text = RECIPE.format(name=name, network=network)
            (self.home / f"{name}.toml").write_text(text)
        daily = sample.candles("BTCUSDT", "1d").tail(400)
        daily.write_parquet(self.home / "candles.parquet")
        (self.home / "space.toml").write_text("seed = [1, 2]\n")
        tools.exchange.now = EARLIER
        run(*FETCH, "--start-date", "2024-03-01", "--end-date", "2024-04-10")
        tools.exchange.now = NOW
        for timeframe, first, last in (
            ("1h", "2024-06-01", "2024-06-20"),
            ("5m", "2024-05-01", "2024-05-02"),
        ):
            run(
                *("data", "fetch", "BTCUSDT", "--timeframe", timeframe, "--skip-sentiment"),
                *("--start-date", first, "--end-date", last),
            )
        for first in ("2024-04-01", "2024-05-01", "2024-06-01"):
            run("train", "model", *TINY, "--start-date", first, *QUICK, "--promote", "always")
        self.evaluated = figures(run(*EVALUATE))
        self.swept = json.loads(run(*SWEEP).stdout)
        other = self.home.with_name("uninterrupted")
        shutil.copytree(self.home, other, symlinks=True)
        done = tools.line.run(*RESUME, cwd=other)
        if done.returncode:
            raise RuntimeError(done.stderr)
        self.resumed = figures(done)
        shutil.rmtree(other)
        # The last step of the first checkpoint: its folder is flushed.
        fault = {"act": "SIGKILL", "at": 7, "match": "/checkpoints", "root": str(self.home)}
        report = self.home.with_name("checkpoint")
        run(*RESUME, code=-9, **fault, report=str(report))
        if len(list((self.home / CACHE / "checkpoints").glob("*.npz"))) != 1:
            raise RuntimeError(f"no checkpoint after {injecting.counts(report)}")

    def copy(self, folder: Path) -> Path:
        """Return a copy of the home folder, which replaces `folder`."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.home, folder, symlinks=True, dirs_exist_ok=True)
        return folder

    def measured(self, key: str, measure: Callable[[], Measured]) -> Measured:
        """Return what a command does; `measure` runs it if it has not run yet."""
        with self._measuring:
            if key not in self._measured:
                self._measured[key] = measure()
            return self._measured[key]

    @cached_property
    def contents(self) -> dict[str, str]:
        """The content of the home folder; see `contents`."""
        return contents(self.home)

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        """The records of the ledger by id."""
        return {each["id"]: each for each in ledger.read(self.home / REGISTRY).records}

    @cached_property
    def predictions(self) -> dict[str, str]:
        """The last predictions of each version."""
        return {path.name: predicted(path) for path in versions(self.home / REGISTRY)}

    def candles(self, timeframe: str, start: int, end: int) -> pl.DataFrame:
        """Return the true candles that opened in [start, end), and have closed."""
        frame = self.truth["BTCUSDT", timeframe]
        times = timestamps_ms(frame)
        return frame.filter(
            (times >= start) & (times < end) & (times <= NOW - TIMEFRAMES[timeframe])
        )


def contents(home: Path) -> dict[str, str]:
    """Return the hash of each file, and the target of each link, by relative path."""
    found = {}
    for path in sorted(home.rglob("*")):
        name = str(path.relative_to(home))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def figures(done: Done) -> dict[str, Any]:
    """Return what a training or an evaluation measured, from what it printed."""
    printed = json.loads(done.stdout)
    if "folds" in printed:
        return {"folds": [each | {"seconds": 0} for each in printed["folds"]]}
    return {"epochs": printed["epochs"], **printed["evaluation"]}


def predicted(bundle: Path) -> str:
    """Return the last predictions of a bundle as CSV.

    Raises:
        AtbFastError: The bundle is damaged.
    """
    market = Market(sample.candles("BTCUSDT", "1d").tail(60), sample.sentiment())
    loaded = load_bundle(bundle)
    with warnings.catch_warnings(action="ignore", category=InSampleWarning):
        scored = loaded.predict(market.candles, sentiment=market.sentiment)
    return scored.tail(5).write_csv()
