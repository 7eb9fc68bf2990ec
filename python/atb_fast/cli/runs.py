"""`atb-fast runs`: the ledger of trainings, evaluations and trials."""

from __future__ import annotations

import csv
import difflib
import io
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

import click

from atb_fast.cli import completion
from atb_fast.cli.figures import number, over
from atb_fast.cli.options import Whole, as_json, print_json, registry_option
from atb_fast.cli.tables import Column, echo, print_facts, print_table, print_text
from atb_fast.errors import ArgumentError, MissingExtraError, counted
from atb_fast.reports.rows import digits_of, notes_of
from atb_fast.storage import write_atomic

log = logging.getLogger(__name__)

#: What the record of an evaluation, a trial or a holdout says about its test periods.
_TEST_PERIODS = ("folds", "window", "embargo", "until", "holdout", "last")

#: Runs that `ls` prints as a table unless --last says otherwise.
_SHOWN = 50
#: Fewest digits of an id that are shown.
_DIGITS = 6
_KINDS = ("train", "evaluate", "trial", "holdout")
_run = click.argument("run", metavar="RUN", shell_complete=completion.runs)


@click.group()
def runs() -> None:
    """List, compare and export the runs of the registry.

    Each training, evaluation and trial adds one record to the ledger, which is next to the
    registry. RUN is the id of a run, or its first digits.
    """


@runs.command("ls")
@click.option("--symbol", help="Only runs of this symbol. Not case-sensitive.")
@click.option("--recipe", help="Only runs of this recipe.")
@click.option("--kind", type=click.Choice(_KINDS), help="Only runs of this kind.")
@click.option(
    "--sort",
    metavar="NAME",
    help="Sort by this figure, best first, for example test_rmse, ratio or seconds. Default: "
    "by time, newest first.",
)
@click.option(
    "--last",
    type=Whole(min=1),
    help=f"Show only this many of the newest runs. Default: {_SHOWN}; with --json or --sort, all.",
)
@registry_option
@as_json
def list_runs(
    *,
    symbol: str | None,
    recipe: str | None,
    kind: str | None,
    sort: str | None,
    last: int | None,
    registry: Path,
    as_json: bool,
) -> None:
    """List runs, newest first, with their options and errors.

    The column after the error is the error divided by that of the baseline that the model has to
    beat: persistence, the class shares, or HAR. Options that all listed runs share are left out.
    """
    records = _read(registry)
    every = len(records)
    records = [
        record
        for record in reversed(records)
        if (symbol is None or symbol.upper() in record["symbols"])
        and (recipe is None or recipe == record["recipe"])
        and (kind is None or kind == record["kind"])
    ]
    found = len(records)
    records = records[: last or (None if as_json or sort else _SHOWN)]
    if sort:
        records = _sorted(records, sort)
    if as_json:
        print_json([_with_state(registry, record) for record in records])
    elif not every:
        echo(
            f"no runs in the ledger of {registry}; train a model, pass another --registry, or, if "
            "it has bundles, run atb-fast runs reindex"
        )
    elif not records:
        echo(f"no run matches; the ledger has {counted(every, 'run')}")
    else:
        _print_runs(registry, records, sort)
        if len(records) < found:
            echo(f"{len(records):,} of {counted(found, 'run')}; pass --last for more")


@runs.command()
@_run
@registry_option
@as_json
def show(run: str, registry: Path, as_json: bool) -> None:
    """Show everything recorded about RUN."""
    from atb_fast.runs import ledger

    record = ledger.find(_read(registry), run)
    if as_json:
        print_json(_with_state(registry, record))
        return
    print_facts(_facts(registry, record))
    print_table(
        [Column("figure"), Column("value", right=True)],
        [
            (name + _divided_by(name, record), value if isinstance(value, int) else number(value))
            for name, value in record["metrics"].items()
        ],
    )


