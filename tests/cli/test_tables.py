"""Tables on a terminal and in a pipe."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from atb_fast import TrainingConfig
from atb_fast.cli.main import cli
from atb_fast.cli.tables import Column, print_table
from atb_fast.recipes import library
from atb_fast.runs import ledger, records

COLUMNS = [Column("name"), Column("price", right=True), Column("note", optional=True)]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns, as rich sees it."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")


def test_cells_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [("a", "1,234.50", None), ("longer", 1_000_000, True)], "a title")
    assert capsys.readouterr().out.splitlines() == [
        "a title",
        "name        price  note",
        "───────────────────────",
        "a        1,234.50",
        "longer  1,000,000  yes",
    ]


@pytest.mark.usefixtures("terminal")
def test_a_long_title_is_wrapped_between_words(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [("a", "1", None)], " ".join(["words"] * 20))
    title = capsys.readouterr().out.splitlines()[:2]
    assert [set(line.split()) for line in title] == [{"words"}, {"words"}]
    assert max(map(len, title)) <= 80


def test_an_optional_column_without_values_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [("a", None, None), ("b", None, "")])
    header = capsys.readouterr().out.splitlines()[0]
    assert header.split() == ["name", "price"]


def test_brackets_are_text_and_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [("[red]a[/red]", "[/]", ":smile:")], "[bold]title")
    out = capsys.readouterr().out
    for text in ("[red]a[/red]", "[/]", ":smile:", "[bold]title"):
        assert text in out


def test_programs_get_whole_values(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = "/".join(["folder"] * 60)
    print_table(COLUMNS, [(path, "1.25", "x y " * 50)])
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == f"{path}   1.25  {('x y ' * 50).strip()}"


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("columns", [3, 9])
def test_terminals_get_every_digit(capsys: pytest.CaptureFixture[str], columns: int) -> None:
    names = [Column(f"number {i}", right=True) for i in range(columns)]
    figures = [f"{i}2,345,678.9" for i in range(1, columns + 1)]
    print_table([Column("name"), *names], [("folder/" * 30, *figures)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    # Digits that do not fit continue in the same column of the next line.
    printed = "".join(lines)
    assert sum(map(str.isdigit, printed)) == sum(
        sum(map(str.isdigit, text)) for text in (*figures, *(name.name for name in names))
    )
    assert "".join(printed.split()).count("/") == 30


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("width", [60, 80, 200])
def test_names_that_do_not_fit_have_lines_of_their_own(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    names = [f"BTCUSDT:1d:volatility:2026-11-30_03h32m4{i}s_v1" for i in range(2)]
    figures = [f"figure {i}" for i in range(5)]
    columns = [Column("bundle", whole=True, apart=True), *map(Column, figures)]
    print_table(columns, [(name, *["12.345"] * 5) for name in names])
    lines = capsys.readouterr().out.splitlines()
    own = ["bundle", *names]
    assert [line for line in lines if line in own] == (own if width < 200 else [])
    assert max(len(line) for line in lines if line not in own) <= width
    assert "".join(lines).count("12.345") == 10


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("width", "left_out"), [(34, "some, few"), (38, "few"), (48, "")])
def test_minor_columns_give_way_to_numbers(
    width: int, left_out: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    columns = [Column("recipe"), Column("some", minor=True), Column("few", minor=True)]
    columns += [Column("the error", right=True), Column("baseline", right=True)]
    rows = [("volatility", "6 bars", "text", "1,727.15", "1,725.88")]
    rows += [("causal", "1 bars", "", "12,345.67", "0.50207")]
    print_table(columns, rows)
    table, _, note = capsys.readouterr().out.partition("The terminal is too narrow for:")
    assert note.strip() == f"{left_out}." * bool(left_out)
    assert max(map(len, table.splitlines())) <= width
    hidden = {name for name in ("some", "few") if name in left_out}
    words = {word for row in rows for cell in (row[0], *row[3:]) for word in cell.split()}
    assert words | ({"some", "few"} - hidden) <= set(table.split())
    assert not hidden & set(table.split())


@pytest.mark.usefixtures("terminal")
def test_file_names_are_broken_between_their_parts(capsys: pytest.CaptureFixture[str]) -> None:
    name = "folder/BTCUSDT_1d_2017-08-17_2024-12-31.parquet"
    print_table([Column("candles"), *[Column(f"run {i}") for i in range(2)]], [("", name, name)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-2].split() == ["folder/BTCUSDT_1d_2017-08-17_"] * 2
    assert lines[-1].split() == ["2024-12-31.parquet"] * 2


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("width", [40, 80, 200])
def test_long_texts_that_do_not_fit_are_below_their_row(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    columns = [Column("id", whole=True), Column("what", apart=True), Column("error" * 7)]
    print_table(columns, [("a", "word " * 30, "1.5"), ("b", None, "2.5")])
    head, *lines = capsys.readouterr().out.splitlines()
    assert max(map(len, (head, *lines))) <= width
    assert "\n".join(lines).count("word") == 30
    # Below the head and the row, the text has the whole width.
    assert ("  what" in lines) == (width < 80)
    assert all("word" not in line for line in lines if "1.5" in line) == (width < 80)


@pytest.mark.usefixtures("terminal")
def test_runs_fit_a_terminal_and_name_the_baseline_of_each_ratio(tmp_path: Path) -> None:
    files = [f"BTCUSDT_1d_2017-08-17_202{i}-12-31" for i in range(2)]
    for file, l2 in zip(files, (40.7414465416623, 1.0), strict=True):
        candles = Path("folder", f"{file}.parquet")
        config = TrainingConfig(
            symbol="BTCUSDT", recipe="volatility", candles=candles, network_l2=l2
        )
        figures = {"rmse": 0.5, "har_rmse": 0.625, "persistence_rmse": 1.0}
        ratios = {"ratio": 0.5, "har_ratio": 0.625, "qlike_ratio": 0.9}
        made = records.of_config(
            "evaluate", config, data={}, metrics=figures | ratios, seconds=2.0, machine={}
        )
        ledger.append(tmp_path / "models", made)
    done = CliRunner().invoke(cli, ["runs", "ls", "--registry", str(tmp_path / "models")])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 3 + 3 * 2  # head and runs
    assert "/ HAR" in lines[0]
    assert "0.800" in done.output
    for text in ("l2 40.74,", *files):
        assert text in done.output
    assert "folder" not in done.output
    shown = ["runs", "show", made["id"], "--registry", str(tmp_path / "models")]
    rows = re.findall(r"^(.*ratio.*?)  +([\d.]+)$", CliRunner().invoke(cli, shown).output, re.M)
    assert dict(rows) == {
        "ratio to HAR": "0.800",
        "ratio (to persistence)": "0.50000",
        "har_ratio (to persistence)": "0.62500",
        "qlike_ratio (to HAR)": "0.90000",
    }


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_a_run_says_whether_its_log_loss_is_weighted(tmp_path: Path, weights: str) -> None:
    config = TrainingConfig(
        symbol="BTCUSDT",
        recipe="causal",
        target="triple_barrier",
        target_class_weights=weights,  # type: ignore[arg-type]
    )
    figures = {"log_loss": 0.5, "class_shares_log_loss": 1.0}
    made = records.of_config("trial", config, data={}, metrics=figures, seconds=2.0, machine={})
    ledger.append(tmp_path / "models", made)
    shown = ["runs", "show", made["id"], "--registry", str(tmp_path / "models")]
    name = "test weighted log loss" if weights == "balanced" else "test log loss"
    output = CliRunner().invoke(cli, shown).output
    assert re.search(rf"^{name} +0.50000 \(the class shares: 1.0000\)$", output, re.MULTILINE)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("width", [20, 40])
def test_whole_cells_are_not_broken_if_they_fit(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    columns = [Column("a name", whole=True), Column("text"), Column("warm-up", whole=True)]
    print_table(columns, [("sentiment_primary", "word " * 20, "1,234")])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    unbroken = {"a name", "warm-up", "sentiment_primary", "1,234"}
    assert (unbroken <= set(re.split("  +", "  ".join(lines)))) == (width == 40)
    assert "".join("".join(lines).split()).count("1") == 1  # nothing is cropped


@pytest.mark.usefixtures("terminal")
def test_a_recipe_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    command = ["recipes", "check", "causal", "BTCUSDT", "--source", "sample"]
    for arguments in (["recipes", "show", "causal"], [*command, "--start-date", "2021-06-01"]):
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
        lines = done.output.splitlines()
        assert max(map(len, lines[1:])) <= 60  # the first one is the description
        table = "  ".join(lines)
        recipe = library.get("causal")
        words = {*recipe.specs, *(spec.scaler for spec in recipe.specs.values())}
        assert {*words, "feature", "scaler", "warm-up", "lookback"} <= set(re.split(" +", table))


def test_a_check_with_a_symbol_shows_its_options() -> None:
    command = ["recipes", "check", "causal", "BTCUSDT", "--source", "sample"]
    command += ["--sequence-length", "1000", "--horizon", "3"]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert "target: log_return (horizon 3)" in done.output
    assert "window: 1,000 bars of 1d; split: purged (1,002 windows before each part)" in done.output


@pytest.mark.usefixtures("terminal")
def test_findings_of_verify_fit_a_terminal(tmp_path: Path, daily: pl.DataFrame) -> None:
    daily.write_parquet(tmp_path / "BTCUSDT_1d_2019-01-01_2024-12-01.parquet")
    done = CliRunner().invoke(cli, ["data", "verify", str(next(tmp_path.glob("*.parquet")))])
    assert done.exit_code == 0, done.output
    assert max(map(len, done.output.splitlines())) <= 80
    assert f"{len(daily):,}" in done.output
    assert "24 h" in done.output
