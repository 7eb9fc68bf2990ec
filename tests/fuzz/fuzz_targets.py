"""The fuzz targets: functions that take any bytes and fail unless the program handles them.

A target may raise the program's own errors, which have a documented exit code. Any other exception
is a finding, and so is a property that does not hold, a hang, or too much memory. `fuzz.py` runs
these targets, and `test_corpus.py` runs them on their corpus. `rust/tests/targets.rs` has the Rust
targets.
"""

from __future__ import annotations

import atexit
import io
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import click
import numpy as np
import polars as pl
import pyarrow as pa
from pretended import Pretended

import atb_fast
from atb_fast import _core
from atb_fast.cli import settings
from atb_fast.cli.main import cli
from atb_fast.cli.options import TABLES
from atb_fast.config import CANDLE_COLUMNS
from atb_fast.errors import ArgumentError, AtbFastError, BundleError, DataError, StorageError
from atb_fast.experiments import folder as folders
from atb_fast.experiments import space as spaces
from atb_fast.features import outputs
from atb_fast.features.parser import parse
from atb_fast.ingestion import files, sample
from atb_fast.ingestion.spans import timestamps_ms
from atb_fast.ingestion.store import disk
from atb_fast.ingestion.store.candles import CandleStore
from atb_fast.ingestion.store.manifest import Piece, Range, span_of
from atb_fast.ingestion.store.sentiment import SentimentStore
from atb_fast.recipes import documents
from atb_fast.runs import ledger
from atb_fast.serving import checksums, schema
from atb_fast.serving.frames import check_candles

CORPUS = Path(__file__).with_name("corpus")
#: A bundle's place in a registry, and the time of its version.
_HOME = "BTCUSDT/price/2024-01-31_12h00m00s_v1"
_DAY = 86_400_000


@dataclass(frozen=True)
class Target:
    """A target.

    Attributes:
        run: Takes the bytes. May raise the errors of `allowed`.
        allowed: The errors that the program documents for such input.
        json: Whether the bytes are JSON, whose values can be changed one at a time.
    """

    run: Callable[[bytes], None]
    allowed: tuple[type[AtbFastError], ...]
    json: bool = False

    def __call__(self, data: bytes) -> None:
        """Run the target on `data`; raise for a finding only."""
        with suppress(*self.allowed):
            self.run(data)