@runs.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", shell_complete=completion.runs)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Write a self-contained page with figures, losses and forecasts to this file.",
)
@registry_option
@as_json
def compare(runs: tuple[str, ...], out: Path | None, registry: Path, as_json: bool) -> None:
    """Compare the options and figures of several runs.

    Runs that differ only in the seed share one column: the mean over the seeds, and its 95%
    confidence interval.
    """
    from atb_fast.experiments.compare import compare as compare_runs

    if out is not None and out.suffix.lower() != ".html":
        raise ArgumentError(
            f"--out is {str(out)!r:.200}, expected a name that ends with .html, for example "
            f"{out.stem[:40] or 'comparison'}.html",
            options=["out"],
        )
    _read(registry)  # to warn of damaged lines
    document = compare_runs(registry, runs)
    if out is not None:
        _write_page(out, document)
    if as_json:
        panels = [{**panel, "frame": _listed(panel["frame"])} for panel in document["predictions"]]
        print_json(document | {"predictions": panels})
        return
    _print_comparison(document)
    if out is not None:
        echo(f"page: {out}")


@runs.command()
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write one row for each run to this CSV file.",
)
@click.option(
    "--mlflow",
    metavar="URI",
    help="Log the runs to this MLflow server, for example http://127.0.0.1:5000. Runs that it "
    "already has are skipped.",
)
@registry_option
def export(csv_file: Path | None, mlflow: str | None, registry: Path) -> None:
    """Export all runs to a CSV file or to MLflow."""
    if csv_file is None and mlflow is None:
        raise ArgumentError("pass --csv FILE, --mlflow URI, or both")
    records = _read(registry)
    if csv_file is not None:
        write_atomic(csv_file, _csv(registry, records).encode())
        echo(f"{counted(len(records), 'run')} written to {csv_file}")
    if mlflow is not None:
        from atb_fast.experiments import tracking

        logged, present = tracking.log_runs(mlflow, registry, records)
        echo(f"{counted(logged, 'run')} logged to {mlflow}, {present} already there")


@runs.command()
@registry_option
@as_json
def reindex(registry: Path, as_json: bool) -> None:
    """Rebuild the ledger from the bundles.

    Adds trainings that have no record, including bundles of other trainers, and removes damaged
    lines. Records of evaluations, trials and removed bundles do not change.
    """
    from atb_fast.runs import ledger

    done = ledger.reindex(registry)
    if as_json:
        print_json({"added": done.added, "kept": done.kept, "dropped": done.dropped})
        return
    for problem in done.dropped:
        echo(f"dropped {problem}")
    echo(f"{done.added} added, {done.kept} kept, {counted(len(done.dropped), 'line')} dropped")


def _read(registry: Path) -> list[dict[str, Any]]:
    """Return the records of the ledger, oldest first; warn of lines that cannot be used."""
    from atb_fast.runs import ledger

    found = ledger.read(registry)
    for problem in found.problems[:3]:
        log.warning("%s", problem)
    if found.problems:
        more = f" and {len(found.problems) - 3} more" if len(found.problems) > 3 else ""
        log.warning("ignored these lines%s; atb-fast runs reindex removes them", more)
    return found.records


def _with_state(registry: Path, record: dict[str, Any]) -> dict[str, Any]:
    from atb_fast.runs import ledger

    line = ledger.headline(record["metrics"])
    return record | {
        "state": ledger.state(registry, record) or None,
        "error": line.error,
        "reference": line.reference,
        "reference_error": line.reference_error,
        "ratio": line.ratio,
    }


def _sorted(records: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the runs that have a figure, best first, followed by the others."""
    from atb_fast.experiments.compare import value_of

    known = [record for record in records if value_of(record, name) is not None]
    if records and not known:
        names = sorted({key for record in records for key in record["metrics"]} | {"seconds"})
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"
        raise ArgumentError(f"--sort is {name!r:.80}, but no run has this figure; {hint}", ["sort"])
    more = ("accuracy", "r2", "diebold_mariano", "shrinkage")
    sign = -1.0 if name.removesuffix("_low").removesuffix("_high").endswith(more) else 1.0
    known.sort(key=lambda record: sign * (value_of(record, name) or 0.0))
    return known + [record for record in records if value_of(record, name) is None]


def _print_runs(registry: Path, records: Sequence[dict[str, Any]], sort: str | None) -> None:
    from atb_fast.experiments.compare import value_of
    from atb_fast.runs import ledger

    digits = _digits([record["id"] for record in records])
    lines = [ledger.headline(record["metrics"]) for record in records]
    references = {line.reference for line in lines}
    extra = (
        sort if sort and sort not in ("seconds", "ratio", *(line.name for line in lines)) else ""
    )
    print_table(
        [
            Column("id", whole=True),
            Column("when"),
            Column("symbol"),
            Column("run", whole=True),
            Column("what", apart=True),
            Column("error", right=True, whole=True),
            Column(
                over(references.pop() if len(references) == 1 else None), right=True, whole=True
            ),
            Column(extra, right=True, optional=True),
            Column("s", right=True, optional=True, whole=True),
        ],
        [
            (
                record["id"][:digits],
                _when(record["created"]),
                f"{', '.join(record['symbols'])} {record['timeframe'] or ''}",
                _state(registry, record),
                _what(record, records),
                number(line.error),
                "" if line.ratio is None else f"{line.ratio:.3f}",
                number(value_of(record, extra)) if extra else "",
                "" if record["seconds"] is None else f"{record['seconds']:.0f}",
            )
            for record, line in zip(records, lines, strict=True)
        ],
    )


def _digits(identities: Sequence[str]) -> int:
    """Return how many digits make the ids unique."""
    digits = _DIGITS
    while len({identity[:digits] for identity in identities}) < len(identities) and digits < 16:
        digits += 1
    return digits


def _when(created: str) -> str:
    """Format a time, UTC, in 11 characters: without the year if it is recent."""
    time = datetime.fromisoformat(created).astimezone(UTC)
    recent = (datetime.now(UTC) - time).days < 300
    return f"{time:%m-%d %H:%M}" if recent else f"{time:%Y-%m-%d}"


def _state(registry: Path, record: Mapping[str, Any]) -> str:
    from atb_fast.runs import ledger

    state = ledger.state(registry, record)
    return {"published": "train", "unpublished": "kept"}.get(state, state) or record["kind"]


def _what(record: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """Return the recipe and the network of a run, and the options that listed runs do not share.

    Keys of a target or a network are compared only between runs of the same recipe or network, and
    the test periods only between evaluations, trials or holdouts.
    """
    alike = [other for other in others if other["recipe"] == record["recipe"]]
    target = _own(record["target"], [other["target"] for other in alike])
    kind = record["network"].get("kind")
    same = [other["network"] for other in others if other["network"].get("kind") == kind]
    options = [other["options"] for other in others] if len(others) > 1 else [{}]
    alike = [other for other in others if other["kind"] == record["kind"]]
    periods = {key: value for key, value in record["options"].items() if key in _TEST_PERIODS}
    rest = {key: value for key, value in record["options"].items() if key not in periods}
    texts = (
        *(record["recipe"], *target, kind, *_own(record["network"], same)),
        *_own(rest, options),
        *_own(periods, [other["options"] for other in alike]),
    )
    return ", ".join(filter(None, texts))


def _own(values: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the values that not all of `others` have, as short texts."""
    return [
        name if value is True else f"{name} {_short(name, value)}".removeprefix("kind ")
        for name, value in values.items()
        if any(other.get(name) != value for other in others)
    ]


def _short(name: str, value: Any) -> str:
    """Format the value of an option: numbers with four digits, files without their extension."""
    from atb_fast.runs.facts import plain

    if isinstance(value, float):
        return f"{value:.4g}"
    if name == "extra" and isinstance(value, dict):
        value = {series: PurePath(str(path)).stem for series, path in value.items()}
    elif name in ("candles", "sentiment"):
        value = PurePath(str(value)).stem
    return str(plain(value))


def _facts(registry: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    from atb_fast.runs import ledger
    from atb_fast.runs.facts import error_name, facts, seed_of

    line = ledger.headline(record["metrics"])
    beside = line.reference and f"{line.reference}: {number(line.reference_error)}"
    found = {
        "id": record["id"],
        "created": record["created"],
        "state": ledger.state(registry, record),
        "bundle": record["bundle"] and registry / record["bundle"],
        "study": record["study"],
        **facts(record),
        "seed": seed_of(record),
        "seconds": record["seconds"],
        f"test {error_name(line.name, record['target'])}": f"{number(line.error)}"
        + (f" ({beside})" if beside else ""),
    }
    if line.ratio is not None:
        reference = (line.reference or "the baseline").removeprefix("the ")
        found[f"ratio to {reference}"] = f"{line.ratio:.3f}"
    return {name: value for name, value in found.items() if value not in (None, "")}


def _divided_by(name: str, record: Mapping[str, Any]) -> str:
    """Return the baseline of a figure that is a ratio; empty for others, or if it is unknown."""
    from atb_fast.runs import ledger

    reference = ledger.headline(record["metrics"]).reference
    if reference is None or not f"_{name}".endswith("_ratio"):
        return ""
    if reference == "HAR" and name != "qlike_ratio":
        reference = "persistence"  # as docs/evaluate.md says
    return f" (to {reference.removeprefix('the ')})"


def _print_comparison(document: Mapping[str, Any]) -> None:
    same = document["same"]
    title = " ".join(str(same[key]) for key in ("symbol", "timeframe", "recipe") if key in same)
    columns = [Column(title), *(Column(run["label"], right=True) for run in document["runs"])]
    rows = [("seed", *(_seeds(run["seed_values"]) for run in document["runs"]))]
    rows += [("state", *(run["state"] or run["kind"] for run in document["runs"]))]
    rows += [
        (name, *("default" if value is None else str(value) for value in values))
        for name, values in document["options"].items()
    ]
    rows += [
        (figure["name"], *(_interval(value) for value in figure["values"]))
        for figure in document["metrics"]
    ]
    print_table(columns, rows)
    if any(run["seeds"] > 1 for run in document["runs"]):
        print_text("±: half of the 95% confidence interval of the mean over seeds.")
    for note in (*notes_of(document["metrics"]), *document["notes"]):
        print_text(note)


def _seeds(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def _interval(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    text = number(found["mean"], digits_of(found))
    if "low" in found:
        text += f" ± {number((found['high'] - found['low']) / 2, 2)}"
    return f"{text}, n = {found['bars']:,}" if "bars" in found else text


def _listed(frame: Any) -> dict[str, list[Any]]:
    """Return the columns of a frame as JSON values."""
    columns: dict[str, list[Any]] = frame.to_dict(as_series=False)
    return columns | {"timestamp": [time.isoformat() for time in columns["timestamp"]]}


def _write_page(path: Path, document: Mapping[str, Any]) -> None:
    from atb_fast.reports.compare import write_compare

    try:
        write_compare(path, document)
    except ImportError as error:
        raise MissingExtraError(
            "--out needs jinja2 and matplotlib; install them with pip install 'atb-fast[train]', "
            "or omit --out"
        ) from error


def _csv(registry: Path, records: Sequence[dict[str, Any]]) -> str:
    """Return the runs as CSV. A nested value is in a column such as `options.epochs`."""
    rows = [_flat(_with_state(registry, record)) for record in records]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, dict):
            found |= _flat(item, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = " ".join(map(str, item)) if isinstance(item, list) else item
    return found