@cache
def _folder() -> Path:
    """Return a folder for files that is removed at the end of this process."""
    folder = tempfile.TemporaryDirectory(prefix="atb-fast-fuzz-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _written(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@cache
def _candles(rows: int = 300) -> pl.DataFrame:
    return sample.candles("BTCUSDT", "1d").head(rows)


def _command(*words: object) -> str:
    """Run the command line; return what it prints. Any exit code must be documented."""
    printed = io.BytesIO()
    stream = io.TextIOWrapper(printed, "utf-8", errors="backslashreplace")
    ended = (AtbFastError, click.ClickException, click.exceptions.Exit)
    with redirect_stdout(stream), redirect_stderr(stream), suppress(*ended):
        cli.main([*map(str, words)], prog_name="atb-fast", standalone_mode=False)
    stream.flush()
    return printed.getvalue().decode()


def _is_same(first: Any, second: Any) -> bool:
    """Return whether two JSON documents are equal; NaN equals NaN."""
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


# Expressions: canonical text is the same expression, and the extension can evaluate it.


def _expressions(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    expr = parse(text, target=True)
    again = parse(str(expr), target=True)
    assert again == expr
    assert str(again) == str(expr)
    assert len(str(expr)) <= expr.length
    if expr.lead or any(each.op == "lead" for each in expr.walk()):
        return
    feature = _core.Feature("x", expr.nodes(_DAY))
    assert set(feature.columns) <= expr.columns
    pipeline = _core.FeaturePipeline([feature])
    frame = (
        _candles()
        .head(60)
        .with_columns(
            pl.lit(1.5).alias(name) for name in expr.columns - {*CANDLE_COLUMNS, "timestamp"}
        )
    )
    if expr.columns & {"timestamp"}:
        return
    whole = pipeline.evaluate(frame)
    assert whole.shape == (60, 1)
    # No value depends on a later bar.
    np.testing.assert_array_equal(pipeline.evaluate(frame.head(37)), whole[:37])


# Recipes, spaces and settings: TOML files of a user.


def _recipes(data: bytes) -> None:
    recipe = documents.read_file(_written("recipe.toml", data))
    document = documents.to_document(recipe)
    again = documents.read_file(_written("again.toml", documents.to_toml(document).encode()))
    assert _is_same(documents.to_document(again), document)
    assert documents.from_document(json.loads(json.dumps(document))) == recipe
    _command("recipes", "check", _folder() / "again.toml")


def _spaces(data: bytes) -> None:
    base = _config()
    found = spaces.read(_written("space.toml", data), base)
    assert spaces.read(json.loads(json.dumps(found.to_dict())), base) == found


def _settings(data: bytes) -> None:
    path = _written("atb-fast.toml", data)
    settings.load(path, TABLES)
    _command("config", "show", "--config", path)


@cache
def _config() -> atb_fast.TrainingConfig:
    return atb_fast.TrainingConfig(
        symbol="BTCUSDT", recipe="causal", source="sample", registry=_folder() / "models"
    )


# Files and frames of a user: accepted data is valid, and survives a round trip.

# Not Parquet: for some damaged files, Polars asks for more memory than there can be, which ends the
# process.
_SUFFIXES = ("csv", "feather")


def _files(data: bytes) -> None:
    kind, content = data[:1] or b"\0", data[1:]
    path = _written(f"input.{_SUFFIXES[kind[0] % 2]}", content)
    frame = _read_file(path, kind[0] // 2 % 3)
    times = frame["timestamp"]
    assert times.dtype == pl.Datetime("ms", "UTC")
    assert (times.diff().drop_nulls().dt.total_milliseconds() > 0).all()
    assert times.null_count() == 0
    for column in frame.columns[1:]:
        assert frame[column].drop_nulls().is_finite().all()
    saved = _folder() / "saved.parquet"
    frame.write_parquet(saved)
    assert _read_file(saved, kind[0] // 2 % 3).equals(frame)


def _read_file(path: Path, kind: int) -> pl.DataFrame:
    files.is_sentiment(path)
    if kind == 0:
        return files.read_candles(path)
    return files.read_sentiment(path) if kind == 1 else files.read_series(path, "BTCUSDT")


class _Bytes:
    """Takes numbers from bytes, then random ones after the last byte."""

    def __init__(self, data: bytes) -> None:
        self.left, self.random = iter(data), Random(data)

    def below(self, end: int) -> int:
        return next(self.left, self.random.randrange(256)) % end

    def float(self) -> float:
        special = (0.0, -0.0, -1.0, 1e300, 5e-324, math.nan, math.inf, -math.inf)
        value = self.below(256)
        return special[value - 248] if value >= 248 else value / 4


_FLOATS: tuple[Any, ...] = (
    *(pa.float64(),) * 8,
    *(pa.float32(), pa.float16(), pa.int64(), pa.uint8(), pa.bool_(), pa.null(), pa.string()),
    *(pa.large_string(), pa.string_view(), pa.binary(), pa.decimal128(20, 3), pa.date32()),
    *(pa.list_(pa.float64()), pa.list_(pa.float64(), 1), pa.struct([("x", pa.float64())])),
    *(pa.dictionary(pa.int8(), pa.float64()), pa.run_end_encoded(pa.int32(), pa.float64())),
)
_TIMES: tuple[Any, ...] = (
    *(pa.timestamp(unit, zone) for unit in ("ms", "us", "ns", "s") for zone in (None, "UTC") * 4),
    *(pa.int64(), pa.int32(), pa.uint64(), pa.date32(), pa.date64(), pa.string(), pa.float64()),
    *(pa.timestamp("ms", "Europe/Berlin"), pa.duration("ms"), pa.time32("ms"), pa.null()),
)


def _column(take: _Bytes, kinds: tuple[Any, ...], rows: int, times: bool) -> Any:
    """Return a column of any type, in chunks with offsets and null bitmaps."""
    kind = kinds[take.below(len(kinds))]
    values: list[Any] = []
    time = 1_700_000_000_000 if take.below(8) else -(2**62)
    nulls = take.below(9 if times else 3) == 1
    for _ in range(rows):
        time += (0, 1, -1, 2**61)[take.below(4)] if not take.below(16) else _DAY
        value = time if times else take.float()
        values.append(None if nulls and take.below(8) == 1 else value)
    parts: list[Any] = []
    at = 0
    while at < rows:
        size = min(1 + take.below(40), rows - at)
        before, after = take.below(9), take.below(9)
        part = [*[1.5] * before, *values[at : at + size], *[2.5] * after]
        try:
            array = _array(part, kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            array = pa.array([None] * len(part), pa.float64())
            kind = pa.float64()
            parts = [pa.array([None] * len(each), kind) for each in parts]
        parts.append(array.slice(before, size))
        parts += [array.slice(0, 0)] * (take.below(16) == 1)
        at += size
    return pa.chunked_array(parts, kind)


def _array(values: list[Any], kind: Any) -> Any:
    if pa.types.is_timestamp(kind) or pa.types.is_integer(kind):
        whole = [None if each is None else int(each) for each in values]
        return pa.array(whole, pa.int64()).cast(kind, safe=False)
    if pa.types.is_run_end_encoded(kind):
        plain = pa.array(values, pa.float64())
        return pa.RunEndEncodedArray.from_arrays(
            pa.array(range(1, len(plain) + 1), pa.int32()), plain
        )
    if pa.types.is_dictionary(kind):
        return pa.array(values, pa.float64()).dictionary_encode().cast(kind)
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.array([None if each is None else [each] for each in values], kind)
    if pa.types.is_struct(kind):
        return pa.array([None if each is None else {"x": each} for each in values], kind)
    return pa.array(values, pa.float64()).cast(kind, safe=False)


def _frames(data: bytes) -> None:
    """Import a frame; each value equals that of PyArrow."""
    take = _Bytes(data)
    rows = take.below(120)
    table = pa.table(
        {
            "timestamp": _column(take, _TIMES, rows, times=True),
            "x": _column(take, _FLOATS, rows, times=False),
            "y": _column(take, _FLOATS[:10], rows, times=False),
        }
    )
    table = pa.Table.from_batches(table.to_batches(), table.schema)
    given: Any = table
    match take.below(4):
        case 1:
            given = table.slice(take.below(9), rows)
            table = given
        case 2:
            try:
                given = pl.from_arrow(table)
            except (pl.exceptions.PolarsError, pa.ArrowException):
                return
        case 3:
            given = pa.RecordBatchReader.from_batches(table.schema, table.to_batches())
    nodes: list[Any] = [("column", (), ("x",)), ("column", (), ("y",)), ("add", (0, 1), ())]
    features = [_core.Feature(name, nodes[: at + 1]) for at, name in enumerate(("x", "y", "z"))]
    values = _core.FeaturePipeline([features[0], features[1]]).evaluate(given)
    for at, name in enumerate(("x", "y")):
        known = table[name].to_pylist()
        plain = np.array([math.nan if each is None else each for each in known], np.float64)
        np.testing.assert_array_equal(values[:, at], plain)
    if take.below(4) == 3 or isinstance(given, pa.RecordBatchReader):
        return
    with suppress(DataError):
        _core.CandleMatrix(given, ["x", "y"])
    with suppress(DataError):
        _core.FeaturePipeline(features[2:]).fit(given).transform(given)
    index = pl.DataFrame({"timestamp": [1_700_000_000_000 + _DAY], "value": [7.0]})
    with suppress(DataError, ArgumentError):
        how: Any = ("exact", "resampled", "asof")[take.below(3)]
        _core.merge(given, index, ["value"], how=how, step_ms=_DAY, lag_ms=0)
    if isinstance(given, pl.DataFrame):
        with suppress(DataError):
            check_candles(given.rename({"x": "close", "y": "volume"}), timed=True)


# Bundles: metadata.json, feature_schema.json and SHA256SUMS.


@cache
def _others(name: str) -> tuple[bytes, ...]:
    """Return the documents of real bundles, to be read together with the one that is fuzzed."""
    return tuple(path.read_bytes() for path in sorted((CORPUS / name).glob("seed_*")))


def _metadata(data: bytes) -> None:
    home = _written(f"models/{_HOME}/metadata.json", data).parent
    registry = home.parents[2]
    _command("models", "ls", "--registry", registry)
    _command("models", "show", home, *["--json"] * (len(data) % 2))
    _command("runs", "reindex", "--registry", registry)
    _command("runs", "ls", "--registry", registry)
    _bundles(home, [(data, other) for other in _others("schema")])


def _schema(data: bytes) -> None:
    _bundles(_folder() / "models" / _HOME, [(other, data) for other in _others("metadata")])


def _bundles(home: Path, pairs: list[tuple[bytes, bytes]]) -> None:
    """Read bundles. Raise the error of the last one if none can be used."""
    home.mkdir(parents=True, exist_ok=True)
    error = None
    used = 0
    for metadata, features in pairs:
        try:
            _bundle(home, metadata, features)
            used += 1
        except BundleError as found:
            error = found
    if error and not used:
        raise error


def _bundle(home: Path, metadata: bytes, features: bytes) -> None:
    """Read the documents of a bundle, and compute its windows as scoring does."""
    (home / "metadata.json").write_bytes(metadata)
    (home / "feature_schema.json").write_bytes(features)
    (home / checksums.NAME).write_bytes(checksums.content_for(home))
    made = schema.read_documents(home, hashes=checksums.read(home))
    with suppress(BundleError):
        assert made.output == outputs.read(made.output.to_metadata())
    for read in (schema.extra_columns, schema.trained_until, schema.seen_end):
        with suppress(BundleError):
            read(made.metadata, home)
    if made.length * len(made.names) > 1 << 20:
        return
    frame = _candles()
    with suppress(DataError):
        columns = made.input.columns(frame, "neutral", "1d")
        matrix = made.input.matrix(columns)
        assert matrix.shape[1] == len(made.names)
        bars, starts = made.input.windows(matrix, made.length, made.output.horizon, len(frame))
        assert len(bars) == len(starts)
        windows = matrix.gather(starts[:4], made.length)
        assert windows.shape == (len(starts[:4]), made.length, len(made.names))


# The store: any manifest is either refused or used; a repair loses nothing.


def _signed(data: bytes) -> bytes:
    """Return a manifest with a valid hash, so that its content matters."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return data
    if not isinstance(document, dict):
        return data
    path = _folder() / "signed.json"
    document.pop("sha256", None)
    with suppress(ValueError, RecursionError):
        disk.write_manifest(path, document)
        return path.read_bytes()
    return data


_SPAN = (1_546_300_800_000, 1_546_300_800_000 + 9 * _DAY)


@cache
def _stored() -> tuple[CandleStore, dict[str, bytes]]:
    store = CandleStore(_folder() / "cache", "BTCUSDT", "1d")
    store.directory.mkdir(parents=True, exist_ok=True)
    candles = _candles(3000).filter(
        pl.col("timestamp").dt.epoch("ms").is_between(*_SPAN, closed="left")
    )
    for first, after in ((0, 4), (6, 9)):
        span = _SPAN[0] + first * _DAY, _SPAN[0] + after * _DAY
        piece = candles[first:after]
        store.commit([Piece(*span, piece, "here", "2026-01-01T00:00:00+00:00")], [])
    return store, {path.name: path.read_bytes() for path in store.directory.iterdir()}


def _manifest(data: bytes) -> None:
    store, contents = _stored()
    whole = store.directory / "manifest.json"
    for path in store.directory.iterdir():
        path.unlink()
    for name, content in contents.items():
        (store.directory / name).write_bytes(content)
    before = store.read(*_SPAN)
    whole.write_bytes(_signed(data))
    root = store.cache_dir
    for words in (["ls"], ["verify"]):
        _command("data", *words, "--cache-dir", root)
    ranges: tuple[Range, ...] = ()
    with suppress(StorageError):
        ranges = store.manifest().ranges
        found = store.read(*_SPAN)
        assert found["timestamp"].is_in(before["timestamp"].implode()).all()
    with suppress(StorageError):
        with store.lock():
            store.rebuild()
        if not store.verify().problems:
            after = store.read(*_SPAN)
            assert after.equals(before.join(after, on="timestamp", how="semi"))
            # Candles may only be missing where a range of another file says that there are none.
            for time in timestamps_ms(before.join(after, on="timestamp", how="anti")):
                claims = [item for item in ranges if item.start <= time < item.end]
                assert any(time not in range(*(span_of(item.file) or (0, 0))) for item in claims)
    index = SentimentStore(root)
    index.directory.mkdir(parents=True, exist_ok=True)
    index.replace(sample.sentiment().head(9), "here", "2026-01-01T00:00:00+00:00")
    kept = index.read()
    (index.directory / "manifest.json").write_bytes(_signed(data))
    with suppress(StorageError):
        assert index.read().equals(kept)
    index.verify()
    with suppress(StorageError):
        index.rebuild()
        assert index.read().equals(kept)


# Studies and the ledger.

_STUDY: dict[str, Any] = {"epochs": [10, 20, 30], "network.dropout": {"low": 0.0, "high": 0.4}}


def _sweep(folder: Path) -> atb_fast.Study:
    return atb_fast.sweep(
        config=_config(),
        space=_STUDY,
        trials=3,
        holdout=0.1,
        search="random",
        study=folder,
        executor=Pretended(),
    )


@cache
def _study_files() -> dict[str, bytes]:
    folder = _folder() / "study"
    _sweep(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".json"}


def _study(data: bytes) -> None:
    """Resume a study one of whose files was replaced."""
    contents = _study_files()
    folder = _folder() / "study"
    for path in folder.iterdir():
        path.unlink()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    names = sorted(contents, key=lambda name: (name != "study.json", name))
    name = names[data[0] % len(names)] if data else names[0]
    whole = json.loads(contents[name])
    (folder / name).write_bytes(_completed(data[1:], whole))
    if "trial" in whole:  # most are refused, and resuming takes a second
        folders.read_result(folder / name, whole["trial"])
    assert len(_sweep(folder).trials) == 3


def _completed(data: bytes, whole: Mapping[str, Any]) -> bytes:
    """Return `data` as a change of a file: a JSON object replaces only the keys that it has.

    A result then has no hash, which would refuse every change.
    """
    try:
        change = json.loads(data)
    except (ValueError, RecursionError):
        return data
    if not isinstance(change, dict):
        return data
    kept = {key: value for key, value in whole.items() if key != "sha256" or "trial" not in whole}
    return json.dumps(kept | change).encode()


def _ledger(data: bytes) -> None:
    registry = _folder() / "ledger" / "models"
    registry.mkdir(parents=True, exist_ok=True)
    path = ledger.path_of(registry)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    found = ledger.read(registry)
    where = ["--registry", registry]
    ids = [record["id"] for record in found.records]
    _command("runs", "ls", *([], ["--json"], ["--sort", "ratio"])[len(data) % 3], *where)
    if ids:
        _command("runs", "show", ids[0], *where)
        json.loads(_command("runs", "show", ids[0], "--json", *where))
    if len(ids) > 1:
        page = ["--out", _folder() / "compared.html"]  # takes longer than everything else
        how = page if len(data) % 16 == 0 else ["--json"] * (len(data) % 2)
        _command("runs", "compare", *ids, *how, *where)
    _command("runs", "export", "--csv", _folder() / "runs.csv", *where)
    # Rebuilding keeps every record.
    ledger.reindex(registry)
    again = ledger.read(registry)
    assert not again.problems
    key = lambda record: record["id"]  # noqa: E731
    assert sorted(again.records, key=key) == sorted(found.records, key=key)


TARGETS: dict[str, Target] = {
    "expressions": Target(_expressions, (ArgumentError, DataError)),
    "recipes": Target(_recipes, (ArgumentError,)),
    "spaces": Target(_spaces, (ArgumentError,)),
    "settings": Target(_settings, (ArgumentError,)),
    "files": Target(_files, (DataError,)),
    "frames": Target(_frames, (DataError,)),
    "metadata": Target(_metadata, (BundleError,), json=True),
    "schema": Target(_schema, (BundleError,), json=True),
    "manifest": Target(_manifest, (StorageError,), json=True),
    "study": Target(_study, (StorageError, DataError, AtbFastError), json=True),
    "ledger": Target(_ledger, (StorageError,), json=True),
}
